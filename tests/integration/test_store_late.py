"""A late worker changes nothing; what cannot be read or stored harms no neighbour."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from redis.asyncio import Redis

from httpqueue.storage.timers import Store
from httpqueue.timers.commands import Begun, WakeUp
from httpqueue.timers.names import TimerName
from httpqueue.timers.timer import State
from httpqueue.webhooks.outcome import Outcome
from tests.support.frozen import LEASE_MS, FrozenTime, finish_of, new_timer, snapshot, wake_up
from tests.support.keys import STORE

Meanwhile = Callable[[Store, FrozenTime, Begun], Awaitable[object]]


async def begin_all(store: Store, *timer_ids: str) -> list[Begun]:
    """Store these timers and start an attempt for each."""
    await store.create([new_timer(timer_id) for timer_id in timer_ids])
    answers = await store.begin([wake_up(timer_id) for timer_id in timer_ids], lease_ms=LEASE_MS)
    begun = [answer for answer in answers if isinstance(answer, Begun)]
    assert len(begun) == len(timer_ids)
    return begun


async def taken_over(store: Store, time: FrozenTime, begun: Begun) -> None:
    """Another worker began again after the lease."""
    time.advance(LEASE_MS)
    [again] = await store.begin([begun.wake_up], lease_ms=LEASE_MS)
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


@pytest.mark.parametrize("outcome", Outcome)
@pytest.mark.parametrize("meanwhile", [taken_over, retried, delivered, gone])
async def test_a_late_worker_changes_nothing(
    redis: Redis, frozen_store: Store, time: FrozenTime, meanwhile: Meanwhile, outcome: Outcome
) -> None:
    """Record, due index, outbox and archive are the same, byte for byte."""
    [begun] = await begin_all(frozen_store, "a")
    await meanwhile(frozen_store, time, begun)
    before = await snapshot(redis)
    assert (await frozen_store.finish([finish_of(begun, outcome)])).counted == [False]
    assert await snapshot(redis) == before


@pytest.mark.parametrize("outcome", Outcome)
async def test_an_attempt_of_another_generation_changes_nothing(
    redis: Redis, frozen_store: Store, outcome: Outcome
) -> None:
    """Whatever its number."""
    [begun] = await begin_all(frozen_store, "a")
    before = await snapshot(redis)
    right = finish_of(begun, outcome)
    other = replace(right, wake_up=WakeUp(begun.wake_up.name, 1))
    assert (await frozen_store.finish([other])).counted == [False]
    assert await snapshot(redis) == before


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
    redis: Redis, frozen_store: Store, kept_bytes: int
) -> None:
    """Its attempt is refused and the next begin sets it aside; its neighbours end."""
    key = STORE.records + "default:bad"
    begun = await begin_all(frozen_store, "a", "bad", "b")
    await redis.set(key, (await redis.get(key))[:kept_bytes])
    told = [finish_of(each, Outcome.DELIVERED, 0) for each in begun]
    assert (await frozen_store.finish(told)).counted == [True, False, True]
    assert await redis.zrange(STORE.due, 0, -1) == [b"default:bad"]
    assert not await frozen_store.is_archived(TimerName("default", "bad"))


async def test_a_thousand_timers_a_call(redis: Redis, frozen_store: Store) -> None:
    """Answers stand in the order of the questions."""
    names = [f"t{number}" for number in range(1_000)]
    begun = await begin_all(frozen_store, *names)
    assert [each.wake_up for each in begun] == [wake_up(name) for name in names]
    odd = [finish_of(each, Outcome.DELIVERED, 0) for each in begun[1::2]]
    even = [finish_of(each, Outcome.RETRY, 5) for each in begun[::2]]
    late = [finish_of(each, Outcome.FAILED) for each in begun[1::2]]
    assert (await frozen_store.finish([*odd, *even, *late])).counted == [True] * 1_000 + [False] * 500
    assert await redis.zcard(STORE.due) == 500
    assert await redis.hgetall(STORE.archive_counts) == {b"0": b"500"}  # type: ignore[misc] # sync or async


async def test_a_body_of_a_mebibyte(frozen_store: Store) -> None:
    """Comes back as it was, through all transitions."""
    body = "ü" * 2**19
    timers = [new_timer(f"t{number}", body=body) for number in range(5)]
    await frozen_store.create(timers)
    answers = await frozen_store.begin([wake_up("t0"), wake_up("t4")], lease_ms=LEASE_MS)
    begun = [answer for answer in answers if isinstance(answer, Begun)]
    assert (await frozen_store.finish([finish_of(each, Outcome.RETRY) for each in begun])).counted == [
        True,
        True,
    ]
    for number in range(5):
        found = await frozen_store.get(TimerName("default", f"t{number}"))
        assert found is not None
        assert found.timer.spec == timers[number].spec
