"""Timers with one ordering key: strictly one after another, in due order, whatever happens to them."""

import random
from dataclasses import replace

import pytest

from httpqueue.clock import now_ms, sleep
from httpqueue.storage.embedded import EmbeddedValkey
from httpqueue.storage.queue import Queue, open_queue
from httpqueue.storage.timers import Store
from httpqueue.timers.commands import Change, Changed, ChangeResult, NewTimer
from httpqueue.timers.names import DEFAULT_APPLICATION, TimerName
from httpqueue.timers.retry import RetryOptions
from httpqueue.timers.schedule import Delay, Instant
from httpqueue.timers.spec import Spec
from httpqueue.timers.timer import State
from tests.support.frozen import LEASE_MS, FrozenTime, begin_one, pass_time
from tests.support.keys import PARTITIONS
from tests.support.pipeline import QUICK, Pipeline, running, working
from tests.support.receiver import Received, Receiver, Reply, Writer, hang

HOUR_MS = 3_600_000
SLOW_RETRY = RetryOptions(delays_ms=(HOUR_MS,))
LANE = "k"
CHANGE = Change(TimerName(DEFAULT_APPLICATION, "first"), frozenset({State.SCHEDULED}))


class OneAtATime:
    """Answers a little later, and notes what came and how many were there at once."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.most = 0
        self._now = 0

    async def __call__(self, request: Received, writer: Writer) -> None:
        """503 to the first attempt of every 20th, 404 to every 33rd, 200 to the others."""
        self._now += 1
        self.most = max(self.most, self._now)
        name = request.path.removeprefix("/")
        is_repeated = name in self.order[-1:]
        self.order.append(name)
        await sleep(0)
        self._now -= 1
        number = int(name)
        status = 503 if number % 20 == 0 and not is_repeated else 404 if number % 33 == 0 else 200
        writer.write(Reply(status).encode())


async def test_a_lane_of_1000(valkey_server: EmbeddedValkey, store: Store, queue: Queue) -> None:
    """Two workers, mixed due times, retries and failures: no overlap, due order; a retry holds the lane."""
    chance = random.Random(4)
    soon_ms = now_ms() + 2_000
    due_ms = {f"{number:04}": soon_ms + chance.randrange(40) * 5 for number in range(1_000)}
    names = list(due_ms)
    chance.shuffle(names)
    calls = OneAtATime()
    policy = replace(QUICK, retry=replace(QUICK.retry, base_ms=2, max_ms=4))
    async with (
        Receiver() as receiver,
        open_queue(valkey_server.url, partitions=PARTITIONS) as other_queue,
        running(store, queue, policy=policy) as pipeline,
        working(store, other_queue, policy=policy) as other_worker,
    ):
        other_worker._finishes.told.listen(lambda _: pipeline.finished.set())
        receiver.answer(calls)
        for first in range(0, 1_000, 250):
            specs = {
                name: Spec(f"{receiver.url}/{name}", Instant(due_ms[name]), ordering_key=LANE)
                for name in names[first : first + 250]
            }
            await store.create(
                [NewTimer(TimerName(DEFAULT_APPLICATION, name), spec) for name, spec in specs.items()]
            )
        assert now_ms() < soon_ms, "this machine was too slow to create them before the first is due"
        await pipeline.until_all_finished()
    assert calls.most == 1
    once = sorted(names, key=lambda name: (due_ms[name], name))
    expected = [name for name in once for _ in range(2 if int(name) % 20 == 0 else 1)]
    assert calls.order == expected


async def test_lanes_do_not_wait_for_each_other(store: Store, queue: Queue) -> None:
    """Nor do other applications' lanes of the same name."""
    async with Receiver() as receiver, running(store, queue) as pipeline:
        receiver.answer(hang, path="/stuck")
        await pipeline.schedule("a", f"{receiver.url}/stuck", ordering_key=LANE)
        await receiver.wait_for(1)
        await pipeline.schedule("b", receiver.url, ordering_key="other")
        await store.create(
            [NewTimer(TimerName("tenant", "c"), Spec(f"{receiver.url}/c", Delay(0), ordering_key=LANE))]
        )
        await pipeline.until("b", State.DONE)
        await receiver.wait_for(1, path="/c")
        pipeline.worker._grace_s = 0


async def test_a_new_timer_due_earlier_does_not_overtake_a_running_one(store: Store, queue: Queue) -> None:
    """Not even one that was due before the epoch."""
    async with Receiver() as receiver, running(store, queue) as pipeline:
        receiver.answer(hang, path="/stuck")
        await pipeline.schedule("b", f"{receiver.url}/stuck", ordering_key=LANE)
        await receiver.wait_for(1)
        for name, due_ms in (("a", 0), ("a1", -HOUR_MS), ("a2", 1)):
            await pipeline.schedule(name, f"{receiver.url}/{name}", Instant(due_ms), ordering_key=LANE)
        await pipeline.schedule("other", receiver.url)
        await pipeline.until("other", State.DONE)
        assert [request.path for request in receiver.requests] == ["/stuck", "/"]
        pipeline.worker._grace_s = 0


async def test_a_lane_does_not_wedge_when_its_worker_dies(
    frozen_store: Store, frozen_queue: Queue, time: FrozenTime
) -> None:
    """The lease runs out, the timer is tried again, and the next follows; not before."""
    async with Receiver() as receiver, running(frozen_store, frozen_queue) as pipeline:
        for name, schedule in (("first", Delay(1)), ("next", Delay(2))):
            await pipeline.schedule(name, f"{receiver.url}/{name}", schedule, ordering_key=LANE)
        time.advance(2)
        await begin_one(frozen_store, "first", key=LANE)
        await settle(pipeline, receiver, time)
        await pass_time(frozen_store, time, LEASE_MS)
        await pipeline.relay.heal()
        await settle(pipeline, receiver, time)
        assert {request.path for request in receiver.requests} == {"/free"}
        time.advance(1)
        await pipeline.relay.heal()
        await pipeline.until("next", State.DONE)
    lane = [request for request in receiver.requests if request.path != "/free"]
    assert [request.path for request in lane] == ["/first", "/next"]
    assert lane[0].header("httpqueue-attempt") == "1"  # of which one worker was lost


async def settle(pipeline: Pipeline, receiver: Receiver, time: FrozenTime) -> None:
    """Until a timer without a lane, due last, was delivered."""
    name = f"free{time.now_ms}"
    await pipeline.schedule(name, f"{receiver.url}/free", Instant(time.now_ms))
    await pipeline.until(name, State.DONE)


async def blocked(pipeline: Pipeline, receiver: Receiver) -> None:
    """Timer "first" waits an hour for its second attempt, and "next" for it."""
    receiver.answer(Reply(503), path="/first")
    await pipeline.schedule("first", f"{receiver.url}/first", retry=SLOW_RETRY, ordering_key=LANE)
    await pipeline.until_that("first", lambda timer: len(timer.log) == 1)
    await pipeline.schedule("next", f"{receiver.url}/next", ordering_key=LANE)
    await pipeline.schedule("free", f"{receiver.url}/free")
    await pipeline.until("free", State.DONE)
    assert [request.path for request in receiver.requests] == ["/first", "/free"]


async def test_cancelling_the_head_lets_the_next_go(store: Store, queue: Queue) -> None:
    """A head in backoff holds the lane until it is cancelled."""
    async with Receiver() as receiver, running(store, queue) as pipeline:
        await blocked(pipeline, receiver)
        cancelled = await store.cancel(
            TimerName(DEFAULT_APPLICATION, "first"), version=None, retention_ms=HOUR_MS
        )
        assert cancelled.result is ChangeResult.CHANGED
        await pipeline.until("next", State.DONE)


async def test_rescheduling_the_head_lets_the_next_go(store: Store, queue: Queue) -> None:
    """A head that moves behind the next one no longer holds it."""
    async with Receiver() as receiver, running(store, queue) as pipeline:
        await blocked(pipeline, receiver)
        await store.change([replace(CHANGE, due=Delay(HOUR_MS))])
        await pipeline.until("next", State.DONE)


@pytest.mark.parametrize("lane", ["other", None])
async def test_the_head_does_not_leave_its_lane(store: Store, queue: Queue, lane: str | None) -> None:
    """An ordering key cannot change while there is a record: the head stays, and holds the lane."""
    async with Receiver() as receiver, running(store, queue) as pipeline:
        await blocked(pipeline, receiver)
        spec = Spec(f"{receiver.url}/first", Delay(0), ordering_key=lane)
        [changed] = await store.change([replace(CHANGE, spec=spec, due=Delay(0))])
        assert changed == Changed(ChangeResult.OTHER_LANE, State.SCHEDULED)
        await pipeline.schedule("free2", f"{receiver.url}/free")
        await pipeline.until("free2", State.DONE)
        assert [request.path for request in receiver.requests] == ["/first", "/free", "/free"]


async def test_new_content_of_the_head_keeps_its_place(store: Store, queue: Queue) -> None:
    """With the same key it is sent from its lane, before the next one."""
    async with Receiver() as receiver, running(store, queue) as pipeline:
        await blocked(pipeline, receiver)
        spec = Spec(f"{receiver.url}/new", Delay(0), ordering_key=LANE)
        await store.change([replace(CHANGE, spec=spec, due=Instant(0))])
        await pipeline.until("next", State.DONE)
        assert [request.path for request in receiver.requests[2:]] == ["/new", "/next"]


async def test_a_head_that_fails_lets_the_next_go(store: Store, queue: Queue) -> None:
    """Dead letters do not hold their lane; replayed, they queue up in it again."""
    async with Receiver() as receiver, running(store, queue) as pipeline:
        receiver.answer(Reply(404), Reply(200), path="/first")
        receiver.answer(hang, path="/stuck")
        await pipeline.schedule("first", f"{receiver.url}/first", ordering_key=LANE)
        await pipeline.until("first", State.FAILED)
        await pipeline.schedule("next", f"{receiver.url}/stuck", ordering_key=LANE)
        await receiver.wait_for(1, path="/stuck")
        await store.change([replace(CHANGE, states=frozenset({State.FAILED}), due=Delay(0))])
        await pipeline.schedule("free", receiver.url)
        await pipeline.until("free", State.DONE)
        assert len(await receiver.wait_for(1, path="/first")) == 1
        pipeline.worker._grace_s = 0
