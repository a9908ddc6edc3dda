"""Lanes, retention and the log of attempts, in frozen time."""

from dataclasses import replace

from redis.asyncio import Redis

from httpqueue.storage.timers import Store
from httpqueue.timers.commands import (
    Begun,
    Change,
    Finish,
    NewTimer,
    Refusal,
    Refused,
    Retry,
)
from httpqueue.timers.names import TimerName
from httpqueue.timers.schedule import Delay
from httpqueue.timers.spec import Spec
from httpqueue.timers.timer import Attempt, State
from httpqueue.webhooks.outcome import Outcome
from tests.support.frozen import (
    HOUR_MS,
    T0_MS,
    FrozenTime,
    begin,
    begin_one,
    finish_of,
    forget,
    new_timer,
    pass_time,
    storage_of,
    wake_up,
)
from tests.support.keys import DUE, HELD, STORE, ended
from tests.support.records import encode_record
from tests.support.states import ANY, OTHER, change_one, counted, stored


async def test_forget_drops_what_is_over(frozen_store: Store, time: FrozenTime, redis: Redis) -> None:
    """At most `limit` a call, the oldest first; nothing of them is left but the archived id."""
    await frozen_store.create([new_timer(name) for name in "abc"])
    for name, ms in (("a", 2_000), ("b", 1_000), ("c", 3_000)):
        await frozen_store.finish([finish_of(await begin_one(frozen_store, name), Outcome.FAILED, ms)])
    time.advance(2_000)
    assert await storage_of(frozen_store).retention.forget(limit=1) == 1
    assert await redis.zrange(STORE.retention, 0, -1) == [b"default:a", b"default:c"]
    assert await forget(frozen_store) == 1
    assert await forget(frozen_store) == 0
    assert await redis.zrange(ended(State.FAILED), 0, -1) == [b"c"]
    assert await counted(redis) == {"f": 1}
    assert await redis.exists(*(f"{STORE.records}default:{name}" for name in "abc")) == 1
    assert await frozen_store.is_archived(TimerName("default", "a"))


# --- the log ---


async def test_the_last_ten_attempts_are_kept(frozen_store: Store, time: FrozenTime) -> None:
    """The oldest first; of earlier generations, too."""
    await frozen_store.create([new_timer("a")])
    told: list[Attempt] = []
    for number in range(1, 14):
        generation = number // 8
        if number == 8:
            await change_one(frozen_store, Change(TimerName("default", "a"), ANY, spec=OTHER, due=Delay(0)))
        begun = await begin_one(frozen_store, "a", generation)
        told.append(
            Attempt(begun.started_ms, number, 503, "ü" * number, number, "body", begun.attempt, generation)
        )
        await frozen_store.finish([Finish(begun, told[-1], Retry(1))])
        assert (await stored(frozen_store)).log == tuple(told[-10:])
        time.advance(1)
    assert (await stored(frozen_store)).spec == OTHER


# --- lanes ---


async def test_a_lane_goes_on_past_a_record_that_cannot_be_read(redis: Redis, frozen_store: Store) -> None:
    """It no longer holds the lane, and is set aside when its own wake-up comes."""
    await frozen_store.create([new_timer("bad", ordering_key="k"), new_timer("next", 0, ordering_key="k")])
    await redis.set(STORE.records + "default:bad", b"garbage")
    wake_ups = [wake_up("next"), wake_up("bad")]
    begun, bad = await begin(frozen_store, wake_ups)
    assert isinstance(begun, Begun)
    assert bad == Refused(wake_ups[1], Refusal.UNREADABLE)


async def test_a_lane_goes_on_past_a_spec_that_cannot_be_read(redis: Redis, frozen_store: Store) -> None:
    """It is set aside, the next in the lane is woken, and begins."""
    await frozen_store.create([new_timer("bad", ordering_key="k"), new_timer("next", 0, ordering_key="k")])
    await redis.set(STORE.records + "default:bad", encode_record(7, due_ms=T0_MS, lane="k"))
    await redis.delete(STORE.outbox)
    wake_ups = [wake_up("next"), wake_up("bad")]
    assert await begin(frozen_store, wake_ups) == [
        Refused(wake_ups[0], Refusal.BLOCKED),
        Refused(wake_ups[1], Refusal.UNREADABLE),
    ]
    assert (await redis.zrange(DUE, 0, -1), await redis.exists(HELD)) == ([b"next"], 0)
    assert await redis.xlen(STORE.outbox) == 1
    await begin_one(frozen_store, "next")


async def test_a_lane_that_nobody_serves_is_tried_again(
    redis: Redis, frozen_store: Store, time: FrozenTime
) -> None:
    """Somebody has deleted the record whose turn it was: 10 s later the next one is woken."""
    await frozen_store.create([new_timer("lost", ordering_key="k"), new_timer("next", 0, ordering_key="k")])
    await redis.delete(STORE.records + "default:lost", STORE.outbox)
    wake_ups = storage_of(frozen_store).wake_ups
    for after_ms, is_woken in ((9_999, 0), (1, 1)):
        await pass_time(frozen_store, time, after_ms)
        assert await wake_ups.heal(late_ms=0, limit=9) == []
        assert await redis.xlen(STORE.outbox) == is_woken
    assert await redis.zscore(DUE, "next") is not None
    await begin_one(frozen_store, "next")


async def test_behind_the_first_of_its_lane_a_timer_is_held(redis: Redis, frozen_store: Store) -> None:
    """Until its turn comes: then it is due, and the relay is told of it."""
    await frozen_store.create([new_timer(name, ordering_key="k") for name in "abc"])
    assert (await redis.zrange(DUE, 0, -1), await redis.zrange(HELD, 0, -1)) == ([b"a"], [b"b", b"c"])
    begun = await begin_one(frozen_store, "a")
    assert await redis.zrange(HELD, 0, -1) == [b"a", b"b", b"c"]
    await redis.delete(STORE.outbox)
    await frozen_store.finish([finish_of(begun, Outcome.DELIVERED)])
    assert (await redis.zrange(DUE, 0, -1), await redis.zrange(HELD, 0, -1)) == ([b"b"], [b"c"])
    [(_, entry)] = await redis.xrange(STORE.outbox)
    assert entry[b"timer"] == b"default:b"


async def test_a_retry_keeps_its_turn(frozen_store: Store, time: FrozenTime) -> None:
    """However long it backs off, the next of the lane waits until it is done or failed."""
    await frozen_store.create([new_timer("a", ordering_key="k"), new_timer("b", 1, ordering_key="k")])
    time.advance(1)
    await frozen_store.finish([finish_of(await begin_one(frozen_store, "a"), Outcome.RETRY, HOUR_MS)])
    assert await begin(frozen_store, [wake_up("b")]) == [Refused(wake_up("b"), Refusal.BLOCKED)]
    time.advance(HOUR_MS)
    await frozen_store.finish([finish_of(await begin_one(frozen_store, "a"), Outcome.FAILED)])
    await begin_one(frozen_store, "b")


async def test_a_lane_belongs_to_its_application(frozen_store: Store) -> None:
    """The same key of another one is another lane."""
    spec = Spec("http://receiver/", new_timer("a").spec.schedule, ordering_key="k")
    await frozen_store.create([NewTimer(TimerName("x", "a"), spec), NewTimer(TimerName("y", "a"), spec)])
    wake_ups = [replace(wake_up("a"), name=TimerName(application, "a")) for application in "xy"]
    answers = await begin(frozen_store, wake_ups)
    assert all(isinstance(answer, Begun) for answer in answers)
