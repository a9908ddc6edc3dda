"""Attempts that begin ahead, on a real store and a real receiver."""

import asyncio

import pytest

from httpqueue import clock
from httpqueue.storage.queue import Queue
from httpqueue.storage.timers import Store
from httpqueue.timers.commands import Refused
from httpqueue.timers.room import Room
from httpqueue.worker import calls
from httpqueue.worker.ahead import Ahead
from httpqueue.worker.attempts import Attempts, BeginCall, Running
from tests.support.keys import Everywhere
from tests.support.pipeline import Pipeline, running
from tests.support.receiver import Receiver, Reply, reply_when

HOST = "127.0.0.1"


@pytest.fixture(autouse=True)
def two_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two attempts may begin ahead, however long a trip takes."""
    monkeypatch.setattr(Ahead, "end_trip", lambda ahead, _: ahead._slots.ahead.update({HOST: 2}))


async def three_begun(pipeline: Pipeline, url: str) -> None:
    """The receiver has one call; two more attempts have begun."""
    for timer_id in "abc":
        await pipeline.schedule(timer_id, url)
    async with asyncio.timeout(30):
        while len(pipeline.worker._calls.running) < 3:
            await clock.sleep(0.01)


async def test_the_next_call_starts_without_the_store(
    store: Store, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One call at once. When it ends, the next ones start, although the store begins nothing more."""
    go_on, store_is_back = asyncio.Event(), asyncio.Event()
    begin = Attempts.begin

    async def begin_later(attempts: Attempts, call: BeginCall, room: Room | None) -> list[Running | Refused]:
        await store_is_back.wait()
        return await begin(attempts, call, room)

    async with Receiver() as receiver, running(store, queue, slots=(100, 1)) as pipeline:
        receiver.answer(reply_when(go_on, Reply(200)))
        await three_begun(pipeline, receiver.url)
        assert len(receiver.requests) == 1
        monkeypatch.setattr(Attempts, "begin", begin_later)
        go_on.set()
        requests = await receiver.wait_for(3)
        store_is_back.set()
        await pipeline.until_all_finished()
    assert len({request.run for request in requests}) == 3


async def test_a_worker_that_stops_hands_back_what_began_ahead(store: Store, queue: Queue) -> None:
    """It spends no attempt, and does not wait for the call that is in flight."""
    go_on = asyncio.Event()
    async with Receiver() as receiver, running(store, queue, slots=(100, 1)) as pipeline:
        receiver.answer(reply_when(go_on, Reply(200)))
        await three_begun(pipeline, receiver.url)
        await pipeline.worker.stop()
        async with asyncio.timeout(30):
            while len(pipeline.worker._calls.running) > 1:
                await clock.sleep(0.01)
        counts = await Everywhere(store._redis).hash("counts")
        assert (counts["default:s"], counts["default:r"]) == (2, 1)
        go_on.set()
    assert len(receiver.requests) == 1


async def test_what_waits_longer_than_a_beat_is_handed_back(
    store: Store, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its host has become slow: other workers may call it, or it waits in the host's line."""
    monkeypatch.setattr(calls, "BEAT_S", 0.05)
    go_on = asyncio.Event()
    async with Receiver() as receiver, running(store, queue, slots=(100, 1)) as pipeline:
        receiver.answer(reply_when(go_on, Reply(200)))
        await three_begun(pipeline, receiver.url)
        monkeypatch.setattr(Ahead, "end_trip", lambda ahead, _: ahead._slots.ahead.clear())
        async with asyncio.timeout(30):
            while len(pipeline.worker._calls.running) > 1:
                await clock.sleep(0.01)
        assert len(receiver.requests) == 1
        go_on.set()
        await pipeline.until_all_finished()
    assert len(receiver.requests) == 3
    assert {request.header("httpqueue-attempt") for request in receiver.requests} == {"1"}
