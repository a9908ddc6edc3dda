"""The due index page by page, and the outbox entry by entry: nothing is lost on the way to the relay."""

from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from httpqueue.storage import keys
from httpqueue.storage.timers import Store
from httpqueue.timers.commands import Begun, NewTimer, OutboxEntry, Position, WakeUp, WakeUpPage
from httpqueue.timers.names import TimerName
from httpqueue.timers.schedule import Instant
from httpqueue.timers.spec import Spec
from httpqueue.webhooks.outcome import Outcome
from tests.support.frozen import LEASE_MS, T0_MS, FrozenTime, finish_of, new_timer, outbox_of, wake_up
from tests.support.keys import STORE


def names(found: WakeUpPage | list[WakeUp]) -> list[str]:
    """The timers' ids."""
    wake_ups = found.wake_ups if isinstance(found, WakeUpPage) else found
    return [each.name.id for each in wake_ups]


def readable(entries: list[OutboxEntry]) -> list[str]:
    """The ids of the timers that outbox entries are about."""
    return names([entry.wake_up for entry in entries if entry.wake_up])


async def all_pages(store: Store, limit: int) -> list[str]:
    """The whole index, read as the relay does."""
    found: list[str] = []
    position: Position | None = Position()
    while position is not None:
        page = await store.upcoming(position, ahead_ms=0, limit=limit)
        assert len(page.wake_ups) <= limit
        found += names(page)
        position = page.next
    return found


# --- the due index ---


async def test_a_page_ends_at_the_horizon(frozen_store: Store) -> None:
    """What is due exactly then is in it; the order is that of the due times."""
    await frozen_store.create([new_timer("c", 101), new_timer("b", 100), new_timer("a", 99)])
    assert await frozen_store.upcoming(Position(), ahead_ms=100, limit=10) == WakeUpPage(
        [WakeUp(TimerName("default", "a"), 0, T0_MS + 99), WakeUp(TimerName("default", "b"), 0, T0_MS + 100)],
        None,
        T0_MS,
    )


async def test_a_page_begins_at_the_cursor(frozen_store: Store) -> None:
    """What is due exactly at its instant is in it."""
    await frozen_store.create([new_timer("a", 99), new_timer("b", 100), new_timer("c", 101)])
    page = await frozen_store.upcoming(Position(T0_MS + 100), ahead_ms=1_000, limit=10)
    assert names(page) == ["b", "c"]


async def test_the_overdue_are_behind_a_negative_horizon(frozen_store: Store, time: FrozenTime) -> None:
    """What is less overdue is not in it."""
    await frozen_store.create([new_timer("a", 0), new_timer("b", 1)])
    time.advance(100)
    assert names(await frozen_store.upcoming(Position(), ahead_ms=-100, limit=10)) == ["a"]


async def test_a_running_timer_is_found_at_the_end_of_its_lease(
    frozen_store: Store, time: FrozenTime
) -> None:
    """By its due time, so that a lost worker is noticed."""
    await frozen_store.create([new_timer("a")])
    await frozen_store.begin([wake_up("a")], lease_ms=LEASE_MS)
    assert names(await frozen_store.upcoming(Position(), ahead_ms=LEASE_MS, limit=10)) == []
    time.advance(LEASE_MS - 1)
    assert names(await frozen_store.upcoming(Position(), ahead_ms=0, limit=10)) == []
    time.advance(1)
    page = await frozen_store.upcoming(Position(), ahead_ms=0, limit=10)
    assert page.wake_ups == [WakeUp(TimerName("default", "a"), 0, T0_MS)]


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8])
async def test_many_at_one_instant_are_each_found_once(frozen_store: Store, limit: int) -> None:
    """Whether they fill pages exactly or not, with others before and after them."""
    await frozen_store.create([new_timer(f"t{number}") for number in range(5)])
    for timer_id, due_ms in (("s", T0_MS - 1), ("r", T0_MS - 2)):
        await frozen_store.create(
            [NewTimer(TimerName("default", timer_id), Spec("http://receiver/", Instant(due_ms)))]
        )
    assert await all_pages(frozen_store, limit) == ["r", "s", "t0", "t1", "t2", "t3", "t4"]


async def test_nothing_is_missed_when_the_cursor_member_moves_away(redis: Redis, frozen_store: Store) -> None:
    """The page begins again at its instant: one twice is better than one never."""
    await frozen_store.create([new_timer(f"t{number}") for number in range(6)])
    page = await frozen_store.upcoming(Position(), ahead_ms=0, limit=3)
    assert names(page) == ["t0", "t1", "t2"]
    assert page.next is not None
    await redis.zadd(STORE.due, {"default:t2": T0_MS + 500})
    page = await frozen_store.upcoming(page.next, ahead_ms=0, limit=10)
    assert names(page) == ["t0", "t1", "t3", "t4", "t5"]


async def test_an_entry_without_a_record_leaves_the_index(redis: Redis, frozen_store: Store) -> None:
    """Also when it is the last of its page; no timer is missed."""
    await frozen_store.create([new_timer(f"t{number}") for number in range(6)])
    await redis.delete(*(f"{STORE.records}default:t{number}" for number in (0, 2, 3)))
    assert sorted(set(await all_pages(frozen_store, 3))) == ["t1", "t4", "t5"]
    assert await redis.zrange(STORE.due, 0, -1) == [b"default:t1", b"default:t4", b"default:t5"]


@pytest.mark.parametrize("record", [b"garbage", b"\xc1", b"\xa1s"])
async def test_an_unreadable_record_is_woken_to_be_set_aside(
    redis: Redis, frozen_store: Store, time: FrozenTime, record: bytes
) -> None:
    """The wake-up it gets ends in begin; its neighbours are found."""
    await frozen_store.create([new_timer("a"), new_timer("bad"), new_timer("c")])
    await redis.set(STORE.records + "default:bad", record)
    page = await frozen_store.upcoming(Position(), ahead_ms=0, limit=10)
    assert page.wake_ups == [WakeUp(TimerName("default", name), 0, T0_MS) for name in ("a", "bad", "c")]
    await frozen_store.begin(page.wake_ups, lease_ms=LEASE_MS)
    time.advance(LEASE_MS)
    assert names(await frozen_store.upcoming(Position(), ahead_ms=0, limit=10)) == ["a", "c"]


# --- the outbox ---


async def test_the_outbox_is_read_in_order_and_by_one(redis: Redis, frozen_store: Store) -> None:
    """At most `limit` entries; what one consumer read the next one does not get; acknowledged is gone."""
    await outbox_of(frozen_store).read("one", limit=1, block_ms=1)
    await frozen_store.create([new_timer(name) for name in "abc"])
    first, now_ms = await outbox_of(frozen_store).read("one", limit=2, block_ms=1)
    rest, _ = await outbox_of(frozen_store).read("two", limit=2, block_ms=1)
    nothing, _ = await outbox_of(frozen_store).read("one", limit=2, block_ms=1)
    assert (readable(first), readable(rest), nothing) == (["a", "b"], ["c"], [])
    assert now_ms == T0_MS
    await outbox_of(frozen_store).acknowledge(first)
    assert await redis.xlen(STORE.outbox) == 1
    assert (await redis.xpending(STORE.outbox, keys.OUTBOX_GROUP))["pending"] == 1


async def test_what_was_written_before_the_first_reader_came_is_read(frozen_store: Store) -> None:
    """By the read that makes the consumer group."""
    await frozen_store.create([new_timer("a")])
    entries, _ = await outbox_of(frozen_store).read("one", limit=9, block_ms=1)
    assert readable(entries) == ["a"]


async def test_reading_goes_on_after_the_stream_was_deleted(redis: Redis, frozen_store: Store) -> None:
    """The group went with it and is made again; entries since then are read."""
    await outbox_of(frozen_store).read("one", limit=9, block_ms=1)
    await redis.delete(STORE.outbox)
    await frozen_store.create([new_timer("a")])
    entries, _ = await outbox_of(frozen_store).read("one", limit=9, block_ms=1)
    assert readable(entries) == ["a"]


async def test_left_entries_are_adopted(frozen_store: Store) -> None:
    """Delay their idle time and not before; adopted ones are the new reader's."""
    assert await outbox_of(frozen_store).adopt("two", idle_ms=0, limit=9) == ([], T0_MS)
    await frozen_store.create([new_timer(name) for name in "abc"])
    await outbox_of(frozen_store).read("one", limit=9, block_ms=1)
    assert await outbox_of(frozen_store).adopt("two", idle_ms=600_000, limit=9) == ([], T0_MS)
    adopted, now_ms = await outbox_of(frozen_store).adopt("two", idle_ms=0, limit=2)
    assert readable(adopted) == ["a", "b"]
    assert now_ms == T0_MS
    await outbox_of(frozen_store).acknowledge(adopted)
    adopted, _ = await outbox_of(frozen_store).adopt("two", idle_ms=0, limit=9)
    assert readable(adopted) == ["c"]


async def test_a_deleted_entry_is_not_adopted(redis: Redis, frozen_store: Store) -> None:
    """Somebody took it out of the stream; the others come."""
    await outbox_of(frozen_store).read("one", limit=9, block_ms=1)
    await frozen_store.create([new_timer("a"), new_timer("b")])
    [first, _], _ = await outbox_of(frozen_store).read("one", limit=9, block_ms=1)
    await redis.xdel(STORE.outbox, first.entry_id)
    adopted, _ = await outbox_of(frozen_store).adopt("two", idle_ms=0, limit=9)
    assert readable(adopted) == ["b"]


async def test_redis_6_names_deleted_entries_without_an_id(
    frozen_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are passed over; the answer is what the client makes of that of a server before 7.0."""
    await outbox_of(frozen_store).adopt("one", idle_ms=0, limit=9)
    fields = {b"timer": b"default:a", b"generation": b"0", b"due": b"1"}

    async def execute(_: Pipeline) -> list[Any]:
        return [(b"0-0", [(None, None), (b"1-1", fields)]), (0, 0)]

    monkeypatch.setattr(Pipeline, "execute", execute)
    adopted, _ = await outbox_of(frozen_store).adopt("one", idle_ms=0, limit=9)
    assert adopted == [OutboxEntry(b"1-1", WakeUp(TimerName("default", "a"), 0, 1))]


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
    await outbox_of(frozen_store).read("one", limit=9, block_ms=1)
    await frozen_store.create([new_timer("a")])
    await redis.xadd(STORE.outbox, fields)
    await frozen_store.create([new_timer("b")])
    entries, _ = await outbox_of(frozen_store).read("one", limit=9, block_ms=1)
    assert [entry.wake_up is None for entry in entries] == [False, True, False]
    await outbox_of(frozen_store).acknowledge(entries)
    assert [kept for _, kept in await redis.xrange(STORE.outbox_dead)] == [fields]
    assert await redis.xlen(STORE.outbox) == 0


async def test_a_consumer_leaves_when_it_has_done_its_work(redis: Redis, frozen_store: Store) -> None:
    """One with entries in hand stays in the group, so that they are adopted."""
    await outbox_of(frozen_store).read("one", limit=9, block_ms=1)
    await frozen_store.create([new_timer("a")])
    entries, _ = await outbox_of(frozen_store).read("one", limit=9, block_ms=1)
    await outbox_of(frozen_store).leave("one")
    adopted, _ = await outbox_of(frozen_store).adopt("two", idle_ms=0, limit=9)
    assert adopted == entries
    await outbox_of(frozen_store).acknowledge(adopted)
    await outbox_of(frozen_store).leave("one")
    await outbox_of(frozen_store).leave("two")
    assert await redis.xinfo_consumers(STORE.outbox, keys.OUTBOX_GROUP) == []


async def test_a_retry_is_in_the_outbox(frozen_store: Store) -> None:
    """With its next due time."""
    await outbox_of(frozen_store).read("one", limit=9, block_ms=1)
    await frozen_store.create([new_timer("a")])
    [begun] = await frozen_store.begin([wake_up("a")], lease_ms=LEASE_MS)
    assert isinstance(begun, Begun)
    await frozen_store.finish([finish_of(begun, Outcome.RETRY, 70)])
    entries, _ = await outbox_of(frozen_store).read("one", limit=9, block_ms=1)
    assert [entry.wake_up for entry in entries] == [
        WakeUp(TimerName("default", "a"), 0, T0_MS),
        WakeUp(TimerName("default", "a"), 0, T0_MS + 70),
    ]
