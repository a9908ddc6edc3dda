"""Cron timers, from slot to slot, with real deliveries in the test's own time."""

import asyncio
from dataclasses import replace
from typing import Any

import orjson
import pytest

from httpqueue import clock
from httpqueue.storage.queue import Queue
from httpqueue.storage.timers import Store
from httpqueue.timers.commands import ChangeResult, NewTimer
from httpqueue.timers.names import DEFAULT_APPLICATION, TimerName
from httpqueue.timers.schedule import Cron, Instant
from httpqueue.timers.spec import Callback, Spec
from httpqueue.timers.timer import State, Timer
from tests.support.frozen import T0_MS, FrozenTime, begin_one, lose_leases, wake_up
from tests.support.pipeline import QUICK, Pipeline, running
from tests.support.receiver import Receiver, Reply, reply_when

MINUTE_MS = 60_000
EVERY_MINUTE = Cron("* * * * *")
FIRST_MS = T0_MS + MINUTE_MS
"""T0_MS is a whole minute."""
LONG_MS = 3_600_000


@pytest.fixture(autouse=True)
def _one_clock(time: FrozenTime, monkeypatch: pytest.MonkeyPatch) -> None:
    """How long a run takes is told by the test's clock, too."""
    monkeypatch.setattr(clock, "monotonic_s", lambda: time.now_ms / 1000)


async def create(store: Store, url: str, **spec: Any) -> None:
    """Timer "a", every minute, first in a minute."""
    timer = NewTimer(TimerName(DEFAULT_APPLICATION, "a"), Spec(url, EVERY_MINUTE, **spec))
    await store.create([timer])


async def go_to(pipeline: Pipeline, time: FrozenTime, now_ms: int) -> None:
    """Move the time; the worker looks at the queue again."""
    time.now_ms = now_ms
    await pipeline.queue.wake()


async def until_run(pipeline: Pipeline, generation: int) -> Timer:
    """The timer when that run is the next."""
    return await pipeline.until_that(
        "a", lambda timer: (timer.generation, timer.state) == (generation, State.SCHEDULED)
    )


async def settle(pipeline: Pipeline, time: FrozenTime, url: str, name: str) -> None:
    """Until a timer that is due now was delivered: the worker has looked at all that was due before."""
    await pipeline.schedule(name, f"{url}/{name}", Instant(time.now_ms))
    await pipeline.queue.wake()
    await pipeline.until(name, State.DONE)


async def test_it_runs_in_every_slot(frozen_store: Store, frozen_queue: Queue, time: FrozenTime) -> None:
    """Each run is one attempt 1 with a message id of its own, and the next slot is a minute later."""
    async with Receiver() as receiver, running(frozen_store, frozen_queue) as pipeline:
        await create(frozen_store, receiver.url)
        for run in range(5):
            await go_to(pipeline, time, FIRST_MS + run * MINUTE_MS)
            timer = await until_run(pipeline, run + 1)
            assert timer.due_ms == FIRST_MS + (run + 1) * MINUTE_MS
            assert timer.attempts == 0
    assert [request.run for request in receiver.requests] == [f"default:a:{n}" for n in range(5)]
    assert len({request.header("webhook-id") for request in receiver.requests}) == 5
    assert {request.header("httpqueue-attempt") for request in receiver.requests} == {"1"}


async def test_it_does_not_run_before_its_slot(
    frozen_store: Store, frozen_queue: Queue, time: FrozenTime
) -> None:
    """A millisecond before: nothing."""
    async with Receiver() as receiver, running(frozen_store, frozen_queue) as pipeline:
        await create(frozen_store, f"{receiver.url}/a")
        await go_to(pipeline, time, FIRST_MS - 1)
        await settle(pipeline, time, receiver.url, "b")
        assert [request.path for request in receiver.requests] == ["/b"]


async def test_it_never_overlaps_itself(frozen_store: Store, frozen_queue: Queue, time: FrozenTime) -> None:
    """A run of three and a half intervals: nothing starts meanwhile, the next run is in the slot after."""
    answer = asyncio.Event()
    async with Receiver() as receiver, running(frozen_store, frozen_queue) as pipeline:
        receiver.answer(reply_when(answer, Reply(200)), Reply(200), path="/a")
        await create(frozen_store, f"{receiver.url}/a", timeout_ms=LONG_MS)
        await go_to(pipeline, time, FIRST_MS)
        await receiver.wait_for(1, path="/a")
        for minutes in range(1, 4):
            time.now_ms = FIRST_MS + minutes * MINUTE_MS + MINUTE_MS // 2
            await pipeline.relay.heal()
            await pipeline.queue.put([wake_up("a", 0), wake_up("a", 1)])
            await settle(pipeline, time, receiver.url, f"b{minutes}")
        assert len(await receiver.wait_for(1, path="/a")) == 1
        answer.set()
        assert (await until_run(pipeline, 1)).due_ms == FIRST_MS + 4 * MINUTE_MS
        await go_to(pipeline, time, FIRST_MS + 4 * MINUTE_MS)
        assert len(await receiver.wait_for(2, path="/a")) == 2
        await until_run(pipeline, 2)


async def test_after_downtime_it_runs_once(
    frozen_store: Store, frozen_queue: Queue, time: FrozenTime
) -> None:
    """An hour of missed slots is one run, and the next is in the next slot."""
    async with Receiver() as receiver:
        await create(frozen_store, f"{receiver.url}/a")
        time.now_ms = FIRST_MS + 60 * MINUTE_MS + 1
        async with running(frozen_store, frozen_queue) as pipeline:
            timer = await until_run(pipeline, 1)
            await settle(pipeline, time, receiver.url, "b")
            assert timer.due_ms == FIRST_MS + 61 * MINUTE_MS
            [attempt] = timer.log
            assert attempt.lateness_ms == 60 * MINUTE_MS + 1
            assert len(await receiver.wait_for(1, path="/a")) == 1


async def test_with_skip_it_waits_for_its_next_slot(
    frozen_store: Store, frozen_queue: Queue, time: FrozenTime
) -> None:
    """After downtime nothing is sent until then; the run that was left out says why."""
    async with Receiver() as receiver:
        await create(frozen_store, receiver.url, past_due="skip")
        time.now_ms = FIRST_MS + 60 * MINUTE_MS + 30_000
        async with running(frozen_store, frozen_queue) as pipeline:
            timer = await until_run(pipeline, 1)
            assert receiver.requests == []
            assert [attempt.error for attempt in timer.log] == ["not sent: 3,630 s past due"]
            assert timer.due_ms == FIRST_MS + 61 * MINUTE_MS
            await go_to(pipeline, time, timer.due_ms)
            await until_run(pipeline, 2)
    assert [request.run for request in receiver.requests] == ["default:a:1"]


async def test_each_run_has_its_own_attempts_and_a_failed_one_does_not_stop_the_next(
    frozen_store: Store, frozen_queue: Queue, time: FrozenTime
) -> None:
    """Run 0: 503, then 200. Run 1: 404, which fails. Run 2: 200."""
    async with Receiver() as receiver, running(frozen_store, frozen_queue) as pipeline:
        receiver.answer(Reply(503), Reply(200), Reply(404), Reply(200))
        await create(frozen_store, receiver.url)
        await go_to(pipeline, time, FIRST_MS)
        retried = await pipeline.until_that("a", lambda timer: len(timer.log) == 1)
        assert (retried.state, retried.generation, retried.attempts) == (State.SCHEDULED, 0, 1)
        assert retried.due_ms < FIRST_MS + MINUTE_MS
        await go_to(pipeline, time, retried.due_ms)
        await until_run(pipeline, 1)
        for run in (1, 2):
            await go_to(pipeline, time, FIRST_MS + run * MINUTE_MS)
            timer = await until_run(pipeline, run + 1)
    said = [(request.run, request.header("httpqueue-attempt")) for request in receiver.requests]
    runs = [f"default:a:{generation}" for generation in range(3)]
    assert said == [(runs[0], "1"), (runs[0], "2"), (runs[1], "1"), (runs[2], "1")]
    assert len({request.header("webhook-id") for request in receiver.requests}) == len(runs)
    log = [(attempt.generation, attempt.number, attempt.status) for attempt in timer.log]
    assert log == [(0, 1, 503), (0, 2, 200), (1, 1, 404), (2, 1, 200)]


async def test_a_run_that_gives_up_does_not_stop_the_next(
    frozen_store: Store, frozen_queue: Queue, time: FrozenTime
) -> None:
    """Its last attempt is a retry no more."""
    policy = replace(QUICK, retry=replace(QUICK.retry, max_attempts=1))
    async with Receiver() as receiver, running(frozen_store, frozen_queue, policy=policy) as pipeline:
        receiver.answer(Reply(500), Reply(200))
        await create(frozen_store, receiver.url)
        for run in range(2):
            await go_to(pipeline, time, FIRST_MS + run * MINUTE_MS)
            timer = await until_run(pipeline, run + 1)
    assert [attempt.error for attempt in timer.log] == ["HTTP 500; gave up after 1 attempts", None]


async def test_a_retry_that_reaches_the_next_slot_takes_its_place(
    frozen_store: Store, frozen_queue: Queue, time: FrozenTime
) -> None:
    """A run ends with its last attempt; slots that pass until then are left out."""
    policy = replace(QUICK, retry=replace(QUICK.retry, base_ms=90_000, max_ms=90_000, has_jitter=False))
    async with Receiver() as receiver, running(frozen_store, frozen_queue, policy=policy) as pipeline:
        receiver.answer(Reply(503), Reply(200))
        await create(frozen_store, receiver.url)
        await go_to(pipeline, time, FIRST_MS)
        retried = await pipeline.until_that("a", lambda timer: len(timer.log) == 1)
        assert (retried.generation, retried.due_ms) == (0, FIRST_MS + 90_000)
        await go_to(pipeline, time, FIRST_MS + MINUTE_MS)
        await settle(pipeline, time, f"{receiver.url}", "b")
        await go_to(pipeline, time, retried.due_ms)
        assert (await until_run(pipeline, 1)).due_ms == FIRST_MS + 2 * MINUTE_MS


async def test_a_run_whose_worker_died_is_made_again_and_the_next_follows(
    frozen_store: Store, frozen_queue: Queue, time: FrozenTime
) -> None:
    """Its lease runs out; the same attempt of the same run is made elsewhere."""
    async with Receiver() as receiver, running(frozen_store, frozen_queue) as pipeline:
        await create(frozen_store, receiver.url)
        time.now_ms = FIRST_MS
        await begin_one(frozen_store, "a")
        await lose_leases(frozen_store, time)
        await pipeline.relay.heal()
        await until_run(pipeline, 1)
    [request] = receiver.requests
    assert (request.run, request.header("httpqueue-attempt")) == ("default:a:0", "1")


async def test_a_callback_for_each_run(frozen_store: Store, frozen_queue: Queue, time: FrozenTime) -> None:
    """Of the one that was delivered and of the one that failed, each a timer of its own."""
    async with Receiver() as receiver, running(frozen_store, frozen_queue) as pipeline:
        receiver.answer(Reply(200), Reply(404), path="/a")
        await create(frozen_store, f"{receiver.url}/a", callback=Callback(f"{receiver.url}/told"))
        for run in range(2):
            await go_to(pipeline, time, FIRST_MS + run * MINUTE_MS)
            await until_run(pipeline, run + 1)
            await receiver.wait_for(run + 1, path="/told")
    told = await receiver.wait_for(2, path="/told")
    nonces = [request.run[len("default:a~callback-") :].rpartition("-")[0] for request in told]
    assert nonces[0] == nonces[1]
    assert [request.run for request in told] == [
        f"default:a~callback-{nonces[0]}-{run}:0" for run in range(2)
    ]
    bodies = [orjson.loads(request.body) for request in told]
    assert [(body["status"], body["schedule"], body["attempts"]) for body in bodies] == [
        ("done", "* * * * *", 1),
        ("failed", "* * * * *", 1),
    ]


async def test_cancelled_between_two_runs_it_runs_no_more(
    frozen_store: Store, frozen_queue: Queue, time: FrozenTime
) -> None:
    """Nor does the wake-up of its next run do anything."""
    async with Receiver() as receiver, running(frozen_store, frozen_queue) as pipeline:
        await create(frozen_store, f"{receiver.url}/a")
        await go_to(pipeline, time, FIRST_MS)
        await until_run(pipeline, 1)
        cancelled = await frozen_store.cancel(
            TimerName(DEFAULT_APPLICATION, "a"), version=None, retention_ms=LONG_MS
        )
        assert cancelled.result is ChangeResult.CHANGED
        time.now_ms = FIRST_MS + MINUTE_MS
        await settle(pipeline, time, receiver.url, "b")
    assert [request.path for request in receiver.requests] == ["/a", "/b"]
