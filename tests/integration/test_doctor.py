"""What the doctor finds, says and mends. Looking changes nothing."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest
from redis.asyncio import Redis

from httpqueue.run.doctor import Doctor
from httpqueue.settings import load
from httpqueue.storage.keys import host_keys, store_keys
from httpqueue.storage.queue import Queue
from httpqueue.storage.record import FORMAT
from httpqueue.storage.storage import Storage
from httpqueue.storage.timers import Store
from httpqueue.timers import checkup
from httpqueue.timers.checkup import Fault, Finding, Findings
from httpqueue.timers.commands import Begun
from httpqueue.timers.names import TimerName
from httpqueue.timers.policies import ApplicationPolicy, DestinationPolicy
from httpqueue.timers.schedule import Delay
from httpqueue.timers.spec import Callback, Retention
from httpqueue.webhooks.outcome import Outcome
from tests.support.frozen import (
    HOUR_MS,
    FrozenTime,
    begin,
    claim,
    finish_of,
    new_timer,
    snapshot,
    wake_up,
)
from tests.support.keys import PARTITIONS, Everywhere, place_of, record_key
from tests.support.pipeline import running
from tests.support.receiver import Receiver, Reply
from tests.support.records import encode_record, pack_values

LANE: Final = "key"
RUN: Final = ("running", "running-2", "done", "done-2", "failed")
"""Those that begin."""


class Clinic:
    """A store with timers in every state, and a doctor for it."""

    def __init__(self, storage: Storage, queue: Queue, redis: Redis, time: FrozenTime) -> None:
        self.storage, self.queue, self.redis, self.time = storage, queue, redis, time
        self.store = storage.store

    async def fill(self) -> None:
        """Timers that are far, blocked, running, wait, are paused, done, failed, cancelled or away."""
        store = self.store
        await store.create(
            [
                new_timer("far", HOUR_MS),
                new_timer("due", HOUR_MS),
                *(new_timer(f"far-{number}", HOUR_MS) for number in range(8)),
                *(new_timer(each) for each in (*RUN, "cancelled", "waits", "asks")),
                *(
                    new_timer(each, HOUR_MS, ordering_key=LANE)
                    for each in ("first", "blocked", "away-1", "away-2")
                ),
            ]
        )
        await self.storage.policies.set_destination("receiver", DestinationPolicy(concurrency=1000))
        permits = [wake_up(each) for each in RUN]
        begun = await begin(store, permits, permits=permits)
        assert all(isinstance(each, Begun) for each in begun)
        outcomes = (Outcome.DELIVERED, Outcome.DELIVERED, Outcome.FAILED)
        await store.finish(
            [
                finish_of(each, how)
                for each, how in zip(begun[2:], outcomes, strict=True)
                if isinstance(each, Begun)
            ]
        )
        await store.cancel(TimerName("default", "cancelled"), version=None, retention_ms=HOUR_MS)
        await store.wait([wake_up("waits")])
        await self.storage.policies.update_application("default", lambda _: ApplicationPolicy(paused=True))
        await begin(store, [wake_up("asks")])

    async def look(self, *, repair: bool = False) -> dict[Fault, Finding]:
        """What it finds."""
        findings = Findings()
        doctor = Doctor(self.storage, self.queue, load(partitions=PARTITIONS.count), findings, repair=repair)
        await doctor.run([])
        return {finding.fault: finding for finding in findings.all()}

    def index(self, field: str, timer_id: str, member: str = "", key: str | None = None) -> str:
        """The key of an index in a timer's partition."""
        return str(getattr(PARTITIONS.store_keys[place_of(timer_id, key)], field)) + member


@pytest.fixture
async def clinic(frozen_storage: Storage, frozen_queue: Queue, redis: Redis, time: FrozenTime) -> Clinic:
    """It has timers in every state."""
    clinic = Clinic(frozen_storage, frozen_queue, redis, time)
    await clinic.fill()
    return clinic


async def test_a_sound_store_is_clean_and_stays_as_it_is(clinic: Clinic) -> None:
    """Timers in every state, with lines, lanes and pointers: nothing is found, and nothing is written."""
    before = await snapshot(clinic.redis)
    assert await clinic.look() == {}
    assert await snapshot(clinic.redis) == before
    assert await clinic.look(repair=True) == {}
    assert await snapshot(clinic.redis) == before


Damage = Callable[[Clinic], Awaitable[Any]]


def zrem(field: str, timer_id: str, member: str = "", key: str | None = None) -> Damage:
    """Take a timer out of an index. `member`: what ends the index's key, if it is one of ids."""
    entry = timer_id if member else f"default:{timer_id}"
    return lambda clinic: clinic.redis.zrem(clinic.index(field, timer_id, member, key), entry)


def zadd(field: str, timer_id: str, member: str = "", score: float = 5) -> Damage:
    """Put a timer into an index."""
    entry = timer_id if member else f"default:{timer_id}"
    return lambda clinic: clinic.redis.zadd(clinic.index(field, timer_id, member), {entry: score})


def zrem_member(field: str, timer_id: str, member: str, key: str | None = None) -> Damage:
    """Take a timer out of a lane or line."""
    return lambda clinic: clinic.redis.zrem(clinic.index(field, timer_id, member, key), f"default:{timer_id}")


def drop(timer_id: str) -> Damage:
    """Lose a record."""
    return lambda clinic: clinic.redis.delete(record_key(timer_id))


async def misfile_pointer(clinic: Clinic) -> None:
    """A pointer to a record that never was, of which heal does not know."""
    pointer = pack_values(FORMAT, "p", place_of("nobody"), "nonce")
    await clinic.redis.set(record_key("nobody"), pointer)


async def tear(clinic: Clinic) -> None:
    """Half-written rules."""
    await clinic.storage.hosts.set_rules("other", DestinationPolicy(rate=1))


async def lose_line(clinic: Clinic) -> None:
    """A line of which no index knows."""
    await clinic.redis.zadd(host_keys("lost").line, {"{0}default:x:0": 1})


async def old_rules(clinic: Clinic) -> None:
    """A host that has other rules than are listed."""
    await clinic.redis.set(host_keys("receiver").rules, '{"rate":7}')


async def wrong_counts(clinic: Clinic) -> None:
    """As an unreadable record leaves them."""
    key = PARTITIONS.store_keys[place_of("far")].counts
    await clinic.redis.hincrby(key, "default:d", 3)  # type: ignore[misc] # sync or async


async def wrong_total(clinic: Clinic) -> None:
    """So that quotas refuse what they should not."""
    await clinic.redis.hincrby(PARTITIONS.store_keys[place_of("far")].counts, ":p", 3)  # type: ignore[misc] # sync or async


async def wrong_next(clinic: Clinic) -> None:
    """An application that the relay would never visit."""
    await clinic.redis.zrem(PARTITIONS.store_keys[place_of("far")].next, "default")


MISPLACED: Final[dict[str, Damage]] = {
    "far-0": zrem("due", "far-0", "default"),
    "far-1": zadd("due", "far-1", "default"),
    "far-2": zadd("held", "far-2", "default"),
    "far-3": zadd("running", "far-3"),
    "far-4": zadd("retention", "far-4"),
    "far-5": zadd("ended", "far-5", "d:default"),
    "far-6": zadd("set_aside", "far-6"),
    "waits": zrem("waiting", "waits"),
    "asks": zrem_member("lines", "asks", "default"),
    "blocked": zrem_member("lanes", "blocked", f"default:{LANE}", LANE),
    "running": zrem("running", "running"),
    "running-2": zrem("held", "running-2", "default"),
    "done": zrem("ended", "done", "d:default"),
    "done-2": zrem("retention", "done-2"),
    "failed": zrem("retention", "failed"),
    "cancelled": zadd("due", "cancelled", "default"),
}
"""What makes each of these timers one that is not where its state says."""
DANGLING: Final[dict[str, Damage]] = {
    "no-0": zadd("due", "no-0", "default"),
    "no-1": zadd("held", "no-1", "default"),
    "no-2": zadd("running", "no-2"),
    "no-3": zadd("retention", "no-3"),
    "no-4": zadd("waiting", "no-4"),
    "no-5": zadd("ended", "no-5", "f:default"),
    "no-6": zadd("set_aside", "no-6"),
    "far-7": drop("far-7"),
    "garbage": lambda clinic: clinic.redis.zadd(PARTITIONS.store_keys[0].running, {"default:garbage:x": 1}),
}
"""Index entries without records."""
GROUPS: Final[dict[str, tuple[Fault, dict[str, Damage]]]] = {
    "misplaced": (Fault.MISPLACED, MISPLACED),
    "dangling": (Fault.DANGLING, DANGLING),
    "pointer": (Fault.POINTERS, {"default:nobody": misfile_pointer}),
    "policies": (Fault.POLICIES, {"destination other": tear}),
    "hosts": (Fault.HOSTS, {"lost": lose_line, "receiver": old_rules}),
    "counts": (Fault.COUNTS, {"default in partition": wrong_counts}),
    "all together": (Fault.COUNTS, {"* in partition": wrong_total}),
    "next": (Fault.COUNTS, {"default in partition": wrong_next}),
}


@pytest.mark.parametrize("group", GROUPS)
async def test_what_is_damaged_is_found_and_mended(
    group: str, clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them, and nothing else. Looking writes nothing. After the repair nothing is found."""
    fault, damages = GROUPS[group]
    monkeypatch.setattr(checkup, "EXAMPLES", 100)
    for damage in damages.values():
        await damage(clinic)
    before = await snapshot(clinic.redis)
    found = await clinic.look()
    assert await snapshot(clinic.redis) == before
    assert found.keys() - {Fault.COUNTS} == {fault} - {Fault.COUNTS}, found
    examples = sorted(found[fault].examples)
    assert len(examples) == len(damages), examples
    assert [
        name for name, example in zip(sorted(damages), examples, strict=True) if name not in example
    ] == []
    assert found[fault].is_left
    mended = await clinic.look(repair=True)
    assert not [finding for finding in mended.values() if finding.is_left], mended
    if fault is Fault.HOSTS:
        await clinic.storage.hosts.probe(["lost", "receiver"])  # as the relay's heal does next
    assert await clinic.look() == {}


async def test_a_timer_that_was_in_no_index_fires_after_the_repair(clinic: Clinic, time: FrozenTime) -> None:
    """The relay hears of it."""
    await clinic.storage.policies.update_application("default", lambda _: ApplicationPolicy())
    await zrem("due", "far", "default")(clinic)
    await clinic.look(repair=True)
    time.advance(HOUR_MS)
    attempt = await begin_one_of(clinic, "far")
    assert isinstance(attempt, Begun)


async def begin_one_of(clinic: Clinic, timer_id: str) -> Any:
    """Begin it with a permit."""
    [answer] = await begin(clinic.store, [wake_up(timer_id)], permits=[wake_up(timer_id)])
    return answer


@pytest.mark.skipif(PARTITIONS.count == 1, reason="there are no pointers")
@pytest.mark.parametrize("is_taken", [False, True])
async def test_a_timer_without_its_pointer(clinic: Clinic, *, is_taken: bool) -> None:
    """It is found by its name again, unless another timer has it by now."""
    away = next(
        each for each in ("away-1", "away-2", "first", "blocked") if place_of(each) != place_of(each, LANE)
    )
    await drop(away)(clinic)
    assert await clinic.store.get(TimerName("default", away)) is None
    if is_taken:
        await clinic.store.create([new_timer(away, HOUR_MS)])
    assert {fault: finding.examples for fault, finding in (await clinic.look()).items()} == {
        Fault.UNFINDABLE: [f"default:{away}"]
    }
    mended = await clinic.look(repair=True)
    assert mended[Fault.UNFINDABLE].is_left is is_taken
    if not is_taken:
        assert await clinic.look() == {}
        assert await clinic.store.get(TimerName("default", away)) is not None


async def test_overdue_timers_that_the_queue_lost(clinic: Clinic, time: FrozenTime) -> None:
    """Of applications that are not paused. A repair puts their wake-ups, also of one that lost its worker."""
    time.advance(2 * HOUR_MS)
    assert Fault.OVERDUE not in await clinic.look()
    await clinic.storage.policies.update_application("default", lambda _: ApplicationPolicy())
    found = await clinic.look()
    names = {"default:far", "default:due", "default:running"}
    assert found[Fault.OVERDUE].count >= 12
    await claim(clinic.queue)
    await clinic.look(repair=True)
    assert Fault.OVERDUE not in await clinic.look()
    assert names <= {str(each.name) for each in await claim(clinic.queue)}


@pytest.mark.parametrize("is_aside", [False, True])
async def test_damaged_records_are_listed_until_a_person_has_seen_to_them(
    clinic: Clinic, *, is_aside: bool
) -> None:
    """--repair takes them out of the indices, so nothing tries them any more."""
    await clinic.redis.set(record_key("far"), b"garbage")
    if is_aside:
        await begin(clinic.store, [wake_up("far")])
    for repair in (False, True, True):
        found = await clinic.look(repair=repair)
        assert found[Fault.DAMAGED].examples == ["default:far"]
        assert found[Fault.DAMAGED].is_left
    assert not await clinic.redis.zscore(clinic.index("due", "far", "default"), "far")
    assert await clinic.redis.get(record_key("far")) == b"garbage"


async def test_a_record_of_the_next_format_is_left_alone(clinic: Clinic) -> None:
    """A newer httpqueue wrote it, which runs beside this one."""
    record = encode_record("{}", version=FORMAT + 1)
    await clinic.redis.set(record_key("far"), record)
    before = await clinic.redis.get(record_key("far"))
    found = await clinic.look(repair=True)
    assert found.keys() == {Fault.NEWER}
    assert await clinic.redis.get(record_key("far")) == before
    assert await clinic.redis.zscore(clinic.index("due", "far", "default"), "far")


async def test_what_only_a_person_can_mend(clinic: Clinic, everywhere: Everywhere) -> None:
    """A dead outbox entry, a queue entry that nobody can read, keys of partitions that there are not."""
    await clinic.redis.xadd(everywhere.keys("outbox_dead")[0], {"timer": "x"})
    await clinic.redis.zadd(everywhere.keys("queue")[0], {"garbage": 1})
    await clinic.redis.set(store_keys(PARTITIONS.count).records + "default:a", b"")
    for repair in (False, True):
        found = await clinic.look(repair=repair)
        assert found.keys() == {Fault.DEAD_ENTRIES, Fault.QUEUE, Fault.PARTITIONS}
        assert all(finding.is_left for finding in found.values())


async def test_a_store_that_no_relay_serves(clinic: Clinic) -> None:
    """Its outbox has an old entry."""
    key = PARTITIONS.store_keys[0].outbox
    await clinic.redis.delete(key)
    for entry_id in ("1-1", "1-2"):
        await clinic.redis.xadd(key, {"timer": "default:far"}, id=entry_id)
    found = await clinic.look()
    assert found[Fault.RELAY].count == 2


async def test_a_queue_that_was_lost(clinic: Clinic) -> None:
    """Its epoch is another one, and no relay has noticed."""
    for partition in PARTITIONS.all:
        await clinic.storage.wake_ups.start_over_for(partition, "old")
    found = await clinic.look()
    assert found[Fault.EPOCH].count == PARTITIONS.count


async def test_another_archive(clinic: Clinic) -> None:
    """It was made with another error rate."""
    await clinic.storage.check(allow_unsafe=True)
    assert await clinic.look() == {}
    clinic.storage._archive._error_rate = 0.01
    found = await clinic.look()
    assert "error rate 1e-06" in found[Fault.SETTINGS].examples[0]


async def test_what_happens_meanwhile_is_not_wrong(
    store: Store, queue: Queue, storage: Storage, redis: Redis
) -> None:
    """While timers are made, wait in lanes, fire, fail, call back and are forgotten, nothing is found."""
    clinic = Clinic(storage, queue, redis, FrozenTime())
    async with Receiver() as receiver, running(store, queue) as pipeline:
        receiver.answer(*[Reply(503), Reply(200), Reply(404)] * 40, path="/flaky")
        for batch in range(5):
            await asyncio.gather(
                *(
                    pipeline.schedule(
                        f"{batch}-{number}",
                        f"{receiver.url}/{'flaky' if number % 4 else ''}",
                        Delay(number),
                        ordering_key=f"k{number % 7}" if number % 2 else None,
                        callback=Callback(receiver.url) if number % 3 else None,
                        retention=Retention(0, 0) if number % 5 else None,
                    )
                    for number in range(50)
                )
            )
            assert await clinic.look() == {}
        await pipeline.until_all_finished()
        assert await clinic.look() == {}


async def test_round_trips_are_bounded(
    frozen_storage: Storage,
    frozen_queue: Queue,
    redis: Redis,
    time: FrozenTime,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A thousand timers more cost a few questions more, and no timer has one of its own."""
    clinic = Clinic(frozen_storage, frozen_queue, redis, time)
    count = 0
    execute = Redis.execute_command

    async def counted(self: Redis, *args: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        return await execute(self, *args, **options)  # type: ignore[no-untyped-call] # redis-py

    monkeypatch.setattr(Redis, "execute_command", counted)
    asked = []
    for size in (200, 4_200):
        start = size - (200 if size == 200 else 4_000)
        for first in range(start, size, 500):
            await clinic.store.create(
                [
                    new_timer(f"t{n}", HOUR_MS, ordering_key=f"k{n % 50}")
                    for n in range(first, min(size, first + 500))
                ]
            )
        count = 0
        assert await clinic.look() == {}
        asked.append(count)
    assert asked[1] - asked[0] <= 60, asked
