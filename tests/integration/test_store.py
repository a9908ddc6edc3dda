"""The transitions create, begin and finish: every row of the design's table, many timers a call."""

import pytest
from redis.asyncio import Redis

from httpqueue.storage.record import encode_spec
from httpqueue.storage.timers import Store
from httpqueue.timers.commands import Begun, Created, Creation, End, Finish, NewTimer, Refusal, Refused
from httpqueue.timers.names import TimerName
from httpqueue.timers.schedule import Delay, Instant
from httpqueue.timers.spec import Spec
from httpqueue.timers.timer import Attempt, State, Timer
from httpqueue.webhooks.outcome import Outcome
from tests.support.frozen import (
    HOUR_MS,
    LEASE_MS,
    T0_MS,
    FrozenTime,
    begin,
    begin_one,
    finish_of,
    forget,
    new_timer,
    pass_time,
    snapshot,
    wake_up,
)
from tests.support.keys import DUE, HELD, PARTITIONS, Everywhere, ended, place_of, record_key
from tests.support.records import encode_record

SPEC = Spec("http://receiver/", Delay(0))
DAMAGED = {
    "text": b"garbage",
    "nothing behind the head": encode_record(due_ms=T0_MS),
    "cut off in the spec": encode_record(encode_spec(SPEC), due_ms=T0_MS)[:-1],
    "spec is no string": encode_record(7, 7, due_ms=T0_MS),
    "unknown state": encode_record("{}", "{}", state="x", due_ms=T0_MS),
    "due is no number": encode_record("{}", due_ms="soon"),
    "timeout is no number": encode_record("{}", due_ms=T0_MS, timeout_ms="soon"),
    "ordering key is no string": encode_record("{}", due_ms=T0_MS, lane=7),
    "host is no string": encode_record("{}", due_ms=T0_MS, host=7),
    "lost workers are no number": encode_record("{}", due_ms=T0_MS, lost="none"),
    "nonce is no string": encode_record("{}", due_ms=T0_MS, nonce=7),
    "holder is no string": encode_record("{}", due_ms=T0_MS, holder=7),
    "another format": encode_record(encode_spec(SPEC), due_ms=T0_MS, version=3),
}
damaged = pytest.mark.parametrize("record", DAMAGED.values(), ids=DAMAGED.keys())


async def stored(store: Store, timer_id: str) -> Timer:
    """A timer that must be there."""
    found = await store.get(TimerName("default", timer_id))
    assert found is not None
    return found.timer


async def is_archived_only(store: Store, timer_id: str) -> None:
    """There is no such timer any more, but it is remembered."""
    assert await store.get(TimerName("default", timer_id)) is None
    assert await store.is_archived(TimerName("default", timer_id))


async def damage(redis: Redis, record: bytes) -> None:
    """Leave the timer `bad` with a record nobody can read."""
    await redis.set(record_key("bad"), record)


# --- create ---


async def test_create_writes_record_indices_and_outbox(everywhere: Everywhere, frozen_store: Store) -> None:
    """All of them, with the due time that is answered."""
    spec = Spec("http://receiver/{id}", Delay(1_500), "PUT", {"x-a": "ü"}, {"k": [1, None]})
    assert await frozen_store.create([NewTimer(TimerName("shop", "a"), spec)]) == [
        Created(Creation.CREATED, T0_MS + 1_500)
    ]
    found = await frozen_store.get(TimerName("shop", "a"))
    assert found is not None
    assert found.now_ms == T0_MS
    nonce = found.timer.nonce
    assert len(nonce) == 7
    assert found.timer == Timer(TimerName("shop", "a"), nonce, State.SCHEDULED, 0, 0, T0_MS + 1_500, spec)
    assert await everywhere.zset("due", "shop") == {"a": T0_MS + 1_500}
    assert await everywhere.zset("next") == {"shop": T0_MS + 1_500}
    [entry] = await everywhere.stream("outbox")
    assert entry == {b"timer": b"shop:a", b"generation": b"0", b"due": b"1800000001500"}


@pytest.mark.parametrize("due_ms", [1, T0_MS, 2_000_000_000_000, 253_402_300_799_999])
async def test_an_instant_is_due_exactly_then(
    everywhere: Everywhere, frozen_store: Store, due_ms: int
) -> None:
    """Past, present, round numbers, and the end of the calendar, in all places."""
    [created] = await frozen_store.create(
        [NewTimer(TimerName("default", "a"), Spec("http://receiver/", Instant(due_ms)))]
    )
    assert created.due_ms == due_ms
    assert (await stored(frozen_store, "a")).due_ms == due_ms
    assert await everywhere.zset(*DUE) == {"a": due_ms}
    assert await everywhere.zset("next") == {"default": due_ms}
    [entry] = await everywhere.stream("outbox")
    assert int(entry[b"due"]) == due_ms


async def test_the_same_id_again_changes_nothing(redis: Redis, frozen_store: Store, time: FrozenTime) -> None:
    """The same spec is answered with the timer that exists, another spec with a conflict."""
    await frozen_store.create([new_timer("a", 100)])
    before = await snapshot(redis)
    time.advance(50)
    assert await frozen_store.create([new_timer("a", 100), new_timer("a", 100, body="other")]) == [
        Created(Creation.EXISTS, T0_MS + 100),
        Created(Creation.CONFLICT, T0_MS + 100),
    ]
    assert await snapshot(redis) == before


async def test_the_same_id_within_a_batch(frozen_store: Store) -> None:
    """The first one is stored, the others are judged by it."""
    answers = await frozen_store.create([new_timer("a"), new_timer("a"), new_timer("a", 1), new_timer("b")])
    assert [answer.creation.value for answer in answers] == ["created", "exists", "conflict", "created"]


async def test_an_id_belongs_to_its_application(frozen_store: Store) -> None:
    """Two applications may use the same one."""
    answers = await frozen_store.create(
        [NewTimer(TimerName("x", "a"), SPEC), NewTimer(TimerName("y", "a"), SPEC)]
    )
    assert [answer.creation for answer in answers] == [Creation.CREATED] * 2


@pytest.mark.parametrize("outcome", Outcome)
async def test_an_attempt_does_not_change_what_exists_means(frozen_store: Store, outcome: Outcome) -> None:
    """The same post is recognised while the timer runs and after each outcome."""
    await frozen_store.create([new_timer("a")])
    begun = await begin_one(frozen_store, "a")
    [running] = await frozen_store.create([new_timer("a")])
    await frozen_store.finish([finish_of(begun, outcome)])
    [ended] = await frozen_store.create([new_timer("a")])
    assert running.creation is ended.creation is Creation.EXISTS


@damaged
async def test_create_keeps_an_unreadable_record(redis: Redis, frozen_store: Store, record: bytes) -> None:
    """Its id is taken; the neighbours in the batch are stored."""
    await damage(redis, record)
    answers = await frozen_store.create([new_timer("a"), new_timer("bad"), new_timer("b")])
    assert [answer.creation.value for answer in answers] == ["created", "conflict", "created"]
    assert await redis.get(record_key("bad")) == record


# --- begin ---


async def test_begin_starts_an_attempt(everywhere: Everywhere, frozen_store: Store, time: FrozenTime) -> None:
    """The timer runs until its lease ends, the attempt counts, and it is held with its due time."""
    await frozen_store.create([new_timer("a", 100)])
    time.advance(130)
    begun = await begin_one(frozen_store, "a")
    assert (begun.attempt, begun.due_ms, begun.started_ms) == (1, T0_MS + 100, T0_MS + 130)
    assert (begun.spec, begun.host) == (new_timer("a", 100).spec, "receiver")
    timer = await stored(frozen_store, "a")
    assert (begun.nonce, begun.lost, begun.lease_ms) == (timer.nonce, 0, LEASE_MS)
    assert (timer.state, timer.attempts, timer.due_ms) == (State.RUNNING, 1, T0_MS + 100)
    assert await everywhere.zset(*HELD) == {"a": T0_MS + 100}
    assert not await everywhere.exists(DUE, "next")
    assert await everywhere.zset("running") == {"default:a": T0_MS + 130 + LEASE_MS}


async def test_begin_is_never_early(redis: Redis, frozen_store: Store, time: FrozenTime) -> None:
    """One millisecond before the due time it says how long to wait; at the due time it begins."""
    await frozen_store.create([new_timer("a", 100)])
    await pass_time(frozen_store, time, 99)
    before = await snapshot(redis)
    assert await begin(frozen_store, [wake_up("a")]) == [Refused(wake_up("a"), Refusal.EARLY, 1)]
    assert await snapshot(redis) == before
    time.advance(1)
    await begin_one(frozen_store, "a")


async def test_begin_takes_over_when_the_lease_is_over(frozen_store: Store, time: FrozenTime) -> None:
    """Until then the attempt is believed alive; the attempt is the same, and the lost worker is counted."""
    await frozen_store.create([new_timer("a")])
    await begin_one(frozen_store, "a")
    await pass_time(frozen_store, time, LEASE_MS)
    assert await begin(frozen_store, [wake_up("a")]) == [Refused(wake_up("a"), Refusal.RUNNING)]
    for lost in (1, 2):
        time.advance(1)
        again = await begin_one(frozen_store, "a")
        assert (again.attempt, again.lost) == (1, lost)
        await pass_time(frozen_store, time, LEASE_MS)


async def test_begin_refuses_what_is_not_to_be_sent(redis: Redis, frozen_store: Store) -> None:
    """Unknown, of another generation, finished; and nothing changes."""
    await frozen_store.create([new_timer("a"), new_timer("done"), new_timer("failed")])
    for timer_id, outcome in (("done", Outcome.DELIVERED), ("failed", Outcome.FAILED)):
        await frozen_store.finish([finish_of(await begin_one(frozen_store, timer_id), outcome)])
    before = await snapshot(redis)
    wake_ups = [wake_up("unknown"), wake_up("a", 1), wake_up("done"), wake_up("failed")]
    answers = await begin(frozen_store, wake_ups)
    assert answers == [
        Refused(wake_ups[0], Refusal.GONE),
        Refused(wake_ups[1], Refusal.STALE),
        Refused(wake_ups[2], Refusal.FINISHED),
        Refused(wake_ups[3], Refusal.FINISHED),
    ]
    assert await snapshot(redis) == before


async def test_a_duplicate_wake_up_begins_once(frozen_store: Store) -> None:
    """Even within one batch."""
    await frozen_store.create([new_timer("a")])
    first, second = await begin(frozen_store, [wake_up("a")] * 2)
    assert isinstance(first, Begun)
    assert second == Refused(wake_up("a"), Refusal.RUNNING)


@damaged
async def test_begin_sets_an_unreadable_record_aside(
    redis: Redis, everywhere: Everywhere, frozen_store: Store, record: bytes
) -> None:
    """It leaves the indices and stays for inspection; its neighbours begin."""
    await frozen_store.create([new_timer("a"), new_timer("bad"), new_timer("b")])
    await damage(redis, record)
    wake_ups = [wake_up("a"), wake_up("bad"), wake_up("b")]
    first, bad, last = await begin(frozen_store, wake_ups)
    assert isinstance(first, Begun)
    assert isinstance(last, Begun)
    assert bad == Refused(wake_up("bad"), Refusal.UNREADABLE)
    assert list(await everywhere.zset(*HELD)) == ["a", "b"]
    assert not await everywhere.exists(DUE, "next")
    assert await everywhere.zset("set_aside") == {"default:bad": T0_MS}
    assert await redis.get(record_key("bad")) == record


@pytest.mark.parametrize("spec", [b"", b"{", b"{}", b"[]", b"\xff"])
async def test_begin_sets_a_timer_aside_whose_spec_means_nothing(
    redis: Redis, everywhere: Everywhere, frozen_store: Store, spec: bytes
) -> None:
    """The scripts take any string for a spec: it leaves the indices all the same, and its record stays."""
    await frozen_store.create([new_timer("a"), new_timer("bad"), new_timer("b")])
    await damage(redis, encode_record(spec, due_ms=T0_MS))
    wake_ups = [wake_up("a"), wake_up("bad"), wake_up("b")]
    first, bad, last = await begin(frozen_store, wake_ups)
    assert isinstance(first, Begun)
    assert isinstance(last, Begun)
    assert bad == Refused(wake_up("bad"), Refusal.UNREADABLE)
    assert list(await everywhere.zset(*HELD)) == ["a", "b"]
    assert not await everywhere.exists(DUE, "next")
    assert list(await everywhere.zset("running")) == ["default:a", "default:b"]
    assert await everywhere.zset("set_aside") == {"default:bad": T0_MS}
    assert spec in (await redis.get(record_key("bad")))


# --- finish ---


@pytest.mark.parametrize("state", [State.DONE, State.FAILED])
async def test_finish_ends_a_timer(
    everywhere: Everywhere, frozen_store: Store, time: FrozenTime, state: State
) -> None:
    """The record stays for its retention, then the id is archived; nothing will wake the timer again."""
    await frozen_store.create([new_timer("a")])
    await everywhere.delete("outbox")
    begun = await begin_one(frozen_store, "a")
    last = Attempt(T0_MS, 7, 404, "HTTP 404")
    assert (await frozen_store.finish([Finish(begun, last, End(state, HOUR_MS))])).counted == [True]
    timer = await stored(frozen_store, "a")
    assert (timer.state, timer.attempts, timer.last_attempt) == (state, 1, last)
    assert not await everywhere.exists(DUE, HELD, "next", "running", "outbox")
    assert await everywhere.zset("ended", ended(state)) == {"a": T0_MS}
    time.advance(HOUR_MS - 1)
    assert await forget(frozen_store) == 0
    await stored(frozen_store, "a")
    assert not await frozen_store.is_archived(TimerName("default", "a"))
    time.advance(1)
    await is_archived_only(frozen_store, "a")
    assert await forget(frozen_store) == 1
    await is_archived_only(frozen_store, "a")


@pytest.mark.parametrize("outcome", [Outcome.DELIVERED, Outcome.FAILED])
async def test_without_retention_only_the_archive_remembers(
    redis: Redis, everywhere: Everywhere, frozen_store: Store, outcome: Outcome
) -> None:
    """At once; and no key of the timer is left when it was forgotten."""
    await frozen_store.create([new_timer("a")])
    assert not await frozen_store.is_archived(TimerName("default", "a"))
    await frozen_store.finish([finish_of(await begin_one(frozen_store, "a"), outcome, 0)])
    await is_archived_only(frozen_store, "a")
    assert await everywhere.get("a")  # its bits are not set yet
    assert await forget(frozen_store) == 1
    await is_archived_only(frozen_store, "a")
    keys = PARTITIONS.store_keys[place_of("a")]
    left = {keys.archive_counts, f"{keys.archive_layers}0", keys.outbox, keys.up}
    assert {key.decode() for key in await redis.keys()} == left


async def test_retry_schedules_the_next_attempt(
    redis: Redis, everywhere: Everywhere, frozen_store: Store, time: FrozenTime
) -> None:
    """Record, due index and outbox say the same due time, and the attempt counts on."""
    await frozen_store.create([new_timer("a")])
    begun = await begin_one(frozen_store, "a")
    await everywhere.delete("outbox")
    time.advance(10)
    assert (await frozen_store.finish([finish_of(begun, Outcome.RETRY, 1_000)])).counted == [True]
    timer = await stored(frozen_store, "a")
    assert (timer.state, timer.attempts, timer.due_ms) == (State.SCHEDULED, 1, T0_MS + 1_010)
    assert timer.last_attempt == Attempt(T0_MS, 0, 503, "HTTP 503")
    assert await everywhere.zset(*DUE) == {"a": T0_MS + 1_010}
    assert await everywhere.zset("next") == {"default": T0_MS + 1_010}
    assert not await everywhere.exists(HELD, "running")
    [entry] = await everywhere.stream("outbox")
    assert entry == {b"timer": b"default:a", b"generation": b"0", b"due": b"1800000001010"}
    assert await redis.pttl(record_key("a")) == -1
    assert not await frozen_store.is_archived(TimerName("default", "a"))
    time.advance(1_000)
    assert (await begin_one(frozen_store, "a")).attempt == 2
