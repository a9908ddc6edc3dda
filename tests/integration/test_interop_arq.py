"""The queue keeps arq's format: a stock arq worker drains it, Worker runs stock jobs."""

from collections.abc import Iterator
from datetime import UTC, datetime

import arq
import pytest
from arq.worker import create_worker, get_kwargs
from redis.asyncio import Redis

from httpqueue.errors import SettingsError
from httpqueue.relay.relay import Relay
from httpqueue.settings import load
from httpqueue.storage.embedded import EmbeddedValkey
from httpqueue.storage.keys import ARQ_JOB_PREFIX, wake_up_id
from httpqueue.storage.partitions import Partitions
from httpqueue.storage.queue import JOB_DEFINITION, JOB_FUNCTION, Queue, open_queue
from httpqueue.storage.storage import Storage
from httpqueue.storage.timers import Store
from httpqueue.timers.commands import NewTimer
from httpqueue.timers.names import TimerName
from httpqueue.timers.schedule import Delay
from httpqueue.timers.spec import Spec
from httpqueue.timers.timer import State
from httpqueue.worker.arq_compat import worker_settings
from tests.support.frozen import acknowledge, read_outbox, wake_up
from tests.support.keys import PARTITIONS, Everywhere, place_of
from tests.support.pipeline import running
from tests.support.receiver import Receiver, Reply

TIMERS = 20
PARTITION = PARTITIONS.count - 1
"""The one that the stock workers drain."""
WAKE_UP_ID = wake_up_id(wake_up("a"))
IDS = [name for name in map(str, range(100)) if place_of(name) == PARTITION][:TIMERS]


@pytest.fixture(scope="module")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    """Never in cluster mode: each transaction of a stock worker touches the key `arq:abort`, too."""
    with EmbeddedValkey(tmp_path_factory.mktemp("arq"), persistent=False) as server:
        yield server


async def drain(url: str) -> None:
    """As `arq --burst httpqueue.worker.arq_compat.WorkerSettings`."""
    settings = load(redis_url=url, partitions=PARTITIONS.count, arq_partition=PARTITION, egress="private")
    stock = create_worker(worker_settings(settings), burst=True, handle_signals=False)
    await stock.async_run()
    await stock.close()


async def test_a_stock_arq_worker_drains_our_queue(
    valkey_server: EmbeddedValkey, storage: Storage, queue: Queue, redis: Redis
) -> None:
    """Every timer is called once and done."""
    async with Receiver() as receiver:
        store = storage.store
        await storage.check(allow_unsafe=False)
        await store.create(
            [NewTimer(TimerName("default", name), Spec(f"{receiver.url}/{name}", Delay(0))) for name in IDS]
        )
        relay = Relay(storage=storage, queue=queue, horizon_ms=1_000, batch_size=500)
        assert await relay.drain() == TIMERS
        await drain(valkey_server.url)
        assert sorted(request.path[1:] for request in receiver.requests) == sorted(IDS)
        for name in IDS:
            found = await store.get(TimerName("default", name))
            assert found is not None
            assert found.timer.state is State.DONE
    assert await Everywhere(redis).zcard("queue") == 0


@pytest.mark.parametrize("partition", range(4))
async def test_a_stock_arq_worker_drains_one_partition(
    valkey_server: EmbeddedValkey, redis: Redis, partition: int
) -> None:
    """It leaves the wake-ups of the three others where they are, for workers of theirs."""
    four = Partitions(4)
    storage = Storage(redis, archive_error_rate=1e-6, partitions=four)
    names = [TimerName("default", str(number)) for number in range(TIMERS)]
    of_it = {name.id for name in names if four.home_of(name) == partition}
    assert of_it
    async with Receiver() as receiver, open_queue(valkey_server.url, partitions=four) as queue:
        await storage.store.create(
            [NewTimer(name, Spec(f"{receiver.url}/{name.id}", Delay(0))) for name in names]
        )
        relay = Relay(storage=storage, queue=queue, horizon_ms=1_000, batch_size=500)
        assert await relay.drain() == TIMERS
        settings = load(redis_url=valkey_server.url, partitions=4, arq_partition=partition, egress="private")
        stock = create_worker(worker_settings(settings), burst=True, handle_signals=False)
        await stock.async_run()
        await stock.close()
        assert {request.path[1:] for request in receiver.requests} == of_it
    left = [await redis.zrange(keys.queue, 0, -1) for keys in four.queue_keys]
    assert left[partition] == []
    assert sum(map(len, left)) == TIMERS - len(of_it)


async def test_a_stock_arq_worker_leaves_retries_to_the_store(
    valkey_server: EmbeddedValkey, storage: Storage, queue: Queue
) -> None:
    """An attempt that failed is a job that ended well: the next attempt comes by the outbox."""
    async with Receiver() as receiver:
        receiver.answer(Reply(503))
        store = storage.store
        await storage.check(allow_unsafe=False)
        name = TimerName("default", IDS[0])
        await store.create([NewTimer(name, Spec(receiver.url, Delay(0)))])
        relay = Relay(storage=storage, queue=queue, horizon_ms=1_000, batch_size=500)
        await relay.drain()
        await drain(valkey_server.url)
        found = await store.get(name)
        assert found is not None
        assert (found.timer.state, found.timer.attempts) == (State.SCHEDULED, 1)
        assert await relay.drain() == 1


@pytest.mark.parametrize("named_by", ["job id", "argument"])
async def test_our_worker_runs_what_stock_arq_enqueued(store: Store, queue: Queue, named_by: str) -> None:
    """enqueue_job with the wake-up's id as the job's id, or as the function's argument."""
    async with Receiver() as receiver:
        await store.create([NewTimer(TimerName("default", "a"), Spec(receiver.url, Delay(0)))])
        await acknowledge(store, await read_outbox(store))  # nobody but stock arq wakes it
        where = PARTITIONS.queue_keys[place_of("a")].queue
        if named_by == "job id":
            await queue.redis.enqueue_job(JOB_FUNCTION, _job_id=WAKE_UP_ID, _queue_name=where)
        else:
            await queue.redis.enqueue_job(JOB_FUNCTION, WAKE_UP_ID, _queue_name=where)
        async with running(store, queue) as pipeline:
            await pipeline.until("a", State.DONE)
        assert len(receiver.requests) == 1


async def test_a_job_that_stock_arq_deferred_waits_for_its_time(store: Store, queue: Queue) -> None:
    """Its score is the due time, as in ours."""
    job = await queue.redis.enqueue_job(
        JOB_FUNCTION,
        _job_id=WAKE_UP_ID,
        _queue_name=PARTITIONS.queue_keys[place_of("a")].queue,
        _defer_until=datetime(2100, 1, 1, tzinfo=UTC),
    )
    assert job is not None
    claim = await queue.claim(place_of("a"), 10)
    assert claim.wake_ups == []
    assert claim.wait_ms is not None
    del store


async def test_a_stock_worker_names_a_job_it_cannot_read(
    valkey_server: EmbeddedValkey, queue: Queue, redis: Redis
) -> None:
    """A job of ours whose id is no wake-up ends, or one of a partition that there is not."""
    for nonsense in ("nonsense", "{4}default:a:0"):
        await queue.redis.set(f"{ARQ_JOB_PREFIX}{nonsense}", JOB_DEFINITION)
        await queue.redis.zadd(PARTITIONS.queue_keys[PARTITION].queue, {nonsense: 1})
    await drain(valkey_server.url)
    assert await Everywhere(redis).zcard("queue") == 0


def test_worker_settings_needs_a_shared_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    """`arq httpqueue.worker.arq_compat.WorkerSettings` without REDIS_URL says what to set."""
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.delenv("HTTPQUEUE_REDIS_URL", raising=False)
    with pytest.raises(SettingsError, match="HTTPQUEUE_REDIS_URL"):
        import_string_like_arq()


def import_string_like_arq() -> object:
    """What arq's command line does with its argument."""
    return arq.utils.import_string("httpqueue.worker.arq_compat.WorkerSettings")


def test_worker_settings_are_arqs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every key is one that a stock worker takes."""
    monkeypatch.setenv("REDIS_URL", "localhost:1")
    settings = import_string_like_arq()
    assert isinstance(settings, dict)
    assert get_kwargs(settings) == settings


def test_a_stock_worker_on_sentinels() -> None:
    """It gets the same Sentinels, name, db and password."""
    url = "redis+sentinel://u:p@a:1,b:2/timers/3"
    settings = worker_settings(load(redis_url=url))["redis_settings"]
    assert settings.host == [("a", 1), ("b", 2)]
    assert (settings.sentinel, settings.sentinel_master, settings.database) == (True, "timers", 3)
    assert (settings.username, settings.password) == ("u", "p")
