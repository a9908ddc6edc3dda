"""Timers in the partition of their ordering key: found by name, never lost, and forgotten without a trace."""

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from msgspec.structs import replace as replace_in_spec
from redis.asyncio import Redis

from httpqueue.errors import UnavailableError
from httpqueue.storage import retention
from httpqueue.storage.lookup import Window
from httpqueue.storage.partitions import Partitions
from httpqueue.storage.pointers import POINTS
from httpqueue.storage.storage import Storage
from httpqueue.storage.timers import Store
from httpqueue.timers.commands import (
    Begun,
    Change,
    Changed,
    ChangeResult,
    Created,
    Creation,
    End,
    Finish,
    IfExists,
    NewTimer,
    WakeUp,
)
from httpqueue.timers.names import TimerName
from httpqueue.timers.schedule import Instant
from httpqueue.timers.timer import Attempt, State, Timer
from httpqueue.webhooks.outcome import Outcome
from tests.support.frozen import HOUR_MS, T0_MS, FrozenTime, begin, finish_of, new_timer
from tests.support.keys import Everywhere
from tests.support.pointers import (
    NAME,
    POINTER_CHECK_MS,
    Crash,
    InTurn,
    away_from_home,
    check_all_pointers,
    forget_all,
    interleavings,
    lane_to,
    pointed_to,
    wake_up_of,
)
from tests.support.states import ANY

CALLBACK = TimerName("default", "a~callback-0")
several = pytest.mark.parametrize("partitions", [2, 4, 7], indirect=True)
"""For what a single partition has not."""


def keyed(key: str | None, delay_ms: int = 0, if_exists: IfExists = IfExists.CONFLICT) -> NewTimer:
    """The timer NAME with this ordering key."""
    return replace(new_timer(NAME.id, delay_ms, ordering_key=key), if_exists=if_exists)


async def create(store: Store, timer: NewTimer) -> Created:
    """Its answer."""
    [created] = await store.create([timer])
    return created


async def stored(store: Store, name: TimerName = NAME) -> Timer:
    """A timer that must be there."""
    found = await store.get(name)
    assert found is not None
    return found.timer


async def begin_one(store: Store, wake_up: WakeUp) -> Begun:
    """An attempt that must not be refused."""
    [begun] = await begin(store, [wake_up])
    assert isinstance(begun, Begun)
    return begun


async def no_key_is_left(redis: Redis) -> bool:
    """Neither of the timer nor of a pointer to it."""
    kinds = ("due", "held", "ended", "next", "retention", "counts", "lane", "pointers", "running")
    patterns = ["hq:{*}[a-z]*", *(f"hq:{{*}}:{kind}*" for kind in kinds)]
    return not [key for pattern in patterns for key in await redis.keys(pattern)]


def every_key(partitions: Partitions) -> list[str | None]:
    """None, and an ordering key that leads to each partition."""
    return [None, *(lane_to(partitions, place) for place in partitions.all)]


# --- by name ---


async def test_a_timer_is_in_the_partition_of_its_ordering_key(
    redis: Redis, store: Store, partitions: Partitions, everywhere: Everywhere
) -> None:
    """Its home has a pointer to it, unless it is its home."""
    for place in partitions.all:
        key = lane_to(partitions, place)
        assert await create(store, keyed(key)) == Created(Creation.CREATED, T0_MS)
        assert await redis.zscore(partitions.store_keys[place].due + "default", NAME.id) == T0_MS
        assert len(await everywhere.zset("due", "default")) == 1
        assert await pointed_to(redis, partitions) == (None if place == partitions.home_of(NAME) else place)
        await redis.flushall()


async def test_everything_that_is_done_by_name(
    redis: Redis, storage: Storage, partitions: Partitions, time: FrozenTime
) -> None:
    """Get, explain, list, change, cancel and the archive, wherever the ordering key leads."""
    store = storage.store
    for key in every_key(partitions):
        new = keyed(key, 70)
        await create(store, new)
        timer = await stored(store)
        assert (timer.spec, timer.due_ms, timer.state) == (new.spec, T0_MS + 70, State.SCHEDULED)
        facts = await storage.lookup.facts(NAME)
        assert facts is not None
        assert facts.timer == timer
        page = await storage.lookup.list(Window(frozenset({State.SCHEDULED}), "default"), None, look_at=9)
        assert page.timers == [timer]

        other = replace_in_spec(new.spec, body="other")
        [changed] = await store.change([Change(NAME, ANY, timer.version, other, Instant(T0_MS + 5))])
        assert changed == Changed(ChangeResult.CHANGED, State.SCHEDULED, T0_MS + 5, f"{timer.nonce}.1.0.s")
        assert (await stored(store)).spec == other
        [again] = await store.change([Change(NAME, ANY, timer.version)])
        assert again == Changed(ChangeResult.OTHER_VERSION, State.SCHEDULED)

        cancelled = await store.cancel(NAME, version=changed.version, retention_ms=9)
        assert cancelled.result is ChangeResult.CHANGED
        assert (await stored(store)).state is State.CANCELLED
        time.advance(9)
        for forgotten in (1, 0):
            assert await store.get(NAME) is None
            assert await store.is_archived(NAME)
            assert await storage.lookup.facts(NAME) is None or forgotten
            assert await forget_all(storage) == forgotten
        assert await no_key_is_left(redis)
        await redis.flushall()
        time.now_ms = T0_MS


async def test_a_lane_is_served_from_where_it_is(
    redis: Redis, storage: Storage, partitions: Partitions
) -> None:
    """Timers of any home wait for each other, whoever is first names itself, and a failed one is deleted."""
    store, key = storage.store, lane_to(partitions, away_from_home(partitions))
    names = [f"t{number:02}" for number in range(12)]
    await store.create([new_timer(name, ordering_key=key) for name in names])
    wake_ups = [wake_up_of(partitions, TimerName("default", name), key) for name in names]
    answers = await begin(store, wake_ups)
    assert [isinstance(answer, Begun) for answer in answers] == [True] + [False] * 11
    facts = await storage.lookup.facts(TimerName("default", "t05"))
    assert facts is not None
    assert facts.blocked_by == "t00"
    for wake_up in wake_ups:
        begun = answers[0] if wake_up == wake_ups[0] else await begin_one(store, wake_up)
        assert isinstance(begun, Begun)
        await store.finish([finish_of(begun, Outcome.FAILED)])
        deleted = await store.cancel(wake_up.name, version=None, retention_ms=HOUR_MS)
        assert (deleted.result, deleted.state) == (ChangeResult.CHANGED, State.FAILED)
        assert await store.get(wake_up.name) is None
    assert await forget_all(storage) == 12
    assert all([await store.is_archived(wake_up.name) for wake_up in wake_ups])
    assert await no_key_is_left(redis)


# --- a name that is taken ---


async def test_the_ordering_key_stays(store: Store, partitions: Partitions, redis: Redis) -> None:
    """Whatever a second timer of the name wants: with another key it is refused, or the first one kept."""
    for key in every_key(partitions):
        await create(store, keyed(key, 70))
        before = await stored(store)
        others = [*every_key(partitions), lane_to(partitions, partitions.place_of(NAME, key), 1)]
        for other in others:
            for if_exists in IfExists:
                expected = Creation.KEPT if if_exists is IfExists.KEEP else Creation.OTHER_LANE
                if other == key:
                    expected = Creation.EXISTS if if_exists is IfExists.CONFLICT else Creation.KEPT
                    if if_exists is IfExists.REPLACE:
                        continue
                answer = await create(store, keyed(other, 70, if_exists))
                assert answer == Created(expected, before.due_ms), (key, other, if_exists)
                assert await stored(store) == before
            if other != key:
                [changed] = await store.change([Change(NAME, ANY, spec=keyed(other).spec)])
                assert changed == Changed(ChangeResult.OTHER_LANE, State.SCHEDULED)
                assert await stored(store) == before
        replaced = await create(store, keyed(key, 99, IfExists.REPLACE))
        assert replaced == Created(Creation.REPLACED, T0_MS + 99)
        assert (await stored(store)).generation == 1
        await redis.flushall()


async def test_over_retention_the_name_is_free_at_once(
    redis: Redis, storage: Storage, partitions: Partitions, everywhere: Everywhere, time: FrozenTime
) -> None:
    """For a timer with any other ordering key; nothing stays of the old one but its archived id."""
    store = storage.store
    for old in every_key(partitions):
        for new in every_key(partitions):
            await create(store, keyed(old))
            await store.cancel(NAME, version=None, retention_ms=5)
            time.advance(5)
            assert await create(store, keyed(new, 70)) == Created(Creation.CREATED, time.now_ms + 70)
            timer = await stored(store)
            assert (timer.generation, timer.spec.ordering_key) == (0, new)
            counts = await everywhere.hash("counts")
            assert {field: counts[field] for field in counts if field != "default:b"} == {
                "default:s": 1,
                ":p": 1,
            }
            assert await forget_all(storage) == 0
            assert await stored(store) == timer
            await store.cancel(NAME, version=None, retention_ms=0)
            assert await forget_all(storage) == 1
            assert await no_key_is_left(redis)
            assert await store.is_archived(NAME)
            await redis.flushall()


async def test_a_name_twice_in_a_batch(redis: Redis, store: Store, partitions: Partitions) -> None:
    """The first one is stored, the others are judged by it, wherever their ordering keys lead."""
    for first in every_key(partitions):
        for second in every_key(partitions):
            answers = await store.create(
                [keyed(first, 1), keyed(second, 2), keyed(second, 3, IfExists.KEEP), new_timer("b")]
            )
            refused = Creation.CONFLICT if first == second else Creation.OTHER_LANE
            assert [each.creation for each in answers] == [
                Creation.CREATED,
                refused,
                Creation.KEPT,
                Creation.CREATED,
            ]
            assert [each.due_ms for each in answers] == [T0_MS + 1] * 3 + [T0_MS]
            timer = await stored(store)
            assert (timer.spec.ordering_key, timer.due_ms) == (first, T0_MS + 1)
            await redis.flushall()


# --- crashes ---


@several
async def test_a_crash_between_pointer_and_record(
    redis: Redis,
    storage: Storage,
    partitions: Partitions,
    time: FrozenTime,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is there. Another ordering key is refused until the pointer is dropped: for 60 s."""
    store, place = storage.store, away_from_home(partitions)
    with monkeypatch.context() as patch:
        patch.setattr(store._creator, "_create", Crash(store._creator, "_create", is_after=False))
        with pytest.raises(UnavailableError):
            await create(store, keyed(lane_to(partitions, place)))
    assert await pointed_to(redis, partitions) == place
    assert await store.get(NAME) is None
    assert not await store.is_archived(NAME)
    for if_exists in (IfExists.CONFLICT, IfExists.KEEP):
        assert await create(store, keyed(None, if_exists=if_exists)) == Created(Creation.OTHER_LANE, 0)
    time.advance(POINTER_CHECK_MS - 1)
    assert await check_all_pointers(storage) == 0
    assert await pointed_to(redis, partitions) == place
    time.advance(1)
    assert await check_all_pointers(storage) == 1
    assert await no_key_is_left(redis)
    assert (await create(store, keyed(None))).creation is Creation.CREATED


@several
async def test_the_same_timer_again_after_a_crash(
    redis: Redis,
    storage: Storage,
    partitions: Partitions,
    time: FrozenTime,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It gets the pointer that is there, which then stays."""
    store, timer = storage.store, keyed(lane_to(partitions, away_from_home(partitions)))
    with monkeypatch.context() as patch:
        patch.setattr(store._creator, "_create", Crash(store._creator, "_create", is_after=False))
        with pytest.raises(UnavailableError):
            await create(store, timer)
    time.advance(POINTER_CHECK_MS)
    assert (await create(store, timer)).creation is Creation.CREATED
    for looked_at in (0, 1, 0):
        assert await check_all_pointers(storage) == looked_at
        time.advance(POINTER_CHECK_MS)
    assert (await stored(store)).spec == timer.spec
    assert await pointed_to(redis, partitions) is not None


@several
@pytest.mark.parametrize("is_after", [False, True])
@pytest.mark.parametrize("step", ["_expired", "_bury", "_forget", "_have_records", "_settle_pointers"])
async def test_a_crash_while_forgetting(
    redis: Redis,
    storage: Storage,
    time: FrozenTime,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    *,
    is_after: bool,
) -> None:
    """The id is remembered all the time, and in the end nothing is left but that."""
    store, forgets, partitions = storage.store, storage.retention, storage.partitions
    await create(store, keyed(lane_to(partitions, away_from_home(partitions))))
    await store.cancel(NAME, version=None, retention_ms=5)
    time.advance(5)
    with monkeypatch.context() as patch:
        patch.setattr(forgets, step, Crash(forgets, step, is_after=is_after))
        with suppress(UnavailableError):
            await forget_all(storage)
    assert await store.get(NAME) is None
    assert await store.is_archived(NAME)
    await forget_all(storage)
    assert await store.is_archived(NAME)
    time.advance(POINTER_CHECK_MS)
    await check_all_pointers(storage)
    assert await no_key_is_left(redis)
    assert await store.is_archived(NAME)
    assert (await create(store, keyed(None))).creation is Creation.CREATED


@several
async def test_a_timer_that_was_posted_twice(
    redis: Redis, storage: Storage, partitions: Partitions, time: FrozenTime
) -> None:
    """Its pointer might be that of a third one that is being stored, so it goes a minute after the record."""
    store, timer = storage.store, keyed(lane_to(partitions, away_from_home(partitions)))
    assert [(await create(store, timer)).creation for _ in range(2)] == [Creation.CREATED, Creation.EXISTS]
    await store.cancel(NAME, version=None, retention_ms=0)
    assert await forget_all(storage) == 1
    assert await pointed_to(redis, partitions) is not None
    assert await store.get(NAME) is None
    assert await store.is_archived(NAME)
    time.advance(POINTER_CHECK_MS)
    await check_all_pointers(storage)
    assert await no_key_is_left(redis)


@several
async def test_any_number_of_pointers_is_checked(
    storage: Storage,
    partitions: Partitions,
    everywhere: Everywhere,
    time: FrozenTime,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A few at a time, in one pass of the relay; those with a record stay, and are not looked at again."""
    monkeypatch.setattr(retention, "MAX_POINTERS", 3)
    names = [f"t{number}" for number in range(40)]
    await storage.store.create([new_timer(name, ordering_key=lane_to(partitions, 0)) for name in names])
    count = len([name for name in names if partitions.home_of(TimerName("default", name))])
    time.advance(POINTER_CHECK_MS)
    assert await everywhere.zcard("pointers") == count > 3 * partitions.count
    assert await check_all_pointers(storage) == count
    assert not await everywhere.exists("pointers")
    assert all([await storage.store.get(TimerName("default", name)) for name in names])


# --- races ---


@several
@pytest.mark.parametrize("order", interleavings("BFES", "PC"))
async def test_a_timer_created_while_the_last_one_is_forgotten(
    redis: Redis, storage: Storage, partitions: Partitions, time: FrozenTime, order: str
) -> None:
    """It keeps its pointer, whichever of the steps come first.

    Bury, forget, look for the record, settle the pointer; point and create.
    """
    store, forgets, place = storage.store, storage.retention, away_from_home(partitions)
    timer = keyed(lane_to(partitions, place), 70)
    await create(store, timer)
    await store.cancel(NAME, version=None, retention_ms=5)
    time.advance(5)
    turns = InTurn(order)
    for step, method in zip("BFES", ("_bury", "_forget", "_have_records", "_settle_pointers"), strict=True):
        turns.gate(forgets, method, step)
    turns.gate(store._pointers, "_point", "P")
    turns.gate(store._creator, "_create", "C")
    created, _ = await asyncio.gather(create(store, timer), forgets.forget_these(place, [b"default:a"]))
    assert created == Created(Creation.CREATED, time.now_ms + 70)
    await is_there_for_good(Storage(redis, archive_error_rate=1e-6, partitions=partitions, now=time), time)


@several
@pytest.mark.parametrize("order", ["PKC", *(f"K{order}" for order in interleavings("ES", "PC"))])
async def test_a_timer_created_while_pointers_are_checked(
    redis: Redis, storage: Storage, partitions: Partitions, time: FrozenTime, order: str
) -> None:
    """It keeps the pointer that another one has left, or gets a new one.

    Look for pointers, look for the record, settle the pointer; point and create.
    """
    store, forgets, home = storage.store, storage.retention, partitions.home_of(NAME)
    timer = keyed(lane_to(partitions, away_from_home(partitions)), 70)
    await create(store, timer)
    await redis.delete(partitions.store_keys[away_from_home(partitions)].records + "default:a")
    time.advance(POINTER_CHECK_MS)
    turns = InTurn(order)
    for step, method in zip("KES", ("_pointers", "_have_records", "_settle_pointers"), strict=True):
        turns.gate(forgets, method, step)
    turns.gate(store._pointers, "_point", "P")
    turns.gate(store._creator, "_create", "C")
    created, _ = await asyncio.gather(create(store, timer), forgets.check_pointers(home))
    assert created.creation is Creation.CREATED
    await is_there_for_good(Storage(redis, archive_error_rate=1e-6, partitions=partitions, now=time), time)


@several
async def test_a_timer_is_forgotten_while_its_pointer_is_checked(
    redis: Redis, storage: Storage, time: FrozenTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half-way: whoever has seen its record before that leaves the next check of the pointer alone."""
    store, forgets, partitions = storage.store, storage.retention, storage.partitions
    await create(store, keyed(lane_to(partitions, away_from_home(partitions))))
    await store.cancel(NAME, version=None, retention_ms=0)
    time.advance(POINTER_CHECK_MS)
    have_records = forgets._have_records

    async def and_forget(places: list[tuple[bytes, int]]) -> list[bool]:
        answer = await have_records(places)
        patch.setattr(forgets, "_have_records", Crash(forgets, "_have_records", is_after=False))
        with pytest.raises(UnavailableError):
            await forget_all(storage)
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(forgets, "_have_records", and_forget)
        assert await check_all_pointers(storage) == 1
    time.advance(POINTER_CHECK_MS)
    await check_all_pointers(storage)
    assert await no_key_is_left(redis)


async def is_there_for_good(storage: Storage, time: FrozenTime) -> None:
    """The timer NAME is found and begins, now and when pointers were checked."""
    store = storage.store
    for _ in range(3):
        timer = await stored(store)
        assert timer.state is State.SCHEDULED
        time.advance(POINTER_CHECK_MS)
        await check_all_pointers(storage)
        await forget_all(storage)
    await begin_one(store, wake_up_of(storage.partitions, NAME, timer.spec.ordering_key))
    assert (await stored(store)).state is State.RUNNING


# --- callbacks ---


async def test_the_callback_of_a_timer_with_an_ordering_key(
    redis: Redis, storage: Storage, partitions: Partitions, time: FrozenTime
) -> None:
    """It is stored with the end of its timer, wherever that is, and found by its own name."""
    store = storage.store
    for key in every_key(partitions):
        await create(store, keyed(key))
        wake_up = wake_up_of(partitions, NAME, key)
        begun = await begin_one(store, wake_up)
        assert (await store.finish([ended_with_callback(begun)])).counted == [True]
        callback = await stored(store, CALLBACK)
        assert (callback.state, callback.spec.body) == (State.SCHEDULED, "it ended")
        assert await storage.lookup.facts(CALLBACK) is not None
        begun = await begin_one(store, replace(wake_up, name=CALLBACK))
        await store.finish([finish_of(begun, Outcome.DELIVERED, 0)])
        time.advance(HOUR_MS)
        assert await forget_all(storage) == 2
        assert await store.is_archived(CALLBACK)
        assert await no_key_is_left(redis)
        await redis.flushall()


@several
async def test_a_callback_whose_timer_ended_otherwise(
    redis: Redis, storage: Storage, partitions: Partitions, time: FrozenTime
) -> None:
    """The end that comes too late leaves nothing."""
    store, key = storage.store, lane_to(partitions, away_from_home(partitions))
    await create(store, keyed(key))
    begun = await begin_one(store, wake_up_of(partitions, NAME, key))
    await store.hand_back([(begun, False)])
    assert (await store.finish([ended_with_callback(begun)])).counted == [False]
    assert await store.get(CALLBACK) is None
    time.advance(POINTER_CHECK_MS)
    await check_all_pointers(storage)
    assert await pointed_to(redis, partitions, CALLBACK) is None
    assert (await stored(store)).spec.ordering_key == key


async def test_on_a_full_server_timers_with_callbacks_end(
    redis: Redis, storage: Storage, partitions: Partitions
) -> None:
    """But new timers are refused, and leave no pointer."""
    store = storage.store
    key, refused = (lane_to(partitions, away_from_home(partitions), number) for number in range(2))
    await create(store, keyed(key))
    begun = await begin_one(store, wake_up_of(partitions, NAME, key))
    await redis.config_set("maxmemory", "1")
    try:
        with pytest.raises(UnavailableError, match="maxmemory"):
            await store.create([new_timer(f"t{number}", ordering_key=refused) for number in range(20)])
        assert (await store.finish([ended_with_callback(begun)])).counted == [True]
    finally:
        await redis.config_set("maxmemory", "0")
    assert (await stored(store, CALLBACK)).state is State.SCHEDULED
    assert not await redis.keys("*default:t*")


def ended_with_callback(begun: Begun) -> Finish:
    """Its end, which stores CALLBACK."""
    callback = replace(new_timer(CALLBACK.id, body="it ended"), name=CALLBACK)
    return Finish(begun, Attempt(begun.started_ms, 0, 200), End(State.DONE, HOUR_MS, callback))


# --- a process that stalls between pointer and record ---


class Stall:
    """Stands in for a script of `owner`: its calls come so late that heal has dropped the pointer."""

    def __init__(
        self, storage: Storage, owner: object, script: str, time: FrozenTime, *, times: int = 1
    ) -> None:
        self._storage, self._time = storage, time
        self._script = getattr(owner, script)
        self.times_left = times

    async def __call__(self, partition: int, *args: Any) -> Any:
        """Only the first calls stall."""
        if self.times_left:
            self.times_left -= 1
            self._time.advance(POINTER_CHECK_MS + 1)
            await check_all_pointers(self._storage)
        return await self._script(partition, self._time(), *args[1:])


@several
@pytest.mark.parametrize("times", [1, 2])
async def test_a_create_that_stalls_after_its_pointer(
    storage: Storage, time: FrozenTime, partitions: Partitions, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """The pointer is written again, so the timer is found by name. So is its neighbour at home."""
    store = storage.store
    creator = store._creator
    monkeypatch.setattr(creator, "_create", Stall(storage, creator, "_create", time, times=times))
    key = lane_to(partitions, away_from_home(partitions))
    answers = await store.create([keyed(key), new_timer("neighbour")])
    assert [answer.creation for answer in answers] == [Creation.CREATED] * 2
    assert (await stored(store)).spec.ordering_key == key
    await stored(store, TimerName("default", "neighbour"))
    await check_all_pointers(storage)
    assert (await stored(store)).spec.ordering_key == key


@several
async def test_a_create_that_always_stalls(
    storage: Storage, time: FrozenTime, partitions: Partitions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the servers' clocks differ: it does not try for ever."""
    store = storage.store
    stall = Stall(storage, store._creator, "_create", time, times=POINTS)
    monkeypatch.setattr(store._creator, "_create", stall)
    created = await create(store, keyed(lane_to(partitions, away_from_home(partitions))))
    assert (created.creation, stall.times_left) == (Creation.CREATED, 0)


@several
async def test_a_stalled_create_whose_name_is_taken_meanwhile(
    storage: Storage, time: FrozenTime, partitions: Partitions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a timer at home: there are never two timers of one name."""
    store = storage.store
    stall = Stall(storage, store._creator, "_create", time)
    monkeypatch.setattr(store._creator, "_create", stall)
    real = stall._script

    async def taken_meanwhile(partition: int, *args: Any) -> Any:
        monkeypatch.setattr(store._creator, "_create", real)
        time.advance(POINTER_CHECK_MS + 1)
        await check_all_pointers(storage)
        assert (await create(store, keyed(None))).creation is Creation.CREATED
        return await real(partition, time(), *args[1:])

    monkeypatch.setattr(store._creator, "_create", taken_meanwhile)
    created = await create(store, keyed(lane_to(partitions, away_from_home(partitions))))
    assert created.creation is Creation.OTHER_LANE
    assert (await stored(store)).spec.ordering_key is None


@several
@pytest.mark.parametrize("times", [1, POINTS])
async def test_a_finish_that_stalls_after_its_callback_s_pointer(
    storage: Storage, time: FrozenTime, partitions: Partitions, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """The callback is found by name; the attempt ends once."""
    store = storage.store
    key = lane_to(partitions, away_from_home(partitions))
    await create(store, keyed(key))
    begun = await begin_one(store, wake_up_of(partitions, NAME, key))
    leases = store._leases
    monkeypatch.setattr(leases, "_finish", Stall(storage, leases, "_finish", time, times=times))
    callback = NewTimer(CALLBACK, replace_in_spec(new_timer("x").spec, schedule=Instant(T0_MS)))
    plain = finish_of(begun, Outcome.DELIVERED)
    finished = await store.finish([replace(plain, then=End(State.DONE, 10 * HOUR_MS, callback))])
    assert finished.counted == [True]
    assert (await stored(store)).state is State.DONE
    if times < POINTS:
        await check_all_pointers(storage)
        assert (await stored(store, CALLBACK)).state is State.SCHEDULED
