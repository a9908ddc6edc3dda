"""The relay brings every wake-up into the queue in time, whatever was lost on the way."""

import asyncio
from collections.abc import AsyncIterator
from itertools import count
from typing import Any

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from httpqueue.clock import sleep
from httpqueue.errors import UnavailableError
from httpqueue.relay import relay
from httpqueue.relay.relay import GRACE_MS, Relay
from httpqueue.storage import keys
from httpqueue.storage.embedded import EmbeddedValkey
from httpqueue.storage.queue import Queue, open_queue
from httpqueue.storage.timers import Store
from httpqueue.timers.commands import Begun, OutboxEntry, Refusal, Refused
from tests.support.frozen import (
    HOUR_MS,
    LEASE_MS,
    T0_MS,
    FrozenTime,
    begin,
    begin_one,
    claim,
    closed_port,
    new_timer,
    pass_time,
    storage_of,
    wake_up,
)
from tests.support.keys import PARTITIONS, STORE, Everywhere, place_of

HORIZON_MS = 600_000
DAY_MS = 86_400_000


@pytest.fixture
async def far_queue(other_server: EmbeddedValkey, time: FrozenTime) -> AsyncIterator[Queue]:
    """A queue apart from the store, which can lose its data alone."""
    async with open_queue(other_server.url, partitions=PARTITIONS, now=time) as queue:
        await queue.redis.flushall()
        yield queue


@pytest.fixture
async def dead_queue() -> AsyncIterator[Queue]:
    """A queue whose server is away."""
    with closed_port() as port:
        async with open_queue(f"redis://127.0.0.1:{port}", partitions=PARTITIONS) as queue:
            yield queue


def make_relay(store: Store, queue: Queue, *, batch_size: int = 500) -> Relay:
    """With the default horizon of ten minutes."""
    return Relay(storage=storage_of(store), queue=queue, horizon_ms=HORIZON_MS, batch_size=batch_size)


async def queued(queue: Queue) -> dict[str, int]:
    """Timer's id -> when it is due, for all that is in the queue; they are of generation 0."""
    entries = await Everywhere(queue.redis).zset("queue")
    return {name.split(":")[1]: int(due_ms) for name, due_ms in entries.items()}


# --- drain ---


async def test_drain_puts_what_is_near(redis: Redis, frozen_store: Store, far_queue: Queue) -> None:
    """Up to the horizon; what is further ahead is left to the due index. All leave the outbox."""
    delays = {"now": 0, "soon": 1, "edge": HORIZON_MS, "far": HORIZON_MS + 1}
    await frozen_store.create([new_timer(name, delay_ms) for name, delay_ms in delays.items()])
    assert await make_relay(frozen_store, far_queue).drain() == 4
    assert await queued(far_queue) == {"now": T0_MS, "soon": T0_MS + 1, "edge": T0_MS + HORIZON_MS}
    assert await Everywhere(redis).xlen() == 0


async def test_a_timer_in_30_days_adds_no_key_to_the_queue(
    frozen_store: Store, far_queue: Queue, time: FrozenTime
) -> None:
    """Until the clock is in its horizon: then promote puts it."""
    await frozen_store.create([new_timer("a", 30 * DAY_MS)])
    rel = make_relay(frozen_store, far_queue)
    await rel.drain()
    assert await rel.promote() == await rel.heal() == await rel.forget() == 0
    assert await far_queue.redis.keys("arq:*") == []
    time.advance(30 * DAY_MS - HORIZON_MS - 1)
    assert await rel.promote() == 0
    time.advance(1)
    assert await rel.promote() == 1
    assert await queued(far_queue) == {"a": T0_MS + 30 * DAY_MS}


async def test_an_unreadable_outbox_entry_is_set_aside(
    redis: Redis, frozen_store: Store, far_queue: Queue
) -> None:
    """It is logged once, and the rest proceeds."""
    await frozen_store.create([new_timer("a")])
    await redis.xadd(STORE.outbox, {"timer": "?"})
    await frozen_store.create([new_timer("b")])
    with capture_logs() as logs:
        assert await make_relay(frozen_store, far_queue).drain() == 3
    assert logs == [{"event": "relay.unreadable", "log_level": "error", "count": 1}]
    assert sorted(await queued(far_queue)) == ["a", "b"]
    assert await Everywhere(redis).xlen() == 0
    assert await Everywhere(redis).xlen("outbox_dead") == 1


async def test_entries_wait_for_a_queue_that_is_away(
    redis: Redis, frozen_store: Store, far_queue: Queue, dead_queue: Queue
) -> None:
    """The pass fails; the next one relays the same entries."""
    await frozen_store.create([new_timer("a"), new_timer("b")])
    rel = make_relay(frozen_store, dead_queue)
    for _ in range(2):
        with pytest.raises(UnavailableError):
            await rel.drain()
    rel._queue = far_queue
    assert await rel.drain() == 2
    assert sorted(await queued(far_queue)) == ["a", "b"]
    assert await Everywhere(redis).xlen() == 0
    assert await rel.drain() == 0


async def test_what_a_dead_relay_had_read_is_adopted(
    redis: Redis,
    frozen_store: Store,
    far_queue: Queue,
    dead_queue: Queue,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """When it has been left long enough."""
    await frozen_store.create([new_timer("a"), new_timer("b")])
    with pytest.raises(UnavailableError):
        await make_relay(frozen_store, dead_queue).drain()
    rel = make_relay(frozen_store, far_queue)
    assert await rel.adopt() == 0
    monkeypatch.setattr(relay, "ADOPT_AFTER_MS", 0)
    assert await rel.adopt() == 2
    assert sorted(await queued(far_queue)) == ["a", "b"]
    assert await Everywhere(redis).xlen() == 0


async def test_many_relays_share_the_outbox(redis: Redis, frozen_store: Store, far_queue: Queue) -> None:
    """2,000 entries: each is relayed by one of four, and the outbox is empty."""
    await frozen_store.create([new_timer(f"t{number}", number) for number in range(2_000)])

    async def drain_all(rel: Relay) -> list[int]:
        counts = [await rel.drain()]
        while counts[-1]:
            counts.append(await rel.drain())
        return counts

    relays = [make_relay(frozen_store, far_queue, batch_size=100) for _ in range(4)]
    counts = await asyncio.gather(*(drain_all(rel) for rel in relays))
    assert sum(map(sum, counts)) == 2_000
    assert await queued(far_queue) == {f"t{number}": T0_MS + number for number in range(2_000)}
    assert await Everywhere(redis).xlen() == 0
    for outbox in Everywhere(redis).keys("outbox"):
        assert (await redis.xpending(outbox, keys.OUTBOX_GROUP))["pending"] == 0


# --- promote ---


async def test_promote_pages_through_the_horizon(frozen_store: Store, far_queue: Queue) -> None:
    """However many fall on one instant."""
    names = [f"t{number}" for number in range(10)]
    await frozen_store.create([new_timer(name, 50) for name in names])
    await frozen_store.create([new_timer("first"), new_timer("last", HORIZON_MS), new_timer("far", DAY_MS)])
    assert await make_relay(frozen_store, far_queue, batch_size=3).promote() == 12
    assert sorted(await queued(far_queue)) == ["first", "last", *names]


async def test_promote_goes_on_where_the_queue_went_away(
    frozen_store: Store, far_queue: Queue, dead_queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of the page that failed is missed."""
    await frozen_store.create([new_timer(f"t{number}", number) for number in range(5)])
    rel = make_relay(frozen_store, far_queue, batch_size=2)
    monkeypatch.setattr(dead_queue, "epochs", far_queue.epochs)
    rel._queue = dead_queue
    with pytest.raises(UnavailableError):
        await rel.promote()
    rel._queue = far_queue
    assert await rel.promote() == 5
    assert sorted(await queued(far_queue)) == ["t0", "t1", "t2", "t3", "t4"]


async def test_a_queue_that_lost_its_data_is_refilled(frozen_store: Store, far_queue: Queue) -> None:
    """With everything in the horizon, at once; otherwise promote does nothing twice."""
    await frozen_store.create([new_timer(f"t{number}", number) for number in range(5)])
    rel = make_relay(frozen_store, far_queue, batch_size=2)
    assert await rel.promote() == 5
    before = await queued(far_queue)
    assert await rel.promote() == 0
    await far_queue.redis.flushall()
    with capture_logs() as logs:
        assert await rel.promote() == 5
    assert [entry["event"] for entry in logs] == ["relay.refill"] * PARTITIONS.count
    assert await queued(far_queue) == before


# --- heal ---


async def test_heal_wakes_a_timer_whose_worker_died_before_begin(
    frozen_store: Store, far_queue: Queue, time: FrozenTime
) -> None:
    """When it is overdue by the grace time, not before."""
    await frozen_store.create([new_timer("a")])
    rel = make_relay(frozen_store, far_queue)
    await rel.drain()
    assert await rel.promote() == 0  # it is there
    assert len(await claim(far_queue, 1)) == 1
    time.advance(GRACE_MS - 1)
    assert await rel.heal() == 0
    time.advance(1)
    with capture_logs() as logs:
        assert await rel.heal() == 1
    assert logs == [{"event": "relay.heal", "log_level": "warning", "count": 1}]
    [again] = await claim(far_queue, 1)
    [begun] = await begin(frozen_store, [again])
    assert isinstance(begun, Begun)


async def test_heal_wakes_a_timer_that_runs_past_its_lease(
    frozen_store: Store, far_queue: Queue, time: FrozenTime
) -> None:
    """Another worker makes its attempt."""
    await frozen_store.create([new_timer("a")])
    await begin(frozen_store, [wake_up("a")])
    rel = make_relay(frozen_store, far_queue)
    await pass_time(frozen_store, time, LEASE_MS - 1)
    assert await rel.heal() == 0
    time.advance(1)
    assert await rel.heal() == 1
    time.advance(1)
    [again] = await claim(far_queue, 1)
    [begun] = await begin(frozen_store, [again])
    assert isinstance(begun, Begun)
    assert (begun.attempt, begun.lost) == (1, 1)


async def test_heal_wakes_timers_behind_those_that_cannot_begin(
    frozen_store: Store, far_queue: Queue, time: FrozenTime
) -> None:
    """A paused application's lost timers stay lost until it goes on; they may be a batch or more."""
    names = ["a", "b", "c"]
    await frozen_store.create([new_timer(name) for name in names])
    for name in names:
        await begin_one(frozen_store, name)
        time.advance(1)
    await pass_time(frozen_store, time, LEASE_MS)
    assert await make_relay(frozen_store, far_queue, batch_size=1).heal() == 3


async def test_after_an_outage_workers_have_time_to_tell_that_they_live(
    frozen_store: Store, far_queue: Queue, time: FrozenTime
) -> None:
    """Leases ended while the store was away: nobody takes their timers over for 15 s."""
    await frozen_store.create([new_timer("a"), new_timer("b")])
    alive, dead = await begin_one(frozen_store, "a"), await begin_one(frozen_store, "b")
    rel = make_relay(frozen_store, far_queue)
    time.advance(HOUR_MS)
    assert await rel.heal() == 0
    for _ in range(3):
        time.advance(5_000)
        assert await rel.heal() == 0
        assert await begin(frozen_store, [wake_up("b")]) == [Refused(wake_up("b"), Refusal.RUNNING)]
    assert await frozen_store.beat([alive]) == [True]
    time.advance(1)
    assert await rel.heal() == 1
    assert [each.name.id for each in await claim(far_queue, 9)] == ["b"]
    assert (await begin_one(frozen_store, "b")).lost == 1
    assert await frozen_store.beat([alive, dead]) == [True, False]


async def test_heal_leaves_what_is_in_the_queue_alone(
    frozen_store: Store, far_queue: Queue, time: FrozenTime
) -> None:
    """Overdue, but waiting for a worker."""
    await frozen_store.create([new_timer("a"), new_timer("b", 5)])
    rel = make_relay(frozen_store, far_queue)
    await rel.drain()
    before = await queued(far_queue)
    time.advance(GRACE_MS + 5)
    assert await rel.heal() == 0
    assert await queued(far_queue) == before


async def test_heal_finds_all_that_was_lost(frozen_store: Store, far_queue: Queue, time: FrozenTime) -> None:
    """Page by page; and again when they are lost again."""
    await frozen_store.create([new_timer(f"t{number}") for number in range(5)])
    rel = make_relay(frozen_store, far_queue, batch_size=2)
    assert await rel.promote() == 5
    time.advance(GRACE_MS)
    assert await rel.heal() == 0
    for _ in range(2):
        assert len(await claim(far_queue, 500)) == 5
        assert await rel.heal() == 5


# --- run ---


@pytest.fixture
def no_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Relays look for nothing by themselves, but for their first look."""
    monkeypatch.setattr(relay, "SWEEP_S", 3_600.0)


async def consumers(redis: Redis) -> list[object]:
    """The relays that all outboxes know."""
    outboxes = [outbox for outbox in Everywhere(redis).keys("outbox") if await redis.exists(outbox)]
    return [each for outbox in outboxes for each in await redis.xinfo_consumers(outbox, keys.OUTBOX_GROUP)]


@pytest.mark.usefixtures("no_sweeps")
@pytest.mark.parametrize("end", ["stop", "cancel"])
async def test_run_relays_until_its_end(redis: Redis, store: Store, queue: Queue, end: str) -> None:
    """It hears of each entry; it is stopped or cancelled, and leaves no consumer behind."""
    rel = make_relay(store, queue)
    running = asyncio.create_task(rel.run())
    names = [f"t{number}" for number in range(4 * PARTITIONS.count)]
    for number, name in enumerate(names):
        await store.create([new_timer(name)])
        async with asyncio.timeout(30):
            while len(await queued(queue)) <= number or await Everywhere(redis).xlen():
                pass
    if end == "stop":
        await rel.stop()
        await rel.stop()
        async with asyncio.timeout(30):
            await running
    else:
        running.cancel()
        await asyncio.wait([running])
        assert running.cancelled()
    assert await consumers(redis) == []
    assert {place_of(name) for name in names} == {*PARTITIONS.all}


async def test_outboxes_are_looked_at_without_a_word(
    redis: Redis, store: Store, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message may be lost: the next sweep finds what it was about."""
    rel = make_relay(store, queue)

    async def deaf(_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(relay, "SWEEP_S", 0.01)
    monkeypatch.setattr(rel._outbox, "listen", deaf)
    running = asyncio.create_task(rel.run())
    async with asyncio.timeout(30):
        for number in range(4):
            await store.create([new_timer(str(number))])
            while await Everywhere(redis).xlen():
                pass
    await rel.stop()
    await running


async def test_a_relay_that_is_stopped_before_it_runs(redis: Redis, store: Store, queue: Queue) -> None:
    """It does nothing and returns."""
    rel = make_relay(store, queue)
    await rel.stop()
    async with asyncio.timeout(30):
        await rel.run()
    assert await redis.keys("*") == []


async def test_a_killed_relay_leaves_no_consumer(redis: Redis, store: Store, queue: Queue) -> None:
    """Defect 6. One that has entries left stays until they are adopted."""
    killed, busy, alive = (make_relay(store, queue) for _ in range(3))
    await killed.drain()
    await store.create([new_timer("a")])
    partition = place_of("a")
    [entry] = await busy._outbox.read(partition, busy._consumer, limit=1)
    await alive._outbox.forget_relays(silent_ms=0)
    outbox = PARTITIONS.store_keys[partition].outbox
    assert [each["name"].decode() for each in await redis.xinfo_consumers(outbox, "relay")] == [
        busy._consumer
    ]
    await busy._outbox.acknowledge(partition, [entry])
    await alive.adopt()
    await alive._outbox.forget_relays(silent_ms=0)
    assert await redis.xinfo_consumers(outbox, "relay") == []


async def test_relays_that_are_long_silent_are_dropped(
    store: Store, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adopt does it from time to time."""
    rel, asked = make_relay(store, queue), []

    async def note(*, silent_ms: int) -> None:
        asked.append(silent_ms)

    monkeypatch.setattr(rel._outbox, "forget_relays", note)
    for _ in range(3):
        await rel.adopt()
    assert asked == [60_000]


async def test_an_answer_of_the_outbox_that_is_lost(
    redis: Redis, store: Store, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next pass reads the entries again: nobody waits until they are adopted."""
    rel = make_relay(store, queue)
    read, failures = rel._outbox.read, [UnavailableError("gone")]

    async def lose_answer(partition: int, consumer: str, **options: Any) -> list[OutboxEntry]:
        entries = await read(partition, consumer, **options)
        if entries and failures:
            raise failures.pop()
        return entries

    monkeypatch.setattr(rel._outbox, "read", lose_answer)
    await store.create([new_timer("a")])
    with pytest.raises(UnavailableError):
        await rel.drain()
    await store.create([new_timer("b")])
    while await rel.drain():
        pass
    assert (await queued(queue)).keys() == {"a", "b"}
    assert await Everywhere(redis).xlen() == 0


@pytest.mark.parametrize("name", ["forget", "_drain_one", "adopt", "promote", "heal", "listen"])
async def test_a_bug_in_a_pass_does_not_end_the_relay(
    store: Store, queue: Queue, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Defect 0: it is logged, and the pass is made again."""
    rel, again = make_relay(store, queue), asyncio.Event()
    owner = rel._outbox if name == "listen" else rel
    works, calls = getattr(owner, name), count()

    async def breaks_once(*args: Any) -> Any:
        if next(calls) == 0:
            raise KeyError("bug")
        again.set()
        return await works(*args)

    monkeypatch.setattr(relay, "SWEEP_S", 0.01)
    monkeypatch.setattr(owner, name, breaks_once)
    with capture_logs() as logs:
        running = asyncio.create_task(rel.run())
        async with asyncio.timeout(30):
            await store.create([new_timer("a")])
            await again.wait()
        await rel.stop()
        await running
    assert [log["event"] for log in logs if log["event"] == "run.bug"] == ["run.bug"]


async def test_run_outlives_an_outage(store: Store, queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is logged once when it begins and once when it is over."""
    rel = make_relay(store, queue)
    read_outbox = rel._outbox.read
    failures = [UnavailableError("gone")] * 2 * PARTITIONS.count

    async def read(partition: int, consumer: str, *, limit: int, again: bool = False) -> list[OutboxEntry]:
        if failures:
            raise failures.pop()
        return await read_outbox(partition, consumer, limit=limit, again=again)

    await store.create([new_timer("a")])
    monkeypatch.setattr(rel._outbox, "read", read)
    with capture_logs() as logs:
        running = asyncio.create_task(rel.run())
        async with asyncio.timeout(30):
            while not any(entry["event"] == "redis.back" for entry in logs):
                await sleep(0.01)
        running.cancel()
        await asyncio.wait([running])
    assert await queued(queue)
    told = [(entry["event"], entry["part"]) for entry in logs if entry["event"].startswith("redis.")]
    assert told == [("redis.away", "relay.drain"), ("redis.back", "relay.drain")]
