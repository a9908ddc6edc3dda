"""The queue keeps arq's format: a stock arq worker drains it, Worker runs stock jobs."""

from datetime import UTC, datetime

import arq
import pytest
from arq.worker import create_worker, get_kwargs
from redis.asyncio import Redis

from httpqueue.errors import SettingsError
from httpqueue.relay.relay import Relay
from httpqueue.settings import load
from httpqueue.storage.embedded import EmbeddedValkey
from httpqueue.storage.queue import JOB_FUNCTION, Queue
from httpqueue.storage.storage import Storage
from httpqueue.storage.timers import Store
from httpqueue.timers.commands import NewTimer
from httpqueue.timers.names import TimerName
from httpqueue.timers.schedule import Delay
from httpqueue.timers.spec import Spec
from httpqueue.timers.timer import State
from httpqueue.worker.arq_compat import worker_settings
from tests.support.keys import QUEUE, STORE
from tests.support.pipeline import running
from tests.support.receiver import Receiver, Reply

TIMERS = 20


async def test_a_stock_arq_worker_drains_our_queue(
    valkey_server: EmbeddedValkey, storage: Storage, queue: Queue, redis: Redis
) -> None:
    """As `arq --burst httpqueue.worker.arq_compat.WorkerSettings`: every timer is called once and done."""
    async with Receiver() as receiver:
        store = storage.store
        await storage.check(allow_unsafe=False)
        await store.create(
            [
                NewTimer(TimerName("default", str(n)), Spec(f"{receiver.url}/{n}", Delay(0)))
                for n in range(TIMERS)
            ]
        )
        relay = Relay(storage=storage, queue=queue, horizon_ms=1_000, batch_size=500)
        assert await relay.drain() == TIMERS
        stock = create_worker(
            worker_settings(load(redis_url=valkey_server.url, egress="private")),
            burst=True,
            handle_signals=False,
        )
        await stock.async_run()
        await stock.close()
        assert sorted(int(request.path[1:]) for request in receiver.requests) == list(range(TIMERS))
        for n in range(TIMERS):
            found = await store.get(TimerName("default", str(n)))
            assert found is not None
            assert found.timer.state is State.DONE
    assert await redis.zcard(QUEUE.queue) == 0


async def test_a_stock_arq_worker_leaves_retries_to_the_store(
    valkey_server: EmbeddedValkey, storage: Storage, queue: Queue
) -> None:
    """An attempt that failed is a job that ended well: the next attempt comes by the outbox."""
    async with Receiver() as receiver:
        receiver.answer(Reply(503))
        store = storage.store
        await storage.check(allow_unsafe=False)
        await store.create([NewTimer(TimerName("default", "a"), Spec(receiver.url, Delay(0)))])
        relay = Relay(storage=storage, queue=queue, horizon_ms=1_000, batch_size=500)
        await relay.drain()
        stock = create_worker(
            worker_settings(load(redis_url=valkey_server.url, egress="private")),
            burst=True,
            handle_signals=False,
        )
        await stock.async_run()
        await stock.close()
        found = await store.get(TimerName("default", "a"))
        assert found is not None
        assert (found.timer.state, found.timer.attempts) == (State.SCHEDULED, 1)
        assert await relay.drain() == 1


@pytest.mark.parametrize("named_by", ["job id", "argument"])
async def test_our_worker_runs_what_stock_arq_enqueued(store: Store, queue: Queue, named_by: str) -> None:
    """enqueue_job with the wake-up's id as the job's id, or as the function's argument."""
    async with Receiver() as receiver:
        await store.create([NewTimer(TimerName("default", "a"), Spec(receiver.url, Delay(0)))])
        await queue.redis.delete(STORE.outbox)  # nobody but stock arq wakes it
        if named_by == "job id":
            await queue.redis.enqueue_job(JOB_FUNCTION, _job_id="default:a:0")
        else:
            await queue.redis.enqueue_job(JOB_FUNCTION, "default:a:0")
        async with running(store, queue) as pipeline:
            await pipeline.until("a", State.DONE)
        assert len(receiver.requests) == 1


async def test_a_job_that_stock_arq_deferred_waits_for_its_time(store: Store, queue: Queue) -> None:
    """Its score is the due time, as in ours."""
    job = await queue.redis.enqueue_job(
        JOB_FUNCTION, _job_id="default:a:0", _defer_until=datetime(2100, 1, 1, tzinfo=UTC)
    )
    assert job is not None
    claim = await queue.claim(10)
    assert claim.wake_ups == []
    assert claim.wait_ms is not None
    del store


async def test_a_stock_worker_names_a_job_it_cannot_read(
    valkey_server: EmbeddedValkey, queue: Queue, redis: Redis
) -> None:
    """A job of ours whose id is no wake-up ends; nothing is retried for ever."""
    await queue.redis.enqueue_job(JOB_FUNCTION, _job_id="nonsense")
    stock = create_worker(
        worker_settings(load(redis_url=valkey_server.url, egress="private")), burst=True, handle_signals=False
    )
    await stock.async_run()
    await stock.close()
    assert await redis.zcard(QUEUE.queue) == 0


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
