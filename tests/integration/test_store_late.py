"""A late worker changes nothing; what cannot be read or stored harms no neighbour."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from redis.asyncio import Redis

from httpqueue.storage.timers import Store
from httpqueue.timers.commands import Begun, Refusal, Refused
from httpqueue.timers.names import TimerName
from httpqueue.timers.timer import State
from httpqueue.webhooks.outcome import Outcome
from tests.support.frozen import (
    FrozenTime,
    begin,
    begin_one,
    finish_of,
    forget,
    heal,
    lose_leases,
    new_timer,
    snapshot,
    wake_up,
)
from tests.support.keys import DUE, HELD, Everywhere, record_key

Meanwhile = Callable[[Store, FrozenTime, Begun], Awaitable[object]]


async def begin_all(store: Store, *timer_ids: str) -> list[Begun]:
    """Store these timers and start an attempt for each."""
    await store.create([new_timer(timer_id) for timer_id in timer_ids])
    answers = await begin(store, [wake_up(timer_id) for timer_id in timer_ids])
    begun = [answer for answer in answers if isinstance(answer, Begun)]
    assert len(begun) == len(timer_ids)
    return begun


async def taken_over(store: Store, time: FrozenTime, begun: Begun) -> None:
    """Another worker began again after the lease."""
    await lose_leases(store, time)
    [again] = await begin(store, [begun.wake_up])
    assert isinstance(again, Begun)


async def retried(store: Store, _: FrozenTime, begun: Begun) -> None:
    """The attempt's end was told before, as a retry."""
    assert (await store.finish([finish_of(begun, Outcome.RETRY)])).counted == [True]


async def delivered(store: Store, _: FrozenTime, begun: Begun) -> None:
    """It was told before, as the end of the timer."""
    assert (await store.finish([finish_of(begun, Outcome.DELIVERED)])).counted == [True]


async def gone(store: Store, _: FrozenTime, begun: Begun) -> None:
    """And the record is no longer kept."""
    assert (await store.finish([finish_of(begun, Outcome.DELIVERED, 0)])).counted == [True]
    assert await forget(store) == 1


async def handed_back(store: Store, _: FrozenTime, begun: Begun) -> None:
    """The worker itself gave the attempt up before."""
    assert await store.hand_back([(begun, False)]) == [True]


async def created_anew(store: Store, time: FrozenTime, begun: Begun) -> None:
    """The timer ended, another one has its name, and its first attempt runs."""
    await gone(store, time, begun)
    await store.create([new_timer(begun.wake_up.name.id)])
    await begin_one(store, begun.wake_up.name.id)


@pytest.mark.parametrize("outcome", Outcome)
@pytest.mark.parametrize("meanwhile", [taken_over, retried, delivered, gone, handed_back, created_anew])
async def test_a_late_worker_changes_nothing(
    redis: Redis, frozen_store: Store, time: FrozenTime, meanwhile: Meanwhile, outcome: Outcome
) -> None:
    """Record, due index, outbox and archive are the same, byte for byte."""
    [begun] = await begin_all(frozen_store, "a")
    await meanwhile(frozen_store, time, begun)
    before = await snapshot(redis)
    assert (await frozen_store.finish([finish_of(begun, outcome)])).counted == [False]
    assert await frozen_store.beat([begun]) == [False]
    assert await frozen_store.hand_back([(begun, True)]) == [False]
    assert await snapshot(redis) == before


@pytest.mark.parametrize(
    "claim",
    [
        lambda begun: replace(begun, holder="another.1"),
        lambda begun: replace(begun, holder=""),
        lambda begun: replace(begun, nonce="otherone"),
        lambda begun: replace(begun, nonce=""),
    ],
)
async def test_who_does_not_hold_an_attempt_changes_nothing(
    redis: Redis, frozen_store: Store, claim: Callable[[Begun], Begun]
) -> None:
    """Another worker, another call of the same worker, or of a timer that had the name before."""
    [begun] = await begin_all(frozen_store, "a")
    stranger = claim(begun)
    before = await snapshot(redis)
    for outcome in Outcome:
        assert (await frozen_store.finish([finish_of(stranger, outcome)])).counted == [False]
    assert await frozen_store.beat([stranger]) == [False]
    assert await frozen_store.hand_back([(stranger, False), (stranger, True)]) == [False, False]
    assert await snapshot(redis) == before
    assert await frozen_store.beat([begun]) == [True]
    assert (await frozen_store.finish([finish_of(begun, Outcome.DELIVERED)])).counted == [True]


async def test_an_attempt_ends_once(frozen_store: Store) -> None:
    """Even when it is told twice in one batch: the first counts."""
    [begun] = await begin_all(frozen_store, "a")
    told = [finish_of(begun, Outcome.FAILED), finish_of(begun, Outcome.DELIVERED)]
    assert (await frozen_store.finish(told)).counted == [True, False]
    found = await frozen_store.get(TimerName("default", "a"))
    assert found is not None
    assert found.timer.state is State.FAILED


@pytest.mark.parametrize("kept_bytes", [0, 1, 12, 40])
async def test_finish_passes_an_unreadable_record_by(
    redis: Redis, everywhere: Everywhere, frozen_store: Store, time: FrozenTime, kept_bytes: int
) -> None:
    """Its attempt is refused and the next begin sets it aside; its neighbours end."""
    key = record_key("bad")
    begun = await begin_all(frozen_store, "a", "bad", "b")
    await redis.set(key, (await redis.get(key))[:kept_bytes])
    told = [finish_of(each, Outcome.DELIVERED, 0) for each in begun]
    assert (await frozen_store.finish(told)).counted == [True, False, True]
    assert list(await everywhere.zset(*HELD)) == ["bad"]
    assert not await frozen_store.is_archived(TimerName("default", "bad"))
    await lose_leases(frozen_store, time)
    for lost in await heal(frozen_store):
        assert kept_bytes
        assert lost.name.id == "bad"
        assert await begin(frozen_store, [lost]) == [Refused(lost, Refusal.UNREADABLE)]
    assert not await everywhere.exists(HELD, DUE, "running")


async def test_a_thousand_timers_a_call(everywhere: Everywhere, frozen_store: Store) -> None:
    """Answers stand in the order of the questions."""
    names = [f"t{number}" for number in range(1_000)]
    begun = await begin_all(frozen_store, *names)
    assert [each.wake_up for each in begun] == [wake_up(name) for name in names]
    odd = [finish_of(each, Outcome.DELIVERED, 0) for each in begun[1::2]]
    even = [finish_of(each, Outcome.RETRY, 5) for each in begun[::2]]
    late = [finish_of(each, Outcome.FAILED) for each in begun[1::2]]
    assert (await frozen_store.finish([*odd, *even, *late])).counted == [True] * 1_000 + [False] * 500
    assert await everywhere.zcard(*DUE) == 500
    assert await forget(frozen_store) == 500
    assert await everywhere.hash("archive_counts") == {"0": 500}


async def test_a_body_of_a_mebibyte(frozen_store: Store) -> None:
    """Comes back as it was, through all transitions."""
    body = "ü" * 2**19
    timers = [new_timer(f"t{number}", body=body) for number in range(5)]
    await frozen_store.create(timers)
    answers = await begin(frozen_store, [wake_up("t0"), wake_up("t4")])
    begun = [answer for answer in answers if isinstance(answer, Begun)]
    assert (await frozen_store.finish([finish_of(each, Outcome.RETRY) for each in begun])).counted == [
        True,
        True,
    ]
    for number in range(5):
        found = await frozen_store.get(TimerName("default", f"t{number}"))
        assert found is not None
        assert found.timer.spec == timers[number].spec
