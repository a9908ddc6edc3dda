"""A new timer whose id is taken, and how long it is: what is refused, kept, replaced or gone."""

from dataclasses import replace

import pytest
from redis.asyncio import Redis

from httpqueue.storage.timers import Store
from httpqueue.timers.commands import (
    Change,
    Changed,
    ChangeResult,
    Creation,
    IfExists,
    NewTimer,
    Refusal,
    Refused,
)
from httpqueue.timers.names import TimerName
from httpqueue.timers.timer import FINISHED, State, Timer
from tests.support.frozen import (
    HOUR_MS,
    T0_MS,
    FrozenTime,
    begin,
    forget,
    new_timer,
    snapshot,
    wake_up,
)
from tests.support.keys import DUE, HELD, Everywhere, ended
from tests.support.states import ANY, bring, change_one, counted, in_each_state, stored

# --- a new timer whose id is taken ---


STALE = Refused(wake_up("a"), Refusal.STALE)


def again(if_exists: IfExists, delay_ms: int) -> NewTimer:
    """Another timer of that id."""
    return replace(new_timer("a", delay_ms, body="other"), if_exists=if_exists)


@in_each_state
@pytest.mark.parametrize(
    ("wish", "if_scheduled", "if_finished"),
    [
        (again(IfExists.CONFLICT, 0), Creation.CONFLICT, Creation.CONFLICT),
        (again(IfExists.KEEP, 0), Creation.KEPT, Creation.KEPT),
        (again(IfExists.REPLACE, 0), Creation.REPLACED, Creation.REPLACED),
        (again(IfExists.EARLIEST, 99), Creation.REPLACED, Creation.REPLACED),
        (again(IfExists.EARLIEST, 100), Creation.KEPT, Creation.REPLACED),
        (again(IfExists.LATEST, 101), Creation.REPLACED, Creation.REPLACED),
        (again(IfExists.LATEST, 100), Creation.KEPT, Creation.REPLACED),
    ],
)
async def test_the_answer_says_who_has_the_id(
    frozen_store: Store,
    time: FrozenTime,
    state: State,
    wish: NewTimer,
    if_scheduled: Creation,
    if_finished: Creation,
) -> None:
    """A running timer is never replaced; a finished one gives way to whatever is due."""
    before = await bring(frozen_store, time, state)
    time.now_ms = T0_MS
    expected = if_finished if state in FINISHED else if_scheduled
    if state is State.RUNNING and wish.if_exists not in {IfExists.CONFLICT, IfExists.KEEP}:
        expected = Creation.RUNNING
    [created] = await frozen_store.create([wish])
    assert created.creation is expected
    after = await stored(frozen_store)
    assert created.due_ms == after.due_ms
    if expected is not Creation.REPLACED:
        assert after == before


@pytest.mark.parametrize("state", [State.SCHEDULED, *sorted(FINISHED)])
async def test_who_replaces_another_timer_is_all_that_is_left(
    redis: Redis, everywhere: Everywhere, frozen_store: Store, time: FrozenTime, state: State
) -> None:
    """Of the old one no attempt, index entry or count stays; its wake-ups are stale."""
    before = await bring(frozen_store, time, state)
    wish = again(IfExists.REPLACE, 70)
    await frozen_store.create([wish])
    after = await stored(frozen_store)
    assert after.nonce != before.nonce
    assert after == Timer(
        TimerName("default", "a"), after.nonce, State.SCHEDULED, 1, 0, T0_MS + 570, wish.spec
    )
    assert await everywhere.zset(*DUE) == {"a": T0_MS + 570}
    assert await counted(redis) == {"s": 1}
    assert not await everywhere.exists(HELD, *(("ended", ended(state)) for state in FINISHED), "retention")
    assert await begin(frozen_store, [wake_up("a")]) == [Refused(wake_up("a"), Refusal.STALE)]


@in_each_state
@pytest.mark.parametrize("if_exists", [IfExists.CONFLICT, IfExists.KEEP])
async def test_what_keeps_the_timer_changes_nothing(
    redis: Redis, frozen_store: Store, time: FrozenTime, state: State, if_exists: IfExists
) -> None:
    """Not a byte."""
    await bring(frozen_store, time, state)
    before = await snapshot(redis)
    await frozen_store.create([again(if_exists, 0)])
    assert await snapshot(redis) == before


async def test_what_a_batch_creates_and_replaces_is_indexed_by_the_last_due_time(
    everywhere: Everywhere, frozen_store: Store
) -> None:
    """Record and index agree."""
    answers = await frozen_store.create([new_timer("a", 100), again(IfExists.REPLACE, 500)])
    assert [answer.creation for answer in answers] == [Creation.CREATED, Creation.REPLACED]
    assert (await stored(frozen_store)).due_ms == T0_MS + 500
    assert await everywhere.zset(*DUE) == {"a": T0_MS + 500}
    assert await everywhere.zset("next") == {"default": T0_MS + 500}


# --- retention ---


@pytest.mark.parametrize("state", sorted(FINISHED))
async def test_when_the_retention_is_over_the_timer_is_gone(
    frozen_store: Store, time: FrozenTime, redis: Redis, state: State
) -> None:
    """For every call at once, whenever its record is dropped; the id can be used again."""
    await bring(frozen_store, time, state)
    time.advance(HOUR_MS)
    assert await frozen_store.get(TimerName("default", "a")) is None
    assert await change_one(frozen_store, Change(TimerName("default", "a"), ANY)) == Changed(
        ChangeResult.GONE
    )
    assert await frozen_store.cancel(TimerName("default", "a"), version=None, retention_ms=1) == Changed(
        ChangeResult.GONE
    )
    [created] = await frozen_store.create([again(IfExists.CONFLICT, 5)])
    assert created.creation is Creation.CREATED
    assert await forget(frozen_store) == 0
    assert (await stored(frozen_store)).generation == 0
    assert await counted(redis) == {"s": 1}
