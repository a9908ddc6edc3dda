"""Change and cancel: a definite answer in every state, and what the timer is afterwards."""

from dataclasses import replace

import pytest
from redis.asyncio import Redis

from httpqueue.storage.timers import Store
from httpqueue.timers.commands import (
    Begun,
    Change,
    Changed,
    ChangeResult,
    End,
    Finish,
    Refusal,
    Refused,
)
from httpqueue.timers.names import TimerName
from httpqueue.timers.schedule import Delay, Instant
from httpqueue.timers.timer import FINISHED, Attempt, State
from tests.support.frozen import (
    HOUR_MS,
    T0_MS,
    FrozenTime,
    begin,
    begin_one,
    forget,
    new_timer,
    snapshot,
    wake_up,
)
from tests.support.keys import DUE, HELD, PARTITIONS, Everywhere, ended, here, place_of
from tests.support.states import ANY, OTHER, bring, change_one, counted, in_each_state, stored

# --- change ---


@in_each_state
async def test_a_change_is_refused_in_other_states(
    redis: Redis, frozen_store: Store, time: FrozenTime, state: State
) -> None:
    """The answer names the state, and nothing changes; a running timer is never changed."""
    await bring(frozen_store, time, state)
    before = await snapshot(redis)
    change = Change(TimerName("default", "a"), ANY - {state}, spec=OTHER, due=Instant(1))
    assert await change_one(frozen_store, change) == Changed(ChangeResult.OTHER_STATE, state)
    assert await snapshot(redis) == before


@pytest.mark.parametrize("state", sorted(ANY))
async def test_a_change_begins_the_next_generation(
    redis: Redis, everywhere: Everywhere, frozen_store: Store, time: FrozenTime, state: State
) -> None:
    """With the new content and due time; attempts count from 1, the log is kept, old wake-ups are stale."""
    before = await bring(frozen_store, time, state)
    change = Change(TimerName("default", "a"), ANY, before.version, OTHER, Delay(900))
    assert await change_one(frozen_store, change) == Changed(
        ChangeResult.CHANGED, state, T0_MS + 1_400, f"{before.nonce}.1.0.s"
    )
    assert await stored(frozen_store) == replace(
        before, state=State.SCHEDULED, generation=1, attempts=0, due_ms=T0_MS + 1_400, spec=OTHER
    )
    assert await everywhere.zset(*DUE) == {"a": T0_MS + 1_400}
    assert not await everywhere.exists(HELD, *(("ended", ended(state)) for state in FINISHED), "retention")
    assert await counted(redis) == {"s": 1}
    time.advance(900)
    stale, begun = await begin(frozen_store, [wake_up("a"), wake_up("a", 1)])
    assert stale == Refused(wake_up("a"), Refusal.STALE)
    assert isinstance(begun, Begun)
    assert (begun.attempt, begun.due_ms) == (1, T0_MS + 1_400)


async def test_what_a_change_does_not_name_stays(frozen_store: Store, time: FrozenTime) -> None:
    """Content without due time, and due time without content."""
    before = await bring(frozen_store, time, State.SCHEDULED)
    await change_one(frozen_store, Change(TimerName("default", "a"), ANY, spec=OTHER))
    assert ((await stored(frozen_store)).spec, (await stored(frozen_store)).due_ms) == (OTHER, before.due_ms)
    await change_one(frozen_store, Change(TimerName("default", "a"), ANY, due=Instant(T0_MS + 7)))
    assert ((await stored(frozen_store)).spec, (await stored(frozen_store)).due_ms) == (OTHER, T0_MS + 7)


async def test_fire_is_due_now(frozen_store: Store) -> None:
    """A timer of the far future begins at once."""
    await frozen_store.create([new_timer("a", HOUR_MS)])
    fire = Change(TimerName("default", "a"), frozenset({State.SCHEDULED}), due=Delay(0))
    assert await change_one(frozen_store, fire) == Changed(
        ChangeResult.CHANGED, State.SCHEDULED, T0_MS, (await stored(frozen_store)).version
    )
    assert (await begin_one(frozen_store, "a", 1)).attempt == 1


async def test_replay_keeps_the_attempts(frozen_store: Store, time: FrozenTime) -> None:
    """A failed timer is sent again with its content; what happened before stays readable."""
    failed = await bring(frozen_store, time, State.FAILED)
    replay = Change(TimerName("default", "a"), frozenset({State.FAILED}), due=Delay(0))
    assert (await change_one(frozen_store, replay)).result is ChangeResult.CHANGED
    begun = await begin_one(frozen_store, "a", 1)
    last = Attempt(begun.started_ms, 0, 200, number=1, generation=1)
    assert (await frozen_store.finish([Finish(begun, last, End(State.DONE, HOUR_MS))])).counted == [True]
    timer = await stored(frozen_store)
    assert (timer.state, timer.spec, timer.log) == (State.DONE, failed.spec, (*failed.log, last))


async def test_a_change_has_the_worker_use_the_new_timeout(
    frozen_store: Store, everywhere: Everywhere
) -> None:
    """The lease is that of the new content."""
    await frozen_store.create([new_timer("a", timeout_ms=1_000)])
    await change_one(
        frozen_store, Change(TimerName("default", "a"), ANY, spec=new_timer("a", timeout_ms=1_000).spec)
    )
    await begin_one(frozen_store, "a", 1)
    assert await everywhere.zset("running") == {"default:a": T0_MS + 16_000}


async def test_answers_stand_in_the_order_of_the_changes(frozen_store: Store) -> None:
    """The second wish for a timer is judged by what the first one made of it."""
    await frozen_store.create([new_timer("a"), new_timer("b")])
    a, b = await stored(frozen_store, "a"), await stored(frozen_store, "b")
    changes = [
        Change(TimerName("default", "a"), ANY, a.version, due=Instant(1)),
        Change(TimerName("default", "nobody"), ANY),
        Change(TimerName("default", "a"), ANY, a.version, due=Instant(2)),
        Change(TimerName("default", "b"), ANY, due=Instant(3)),
    ]
    assert await frozen_store.change(changes) == [
        Changed(ChangeResult.CHANGED, State.SCHEDULED, 1, f"{a.nonce}.1.0.s"),
        Changed(ChangeResult.GONE),
        Changed(ChangeResult.OTHER_VERSION, State.SCHEDULED),
        Changed(ChangeResult.CHANGED, State.SCHEDULED, 3, f"{b.nonce}.1.0.s"),
    ]


@in_each_state
async def test_the_version_decides(redis: Redis, frozen_store: Store, time: FrozenTime, state: State) -> None:
    """That of any other moment is refused by change and cancel, and nothing changes."""
    timer = await bring(frozen_store, time, state)
    moments = ("0.0.s", "0.1.r", "0.1.d", "0.1.f", "0.0.c", "1.0.s")
    others = {f"{nonce}.{moment}" for nonce in (timer.nonce, "otherone") for moment in moments}
    others = {*others, *moments, "0", "*", timer.nonce} - {timer.version}
    before = await snapshot(redis)
    for version in others:
        changed = await change_one(
            frozen_store, Change(TimerName("default", "a"), frozenset({state}), version, due=Instant(1))
        )
        assert changed == Changed(ChangeResult.OTHER_VERSION, state)
        if state in {State.SCHEDULED, State.FAILED}:
            cancelled = await frozen_store.cancel(TimerName("default", "a"), version=version, retention_ms=1)
            assert cancelled == Changed(ChangeResult.OTHER_VERSION, state)
    assert await snapshot(redis) == before


# --- cancel ---


async def test_cancel_ends_a_scheduled_timer(
    redis: Redis, everywhere: Everywhere, frozen_store: Store, time: FrozenTime
) -> None:
    """Its record stays for the retention, then its id is archived; nothing sends it."""
    timer = await bring(frozen_store, time, State.SCHEDULED)
    cancelled = await frozen_store.cancel(
        TimerName("default", "a"), version=timer.version, retention_ms=HOUR_MS
    )
    assert cancelled == Changed(ChangeResult.CHANGED, State.SCHEDULED, T0_MS + 100, timer.version)
    assert await stored(frozen_store) == replace(timer, state=State.CANCELLED)
    assert not await everywhere.exists("archive_counts")
    [refused] = await begin(frozen_store, [wake_up("a")])
    assert refused == Refused(wake_up("a"), Refusal.FINISHED)
    assert not await everywhere.exists(DUE, HELD, "next")
    assert await counted(redis) == {"c": 1}
    time.advance(HOUR_MS)
    assert await frozen_store.is_archived(TimerName("default", "a"))
    assert await forget(frozen_store) == 1
    assert await frozen_store.is_archived(TimerName("default", "a"))
    assert await everywhere.hash("archive_counts") == {"0": 1}


async def test_cancel_without_retention_leaves_the_archive_alone(redis: Redis, frozen_store: Store) -> None:
    """No key of the timer is left when it was forgotten."""
    await frozen_store.create([new_timer("a", ordering_key="lane")])
    await frozen_store.cancel(TimerName("default", "a"), version=None, retention_ms=0)
    assert await frozen_store.is_archived(TimerName("default", "a"))
    assert await forget(frozen_store) == 1
    assert await frozen_store.is_archived(TimerName("default", "a"))
    home, place = (PARTITIONS.store_keys[place_of("a", key)] for key in (None, "lane"))
    left = {home.archive_counts, f"{home.archive_layers}0", place.archive_counts, place.outbox}
    assert {key.decode() for key in await redis.keys()} == left


async def test_cancel_deletes_a_failed_timer(
    everywhere: Everywhere, frozen_store: Store, time: FrozenTime
) -> None:
    """At once, whatever its retention; the record goes when the archive has its id."""
    failed = await bring(frozen_store, time, State.FAILED)
    cancelled = await frozen_store.cancel(
        TimerName("default", "a"), version=failed.version, retention_ms=HOUR_MS
    )
    assert cancelled == Changed(ChangeResult.CHANGED, State.FAILED, T0_MS + 100, failed.version)
    for is_forgotten in (False, True):
        assert await frozen_store.get(TimerName("default", "a")) is None
        assert await frozen_store.is_archived(TimerName("default", "a"))
        assert (await everywhere.get("a") is None) == is_forgotten
        await forget(frozen_store)
    assert not await everywhere.exists(("ended", ended(State.FAILED)), "retention", "counts")


@pytest.mark.parametrize("state", [State.RUNNING, State.DONE, State.CANCELLED])
async def test_cancel_comes_too_late(
    redis: Redis, frozen_store: Store, time: FrozenTime, state: State
) -> None:
    """In flight, done or cancelled already: the answer says so and nothing changes."""
    await bring(frozen_store, time, state)
    before = await snapshot(redis)
    cancelled = await frozen_store.cancel(TimerName("default", "a"), version=None, retention_ms=HOUR_MS)
    assert cancelled == Changed(ChangeResult.OTHER_STATE, state)
    assert await snapshot(redis) == before


async def test_a_full_archive_layer_hands_over_to_the_next(redis: Redis, frozen_store: Store) -> None:
    """Whoever forgets: no process overfills it."""
    counts, timer_ids = PARTITIONS.store_keys[0].archive_counts, [here("a"), here("b")]
    await redis.hset(counts, "0", "99999")  # type: ignore[misc] # sync or async
    await frozen_store.create(list(map(new_timer, timer_ids)))
    for timer_id in timer_ids:
        await frozen_store.cancel(TimerName("default", timer_id), version=None, retention_ms=0)
        assert await forget(frozen_store) == 1
    assert await redis.hgetall(counts) == {b"0": b"100000", b"1": b"1"}  # type: ignore[misc] # as above
