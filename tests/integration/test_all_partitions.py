"""Four partitions, however many the other tests have: all are served, and one that is away stops no other."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import pytest
from redis.asyncio import Redis

from httpqueue.clock import sleep
from httpqueue.errors import UnavailableError
from httpqueue.relay import relay
from httpqueue.relay.relay import GRACE_MS, Relay
from httpqueue.runtime import outage
from httpqueue.storage.embedded import EmbeddedValkey
from httpqueue.storage.outbox import Outbox
from httpqueue.storage.partitions import Partitions
from httpqueue.storage.queue import Queue, open_queue
from httpqueue.storage.scripts import Script
from httpqueue.storage.storage import Storage
from httpqueue.timers.commands import Begun, Finish, Finished, NewTimer, WakeUp
from httpqueue.timers.names import DEFAULT_APPLICATION, TimerName
from httpqueue.timers.schedule import Delay
from httpqueue.timers.spec import Spec
from httpqueue.timers.timer import State
from httpqueue.webhooks.outcome import Outcome
from httpqueue.worker import calls
from httpqueue.worker.engine import Worker
from httpqueue.worker.finishes import Finishes
from tests.support.frozen import HOUR_MS, T0_MS, FrozenTime, begin, finish_of, new_timer
from tests.support.pipeline import running, working
from tests.support.receiver import Receiver, Reply, reply_when

FOUR: Final = Partitions(4)
AWAY: Final = 0
"""The partition that is away: the first, so that the others come after it."""
NAMES: Final = [f"t{number:02}" for number in range(20)]


def place_of(timer_id: str) -> int:
    """Its partition."""
    return FOUR.home_of(TimerName(DEFAULT_APPLICATION, timer_id))


HERE: Final = [name for name in NAMES if place_of(name) == AWAY]
ELSEWHERE: Final = [name for name in NAMES if place_of(name) != AWAY]
WAKE_UPS: Final = [WakeUp(TimerName(DEFAULT_APPLICATION, name), 0, T0_MS, place_of(name)) for name in NAMES]


@pytest.fixture
async def storage(redis: Redis, time: FrozenTime) -> Storage:
    """In the test's own time."""
    return Storage(redis, archive_error_rate=1e-6, partitions=FOUR, now=time)


@pytest.fixture
async def queue(valkey_server: EmbeddedValkey, time: FrozenTime) -> AsyncIterator[Queue]:
    """In the test's own time."""
    async with open_queue(valkey_server.url, partitions=FOUR, now=time) as queue:
        yield queue


@pytest.fixture
def rel(storage: Storage, queue: Queue) -> Relay:
    """A relay of all four."""
    return Relay(storage=storage, queue=queue, horizon_ms=600_000, batch_size=500)


async def queued(queue: Queue) -> list[str]:
    """Whose wake-ups are in the queues."""
    found = [await queue.redis.zrange(keys.queue, 0, -1) for keys in FOUR.queue_keys]
    return sorted(name.decode().split(":")[1] for part in found for name in part)


async def claim_all(queue: Queue) -> None:
    """Nothing is in the queues afterwards."""
    for partition in FOUR.all:
        await queue.claim(partition, 1_000)


@contextmanager
def one_away(*scripts: Script) -> Iterator[None]:
    """A partition that is away: these scripts fail there; by default all, and whatever reads its outbox."""

    def unless_away(method: Any) -> Any:
        async def call(self: Any, partition: int, *args: object, **options: object) -> object:
            if partition == AWAY and (not scripts or self in scripts):
                raise UnavailableError("gone")
            return await method(self, partition, *args, **options)

        return call

    reads = [] if scripts else [(Outbox, "read"), (Outbox, "adopt")]
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in [(Script, "__call__"), *reads]:
            patch.setattr(owner, name, unless_away(getattr(owner, name)))
        yield


def test_some_are_in_each() -> None:
    """Or these tests would say little."""
    assert {place_of(name) for name in NAMES} == {*FOUR.all}


# --- all are served ---


async def test_relay_and_worker_fill_and_drain_all(redis: Redis, valkey_server: EmbeddedValkey) -> None:
    """Timers with an ordering key too, which may live away from their homes, and retries."""
    store = Storage(redis, archive_error_rate=1e-6, partitions=FOUR).store
    async with open_queue(valkey_server.url, partitions=FOUR) as queue, Receiver() as receiver:
        receiver.answer(*[Reply(503)] * 10, Reply(200))
        async with running(store, queue) as pipeline:
            for number, name in enumerate(NAMES):
                key = f"key{number}" if number % 2 else None
                await pipeline.schedule(name, f"{receiver.url}/{name}", ordering_key=key)
            timers = [await pipeline.until(name, State.DONE) for name in NAMES]
        assert sum(timer.attempts for timer in timers) == len(receiver.requests) == len(NAMES) + 10
        assert await queued(queue) == []
    for keys in FOUR.store_keys:
        assert await redis.xinfo_groups(keys.outbox), "the relay was here"
        assert await redis.xlen(keys.outbox) == 0


async def test_an_empty_outbox_that_gets_an_entry_wakes_the_relay(
    storage: Storage, queue: Queue, rel: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever it is: nobody looks at them one after the other."""
    monkeypatch.setattr(relay, "SWEEP_S", 3_600.0)
    relaying = asyncio.create_task(rel.run())
    async with asyncio.timeout(30):
        for number, name in enumerate(NAMES):
            await storage.store.create([new_timer(name)])
            while len(await queued(queue)) <= number:
                pass
    await rel.stop()
    await relaying


# --- one is away ---


async def fill(storage: Storage, queue: Queue, rel: Relay, time: FrozenTime, name: str) -> None:
    """A timer of each name; all have something to do for that pass."""
    await storage.store.create([new_timer(name) for name in NAMES])
    if name == "adopt":
        for partition in FOUR.all:
            await storage.outbox.read(partition, "a dead relay", limit=100)
    elif name == "heal":
        await rel.promote()
        await claim_all(queue)
        time.advance(GRACE_MS)
    elif name == "forget":
        begun = [each for each in await begin(storage.store, WAKE_UPS) if isinstance(each, Begun)]
        await storage.store.finish([finish_of(each, Outcome.DELIVERED, 1) for each in begun])
        time.advance(HOUR_MS)


async def dealt_with(queue: Queue, name: str) -> list[str]:
    """The timers for which that pass has done what it had to do."""
    if name != "forget":
        return await queued(queue)
    with_record = {key.rpartition(b":")[2].decode() for key in await queue.redis.keys("hq:{*}default:*")}
    return [name for name in NAMES if name not in with_record]


@pytest.mark.parametrize("name", ["drain", "adopt", "promote", "heal", "forget"])
async def test_a_pass_goes_on_in_the_others(
    storage: Storage, queue: Queue, rel: Relay, time: FrozenTime, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """It tells that one was away when it has been everywhere; when that is back, it does the rest."""
    monkeypatch.setattr(relay, "ADOPT_AFTER_MS", 0)
    await storage.check(allow_unsafe=False)
    await fill(storage, queue, rel, time, name)
    with one_away(), pytest.raises(UnavailableError, match="gone"):
        await getattr(rel, name)()
    assert await dealt_with(queue, name) == ELSEWHERE
    assert await getattr(rel, name)() == len(NAMES) - len(ELSEWHERE)
    assert await dealt_with(queue, name) == NAMES


async def test_heal_looks_at_hosts_all_the_same(
    storage: Storage, queue: Queue, rel: Relay, time: FrozenTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their keys are elsewhere."""
    await fill(storage, queue, rel, time, "heal")
    asked = []

    async def due_probes(*, limit: int) -> Sequence[str]:
        asked.append(limit)
        return []

    monkeypatch.setattr(rel._hosts, "due_probes", due_probes)
    with one_away(), pytest.raises(UnavailableError):
        await rel.heal()
    assert asked


async def test_a_relay_at_work_goes_on_in_the_others(
    storage: Storage, queue: Queue, rel: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For as long as it takes; then it catches up with the one that was away."""
    monkeypatch.setattr(relay, "SWEEP_S", 3_600.0)
    with one_away():
        relaying = asyncio.create_task(rel.run())
        async with asyncio.timeout(60):
            for first in range(0, len(NAMES), 10):
                names = NAMES[first : first + 10]
                await storage.store.create([new_timer(name) for name in names if name in ELSEWHERE])
                while not {*names} & {*ELSEWHERE} <= {*await queued(queue)}:
                    pass
    async with asyncio.timeout(60):
        await storage.store.create([new_timer(name) for name in NAMES if name not in ELSEWHERE])
        while await queued(queue) != NAMES:
            pass
    await rel.stop()
    await relaying


async def test_ended_attempts_of_the_others_are_told(storage: Storage) -> None:
    """Those of the one that is away are kept until it is back."""
    store = storage.store
    await store.create([new_timer(name) for name in NAMES])
    begun = [each for each in await begin(store, WAKE_UPS) if isinstance(each, Begun)]
    finishes = Finishes(store)
    told: set[str] = set()
    changed = asyncio.Event()

    def note(batch: tuple[Sequence[Finish], Finished]) -> None:
        told.update(finish.begun.wake_up.name.id for finish in batch[0])
        changed.set()

    async def until_told(names: Sequence[str]) -> None:
        async with asyncio.timeout(30):
            while told != {*names}:
                changed.clear()
                await changed.wait()

    finishes.told.listen(note)
    finishing = asyncio.create_task(finishes.run())
    with one_away():
        for each in begun:
            finishes.add(finish_of(each, Outcome.DELIVERED))
        await until_told(ELSEWHERE)
        assert finishes.behind == {AWAY}
    await until_told(NAMES)
    assert not finishes.behind
    finishing.cancel()


@asynccontextmanager
async def at_work(
    redis: Redis, url: str, *, slots: tuple[int, int] = (10_000, 200)
) -> AsyncIterator[tuple[Storage, Queue, Worker]]:
    """A worker of all four, and no relay: who calls `wake` wakes it."""
    storage = Storage(redis, archive_error_rate=1e-6, partitions=FOUR)
    async with (
        open_queue(url, partitions=FOUR) as queue,
        working(storage.store, queue, slots=slots) as worker,
    ):
        yield storage, queue, worker


async def wake(storage: Storage, queue: Queue, url: str, names: Sequence[str]) -> None:
    """Timers that are due, and their wake-ups."""
    due = [NewTimer(TimerName(DEFAULT_APPLICATION, name), Spec(f"{url}/{name}", Delay(0))) for name in names]
    await storage.store.create(due)
    await queue.put([WakeUp(timer.name, 0, 1, place_of(timer.name.id)) for timer in due])


def called(receiver: Receiver) -> list[str]:
    """The timers whose webhooks were called, in alphabetical order."""
    return sorted(request.path.lstrip("/") for request in receiver.requests)


async def test_a_claim_that_fails_makes_no_other_partition_wait(
    redis: Redis, valkey_server: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Defect: all of them waited for up to a second, again and again."""
    monkeypatch.setattr(outage, "_FIRST_PAUSE_S", 3_600.0)
    monkeypatch.setattr(outage, "_LONGEST_PAUSE_S", 3_600.0)
    with one_away():
        async with Receiver() as receiver, at_work(redis, valkey_server.url) as (storage, queue, _):
            for count, name in enumerate(ELSEWHERE, 1):
                await wake(storage, queue, receiver.url, [name])
                await receiver.wait_for(count)


async def test_a_begin_that_fails_makes_no_other_partition_wait(
    redis: Redis, valkey_server: EmbeddedValkey
) -> None:
    """Defect: it was repeated until it succeeded, and nobody else began. Now each is called once."""
    async with Receiver() as receiver, at_work(redis, valkey_server.url) as (storage, queue, worker):
        with one_away(storage.store._leases._begin):
            await wake(storage, queue, receiver.url, HERE)
            async with asyncio.timeout(30):
                while AWAY not in worker._away.partitions:
                    await sleep(0.01)
            for count, name in enumerate(ELSEWHERE, 1):
                await wake(storage, queue, receiver.url, [name])
                await receiver.wait_for(count)
            assert called(receiver) == ELSEWHERE
        await receiver.wait_for(len(NAMES))
    assert called(receiver) == NAMES


async def test_ended_attempts_that_wait_make_no_other_partition_wait(
    redis: Redis, valkey_server: EmbeddedValkey
) -> None:
    """Defect: nothing began anywhere until the store knew of them. Where they are, it still must not."""
    first, *others = HERE
    async with Receiver() as receiver, at_work(redis, valkey_server.url) as (storage, queue, worker):
        with one_away(storage.store._leases._finish):
            await wake(storage, queue, receiver.url, [first])
            async with asyncio.timeout(30):
                while not worker._finishes.behind:
                    await sleep(0.01)
            await wake(storage, queue, receiver.url, others)
            for count, name in enumerate(ELSEWHERE, 2):
                await wake(storage, queue, receiver.url, [name])
                await receiver.wait_for(count)
            assert called(receiver) == sorted([first, *ELSEWHERE])
        await receiver.wait_for(len(NAMES))
    assert called(receiver) == NAMES


async def test_a_line_that_cannot_be_marked_makes_no_other_partition_wait(
    redis: Redis, valkey_server: EmbeddedValkey
) -> None:
    """Defect: no round went on until all that joined lines were marked as waiting."""
    go_on = asyncio.Event()
    async with (
        Receiver() as slow,
        Receiver(address="127.0.1.1") as receiver,
        at_work(redis, valkey_server.url, slots=(100, 1)) as (storage, queue, worker),
    ):
        slow.answer(reply_when(go_on, Reply(200)))
        with one_away(storage.store._waiting._wait):
            await wake(storage, queue, slow.url, HERE)
            async with asyncio.timeout(30):
                while AWAY not in worker._away.partitions:
                    await sleep(0.01)
            for count, name in enumerate(ELSEWHERE, 1):
                await wake(storage, queue, receiver.url, [name])
                await receiver.wait_for(count)
        go_on.set()
        await slow.wait_for(len(HERE))
        assert not worker._away._outages
    assert called(slow) == HERE


async def test_beats_go_on_in_the_others(
    redis: Redis, valkey_server: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Defect: when one of them failed, the worker took all leases for not renewed."""
    monkeypatch.setattr(calls, "BEAT_S", 0.01)
    go_on = asyncio.Event()
    async with Receiver() as receiver, at_work(redis, valkey_server.url) as (storage, queue, worker):
        receiver.answer(reply_when(go_on, Reply(200)))
        await wake(storage, queue, receiver.url, NAMES)
        await receiver.wait_for(len(NAMES))
        with one_away(storage.store._leases._beat):
            everyone = list(worker._calls.running.values())
            ends_s = {each.begun.wake_up.name.id: each.lease_end_s for each in everyone}

            def renewed() -> list[str]:
                names = {each.begun.wake_up.name.id: each for each in everyone}
                return sorted(name for name, each in names.items() if each.lease_end_s > ends_s[name])

            async with asyncio.timeout(30):
                while renewed() != ELSEWHERE:
                    await sleep(0.01)
        go_on.set()
