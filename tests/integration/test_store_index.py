"""What relays ask for, wake-up by wake-up, and the outbox entry by entry: nothing is lost on the way.

Each partition has all of this for itself, so these timers are in the first one.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis

from httpqueue.storage import keys
from httpqueue.storage.storage import Storage
from httpqueue.storage.timers import Store
from httpqueue.storage.wake_ups import Place, WakeUps
from httpqueue.timers.commands import Begun, NewTimer, OutboxEntry, Refusal, Refused, WakeUp
from httpqueue.timers.names import TimerName
from httpqueue.timers.policies import ApplicationPolicy
from httpqueue.timers.schedule import Instant
from httpqueue.timers.spec import Spec
from httpqueue.webhooks.outcome import Outcome
from tests.support import frozen
from tests.support.frozen import (
    LEASE_MS,
    T0_MS,
    FrozenTime,
    begin,
    finish_of,
    heal,
    lose_leases,
    pass_time,
    storage_of,
)
from tests.support.keys import DUE, HELD, PARTITIONS, STORE, Everywhere, here, record_key

HORIZON_MS = 1_000


def new_timer(name: str, delay_ms: int = 0) -> NewTimer:
    """A timer of the default application, due after delay_ms."""
    return frozen.new_timer(here(name), delay_ms)


def of(application: str, name: str, delay_ms: int = 0) -> NewTimer:
    """A timer of an application."""
    timer_id = here(name, application=application)
    return replace(frozen.new_timer(timer_id, delay_ms), name=TimerName(application, timer_id))


def wake_up(name: str, generation: int = 0, ms: int = 0) -> WakeUp:
    """The wake-up of new_timer, due so many ms after T0_MS."""
    return replace(frozen.wake_up(here(name), generation), due_ms=T0_MS + ms)


async def begin_one(store: Store, name: str) -> Begun:
    """Start an attempt of new_timer."""
    return await frozen.begin_one(store, here(name))


def names(found: list[WakeUp]) -> list[str]:
    """Of new_timer or of."""
    return [each.name.id.partition("-")[0] for each in found]


def readable(entries: list[OutboxEntry]) -> list[str]:
    """The ids of the timers that outbox entries are about."""
    return names([entry.wake_up for entry in entries if entry.wake_up])


@pytest.fixture
def wake_ups(frozen_storage: Storage) -> WakeUps:
    """Of frozen_store."""
    return frozen_storage.wake_ups


@pytest.fixture
def few(redis: Redis, time: FrozenTime) -> WakeUps:
    """The same for a queue that holds some 10 wake-ups of one application."""
    return WakeUps(redis, partitions=PARTITIONS, now=time, window=10)


async def top_up(wake_ups: WakeUps, *, limit: int = 500, horizon_ms: int = HORIZON_MS) -> list[WakeUp]:
    """All that the queue should have next."""
    found: list[WakeUp] = []
    start: int | None = 0
    while start is not None:
        page = await wake_ups.top_up(0, start, horizon_ms=horizon_ms, limit=limit)
        assert len(page.wake_ups) <= limit
        found += page.wake_ups
        start = page.next
    return found


async def overdue(wake_ups: WakeUps, *, by_ms: int = 0, limit: int = 500) -> list[WakeUp]:
    """The whole search, page by page."""
    found: list[WakeUp] = []
    place: Place | None = Place()
    while place is not None:
        page, place = await wake_ups.overdue(0, place, by_ms=by_ms, limit=limit)
        assert len(page) <= limit
        found += page
    return found


# --- what the queue should have ---


@pytest.mark.parametrize("limit", [1, 2, 3, 500])
async def test_the_queue_is_filled_up_to_the_horizon(
    frozen_store: Store, wake_ups: WakeUps, limit: int
) -> None:
    """What is due exactly then is in it; the order is that of the due times; each is handed out once."""
    await frozen_store.create([new_timer("c", 1_001), new_timer("b", 1_000), new_timer("a", 999)])
    assert await top_up(wake_ups, limit=limit) == [
        wake_up("a", ms=999),
        wake_up("b", ms=1_000),
    ]
    assert names(await top_up(wake_ups, horizon_ms=999)) == []


async def test_time_brings_the_next_ones(frozen_store: Store, wake_ups: WakeUps, time: FrozenTime) -> None:
    """None twice, whatever became of those before."""
    await frozen_store.create([new_timer("a", 10), new_timer("b", 1_500), new_timer("c", 2_500)])
    found = [names(await top_up(wake_ups))]
    for _ in range(2):
        time.advance(1_000)
        found.append(names(await top_up(wake_ups)))
    assert found == [["a"], ["b"], ["c"]]


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8])
async def test_many_at_one_instant_are_each_found_once(
    frozen_store: Store, wake_ups: WakeUps, time: FrozenTime, limit: int
) -> None:
    """Whether they fill pages exactly or not, with others before and after; when overdue, too."""
    await frozen_store.create([new_timer(f"t{number}") for number in range(5)])
    for timer_id, due_ms in (("s", T0_MS - 1), ("r", T0_MS - 2)):
        await frozen_store.create(
            [NewTimer(TimerName("default", here(timer_id)), Spec("http://receiver/", Instant(due_ms)))]
        )
    expected = ["r", "s", "t0", "t1", "t2", "t3", "t4"]
    assert names(await top_up(wake_ups, limit=limit)) == expected
    time.advance(1)
    assert names(await overdue(wake_ups, limit=limit)) == expected


async def test_a_new_wake_up_goes_where_the_queue_is_filled(
    frozen_store: Store, few: WakeUps, time: FrozenTime
) -> None:
    """What is due behind that, or behind the horizon, waits in the due index; nothing is missed."""
    await frozen_store.create([new_timer(f"t{number:02}", 10 * number) for number in range(20)])
    assert names(await top_up(few)) == [f"t{number:02}" for number in range(10)]
    new = {"early": 5, "same": 90, "late": 95, "far": 1_001}
    await frozen_store.create([new_timer(name, ms) for name, ms in new.items()])
    asked = [wake_up(name, ms=ms) for name, ms in new.items()]
    assert names(await few.admit(0, asked, horizon_ms=HORIZON_MS)) == ["early", "same"]
    time.advance(1)
    begun = await begin(frozen_store, [wake_up("t00")])
    assert isinstance(begun[0], Begun)
    assert names(await overdue(few)) == []


async def test_a_wake_up_of_an_application_that_nobody_filled_in_yet_need_not_wait(
    frozen_store: Store, few: WakeUps
) -> None:
    """Unless it has more than the queue may hold of it: then top_up decides."""
    await frozen_store.create([new_timer("a"), new_timer("b", 1_001)])
    asked = [wake_up("a"), wake_up("b", ms=1_001)]
    assert names(await few.admit(0, asked, horizon_ms=HORIZON_MS)) == ["a"]
    await frozen_store.create([new_timer(f"t{number:02}", number) for number in range(20)])
    assert await few.admit(0, asked, horizon_ms=HORIZON_MS) == []
    assert len(await top_up(few)) == 10


async def test_a_backlog_reaches_the_queue_as_it_empties(frozen_store: Store, few: WakeUps) -> None:
    """A hundred that are due at once, in their order; the queue is topped up when it is half empty."""
    expected = [f"t{number:02}" for number in range(100)]
    await frozen_store.create([new_timer(name) for name in expected])
    in_queue = await top_up(few)
    done: list[str] = []
    while in_queue:
        assert len(in_queue) <= 10
        assert await top_up(few) == []
        some, in_queue = in_queue[:6], in_queue[6:]
        assert all(isinstance(answer, Begun) for answer in await begin(frozen_store, some))
        done += names(some)
        in_queue += await top_up(few)
    assert done == expected


async def test_a_flood_before_what_the_queue_was_filled_with(
    frozen_store: Store, few: WakeUps, time: FrozenTime
) -> None:
    """A new one goes in only while there is room for it, and is found later; none is missed."""
    await frozen_store.create([new_timer("last", 900)])
    assert names(await top_up(few)) == ["last"]
    admitted: list[str] = []
    for first in range(0, 100, 5):
        flood = [new_timer(f"t{number:02}", number) for number in range(first, first + 5)]
        created = await frozen_store.create(flood)
        asked = [WakeUp(one.name, 0, each.due_ms, 0) for one, each in zip(flood, created, strict=True)]
        admitted += names(await few.admit(0, asked, horizon_ms=HORIZON_MS))
    assert admitted == [f"t{number:02}" for number in range(15)]  # with `last` not more than twice the window
    in_queue = [wake_up(name) for name in ["last", *admitted]]
    begun: list[str] = []
    time.advance(900)
    while in_queue:
        begun += names(
            [each.wake_up for each in await begin(frozen_store, in_queue) if isinstance(each, Begun)]
        )
        in_queue = await top_up(few)
    assert sorted(begun) == ["last"] + [f"t{number:02}" for number in range(100)]


async def test_applications_are_filled_each_for_itself(frozen_store: Store, few: WakeUps) -> None:
    """One tenant's backlog does not stand before another's."""
    await frozen_store.create([of("big", f"t{number:03}") for number in range(200)])
    await frozen_store.create([of("small", "a", 500)])
    found = await top_up(few, limit=4)
    assert [each.name.application for each in found] == ["big"] * 10 + ["small"]  # the window is 10


async def test_a_paused_application_gets_no_wake_ups(
    frozen_storage: Storage, frozen_store: Store, wake_ups: WakeUps, time: FrozenTime
) -> None:
    """When it goes on, all that became due meanwhile, though nobody stood in its line."""
    await frozen_store.create([new_timer("before", 100)])
    assert names(await top_up(wake_ups)) == ["before"]
    await frozen_storage.policies.update_application("default", lambda _: ApplicationPolicy(paused=True))
    await frozen_store.create([new_timer("meanwhile", 200)])
    new = [wake_up("meanwhile", ms=200)]
    assert await wake_ups.admit(0, new, horizon_ms=HORIZON_MS) == []
    time.advance(300)
    assert await top_up(wake_ups) == await overdue(wake_ups) == []
    await frozen_storage.policies.update_application("default", lambda _: ApplicationPolicy())
    assert names(await top_up(wake_ups)) == ["before", "meanwhile"]


async def test_until_when_the_queue_is_complete(frozen_store: Store, few: WakeUps, time: FrozenTime) -> None:
    """So long promote need not come again: until the first that is not in the queue may be due."""
    await frozen_store.create([of("small", "a", 500)])
    page = await few.top_up(0, 0, horizon_ms=HORIZON_MS, limit=500)
    assert page.complete_for_ms is None
    await frozen_store.create([of("big", f"t{number:03}", 10 * number) for number in range(50)])
    page = await few.top_up(0, 0, horizon_ms=HORIZON_MS, limit=500)
    assert page.complete_for_ms == 90
    time.advance(200)
    page = await few.top_up(0, 0, horizon_ms=HORIZON_MS, limit=500)
    assert page.complete_for_ms == 0


# --- what may be lost ---


async def test_the_overdue_went_into_the_queue(frozen_store: Store, few: WakeUps, time: FrozenTime) -> None:
    """What is less overdue is not among them, nor what waits in the due index, nor what runs."""
    await frozen_store.create([new_timer(f"t{number:02}", number) for number in range(20)])
    assert await overdue(few) == []
    await top_up(few)
    time.advance(100)
    await begin(frozen_store, [wake_up("t00")])
    assert names(await overdue(few, by_ms=96)) == ["t01", "t02", "t03", "t04"]
    assert names(await overdue(few)) == [f"t{number:02}" for number in range(1, 10)]


async def test_a_running_timer_is_found_when_its_worker_is_lost(
    frozen_store: Store, wake_ups: WakeUps, time: FrozenTime
) -> None:
    """By its lease, wherever its wake-up is."""
    await frozen_store.create([new_timer("a")])
    await begin_one(frozen_store, "a")
    await pass_time(frozen_store, time, LEASE_MS - 1)
    assert await heal(frozen_store) == []
    time.advance(1)
    assert await heal(frozen_store) == [wake_up("a")]
    assert await top_up(wake_ups) == await overdue(wake_ups) == []


async def test_nothing_is_missed_when_the_place_moves_away(
    frozen_store: Store, wake_ups: WakeUps, time: FrozenTime
) -> None:
    """The search goes on behind where it was."""
    await frozen_store.create([new_timer(f"t{number}") for number in range(6)])
    await top_up(wake_ups)
    time.advance(1)
    first, place = await wake_ups.overdue(0, Place(), by_ms=0, limit=3)
    assert names(first) == ["t0", "t1", "t2"]
    assert place is not None
    await begin(frozen_store, [wake_up("t2"), wake_up("t0")])
    rest, end = await wake_ups.overdue(0, place, by_ms=0, limit=10)
    assert (names(rest), end) == (["t3", "t4", "t5"], None)


@pytest.mark.parametrize("found_by", [top_up, overdue])
async def test_an_entry_without_a_record_leaves_the_index(
    redis: Redis,
    everywhere: Everywhere,
    frozen_store: Store,
    wake_ups: WakeUps,
    time: FrozenTime,
    found_by: Callable[[WakeUps], Awaitable[list[WakeUp]]],
) -> None:
    """It would be handed out for ever; its neighbours are found, and an index without any goes."""
    await frozen_store.create([new_timer(f"t{number}") for number in range(6)])
    await frozen_store.create([of("empty", "a")])
    if found_by is overdue:
        assert len(await top_up(wake_ups)) == 7
    time.advance(1)
    await redis.delete(*(record_key(here(f"t{number}")) for number in (0, 2, 3, 5)))
    await redis.delete(record_key(here("a", application="empty"), application="empty"))
    assert names(await found_by(wake_ups)) == ["t1", "t4"]
    assert list(await everywhere.zset(*DUE)) == [here("t1"), here("t4")]
    assert list(await everywhere.zset("next")) == ["default"]


async def test_a_running_entry_without_a_record_leaves_the_indices(
    redis: Redis, everywhere: Everywhere, frozen_store: Store, time: FrozenTime
) -> None:
    """When its lease is over; nobody else would take it out."""
    await frozen_store.create([new_timer("a")])
    await begin_one(frozen_store, "a")
    await redis.delete(record_key(here("a")))
    await lose_leases(frozen_store, time)
    assert await heal(frozen_store) == []
    assert not await everywhere.exists("running", HELD, DUE)


@pytest.mark.parametrize("record", [b"garbage", b"\xc1", b"\xa1s"])
async def test_an_unreadable_record_is_woken_to_be_set_aside(
    redis: Redis, everywhere: Everywhere, frozen_store: Store, wake_ups: WakeUps, record: bytes
) -> None:
    """The wake-up it gets ends in begin; its neighbours are found."""
    await frozen_store.create([new_timer("a"), new_timer("bad"), new_timer("c")])
    await redis.set(record_key(here("bad")), record)
    found = await top_up(wake_ups)
    assert found == [wake_up(name) for name in ("a", "bad", "c")]
    answers = await begin(frozen_store, found)
    assert answers[1] == Refused(found[1], Refusal.UNREADABLE)
    assert not await everywhere.exists(DUE, "next")
    assert list(await everywhere.zset(*HELD)) == [here("a"), here("c")]


# --- the outbox ---


async def test_the_outbox_is_read_in_order_and_by_one(redis: Redis, frozen_store: Store) -> None:
    """At most `limit` entries; what one consumer read the next one does not get; acknowledged is gone."""
    await storage_of(frozen_store).outbox.read(0, "one", limit=1)
    await frozen_store.create([new_timer(name) for name in "abc"])
    first = await storage_of(frozen_store).outbox.read(0, "one", limit=2)
    rest = await storage_of(frozen_store).outbox.read(0, "two", limit=2)
    nothing = await storage_of(frozen_store).outbox.read(0, "one", limit=2)
    assert (readable(first), readable(rest), nothing) == (["a", "b"], ["c"], [])
    await storage_of(frozen_store).outbox.acknowledge(0, first)
    assert await redis.xlen(STORE.outbox) == 1
    assert (await redis.xpending(STORE.outbox, keys.OUTBOX_GROUP))["pending"] == 1


async def test_what_was_written_before_the_first_reader_came_is_read(frozen_store: Store) -> None:
    """By the read that makes the consumer group."""
    await frozen_store.create([new_timer("a")])
    entries = await storage_of(frozen_store).outbox.read(0, "one", limit=9)
    assert readable(entries) == ["a"]


async def test_reading_goes_on_after_the_stream_was_deleted(redis: Redis, frozen_store: Store) -> None:
    """The group went with it and is made again; entries since then are read."""
    await storage_of(frozen_store).outbox.read(0, "one", limit=9)
    await redis.delete(STORE.outbox)
    await frozen_store.create([new_timer("a")])
    entries = await storage_of(frozen_store).outbox.read(0, "one", limit=9)
    assert readable(entries) == ["a"]


async def test_left_entries_are_adopted(frozen_store: Store) -> None:
    """Delay their idle time and not before; adopted ones are the new reader's."""
    assert await storage_of(frozen_store).outbox.adopt(0, "two", idle_ms=0, limit=9) == []
    await frozen_store.create([new_timer(name) for name in "abc"])
    await storage_of(frozen_store).outbox.read(0, "one", limit=9)
    assert await storage_of(frozen_store).outbox.adopt(0, "two", idle_ms=600_000, limit=9) == []
    adopted = await storage_of(frozen_store).outbox.adopt(0, "two", idle_ms=0, limit=2)
    assert readable(adopted) == ["a", "b"]
    await storage_of(frozen_store).outbox.acknowledge(0, adopted)
    adopted = await storage_of(frozen_store).outbox.adopt(0, "two", idle_ms=0, limit=9)
    assert readable(adopted) == ["c"]


async def test_a_deleted_entry_is_not_adopted(redis: Redis, frozen_store: Store) -> None:
    """Somebody took it out of the stream; the others come."""
    await storage_of(frozen_store).outbox.read(0, "one", limit=9)
    await frozen_store.create([new_timer("a"), new_timer("b")])
    [first, _] = await storage_of(frozen_store).outbox.read(0, "one", limit=9)
    await redis.xdel(STORE.outbox, first.entry_id)
    adopted = await storage_of(frozen_store).outbox.adopt(0, "two", idle_ms=0, limit=9)
    assert readable(adopted) == ["b"]


async def test_redis_6_names_deleted_entries_without_an_id(
    frozen_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are passed over; the answer is what the client makes of that of a server before 7.0."""
    await storage_of(frozen_store).outbox.adopt(0, "one", idle_ms=0, limit=9)
    fields = {b"timer": b"default:a", b"generation": b"0", b"due": b"1"}

    async def xautoclaim(*_: object, **__: object) -> list[Any]:
        return [b"0-0", [(None, None), (b"1-1", fields)]]

    monkeypatch.setattr(Redis, "xautoclaim", xautoclaim)
    adopted = await storage_of(frozen_store).outbox.adopt(0, "one", idle_ms=0, limit=9)
    assert adopted == [OutboxEntry(b"1-1", WakeUp(TimerName("default", "a"), 0, 1, 0))]


@pytest.mark.parametrize(
    "fields",
    [
        {b"other": b"x"},
        {b"timer": b"default:x", b"generation": b"0"},
        {b"timer": b"default:x", b"generation": b"0", b"due": b"soon"},
        {b"timer": b"\xff", b"generation": b"0", b"due": b"1"},
        {b"timer": b"default:x", b"generation": b"0", b"due": b"-" + b"9" * 30},
        {b"timer": b"default:x", b"generation": b"9" * 30, b"due": b"1"},
        {b"timer": b"default:x", b"generation": b"0", b"due": b"9" * 5_000},
    ],
)
async def test_an_unreadable_entry_goes_to_the_dead_stream(
    redis: Redis, frozen_store: Store, fields: dict[Any, Any]
) -> None:
    """With all its fields; the entries around it are read."""
    await storage_of(frozen_store).outbox.read(0, "one", limit=9)
    await frozen_store.create([new_timer("a")])
    await redis.xadd(STORE.outbox, fields)
    await frozen_store.create([new_timer("b")])
    entries = await storage_of(frozen_store).outbox.read(0, "one", limit=9)
    assert [entry.wake_up is None for entry in entries] == [False, True, False]
    await storage_of(frozen_store).outbox.acknowledge(0, entries)
    assert [kept for _, kept in await redis.xrange(STORE.outbox_dead)] == [fields]
    assert await redis.xlen(STORE.outbox) == 0


async def test_a_consumer_leaves_when_it_has_done_its_work(redis: Redis, frozen_store: Store) -> None:
    """One with entries in hand stays in the group, so that they are adopted."""
    await storage_of(frozen_store).outbox.read(0, "one", limit=9)
    await frozen_store.create([new_timer("a")])
    entries = await storage_of(frozen_store).outbox.read(0, "one", limit=9)
    await storage_of(frozen_store).outbox.leave(0, "one")
    adopted = await storage_of(frozen_store).outbox.adopt(0, "two", idle_ms=0, limit=9)
    assert adopted == entries
    await storage_of(frozen_store).outbox.acknowledge(0, adopted)
    await storage_of(frozen_store).outbox.leave(0, "one")
    await storage_of(frozen_store).outbox.leave(0, "two")
    assert await redis.xinfo_consumers(STORE.outbox, keys.OUTBOX_GROUP) == []


async def test_a_retry_is_in_the_outbox(frozen_store: Store) -> None:
    """With its next due time."""
    await storage_of(frozen_store).outbox.read(0, "one", limit=9)
    await frozen_store.create([new_timer("a")])
    [begun] = await begin(frozen_store, [wake_up("a")])
    assert isinstance(begun, Begun)
    await frozen_store.finish([finish_of(begun, Outcome.RETRY, 70)])
    entries = await storage_of(frozen_store).outbox.read(0, "one", limit=9)
    assert [entry.wake_up for entry in entries] == [
        wake_up("a"),
        wake_up("a", ms=70),
    ]
