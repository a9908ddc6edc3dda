"""Callbacks: who is told when a timer has finished, with what, how often, and across failures."""

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import Any

import orjson
import pytest
from msgspec import structs

from httpqueue.errors import UnavailableError
from httpqueue.storage.queue import Queue
from httpqueue.storage.timers import Store
from httpqueue.timers.commands import Change, Finish, Finished, NewTimer
from httpqueue.timers.names import DEFAULT_APPLICATION, TimerName
from httpqueue.timers.schedule import Delay, Instant, format_instant
from httpqueue.timers.spec import Callback, Retention, Spec
from httpqueue.timers.timer import State
from tests.support.pipeline import QUICK, running
from tests.support.receiver import Received, Receiver, Reply, hang, reset

FAST = replace(QUICK, callback_delays_ms=(5, 10, 15), callback_timeout_ms=5_000)


def body_of(request: Received) -> Any:
    """What was told."""
    return orjson.loads(request.body)


def id_of(request: Received) -> str:
    """Of the timer that made the call."""
    return request.run.split(":")[1]


async def test_a_delivered_timer_is_told_in_the_shape_of_schedule_rs(store: Store, queue: Queue) -> None:
    """POST as JSON: id, request, schedule_at, status, executed_at, and what else httpqueue knows."""
    async with Receiver() as receiver, running(store, queue) as pipeline:
        callback = Callback(f"{receiver.url}/told/{{id}}?for={{id}}", {"x-secret": "s"})
        created = await pipeline.schedule(
            "a",
            f"{receiver.url}/a",
            method="PUT",
            headers={"x-own": "1"},
            body={"n": 1},
            labels={"team": "blue"},
            callback=callback,
        )
        [told] = await receiver.wait_for(1, path="/told/a")
        [sent] = await receiver.wait_for(1, path="/a")
        timer = await pipeline.until("a", State.DONE)
        await pipeline.until(id_of(told), State.DONE)
        url = f"{receiver.url}/a"
    assert timer.last_attempt is not None
    assert (told.method, told.target) == ("POST", "/told/a?for=a")
    assert told.header("content-type") == "application/json"
    assert told.header("x-secret") == "s"
    assert told.header("x-own") is None
    assert id_of(told) == f"a~callback-{timer.nonce}-0" != id_of(sent)
    assert body_of(told) == {
        "id": "a",
        "application": "default",
        "request": {
            "url": url,
            "method": "PUT",
            "headers": {"x-own": "1"},
            "body": {"n": 1},
        },
        "schedule_at": format_instant(created.due_ms),
        "status": "done",
        "executed_at": format_instant(timer.last_attempt.started_ms),
        "attempts": 1,
        "lateness_ms": timer.last_attempt.lateness_ms,
        "last_status": 200,
        "labels": {"team": "blue"},
    }


async def test_a_failed_timer_is_told_with_its_error(store: Store, queue: Queue) -> None:
    """After its last attempt, once."""
    async with Receiver() as receiver, running(store, queue) as pipeline:
        receiver.answer(Reply(503), Reply(503), Reply(404), path="/a")
        await pipeline.schedule("a", f"{receiver.url}/a", callback=Callback(f"{receiver.url}/told"))
        [told] = await receiver.wait_for(1, path="/told")
        await pipeline.until_all_finished()
    body = body_of(told)
    assert (body["status"], body["attempts"], body["last_status"]) == ("failed", 3, 404)
    assert body["last_error"] == "HTTP 404"
    assert len(receiver.requests) == 4


@pytest.mark.parametrize(
    ("on", "status", "times"),
    [
        (("done",), 200, 1),
        (("done",), 404, 0),
        (("failed",), 200, 0),
        (("failed",), 404, 1),
        (("done", "failed"), 404, 1),
    ],
)
async def test_only_what_was_asked_for_is_told(
    store: Store, queue: Queue, on: tuple[str, ...], status: int, times: int
) -> None:
    """`on` names the ends."""
    async with Receiver() as receiver, running(store, queue) as pipeline:
        receiver.answer(Reply(status), path="/a")
        await pipeline.schedule("a", f"{receiver.url}/a", callback=Callback(f"{receiver.url}/told", on=on))
        await pipeline.until("a", State.DONE, State.FAILED)
        await pipeline.until_all_finished()
    assert [request.path for request in receiver.requests] == ["/a"] + ["/told"] * times


async def test_a_timer_that_was_not_sent_is_told_as_failed(store: Store, queue: Queue) -> None:
    """Too late by its own past_due."""
    async with Receiver() as receiver, running(store, queue) as pipeline:
        await pipeline.schedule(
            "a", f"{receiver.url}/a", Instant(1), past_due="skip", callback=Callback(f"{receiver.url}/told")
        )
        [told] = await receiver.wait_for(1, path="/told")
        await pipeline.until_all_finished()
    assert body_of(told)["status"] == "failed"
    assert "past due" in body_of(told)["last_error"]


async def test_callbacks_of_timers_in_lanes_are_found_by_their_ids(store: Store, queue: Queue) -> None:
    """They are stored where their timers are, which is not always the home of their names."""
    async with Receiver() as receiver, running(store, queue) as pipeline:
        for name in "abc":
            callback = Callback(f"{receiver.url}/told/{{id}}")
            await pipeline.schedule(name, f"{receiver.url}/a", ordering_key=f"lane-{name}", callback=callback)
        for name in "abc":
            [told] = await receiver.wait_for(1, path=f"/told/{name}")
            assert id_of(told).startswith(f"{name}~callback-")
            callback_timer = await pipeline.until(id_of(told), State.DONE)
            assert callback_timer.spec.ordering_key is None
    assert len(receiver.requests) == 6


@pytest.mark.parametrize("answer", [Reply(500), Reply(429), reset, hang])
async def test_it_is_tried_again_until_its_receiver_is_back(store: Store, queue: Queue, answer: Any) -> None:
    """Waits as set, the last attempt may succeed; one message id for all of them."""
    policy = replace(FAST, callback_timeout_ms=150)
    async with Receiver() as receiver, running(store, queue, policy=policy) as pipeline:
        receiver.answer(answer, answer, answer, Reply(200), path="/told")
        await pipeline.schedule("a", f"{receiver.url}/a", callback=Callback(f"{receiver.url}/told"))
        told = await receiver.wait_for(4, path="/told")
        timer = await pipeline.until(id_of(told[0]), State.DONE)
    assert [request.header("httpqueue-attempt") for request in told] == ["1", "2", "3", "4"]
    assert len({request.header("webhook-id") for request in told}) == 1
    assert {request.body for request in told} == {told[0].body}
    ended = [attempt.started_ms + attempt.duration_ms for attempt in timer.log]
    waits = [attempt.due_ms - end for attempt, end in zip(timer.log[1:], ended, strict=False)]
    assert [wait >= delay - 1 for wait, delay in zip(waits, (5, 10, 15), strict=True)] == [True] * 3


async def test_it_gives_up_after_the_last_wait_and_has_no_callback_itself(store: Store, queue: Queue) -> None:
    """It is a dead letter then, which can be replayed; nobody is told of that."""
    async with Receiver() as receiver, running(store, queue, policy=FAST) as pipeline:
        receiver.answer(*[Reply(500)] * 4, Reply(200), path="/told")
        await pipeline.schedule("a", f"{receiver.url}/a", callback=Callback(f"{receiver.url}/told"))
        told = await receiver.wait_for(4, path="/told")
        failed = await pipeline.until(id_of(told[0]), State.FAILED)
        await pipeline.until_all_finished()
        assert failed.spec.callback is None
        assert failed.attempts == 4
        assert len(receiver.requests) == 5
        replay = Change(failed.name, frozenset({State.FAILED}), due=Delay(0))
        await store.change([replay])
        await pipeline.until(failed.name.id, State.DONE)


async def test_no_callback_is_lost_when_the_worker_dies_after_finish(store: Store, queue: Queue) -> None:
    """It is stored with the end: what dies afterwards takes nothing with it, and the next process tells."""
    finish, ended, died = store.finish, list[bool](), asyncio.Event()

    async def finish_and_die(batch: list[Finish], **options: Any) -> Finished:
        ended.extend((await finish(batch, **options)).counted)
        died.set()
        raise ZeroDivisionError

    async with Receiver() as receiver:
        store.finish = finish_and_die  # type: ignore[assignment] # as if it was killed there
        with suppress(ZeroDivisionError):  # of the worker's end, unless it is stopped before it notices
            async with running(store, queue) as pipeline:
                pipeline.relay.drain = _nothing  # type: ignore[method-assign, assignment] # nor is the relay alive
                await pipeline.schedule("a", f"{receiver.url}/a", callback=Callback(f"{receiver.url}/told"))
                found = await store.get(TimerName(DEFAULT_APPLICATION, "a"))
                assert found
                await died.wait()
                await pipeline.until("a", State.DONE)
        assert ended == [True]
        store.finish = finish
        async with running(store, queue) as pipeline:
            await receiver.wait_for(1, path="/told")
            await pipeline.until_all_finished()
        assert [request.path for request in receiver.requests] == ["/a", "/told"]


async def _nothing() -> None:
    """For a while."""


async def test_a_finish_that_is_refused_tells_nobody(store: Store, queue: Queue) -> None:
    """A finish that is repeated because its answer was lost makes no second callback."""
    finish = store.finish

    async def answer_lost(batch: list[Finish], **options: Any) -> Finished:
        store.finish = finish
        await finish(batch, **options)
        raise UnavailableError("the answer was lost")

    async with Receiver() as receiver, running(store, queue) as pipeline:
        finish = store.finish
        store.finish = answer_lost  # type: ignore[assignment] # once
        await pipeline.schedule("a", f"{receiver.url}/a", callback=Callback(f"{receiver.url}/told"))
        await receiver.wait_for(1, path="/told")
        await pipeline.until_all_finished()
    assert [request.path for request in receiver.requests] == ["/a", "/told"]


async def test_each_life_of_an_id_is_told(store: Store, queue: Queue) -> None:
    """An id is used again when its record is gone; the callback of its first life still has one."""
    spec = Spec("", Delay(0), retention=Retention(done_ms=0))
    async with Receiver() as receiver, running(store, queue) as pipeline:
        for life in range(2):
            mine = structs.replace(spec, url=f"{receiver.url}/a", callback=Callback(f"{receiver.url}/told"))
            await store.create([NewTimer(TimerName(DEFAULT_APPLICATION, "a"), mine)])
            told = await receiver.wait_for(life + 1, path="/told")
            await pipeline.until_all_finished()
    assert len({request.header("webhook-id") for request in told}) == 2


async def test_a_replayed_timer_is_told_again(store: Store, queue: Queue) -> None:
    """Each generation has its own callback."""
    async with Receiver() as receiver, running(store, queue) as pipeline:
        receiver.answer(Reply(404), Reply(200), path="/a")
        await pipeline.schedule("a", f"{receiver.url}/a", callback=Callback(f"{receiver.url}/told"))
        await receiver.wait_for(1, path="/told")
        await pipeline.until_all_finished()
        replay = Change(TimerName(DEFAULT_APPLICATION, "a"), frozenset({State.FAILED}), due=Delay(0))
        await store.change([replay])
        told = await receiver.wait_for(2, path="/told")
        await pipeline.until_all_finished()
    assert [body_of(request)["status"] for request in told] == ["failed", "done"]
