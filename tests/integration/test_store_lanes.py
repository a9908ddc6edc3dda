"""Lanes, retention and the log of attempts, in frozen time."""

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
    heal,
    new_timer,
    pass_time,
    storage_of,
    wake_up,
)
from tests.support.keys import DUE, HELD, Everywhere, ended, here, record_key
from tests.support.records import encode_record
from tests.support.states import ANY, OTHER, change_one, counted, stored


async def test_forget_drops_what_is_over(
    frozen_store: Store, time: FrozenTime, redis: Redis, everywhere: Everywhere
) -> None:
    """At most `limit` a call, the oldest first; nothing of them is left but the archived id."""
    a, b, c = (here(name) for name in "abc")
    await frozen_store.create([new_timer(name) for name in (a, b, c)])
    for name, ms in ((a, 2_000), (b, 1_000), (c, 3_000)):
        await frozen_store.finish([finish_of(await begin_one(frozen_store, name), Outcome.FAILED, ms)])
    time.advance(2_000)
    assert await storage_of(frozen_store).retention.forget(0, limit=1) == 1
    assert list(await everywhere.zset("retention")) == [f"default:{a}", f"default:{c}"]
    assert await forget(frozen_store) == 1
    assert await forget(frozen_store) == 0
    assert list(await everywhere.zset("ended", ended(State.FAILED))) == [c]
    assert await counted(redis) == {"f": 1}
    assert [await everywhere.get(name) is None for name in (a, b, c)] == [True, True, False]
    assert await frozen_store.is_archived(TimerName("default", a))


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
    await redis.set(record_key("bad", "k"), b"garbage")
    wake_ups = [wake_up("next", key="k"), wake_up("bad", key="k")]
    begun, bad = await begin(frozen_store, wake_ups)
    assert isinstance(begun, Begun)
    assert bad == Refused(wake_ups[1], Refusal.UNREADABLE)


async def test_a_lane_goes_on_past_a_spec_that_cannot_be_read(
    redis: Redis, everywhere: Everywhere, frozen_store: Store
) -> None:
    """It is set aside, the next in the lane is woken, and begins."""
    await frozen_store.create([new_timer("bad", ordering_key="k"), new_timer("next", 0, ordering_key="k")])
    await redis.set(record_key("bad", "k"), encode_record(7, due_ms=T0_MS, lane="k"))
    await everywhere.delete("outbox")
    wake_ups = [wake_up("next", key="k"), wake_up("bad", key="k")]
    assert await begin(frozen_store, wake_ups) == [
        Refused(wake_ups[0], Refusal.BLOCKED),
        Refused(wake_ups[1], Refusal.UNREADABLE),
    ]
    assert list(await everywhere.zset(*DUE)) == ["next"]
    assert not await everywhere.exists(HELD)
    assert await everywhere.xlen() == 1
    await begin_one(frozen_store, "next", key="k")


async def test_a_lane_that_nobody_serves_is_tried_again(
    redis: Redis, everywhere: Everywhere, frozen_store: Store, time: FrozenTime
) -> None:
    """Somebody has deleted the record whose turn it was: 10 s later the next one is woken."""
    await frozen_store.create([new_timer("lost", ordering_key="k"), new_timer("next", 0, ordering_key="k")])
    await redis.delete(record_key("lost", "k"))
    await everywhere.delete("outbox")
    for after_ms, is_woken in ((9_999, 0), (1, 1)):
        await pass_time(frozen_store, time, after_ms)
        assert await heal(frozen_store) == []
        assert await everywhere.xlen() == is_woken
    assert "next" in await everywhere.zset(*DUE)
    await begin_one(frozen_store, "next", key="k")


async def test_behind_the_first_of_its_lane_a_timer_is_held(
    everywhere: Everywhere, frozen_store: Store
) -> None:
    """Until its turn comes: then it is due, and the relay is told of it."""
    await frozen_store.create([new_timer(name, ordering_key="k") for name in "abc"])
    assert (list(await everywhere.zset(*DUE)), list(await everywhere.zset(*HELD))) == (["a"], ["b", "c"])
    begun = await begin_one(frozen_store, "a", key="k")
    assert list(await everywhere.zset(*HELD)) == ["a", "b", "c"]
    await everywhere.delete("outbox")
    await frozen_store.finish([finish_of(begun, Outcome.DELIVERED)])
    assert (list(await everywhere.zset(*DUE)), list(await everywhere.zset(*HELD))) == (["b"], ["c"])
    [entry] = await everywhere.stream("outbox")
    assert entry[b"timer"] == b"default:b"


async def test_a_retry_keeps_its_turn(frozen_store: Store, time: FrozenTime) -> None:
    """However long it backs off, the next of the lane waits until it is done or failed."""
    await frozen_store.create([new_timer("a", ordering_key="k"), new_timer("b", 1, ordering_key="k")])
    time.advance(1)
    b = wake_up("b", key="k")
    await frozen_store.finish(
        [finish_of(await begin_one(frozen_store, "a", key="k"), Outcome.RETRY, HOUR_MS)]
    )
    assert await begin(frozen_store, [b]) == [Refused(b, Refusal.BLOCKED)]
    time.advance(HOUR_MS)
    await frozen_store.finish([finish_of(await begin_one(frozen_store, "a", key="k"), Outcome.FAILED)])
    await begin_one(frozen_store, "b", key="k")


async def test_a_lane_belongs_to_its_application(frozen_store: Store) -> None:
    """The same key of another one is another lane."""
    spec = Spec("http://receiver/", new_timer("a").spec.schedule, ordering_key="k")
    await frozen_store.create([NewTimer(TimerName("x", "a"), spec), NewTimer(TimerName("y", "a"), spec)])
    wake_ups = [wake_up("a", key="k", application=application) for application in "xy"]
    answers = await begin(frozen_store, wake_ups)
    assert all(isinstance(answer, Begun) for answer in answers)
