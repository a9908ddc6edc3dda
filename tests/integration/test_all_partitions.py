"""Four partitions, however many the other tests have: all are served, and one that is away stops no other."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import pytest
from redis.asyncio import Redis

from httpqueue.errors import UnavailableError
from httpqueue.relay import relay
from httpqueue.relay.relay import GRACE_MS, Relay
from httpqueue.storage.embedded import EmbeddedValkey
from httpqueue.storage.outbox import Outbox
from httpqueue.storage.partitions import Partitions
from httpqueue.storage.queue import Queue, open_queue
from httpqueue.storage.scripts import Script
from httpqueue.storage.storage import Storage
from httpqueue.timers.commands import Begun, Finish, Finished, WakeUp
from httpqueue.timers.names import DEFAULT_APPLICATION, TimerName
from httpqueue.timers.timer import State
from httpqueue.webhooks.outcome import Outcome
from httpqueue.worker.finishes import Finishes
from tests.support.frozen import HOUR_MS, T0_MS, FrozenTime, begin, finish_of, new_timer
from tests.support.pipeline import running
from tests.support.receiver import Receiver, Reply

FOUR: Final = Partitions(4)
AWAY: Final = 0
"""The partition that is away: the first, so that the others come after it."""
NAMES: Final = [f"t{number:02}" for number in range(20)]


def place_of(timer_id: str) -> int:
    """Its partition."""
    return FOUR.home_of(TimerName(DEFAULT_APPLICATION, timer_id))


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
def one_away() -> Iterator[None]:
    """A partition that is away: its scripts fail, and whatever reads its outbox."""

    def unless_away(method: Any) -> Any:
        async def call(self: object, partition: int, *args: object, **options: object) -> object:
            if partition == AWAY:
                raise UnavailableError("gone")
            return await method(self, partition, *args, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in ((Script, "__call__"), (Outbox, "read"), (Outbox, "adopt")):
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
        assert finishes.is_behind
    await until_told(NAMES)
    assert not finishes.is_behind
    finishing.cancel()
