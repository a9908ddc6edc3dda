"""Hosts with limits, pauses, and hosts that are slow or dead: what others notice of them."""

import asyncio
from dataclasses import replace

from msgspec import structs
from prometheus_client import REGISTRY

from httpqueue.clock import now_ms, sleep
from httpqueue.storage.queue import Queue
from httpqueue.storage.timers import Store
from httpqueue.timers.commands import NewTimer
from httpqueue.timers.names import DEFAULT_APPLICATION, TimerName
from httpqueue.timers.policies import ApplicationPolicy, DestinationPolicy
from httpqueue.timers.schedule import Delay, Instant
from httpqueue.timers.spec import Spec
from httpqueue.timers.timer import State
from tests.support.frozen import HOUR_MS, storage_of
from tests.support.keys import QUEUE, STORE, Everywhere
from tests.support.lines import no_line_is_left, waiting
from tests.support.pipeline import QUICK, running
from tests.support.receiver import Received, Receiver, Reply, Writer

HOST = "127.0.0.1"
"""Where receivers are; "localhost" is another one by its name."""


def other_host(receiver: Receiver) -> str:
    """The receiver's URL by its other name."""
    return receiver.url.replace(HOST, "localhost")


async def create(store: Store, url: str, count: int, due_ms: int | None = None) -> None:
    """Timers h0, h1, … to that URL, the first due first."""
    first_ms = now_ms() if due_ms is None else due_ms
    timers = [
        NewTimer(TimerName(DEFAULT_APPLICATION, f"h{n}"), Spec(url, Instant(first_ms + n // 100)))
        for n in range(count)
    ]
    await store.create(timers)


async def until_waiting(store: Store, count: int) -> None:
    """Until so many wait for their host or application."""
    async with asyncio.timeout(30):
        while len(await waiting(store._redis)) < count:
            await sleep(0.001)


async def until_relayed(store: Store) -> None:
    """Until the relay has acted on everything that it was told."""
    async with asyncio.timeout(30):
        while await store._redis.xlen(STORE.outbox):
            await sleep(0.001)


def paused(policy: ApplicationPolicy) -> ApplicationPolicy:
    """The same, paused."""
    return structs.replace(policy, paused=True)


def going(policy: ApplicationPolicy) -> ApplicationPolicy:
    """The same, going on."""
    return structs.replace(policy, paused=False)


def refused(reason: str) -> float:
    """How many wake-ups were refused for that reason, ever."""
    return REGISTRY.get_sample_value("httpqueue_wake_ups_refused_total", {"reason": reason}) or 0


class Gate:
    """Holds every call until it is opened; counts those that are held at once."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.held = 0
        self.most = 0

    async def __call__(self, _request: Received, writer: Writer) -> None:
        """Answer 200 then."""
        self.held += 1
        self.most = max(self.most, self.held)
        try:
            await self.opened.wait()
            await sleep(0)
        finally:
            self.held -= 1
        writer.write(Reply(200).encode())


# --- rate ---


async def test_a_rate_spaces_the_calls(store: Store, queue: Queue) -> None:
    """50 a second: 20 ms lie between two permits; waiting is no attempt. A worker may be a little late."""
    await storage_of(store).policies.set_destination(HOST, DestinationPolicy(rate=50))
    async with Receiver() as receiver, running(store, queue) as pipeline:
        await create(store, receiver.url, 30)
        await pipeline.until_all_finished()
        starts = []
        for n in range(30):
            timer = await pipeline.until(f"h{n}", State.DONE)
            assert timer.attempts == 1
            assert timer.last_attempt is not None
            starts.append(timer.last_attempt.started_ms)
    starts.sort()
    for n, start_ms in enumerate(starts):
        assert start_ms - starts[0] >= 20 * n - 200
    assert len(receiver.requests) == 30


async def test_a_rate_that_is_lifted_lets_all_go(store: Store, queue: Queue) -> None:
    """Those that wait for an hour-long turn do not keep it."""
    policies = storage_of(store).policies
    await policies.set_destination(HOST, DestinationPolicy(rate=1 / 3600))
    async with Receiver() as receiver, running(store, queue) as pipeline:
        await create(store, receiver.url, 10)
        await receiver.wait_for(1)
        await pipeline.schedule("free", other_host(receiver))
        await pipeline.until("free", State.DONE)
        await policies.set_destination(HOST, DestinationPolicy())
        await pipeline.until_all_finished()
    assert len(receiver.requests) == 11


# --- concurrency ---


async def test_a_concurrency_limit_holds_across_a_worker_with_many_slots(store: Store, queue: Queue) -> None:
    """Three at once, never more; all are delivered, one attempt each."""
    await storage_of(store).policies.set_destination(HOST, DestinationPolicy(concurrency=3))
    gate = Gate()
    async with Receiver() as receiver, running(store, queue) as pipeline:
        receiver.answer(gate)
        await create(store, receiver.url, 200)
        await receiver.wait_for(3)
        await pipeline.schedule("free", f"{other_host(receiver)}/free")
        receiver.answer(Reply(200), path="/free")
        await pipeline.until("free", State.DONE)
        assert gate.held == 3
        gate.opened.set()
        await pipeline.until_all_finished()
        assert {(await pipeline.until(f"h{n}", State.DONE)).attempts for n in range(200)} == {1}
    assert gate.most == 3


# --- pause ---


async def test_a_paused_destination_gets_nothing_and_everything_when_it_resumes(
    store: Store, queue: Queue
) -> None:
    """What became due meanwhile is sent then; other hosts notice nothing."""
    policies = storage_of(store).policies
    await policies.set_destination(HOST, DestinationPolicy(paused=True))
    async with Receiver() as receiver, running(store, queue) as pipeline:
        await create(store, f"{receiver.url}/h", 50)
        await pipeline.schedule("free", f"{other_host(receiver)}/free")
        await pipeline.until("free", State.DONE)
        await until_waiting(store, 50)
        assert [request.path for request in receiver.requests] == ["/free"]
        await policies.set_destination(HOST, DestinationPolicy())
        await pipeline.until_all_finished()
        assert {(await pipeline.until(f"h{n}", State.DONE)).attempts for n in range(50)} == {1}
    assert len(receiver.requests) == 51


async def test_a_paused_application_loses_nothing(store: Store, queue: Queue) -> None:
    """2,000 that became due are sent when it resumes, what is due later stays, other applications go on."""
    policies = storage_of(store).policies
    await policies.update_application(DEFAULT_APPLICATION, paused)
    async with Receiver() as receiver, running(store, queue) as pipeline:
        await create(store, f"{receiver.url}/h", 2_000)
        await pipeline.schedule("later", f"{receiver.url}/later", Delay(HOUR_MS))
        await store.create([NewTimer(TimerName("other", "free"), Spec(f"{receiver.url}/free", Delay(0)))])
        await receiver.wait_for(1, path="/free")
        await until_relayed(store)
        queued = await Everywhere(store._redis).zset("queue")
        assert [each for each in queued if "}default:" in each] == []  # they take no room in it meanwhile
        assert len(receiver.requests) == 1
        await policies.update_application(DEFAULT_APPLICATION, going)
        await receiver.wait_for(2_001)
        await pipeline.until_all_finished(but=1)
        assert await no_line_is_left(store._redis)
    assert len(receiver.requests) == 2_001
    assert len({request.header("webhook-id") for request in receiver.requests}) == 2_001


async def test_paused_while_attempts_are_in_flight_their_retries_wait(store: Store, queue: Queue) -> None:
    """A call that has begun is not taken back; its next attempt is made after the pause."""
    policies, gate = storage_of(store).policies, Gate()

    async def later_503(request: Received, writer: Writer) -> None:
        await gate.opened.wait()
        del request
        writer.write(Reply(503).encode())

    async with Receiver() as receiver, running(store, queue) as pipeline:
        receiver.answer(later_503, Reply(200))
        await pipeline.schedule("a", receiver.url)
        await receiver.wait_for(1)
        await policies.update_application(DEFAULT_APPLICATION, paused)
        gate.opened.set()
        await pipeline.until_that("a", lambda timer: len(timer.log) == 1)
        await until_relayed(store)
        assert await queue.redis.zcard(QUEUE.queue) == 0
        assert len(receiver.requests) == 1
        await policies.update_application(DEFAULT_APPLICATION, going)
        assert (await pipeline.until("a", State.DONE)).attempts == 2


# --- slow and dead hosts ---


async def test_a_hanging_host_does_not_delay_another(store: Store, queue: Queue) -> None:
    """500 timers to a host that never answers, ten calls at once: a timer to another one is on time."""
    gate = Gate()
    async with Receiver() as receiver, running(store, queue, slots=(10_000, 10)) as pipeline:
        receiver.answer(gate, path="/h")
        await create(store, f"{receiver.url}/h", 500)
        await receiver.wait_for(10, path="/h")
        for n in range(3):
            await pipeline.schedule(f"free{n}", f"{other_host(receiver)}/free")
            timer = await pipeline.until(f"free{n}", State.DONE)
            assert timer.last_attempt is not None
            # well before the hanging calls give up their slots, however slow this machine is
            assert timer.last_attempt.lateness_ms < QUICK.timeout_ms - 1_000
        assert gate.most == 10
        waiting = await store.get(TimerName(DEFAULT_APPLICATION, "h400"))
        assert waiting is not None
        assert (waiting.timer.state, waiting.timer.attempts) == (State.SCHEDULED, 0)
        gate.opened.set()
        await pipeline.until_all_finished()
        assert {(await pipeline.until(f"h{n}", State.DONE)).attempts for n in range(500)} == {1}
    assert len(receiver.requests) == 503
    assert await no_line_is_left(store._redis)


async def test_a_dead_host_whose_calls_time_out_does_not_delay_another(store: Store, queue: Queue) -> None:
    """Each of its calls takes the whole timeout and is retried; others are called meanwhile."""
    gate = Gate()
    policy = replace(QUICK, timeout_ms=400, retry=replace(QUICK.retry, max_attempts=2))
    async with Receiver() as receiver, running(store, queue, policy=policy, slots=(10_000, 10)) as pipeline:
        receiver.answer(gate, path="/h")
        await create(store, f"{receiver.url}/h", 30)
        await receiver.wait_for(10, path="/h")
        for n in range(20):
            await pipeline.schedule(f"free{n}", f"{other_host(receiver)}/free")
            await pipeline.until(f"free{n}", State.DONE)
        await pipeline.until_all_finished()
        assert {(await pipeline.until(f"h{n}", State.FAILED)).attempts for n in range(30)} == {2}
    assert len(await receiver.wait_for(60, path="/h")) == 60


async def test_few_timers_of_a_fast_host_wait_in_its_line(store: Store, queue: Queue) -> None:
    """Claims follow what begins: of 5,000 timers to one host, most are begun at once."""
    before = refused("permit")
    async with Receiver() as receiver, running(store, queue) as pipeline:
        due_ms = now_ms() + 300
        for first in range(0, 5_000, 500):
            timers = [
                NewTimer(TimerName(DEFAULT_APPLICATION, f"h{n}"), Spec(receiver.url, Instant(due_ms)))
                for n in range(first, first + 500)
            ]
            await store.create(timers)
        await pipeline.until_all_finished()
    assert len(receiver.requests) == 5_000
    assert refused("permit") - before < 2_500
    assert await no_line_is_left(store._redis)
