"""What partitions have together: their number, counts, lists and policies; and a share of the timers each."""

import asyncio
from dataclasses import replace
from typing import Final

import orjson
import pytest
from arq.jobs import serialize_job
from msgspec.structs import replace as with_values
from redis.asyncio import Redis

from httpqueue.errors import StartError, UnavailableError
from httpqueue.storage.keys import ARQ_JOB_PREFIX
from httpqueue.storage.lookup import Window
from httpqueue.storage.partitions import MAX_PARTITIONS, Partitions, at_once, by_partition
from httpqueue.storage.queue import JOB_FUNCTION, Queue
from httpqueue.storage.storage import Storage
from httpqueue.storage.timers import Store
from httpqueue.storage.wake_ups import Place
from httpqueue.timers.commands import Begun, NewTimer, Position, Refusal, Refused, WakeUp
from httpqueue.timers.names import TimerName
from httpqueue.timers.policies import ApplicationPolicy, DestinationPolicy
from httpqueue.timers.timer import State
from tests.support.frozen import HOUR_MS, T0_MS, FrozenTime, begin, new_timer
from tests.support.keys import SECRETS, Everywhere

EVERY: Final = frozenset({State.SCHEDULED, State.RUNNING, State.CANCELLED})
NAMES: Final = [f"t{number:02}" for number in range(60)]
"""Enough for all partitions of every count to have some."""


def timers(application: str = "default") -> list[NewTimer]:
    """NAMES, three at a time due a second later."""
    return [
        replace(new_timer(name, number // 3 * 1_000), name=TimerName(application, name))
        for number, name in enumerate(NAMES)
    ]


async def create(storage: Storage, *applications: str) -> list[WakeUp]:
    """Store `timers` of these applications; returns their wake-ups."""
    new = [timer for application in applications for timer in timers(application)]
    created = await storage.store.create(new)
    home_of = storage.partitions.home_of
    return [
        WakeUp(timer.name, 0, each.due_ms, home_of(timer.name))
        for timer, each in zip(new, created, strict=True)
    ]


# --- where a timer is ---


@pytest.mark.parametrize(
    ("timer_id", "key", "place"), [("a", None, 3), ("a~callback-0-1", None, 3), ("b", None, 1), ("b", "a", 3)]
)
def test_a_timer_is_always_in_the_same_partition(timer_id: str, key: str | None, place: int) -> None:
    """Whatever version of httpqueue asks: these figures never change."""
    assert Partitions(7).place_of(TimerName("default", timer_id), key) == place


def test_an_ordering_key_belongs_to_its_application() -> None:
    """The lanes of one key are spread over partitions, as its timers are."""
    partitions = Partitions(MAX_PARTITIONS)
    names = [TimerName(f"application-{number}", "a") for number in range(50)]
    assert len({partitions.place_of(name, "key") for name in names}) > 40
    assert len({partitions.home_of(name) for name in names}) > 40


async def test_every_partition_is_used(redis: Redis, storage: Storage, partitions: Partitions) -> None:
    """Each has records, an index and an outbox of its own timers, and hands out their wake-ups, each once."""
    expected = await create(storage, "default")
    found: list[WakeUp] = []
    for partition, keys in enumerate(partitions.store_keys):
        own = [each for each in expected if each.partition == partition]
        assert await redis.zcard(keys.due + "default") == await redis.xlen(keys.outbox) == len(own) > 0
        assert len(await redis.keys(keys.records.replace("{", r"\{") + "default*")) == len(own)
        top_up = await storage.wake_ups.top_up(partition, 0, horizon_ms=HOUR_MS, limit=100)
        assert sorted(top_up.wake_ups, key=str) == sorted(own, key=str)
        found += top_up.wake_ups
    assert len(found) == len(expected)


async def test_what_is_lost_is_found_in_every_partition(
    storage: Storage, partitions: Partitions, time: FrozenTime
) -> None:
    """Wake-ups that are overdue, and workers."""
    expected = await create(storage, "default")
    for partition in partitions.all:
        await storage.wake_ups.top_up(partition, 0, horizon_ms=HOUR_MS, limit=100)
    time.advance(HOUR_MS)
    overdue: list[WakeUp] = []
    for partition in partitions.all:
        found, _ = await storage.wake_ups.overdue(partition, Place(), by_ms=0, limit=100)
        overdue += found
    assert {each.name: each for each in overdue} == {each.name: each for each in expected}
    begun = await begin(storage.store, overdue)
    assert [each.wake_up for each in begun if isinstance(each, Begun)] == overdue
    lost: list[WakeUp] = []
    for _ in range(6):  # while the store is up
        time.advance(4_000)
        for partition in partitions.all:
            lost += (await storage.wake_ups.heal(partition, limit=100)).workers
    assert {each.name: each for each in lost} == {each.name: each for each in expected}


# --- their number ---


async def test_the_number_is_fixed_when_the_store_is_first_used(
    redis: Redis, storage: Storage, partitions: Partitions
) -> None:
    """Every process must have the same one: the message names the setting and the value that would do."""
    await storage.check(allow_unsafe=False)
    await storage.check(allow_unsafe=False)
    for other in {1, 2, 3, 8} - {partitions.count}:
        wrong = Storage(redis, archive_error_rate=1e-6, partitions=Partitions(other))
        expected = f"setting `partitions`: .* first used with {partitions.count}, .* use the same value"
        with pytest.raises(StartError, match=expected):
            await wrong.check(allow_unsafe=False)
    await storage.check(allow_unsafe=False)


async def test_a_wake_up_of_a_partition_that_does_not_exist(
    queue: Queue, partitions: Partitions, time: FrozenTime
) -> None:
    """It was put there with another number of them: it is unreadable, and its neighbours are claimed."""
    foreign = [f"{{{number}}}default:a:0" for number in (partitions.count, 99_999)]
    job = serialize_job(JOB_FUNCTION, (foreign[0],), {}, None, 0, serializer=orjson.dumps)
    await queue.redis.set(ARQ_JOB_PREFIX + "named", job)
    foreign.append("named")
    await queue.redis.zadd(partitions.queue_keys[0].queue, dict.fromkeys(foreign, 1))
    queue = Queue(queue.redis, partitions=partitions, now=time)
    own = WakeUp(TimerName("default", "a"), 0, T0_MS, 0)
    await queue.put([own])
    claim = await queue.claim(0, 10)
    assert claim.wake_ups == [replace(own, due_ms=0)]
    assert sorted(claim.unreadable) == sorted(repr(each.encode()) for each in foreign)


# --- merged ---


async def test_counts_are_added_up(storage: Storage) -> None:
    """Of each application, whatever partitions its timers are in."""
    await create(storage, "default", "shop")
    for name in NAMES[:7]:
        await storage.store.cancel(TimerName("shop", name), version=None, retention_ms=HOUR_MS)
    default, shop = await storage.policies.applications()
    assert (default.name, default.counts) == ("default", {State.SCHEDULED: 60})
    assert (shop.name, shop.counts) == ("shop", {State.SCHEDULED: 53, State.CANCELLED: 7})


@pytest.mark.parametrize("look_at", [1, 2, 7, 1_000])
@pytest.mark.parametrize("applications", [("default",), ("default", "shop")])
@pytest.mark.parametrize("states", [EVERY, {State.RUNNING}, {State.CANCELLED}])
async def test_pages_are_in_order(
    storage: Storage, applications: tuple[str, ...], look_at: int, states: frozenset[State], time: FrozenTime
) -> None:
    """By due time, application and id over all partitions; each timer once, and every page gets on."""
    wake_ups = await create(storage, *applications)
    time.advance(HOUR_MS)
    in_state = {State.RUNNING: wake_ups[::5], State.CANCELLED: wake_ups[3::5], State.SCHEDULED: wake_ups}
    await begin(storage.store, in_state[State.RUNNING])
    for each in in_state[State.CANCELLED]:
        await storage.store.cancel(each.name, version=None, retention_ms=HOUR_MS)
    expected = sorted({(each.due_ms, each.name) for state in states for each in in_state[state]})
    application = None if len(applications) > 1 else "default"
    for from_ms, to_ms in ((0, None), (T0_MS + 3_000, T0_MS + 9_000)):
        found: list[tuple[int, TimerName]] = []
        position: Position | None = None
        while True:
            page = await storage.lookup.list(
                Window(frozenset(states), application, from_ms, to_ms), position, look_at=look_at
            )
            assert len(page.timers) <= look_at
            found += [(timer.due_ms, timer.name) for timer in page.timers]
            if page.next is None:
                break
            assert position is None or (position.due_ms, position.name) < (page.next.due_ms, page.next.name)
            position = page.next
        assert found == [each for each in expected if from_ms <= each[0] <= (to_ms or each[0])]


# --- policies ---


async def test_every_partition_has_a_copy_of_a_policy(
    storage: Storage, everywhere: Everywhere, partitions: Partitions, redis: Redis
) -> None:
    """The latest one, whoever wrote it; none when the application has the default one."""
    other = Storage(redis, archive_error_rate=1e-6, partitions=partitions, secrets=SECRETS)
    keys = everywhere.keys("applications")
    await asyncio.gather(
        *(
            each.policies.update_application("shop", lambda policy: with_values(policy, secrets=("s" * 32,)))
            for each in (storage, other)
        ),
        *(
            each.policies.update_application("shop", lambda policy: with_values(policy, paused=True))
            for each in (storage, other)
        ),
    )
    copies = {await redis.hget(key, "shop") for key in keys}  # type: ignore[misc] # sync or async
    assert len(copies) == 1
    policy = await other.policies.application("shop")
    assert policy.paused
    assert [SECRETS.open("shop", secret) for secret in policy.secrets] == ["s" * 32]
    await storage.policies.update_application("shop", lambda _: ApplicationPolicy())
    assert not await everywhere.exists("applications")


async def test_a_pause_holds_in_every_partition(
    storage: Storage, everywhere: Everywhere, time: FrozenTime
) -> None:
    """And so does its end, which wakes all that waited."""
    wake_ups = await create(storage, "default")
    time.advance(HOUR_MS)
    await storage.policies.update_application("default", lambda policy: with_values(policy, paused=True))
    assert await begin(storage.store, wake_ups) == [Refused(each, Refusal.PAUSED) for each in wake_ups]
    assert await everywhere.zcard("lines", "default") == len(NAMES)
    await everywhere.delete("outbox")
    await storage.policies.update_application("default", lambda policy: with_values(policy, paused=False))
    assert await everywhere.xlen() == len(NAMES)
    assert not await everywhere.exists(("lines", "default"))
    assert all(isinstance(answer, Begun) for answer in await begin(storage.store, wake_ups))


async def test_the_rules_of_a_host_hold_in_every_partition(
    storage: Storage, everywhere: Everywhere, partitions: Partitions, time: FrozenTime
) -> None:
    """Each knows that there are some; the host has them."""
    wake_ups = await create(storage, "default")
    time.advance(HOUR_MS)
    await storage.policies.set_destination("receiver", DestinationPolicy(concurrency=1))
    expected = [Refused(each, Refusal.NEEDS_PERMIT, host="receiver") for each in wake_ups]
    assert await begin(storage.store, wake_ups) == expected
    assert (await storage.policies.destination("receiver")).policy == DestinationPolicy(concurrency=1)
    await storage.policies.set_destination("receiver", DestinationPolicy())
    assert not await everywhere.exists("limited")
    assert all(isinstance(answer, Begun) for answer in await begin(storage.store, wake_ups))
    assert len(everywhere.keys("limited")) == partitions.count


# --- the virtual clock ---


async def test_all_is_settled_when_every_partition_is(
    storage: Storage, store: Store, time: FrozenTime
) -> None:
    """The next thing to happen is the earliest of all."""
    pulse = await storage.lookup.pulse()
    assert (pulse.is_settled, pulse.next_ms) == (True, None)
    await store.create([new_timer(name, 1_000 + number) for number, name in enumerate(NAMES)])
    for partition in storage.partitions.all:
        assert not (await storage.lookup.pulse()).is_settled
        for entry in await storage.outbox.read(partition, "relay", limit=100):
            await storage.outbox.acknowledge(partition, [entry])
    pulse = await storage.lookup.pulse()
    assert (pulse.is_settled, pulse.next_ms) == (True, T0_MS + 1_000)
    time.advance(1_000)
    assert not (await storage.lookup.pulse()).is_settled


# --- calls in several partitions ---


async def test_answers_are_in_the_order_of_the_items() -> None:
    """Each partition is called once, with its own items in their order."""
    calls: dict[int, list[int]] = {}

    async def call(partition: int, items: object) -> list[str]:
        assert isinstance(items, list)
        calls[partition] = items
        return [f"{partition}:{item}" for item in items]

    answers = await by_partition([5, 3, 8, 6, 1], lambda item: item % 3, call)
    assert answers == ["2:5", "0:3", "2:8", "0:6", "1:1"]
    assert calls == {2: [5, 8], 0: [3, 6], 1: [1]}
    assert await by_partition([], lambda item: item, call) == []


async def test_an_error_waits_for_the_others() -> None:
    """Nothing goes on behind the back of whoever hears of it."""
    ended: list[str] = []
    may_end = asyncio.Event()

    async def nothing() -> None: ...

    async def slow() -> None:
        await may_end.wait()
        for _ in range(9):  # the loop goes round
            await asyncio.create_task(nothing())
        ended.append("slow")

    async def broken(name: str) -> None:
        ended.append(name)
        may_end.set()
        raise UnavailableError(name)

    with pytest.raises(UnavailableError, match="first"):
        await at_once([slow(), broken("first"), broken("second")])
    assert ended == ["first", "second", "slow"]
