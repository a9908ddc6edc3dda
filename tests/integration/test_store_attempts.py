"""Who holds an attempt: calls that are repeated, leases that are beaten, attempts that are handed back."""

from dataclasses import replace

import pytest
from redis.asyncio import Redis

from httpqueue.storage.timers import Store
from httpqueue.timers.commands import Begun, Refusal, Refused
from httpqueue.timers.names import TimerName
from httpqueue.timers.policies import DestinationPolicy
from httpqueue.timers.retry import RetryOptions
from httpqueue.timers.timer import State
from httpqueue.webhooks.message import webhook_id
from httpqueue.webhooks.outcome import Outcome
from tests.support.frozen import (
    LEASE_MS,
    T0_MS,
    TIMEOUT_MS,
    FrozenTime,
    begin,
    begin_one,
    finish_of,
    forget,
    lose_leases,
    new_timer,
    pass_time,
    snapshot,
    storage_of,
    wake_up,
)
from tests.support.keys import DUE, HELD, Everywhere, here
from tests.support.states import stored

MIB = 1_048_576
ONCE = RetryOptions(max_attempts=1)


# --- a call that is repeated ---


@pytest.mark.parametrize("outcome", [Outcome.DELIVERED, Outcome.RETRY, Outcome.FAILED])
async def test_a_repeated_finish_is_no_late_one(frozen_store: Store, redis: Redis, outcome: Outcome) -> None:
    """Defect 6: its first answer was lost. It is known, and changes nothing."""
    await frozen_store.create([new_timer("a")])
    finish = finish_of(await begin_one(frozen_store, "a"), outcome)
    assert (await frozen_store.finish([finish])).counted == [True]
    before = await snapshot(redis)
    again = await frozen_store.finish([finish])
    assert (again.counted, again.known) == ([False], [True])
    assert await snapshot(redis) == before


async def test_a_finish_of_another_holder_is_late(frozen_store: Store, time: FrozenTime) -> None:
    """Also when the attempt has ended."""
    await frozen_store.create([new_timer("a")])
    first = await begin_one(frozen_store, "a")
    await lose_leases(frozen_store, time)
    second = await begin_one(frozen_store, "a")
    assert (await frozen_store.finish([finish_of(second, Outcome.DELIVERED)])).counted == [True]
    late = await frozen_store.finish([finish_of(first, Outcome.DELIVERED)])
    assert (late.counted, late.known) == ([False], [False])


async def test_a_repeated_begin_gives_the_same_attempts(redis: Redis, frozen_store: Store) -> None:
    """Its first answer was lost: no attempt is spent, not even the only one that a timer has."""
    await frozen_store.create([new_timer("a", retry=ONCE), new_timer("b", retry=ONCE)])
    wake_ups = [wake_up("a"), wake_up("b")]
    lost = await begin(frozen_store, wake_ups, holder="mine.1")
    before = await snapshot(redis)
    again = await begin(frozen_store, wake_ups, holder="mine.1")
    assert again == lost
    assert [each.attempt for each in again if isinstance(each, Begun)] == [1, 1]
    assert await snapshot(redis) == before
    ends = [finish_of(each, Outcome.DELIVERED) for each in again if isinstance(each, Begun)]
    assert (await frozen_store.finish(ends)).counted == [True, True]


async def test_a_repeated_begin_renews_the_lease(
    everywhere: Everywhere, frozen_store: Store, time: FrozenTime
) -> None:
    """However late it is, unless another worker was faster."""
    await frozen_store.create([new_timer("a"), new_timer("b")])
    wake_ups = [wake_up("a"), wake_up("b")]
    await begin(frozen_store, wake_ups, holder="mine.1")
    await lose_leases(frozen_store, time)
    faster = await begin_one(frozen_store, "b")
    mine, other = await begin(frozen_store, wake_ups, holder="mine.1")
    assert isinstance(mine, Begun)
    assert (mine.attempt, mine.lost, mine.started_ms) == (1, 0, time.now_ms)
    assert other == Refused(wake_up("b"), Refusal.RUNNING)
    assert (await everywhere.zset("running"))["default:a"] == time.now_ms + LEASE_MS
    assert await frozen_store.beat([mine, faster]) == [True, True]


async def test_what_ended_meanwhile_does_not_begin_again_by_a_repeated_call(frozen_store: Store) -> None:
    """The call answers what is so now."""
    await frozen_store.create([new_timer("a")])
    [begun] = await begin(frozen_store, [wake_up("a")], holder="mine.1")
    assert isinstance(begun, Begun)
    await frozen_store.finish([finish_of(begun, Outcome.RETRY, 70)])
    assert await begin(frozen_store, [wake_up("a")], holder="mine.1") == [
        Refused(wake_up("a"), Refusal.EARLY, wait_ms=70)
    ]


async def test_two_wake_ups_to_the_same_worker_begin_once(frozen_store: Store) -> None:
    """In one call, in two, and in one that is repeated."""
    await frozen_store.create([new_timer("a")])
    running = Refused(wake_up("a"), Refusal.RUNNING)
    first, second = await begin(frozen_store, [wake_up("a"), wake_up("a")], holder="mine.1")
    assert isinstance(first, Begun)
    assert second == running
    assert await begin(frozen_store, [wake_up("a")], holder="mine.2") == [running]
    assert await begin(frozen_store, [wake_up("a"), wake_up("a")], holder="mine.1") == [first, running]


# --- leases ---


@pytest.mark.parametrize(
    ("own_ms", "workers_ms", "lease_ms"),
    [
        (None, TIMEOUT_MS, 20_000),
        (None, 3_000, 18_000),
        (500, TIMEOUT_MS, 15_500),
        (10_000, 1, 20_000),
        (10_001, 1, 20_000),
        (3_600_000, 1, 20_000),
    ],
)
async def test_a_lease_is_a_little_longer_than_the_timeout_but_short(
    everywhere: Everywhere, frozen_store: Store, own_ms: int | None, workers_ms: int, lease_ms: int
) -> None:
    """min(timeout + 15 s, 20 s), whoever says the timeout; beat renews it by as much."""
    await frozen_store.create([new_timer("a", timeout_ms=own_ms)])
    [begun] = await begin(frozen_store, [wake_up("a")], timeout_ms=workers_ms)
    assert isinstance(begun, Begun)
    assert begun.lease_ms == lease_ms
    assert await everywhere.zset("running") == {"default:a": T0_MS + lease_ms}


async def test_beat_renews_the_lease(everywhere: Everywhere, frozen_store: Store, time: FrozenTime) -> None:
    """An attempt that is beaten is never taken over, however long it takes; one call for many.

    The permit of its host is renewed there: see test_hosts_serve.py.
    """
    await storage_of(frozen_store).policies.set_destination("receiver", DestinationPolicy(concurrency=2))
    await frozen_store.create([new_timer("a"), new_timer("b"), new_timer("c")])
    permits = [wake_up("a"), wake_up("b")]
    both = [each for each in await begin(frozen_store, permits, permits=permits) if isinstance(each, Begun)]
    for _ in range(100):
        time.advance(5_000)
        assert await frozen_store.beat(both) == [True, True]
    assert (await everywhere.zset("running"))["default:b"] == time.now_ms + LEASE_MS
    answers = await begin(frozen_store, [wake_up(name) for name in "abc"])
    refusals = [answer.refusal for answer in answers if isinstance(answer, Refused)]
    assert refusals == [Refusal.RUNNING, Refusal.RUNNING, Refusal.NEEDS_PERMIT]


async def test_after_a_silence_nobody_takes_over_for_a_while(frozen_store: Store, time: FrozenTime) -> None:
    """The store was away: its leases ended meanwhile, and living workers had no way to renew them."""
    await frozen_store.create([new_timer("a")])
    await begin_one(frozen_store, "a")
    time.advance(86_400_000)
    refused = [Refused(wake_up("a"), Refusal.RUNNING)]
    assert await begin(frozen_store, [wake_up("a")]) == refused
    await pass_time(frozen_store, time, 15_000)
    assert await begin(frozen_store, [wake_up("a")]) == refused
    time.advance(1)
    assert (await begin_one(frozen_store, "a")).lost == 1


# --- handed back ---


@pytest.mark.parametrize(("may_be_sent", "lost"), [(False, 0), (True, 1)])
async def test_what_is_handed_back_costs_no_attempt(
    everywhere: Everywhere, frozen_store: Store, *, may_be_sent: bool, lost: int
) -> None:
    """Another worker makes it at once; what may have been sent counts as a lost worker."""
    await frozen_store.create([new_timer("a", retry=ONCE)])
    begun = await begin_one(frozen_store, "a")
    await everywhere.delete("outbox")
    assert await frozen_store.hand_back([(begun, may_be_sent)]) == [True]
    timer = await stored(frozen_store)
    assert (timer.state, timer.attempts, timer.due_ms) == (State.SCHEDULED, 0, T0_MS)
    assert list(await everywhere.zset(*DUE)) == ["a"]
    assert not await everywhere.exists(HELD, "running")
    [entry] = await everywhere.stream("outbox")
    assert entry[b"timer"] == b"default:a"
    again = await begin_one(frozen_store, "a")
    assert (again.attempt, again.lost) == (1, lost)
    assert await frozen_store.beat([begun, again]) == [False, True]


async def test_handing_back_keeps_the_turn(frozen_store: Store) -> None:
    """The lane waits, whatever permits its timers have. Who gave its permit back needs another one."""
    await storage_of(frozen_store).policies.set_destination("receiver", DestinationPolicy(concurrency=1))
    await frozen_store.create(
        [new_timer("a", ordering_key="k"), new_timer("b", ordering_key="k"), new_timer("c")]
    )
    a, b, c = wake_up("a", key="k"), wake_up("b", key="k"), wake_up("c")
    begun, blocked, waiting = await begin(frozen_store, [a, b, c], permits=[a])
    assert isinstance(begun, Begun)
    assert blocked == Refused(b, Refusal.BLOCKED)
    assert waiting == Refused(replace(c, due_ms=T0_MS), Refusal.NEEDS_PERMIT, host="receiver")
    await frozen_store.hand_back([(begun, False)])
    needs_another, blocked, free = await begin(frozen_store, [a, b, c], permits=[b, c])
    assert needs_another == Refused(replace(a, due_ms=T0_MS), Refusal.NEEDS_PERMIT, host="receiver")
    assert blocked == Refused(b, Refusal.BLOCKED)
    assert isinstance(free, Begun)


# --- bytes ---


async def test_a_long_answer_ends_early(frozen_store: Store) -> None:
    """A hundred timers of a mebibyte: some begin, the others are told LATER, and begin then."""
    timer_ids = [here(f"t{number}") for number in range(100)]
    left = [wake_up(timer_id) for timer_id in timer_ids]
    for first in range(0, 100, 10):
        timers = [new_timer(timer_id, body="x" * MIB) for timer_id in timer_ids[first : first + 10]]
        await frozen_store.create(timers)
    calls = 0
    while left:
        answers = await begin(frozen_store, left)
        begun = [answer for answer in answers if isinstance(answer, Begun)]
        assert 1 <= len(begun) <= 4
        later = [answer.wake_up for answer in answers if isinstance(answer, Refused)]
        assert answers[len(begun) :] == [Refused(each, Refusal.LATER) for each in left[len(begun) :]]
        left, calls = later, calls + 1
    assert calls == 25
    assert (await stored(frozen_store, timer_ids[-1])).state is State.RUNNING


# --- names ---


async def test_two_creations_of_one_name_are_never_the_same_webhook(
    frozen_store: Store, time: FrozenTime
) -> None:
    """The webhook-id of "daily" posted today and tomorrow differs; that of its retries does not."""
    ids: list[str] = []
    for _ in range(2):
        await frozen_store.create([new_timer("daily")])
        begun = await begin_one(frozen_store, "daily")
        await frozen_store.finish([finish_of(begun, Outcome.RETRY, 0)])
        again = await begin_one(frozen_store, "daily")
        assert webhook_id(again) == webhook_id(begun)
        ids.append(webhook_id(again))
        await frozen_store.finish([finish_of(again, Outcome.DELIVERED, 1)])
        time.advance(1)
        await forget(frozen_store)
    assert len(set(ids)) == 2
    assert await frozen_store.get(TimerName("default", "daily")) is None
