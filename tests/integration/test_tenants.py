"""One tenant's backlog costs another nothing: neither time, nor a place in the queue, nor bytes."""

import asyncio
from collections import Counter
from dataclasses import replace

import pytest
from redis.asyncio import Redis

from httpqueue.relay.relay import GRACE_MS, Relay
from httpqueue.storage.embedded import EmbeddedValkey
from httpqueue.storage.keys import wake_up_id
from httpqueue.storage.lookup import Window
from httpqueue.storage.queue import Queue
from httpqueue.storage.storage import Storage
from httpqueue.storage.timers import Store
from httpqueue.storage.wake_ups import WakeUps
from httpqueue.timers.commands import Begun, NewTimer, WakeUp
from httpqueue.timers.names import TimerName
from httpqueue.timers.policies import ApplicationPolicy
from httpqueue.timers.schedule import Instant
from httpqueue.timers.timer import State
from httpqueue.webhooks.outcome import Outcome
from tests.support.frozen import (
    HOUR_MS,
    T0_MS,
    FrozenTime,
    begin,
    claim,
    finish_of,
    new_timer,
    storage_of,
    wake_up,
)
from tests.support.keys import PARTITIONS, Everywhere, place_of
from tests.support.round_trips import RoundTrips

MANY = 20_000
WINDOW = 100
EVERY = frozenset(State) - {State.ARCHIVED}


def of(application: str, timer_id: str, delay_ms: int = 0, body: str | None = None) -> NewTimer:
    """A timer of that application."""
    return replace(new_timer(timer_id, delay_ms, body=body), name=TimerName(application, timer_id))


async def create(store: Store, application: str, count: int) -> None:
    """So many that are due now."""
    for first in range(0, count, 1_000):
        await store.create([of(application, f"t{number}") for number in range(first, first + 1_000)])


def small_relay(storage: Storage, queue: Queue) -> Relay:
    """One whose queue holds some WINDOW wake-ups of each application."""
    storage.wake_ups = WakeUps(storage._redis, partitions=storage.partitions, now=storage._now, window=WINDOW)
    return Relay(storage=storage, queue=queue, horizon_ms=HOUR_MS, batch_size=500)


async def pause(storage: Storage, application: str) -> None:
    """Its timers wait from now on."""
    await storage.policies.update_application(application, lambda _: ApplicationPolicy(paused=True))


async def commands(redis: Redis) -> Counter[str]:
    """How often the server was asked to do what, by scripts, too; without greetings of new connections."""
    stats = await redis.info("commandstats")
    calls = {name.removeprefix("cmdstat_"): int(each["calls"]) for name, each in stats.items()}
    return Counter({name: count for name, count in calls.items() if not name.startswith("client")})


# --- lists ---


async def test_a_list_costs_what_its_own_timers_cost(
    redis: Redis,
    frozen_store: Store,
    time: FrozenTime,
    valkey_server: EmbeddedValkey,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One round trip to each partition, and not one look at the 20,000 of somebody else."""
    await frozen_store.create([of("small", f"t{number}") for number in range(10)])
    async with Redis.from_url(valkey_server.url) as client:
        lookup = Storage(client, archive_error_rate=1e-6, partitions=PARTITIONS, now=time).lookup
        costs = []
        for _ in range(2):
            await lookup.list(Window(EVERY, "small"), None, look_at=100)
            before, trips = await commands(redis), RoundTrips(monkeypatch, client)
            page = await lookup.list(Window(EVERY, "small"), None, look_at=100)
            assert trips.count == PARTITIONS.count
            costs.append(await commands(redis) - before)
            assert (len(page.timers), page.next) == (10, None)
            await create(frozen_store, "big", MANY)
    assert costs[0] == costs[1]
    assert costs[1]["get"] == 10


async def test_a_page_is_bounded_in_bytes(frozen_storage: Storage, frozen_store: Store) -> None:
    """Timers of 500 KB: each page ends after some 4 MB of a partition, and none is left out."""
    names = [f"t{number}" for number in range(30)]
    for first in range(0, 30, 10):
        await frozen_store.create([of("big", name, body="x" * 500_000) for name in names[first : first + 10]])
    seen: list[str] = []
    position = None
    while True:
        page = await frozen_storage.lookup.list(Window(EVERY, "big"), position, look_at=1_000)
        assert 1 <= len(page.timers) <= 9 * PARTITIONS.count
        seen += [timer.name.id for timer in page.timers]
        position = page.next
        if position is None:
            break
    assert seen == sorted(names)


# --- the queue ---


async def drained(relay: Relay, redis: Redis) -> None:
    """All that the outbox holds was acted on."""
    while await Everywhere(redis).xlen():
        await relay.drain()


async def test_the_queue_holds_little_of_a_great_backlog(
    frozen_storage: Storage, frozen_queue: Queue, redis: Redis
) -> None:
    """20,000 due at once all get there as it empties; another tenant's is put within its own turn."""
    store = frozen_storage.store
    relay = small_relay(frozen_storage, frozen_queue)
    await create(store, "big", MANY)
    done: set[str] = set()
    rounds = 0
    everywhere = Everywhere(redis)
    of_small = WakeUp(TimerName("small", "a"), 0, partition=place_of("a", application="small"))
    while len(done) < MANY:
        await drained(relay, redis)
        await relay.promote()
        assert 0 < await everywhere.zcard("queue") <= 3 * WINDOW * PARTITIONS.count
        if rounds == 3:
            await store.create([of("small", "a")])
            await drained(relay, redis)
            assert wake_up_id(of_small) in await everywhere.zset("queue")
        answers = await begin(store, await claim(frozen_queue, 2 * WINDOW))
        begun = [answer for answer in answers if isinstance(answer, Begun)]
        assert len(begun) == len(answers)
        await store.finish([finish_of(each, Outcome.DELIVERED) for each in begun])
        done |= {each.wake_up.name.id for each in begun if each.wake_up.name.application == "big"}
        rounds += 1
    assert await everywhere.zcard("queue") == 0


async def test_two_relays_hand_each_wake_up_out_once(frozen_store: Store) -> None:
    """However they take turns."""
    await create(frozen_store, "big", 2_000)
    await create(frozen_store, "other", 1_000)

    async def top_up() -> list[WakeUp]:
        wake_ups = storage_of(frozen_store).wake_ups
        found: list[WakeUp] = []
        for partition in PARTITIONS.all:
            start: int | None = 0
            while start is not None:
                page = await wake_ups.top_up(partition, start, horizon_ms=0, limit=70)
                found += page.wake_ups
                start = page.next
        return found

    one, other = await asyncio.gather(top_up(), top_up())
    found = Counter((each.name, each.generation) for each in one + other)
    assert len(found) == 3_000
    assert set(found.values()) == {1}
    assert one
    assert other


async def test_past_due_by_decades_goes_before_nobody(
    frozen_storage: Storage, frozen_queue: Queue, redis: Redis
) -> None:
    """A fire_at of 1970 is put at now, behind what is due already, by either way into the queue."""
    store = frozen_storage.store
    relay = Relay(storage=frozen_storage, queue=frozen_queue, horizon_ms=HOUR_MS, batch_size=500)
    everywhere = Everywhere(redis)
    for name, way in (("drained", relay.drain), ("promoted", relay.promote)):
        timer = new_timer(name)
        old = replace(timer, spec=type(timer.spec)(timer.spec.url, Instant(1)))
        [created] = await store.create([old])
        assert created.due_ms == 1
        if name == "promoted":
            await everywhere.delete("outbox")
        await way()
        assert (await everywhere.zset("queue"))[wake_up_id(wake_up(name))] == T0_MS


# --- what was lost ---


@pytest.fixture
async def lonely(frozen_storage: Storage, frozen_queue: Queue) -> Relay:
    """One timer of "small" whose wake-up is in the queue, and a relay."""
    relay = Relay(storage=frozen_storage, queue=frozen_queue, horizon_ms=HOUR_MS, batch_size=500)
    await frozen_storage.store.create([of("small", "a")])
    await relay.promote()
    return relay


async def test_a_lost_wake_up_is_found_beside_a_great_paused_backlog(
    frozen_storage: Storage, frozen_queue: Queue, redis: Redis, time: FrozenTime, lonely: Relay
) -> None:
    """By one heal, which does not look at those that wait."""
    await create(frozen_storage.store, "big", MANY)
    await lonely.promote()  # some of them are in the queue when the pause begins
    await pause(frozen_storage, "big")
    await Everywhere(redis).delete("queue")
    time.advance(GRACE_MS)
    before = await commands(redis)
    assert await lonely.heal() == 1
    assert sum((await commands(redis) - before).values()) < 100 * PARTITIONS.count
    assert [each.name for each in await claim(frozen_queue)] == [TimerName("small", "a")]
