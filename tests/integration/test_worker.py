"""The worker on a real queue, a real store and a real receiver."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from httpqueue.errors import UnavailableError
from httpqueue.runtime.metrics import WAKE_UPS_UNREADABLE
from httpqueue.storage.queue import Claim, Queue
from httpqueue.storage.timers import Store
from httpqueue.timers.commands import (
    Begun,
    Creation,
    Finish,
    Finished,
    IfExists,
    NewTimer,
    Refused,
    WakeUp,
)
from httpqueue.timers.names import DEFAULT_APPLICATION, TimerName
from httpqueue.timers.schedule import Delay
from httpqueue.timers.spec import Spec
from httpqueue.timers.timer import State
from httpqueue.webhooks.client.factory import SenderKind, create_sender
from httpqueue.worker import begins, claims
from httpqueue.worker.attempts import Attempts
from httpqueue.worker.calls import MAX_UNFINISHED
from httpqueue.worker.engine import Worker
from httpqueue.worker.permits import Permits
from httpqueue.worker.slots import Slots
from tests.support.egress import PRIVATE
from tests.support.frozen import claim, storage_of, wake_up
from tests.support.keys import PARTITIONS, Everywhere, place_of
from tests.support.pipeline import QUICK, assert_growing, running, working
from tests.support.receiver import Receiver, Reply, reply_when
from tests.support.records import encode_record

SLOTS = 100
DUE_LONG_AGO = replace(wake_up("a"), due_ms=1)
"""A wake-up of timer `a`, which any worker claims."""


async def store_bad(redis: Redis, queue: Queue, record: bytes) -> str:
    """A timer `bad` that is due, with this record; returns the record's key."""
    bad = replace(wake_up("bad"), due_ms=1)
    keys = PARTITIONS.store_keys[bad.partition]
    await redis.set(f"{keys.records}default:bad", record)
    await redis.zadd(f"{keys.due}default", {"bad": 1})
    await queue.put([bad])
    return f"{keys.records}default:bad"


async def test_a_due_timer_is_called_and_done(store: Store, queue: Queue) -> None:
    """One call with the four headers of every webhook; then the record says how it went."""
    async with Receiver() as receiver, running(store, queue) as pipeline:
        await pipeline.schedule("a", f"{receiver.url}/{{id}}?x=1", body={"n": 1})
        [request] = await receiver.wait_for(1)
        timer = await pipeline.until("a", State.DONE)
    assert (request.method, request.target, request.body) == ("POST", "/a?x=1", b'{"n":1}')
    assert request.header("webhook-id") == f"default:a:{timer.nonce}:0"
    assert request.header("httpqueue-attempt") == "1"
    assert int(request.header("webhook-timestamp") or 0) == request.arrived_ms // 1000
    assert (request.header("user-agent") or "").startswith("httpqueue/")
    assert timer.attempts == 1
    assert timer.last_attempt is not None
    assert (timer.last_attempt.status, timer.last_attempt.error) == (200, None)
    assert 0 <= timer.last_attempt.lateness_ms < 5_000


async def test_a_failing_destination_is_retried_with_growing_gaps(store: Store, queue: Queue) -> None:
    """503 twice, then 200: three attempts of the same message, each wait longer than the one before."""
    with capture_logs() as logs:
        async with Receiver() as receiver, running(store, queue) as pipeline:
            receiver.answer(Reply(503), Reply(503), Reply(200))
            await pipeline.schedule("a", receiver.url)
            requests = await receiver.wait_for(3)
            timer = await pipeline.until("a", State.DONE)
    assert_growing([log["retry_in_ms"] for log in logs if log["event"] == "attempt.retry"], requests)
    assert [request.header("httpqueue-attempt") for request in requests] == ["1", "2", "3"]
    assert {request.header("webhook-id") for request in requests} == {f"default:a:{timer.nonce}:0"}
    assert timer.attempts == 3


@pytest.mark.parametrize("is_forgotten", [False, True])
async def test_an_id_posted_again_is_another_message(
    store: Store, queue: Queue, *, is_forgotten: bool
) -> None:
    """A timer "daily" that is posted anew each day: its receiver must not take the second for the first."""
    policy = replace(QUICK, retention_done_ms=0 if is_forgotten else QUICK.retention_done_ms)
    async with Receiver() as receiver, running(store, queue, policy=policy) as pipeline:
        for day in range(1, 3):
            timer = NewTimer(
                TimerName("default", "daily"), Spec(receiver.url, Delay(0), body=day), IfExists.REPLACE
            )
            [created] = await store.create([timer])
            assert created.creation in {Creation.CREATED, Creation.REPLACED}
            await receiver.wait_for(day)
            await pipeline.until_all_finished()
    assert len({request.header("webhook-id") for request in receiver.requests}) == 2


async def test_the_same_id_of_two_applications_is_two_messages(store: Store, queue: Queue) -> None:
    """Which may have the same receiver."""
    async with Receiver() as receiver, running(store, queue):
        spec = Spec(receiver.url, Delay(0))
        await store.create([NewTimer(TimerName(application, "a"), spec) for application in ("one", "two")])
        requests = await receiver.wait_for(2)
    assert sorted(request.run for request in requests) == ["one:a:0", "two:a:0"]
    assert len({(request.header("webhook-id") or "").partition(":")[2] for request in requests}) == 2


async def test_a_client_error_fails_at_once(store: Store, queue: Queue) -> None:
    """404: one attempt, failed; its record is kept, so that it is not archived yet."""
    async with Receiver() as receiver, running(store, queue) as pipeline:
        receiver.answer(Reply(404))
        await pipeline.schedule("a", receiver.url)
        timer = await pipeline.until("a", State.FAILED)
        assert not await store.is_archived(TimerName("default", "a"))
    assert (timer.attempts, len(receiver.requests)) == (1, 1)
    assert timer.last_attempt is not None
    assert timer.last_attempt.error == "HTTP 404"


async def test_it_gives_up_after_the_last_attempt(store: Store, queue: Queue) -> None:
    """max_attempts calls, then failed."""
    async with Receiver() as receiver, running(store, queue) as pipeline:
        receiver.answer(Reply(500))
        await pipeline.schedule("a", receiver.url)
        timer = await pipeline.until("a", State.FAILED)
    assert len(receiver.requests) == timer.attempts == QUICK.retry.max_attempts


async def test_retention_zero_archives_at_once(store: Store, queue: Queue, redis: Redis) -> None:
    """It is gone at once, and after the relay's next pass nothing but the archive's bits is left of it."""
    policy = replace(QUICK, retention_done_ms=0)
    async with Receiver() as receiver, running(store, queue, policy=policy) as pipeline:
        await pipeline.schedule("a", receiver.url)
        await receiver.wait_for(1)
        await pipeline.finished.wait()
        assert await store.get(TimerName("default", "a")) is None
        assert await store.is_archived(TimerName("default", "a"))
        await pipeline.relay.forget()
        assert await store.is_archived(TimerName("default", "a"))
    assert not [key for key in await redis.keys() if b"default:a" in key]


async def test_an_unreadable_spec_sets_its_timer_alone_aside(
    store: Store, queue: Queue, redis: Redis
) -> None:
    """The others of its batch are delivered; its record stays, for people."""
    async with Receiver() as receiver, running(store, queue) as pipeline:
        key = await store_bad(redis, queue, encode_record(b"{"))
        everywhere = Everywhere(redis)
        await pipeline.schedule("good", receiver.url)
        await pipeline.until("good", State.DONE)
        await until_set_aside(redis)
        for field, member in (("due", "default"), ("held", "default"), ("running", "")):
            assert await everywhere.zcard(field, member) == 0
        assert await redis.exists(key)


async def until_set_aside(redis: Redis) -> None:
    """As soon as the timer `bad` is, and no other one: with several partitions, that may take a moment."""
    async with asyncio.timeout(30):
        while list(await Everywhere(redis).zset("set_aside")) != ["default:bad"]:
            pass


async def test_no_more_than_its_slots_are_in_flight(store: Store, queue: Queue) -> None:
    """Three slots, a receiver that waits: three calls; the others follow when it answers."""
    answer = asyncio.Event()
    async with Receiver() as receiver, running(store, queue, slots=(3, 200)) as pipeline:
        receiver.answer(reply_when(answer, Reply(200)))
        for number in range(7):
            await pipeline.schedule(str(number), receiver.url)
        await receiver.wait_for(3)
        assert len(pipeline.worker._calls.running) == len(receiver.requests) == 3
        answer.set()
        await receiver.wait_for(7)


async def test_an_answer_wakes_a_worker_without_a_free_slot(
    store: Store, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Defect: with all slots in use, it slept for two seconds, however soon a call ended."""
    monkeypatch.setattr(begins, "IDLE_S", 3_600.0)
    async with Receiver() as receiver, running(store, queue, slots=(1, 200)) as pipeline:
        for number in range(3):
            await pipeline.schedule(str(number), receiver.url)
        await receiver.wait_for(3)


async def test_stop_claims_no_more_and_waits_for_attempts(store: Store, queue: Queue) -> None:
    """An attempt in flight ends and is finished; a wake-up that is due meanwhile stays in the queue."""
    answer = asyncio.Event()
    async with Receiver() as receiver:
        async with working(store, queue) as stopped:
            receiver.answer(reply_when(answer, Reply(200)))
            spec = Spec(receiver.url, Delay(0))
            names = [TimerName("default", "a"), TimerName("default", "b")]
            await store.create([NewTimer(name, spec) for name in names])
            await queue.put([DUE_LONG_AGO])
            await receiver.wait_for(1)
            await stopped.stop()
            await queue.put([replace(wake_up("b"), due_ms=1)])
            answer.set()
        found = await store.get(names[0])
    assert found is not None
    assert (found.timer.state, found.timer.attempts) == (State.DONE, 1)
    assert len(receiver.requests) == 1
    assert list(await Everywhere(queue.redis).zset("queue")) == [f"{{{place_of('b')}}}default:b:0"]


async def test_a_wake_message_ends_the_sleep(
    store: Store, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An idle worker hears of an earlier wake-up; it does not poll for it."""
    monkeypatch.setattr(claims, "IDLE_S", 3_600.0)
    async with Receiver() as receiver, running(store, queue) as pipeline:
        await pipeline.schedule("far", receiver.url, Delay(300_000))
        for number in range(3):
            await pipeline.schedule(str(number), receiver.url)
            await receiver.wait_for(number + 1)


async def test_begin_is_repeated_when_the_store_was_away(
    store: Store, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Claimed wake-ups are out of the queue: the worker keeps them till the store is back."""
    begin, failures = store.begin, iter([True, True])

    async def flaky(wake_ups: list[WakeUp], **options: Any) -> object:
        if next(failures, False):
            raise UnavailableError("gone")
        return await begin(wake_ups, **options)

    monkeypatch.setattr(store, "begin", flaky)
    with capture_logs() as logs:
        async with Receiver() as receiver, running(store, queue) as pipeline:
            await pipeline.schedule("a", receiver.url)
            await pipeline.until("a", State.DONE)
    events = [log["event"] for log in logs if log.get("part") == "worker.begin"]
    assert events == ["redis.away", "redis.back"]


async def test_claim_goes_on_when_the_queue_was_away(
    store: Store, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker lives through it."""
    claim_some, failures = queue.claim, iter([True, True])

    async def flaky(partition: int, limit: int) -> Claim:
        if next(failures, False):
            raise UnavailableError("gone")
        return await claim_some(partition, limit)

    monkeypatch.setattr(queue, "claim", flaky)
    async with Receiver() as receiver, running(store, queue) as pipeline:
        await pipeline.schedule("a", receiver.url)
        await receiver.wait_for(1)


async def test_finish_is_repeated_until_the_store_is_back(
    store: Store, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that came while the store was away is not forgotten."""
    finish, failures = store.finish, iter([True, True])

    async def flaky(attempts: list[Finish], **options: Any) -> object:
        if next(failures, False):
            raise UnavailableError("gone")
        return await finish(attempts, **options)

    monkeypatch.setattr(store, "finish", flaky)
    async with Receiver() as receiver, running(store, queue) as pipeline:
        await pipeline.schedule("a", receiver.url)
        await pipeline.until("a", State.DONE)
    assert len(receiver.requests) == 1


async def test_the_stores_clock_decides(store: Store, queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue server whose clock is ahead wakes too early: the attempt waits for the store's time."""
    run_script = queue._claim

    async def ahead(partition: int, now: object, *rest: object) -> object:
        del now
        return await run_script(partition, 9_999_999_999_999, *rest)

    monkeypatch.setattr(queue, "_claim", ahead)
    async with Receiver() as receiver, running(store, queue) as pipeline:
        created = await pipeline.schedule("a", receiver.url, Delay(300))
        timer = await pipeline.until("a", State.DONE)
    assert timer.last_attempt is not None
    assert timer.last_attempt.started_ms >= created.due_ms
    assert timer.attempts == 1


async def test_a_foreign_job_is_named_and_dropped(store: Store, queue: Queue, redis: Redis) -> None:
    """What nobody can run does not keep the others waiting. It is counted."""
    counted = WAKE_UPS_UNREADABLE._value.get()
    with capture_logs() as logs:
        async with Receiver() as receiver, running(store, queue) as pipeline:
            for key in (everywhere := Everywhere(redis)).keys("queue"):
                await redis.zadd(key, {"nonsense": 1})
            await pipeline.schedule("a", receiver.url)
            await receiver.wait_for(1)
            async with asyncio.timeout(30):
                while await everywhere.zcard("queue"):
                    pass
    told = [log["event"] for log in logs if log["event"] == "worker.unreadable"]
    assert told == ["worker.unreadable"] * PARTITIONS.count
    assert WAKE_UPS_UNREADABLE._value.get() - counted == PARTITIONS.count


@pytest.mark.parametrize("where", ["httpqueue.worker.plan.judge", "httpqueue.worker.attempts.render"])
async def test_a_bug_in_an_attempt_is_told(
    store: Store, queue: Queue, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """The worker goes on; the timer comes back when its lease ends."""
    told = asyncio.Event()

    def broken(*_: object, **__: object) -> None:
        told.set()
        raise ZeroDivisionError

    with capture_logs() as logs:
        async with Receiver() as receiver, running(store, queue, slots=(SLOTS, 200)) as pipeline:
            monkeypatch.setattr(where, broken)
            await pipeline.schedule("a", receiver.url)
            await told.wait()
            monkeypatch.undo()
            await pipeline.schedule("b", receiver.url)
            await pipeline.until("b", State.DONE)
            assert not pipeline.worker._calls.running
            assert pipeline.worker._slots.free == SLOTS
    assert "worker.bug" in [log["event"] for log in logs]


async def test_a_log_that_cannot_be_written_keeps_no_slot(
    store: Store, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full, say. The store still hears how the attempt ended."""

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    async with Receiver() as receiver, running(store, queue, slots=(SLOTS, 200)) as pipeline:
        receiver.answer(Reply(400))
        monkeypatch.setattr("httpqueue.worker.finishes.log.warning", full)
        await pipeline.schedule("a", receiver.url)
        timer = await pipeline.until("a", State.FAILED)
        assert timer.attempts == 1
        assert pipeline.worker._slots.free == SLOTS


async def test_a_bug_in_a_finish_harms_no_other_attempt(
    store: Store, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Defect 0: it is logged. The worker goes on, and believes the attempt lost: its lease ends."""
    finish = store.finish

    async def broken(batch: Sequence[Finish], **options: Any) -> Finished:
        if any(each.begun.wake_up.name.id == "a" for each in batch):
            raise ZeroDivisionError
        return await finish(batch, **options)

    monkeypatch.setattr(store, "finish", broken)
    sender = create_sender(SenderKind.HTTP1, PRIVATE.judge)
    attempts = Attempts(store=store, sender=sender, policy=QUICK)
    permits = Permits(storage_of(store), queue)
    one = Worker(attempts=attempts, queue=queue, permits=permits, slots=Slots(9, 9), grace_s=0)
    told = asyncio.Queue[Finish]()
    attempts.finishes.told.listen(lambda batch: [*map(told.put_nowait, batch[0])])
    names = [TimerName(DEFAULT_APPLICATION, name) for name in "ab"]
    async with Receiver() as receiver:
        await store.create([NewTimer(name, Spec(receiver.url, Delay(0))) for name in names])
        await queue.put([replace(wake_up(name.id), due_ms=1) for name in names])
        with capture_logs() as logs:
            task = asyncio.create_task(one.run())
            async with asyncio.timeout(30):
                assert {(await told.get()).begun.wake_up.name for _ in names} == {*names}
            assert not one._calls.running
            await one.stop()
            await task
    await sender.close()
    assert {log["event"] for log in logs} == {"run.bug"}
    found = [await store.get(name) for name in names]
    assert [each.timer.state for each in found if each] == [State.RUNNING, State.DONE]


async def test_a_bug_in_a_begin_harms_no_other_batch(
    store: Store, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Defect 0: it is logged, and the worker goes on with the next wake-ups."""
    begin, broke = store.begin, asyncio.Event()

    async def broken(wake_ups: Sequence[WakeUp], **options: Any) -> list[Begun | Refused]:
        if any(each.name.id == "bad" for each in wake_ups):
            broke.set()
            raise ZeroDivisionError
        return await begin(wake_ups, **options)

    monkeypatch.setattr(store, "begin", broken)
    async with Receiver() as receiver, working(store, queue):
        with capture_logs() as logs:
            await queue.put([replace(wake_up("bad"), due_ms=1)])
            await broke.wait()
            await store.create([NewTimer(TimerName(DEFAULT_APPLICATION, "a"), Spec(receiver.url, Delay(0)))])
            await queue.put([DUE_LONG_AGO])
            await receiver.wait_for(1)
    assert [log["event"] for log in logs] == ["run.bug"]


async def test_a_slot_is_free_when_the_answer_is_there(
    store: Store, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls go on while ended attempts wait for the store, but no more than it can be told soon."""
    finish, back = store.finish, asyncio.Event()

    async def away(attempts: list[Finish], **options: Any) -> object:
        await back.wait()
        return await finish(attempts, **options)

    monkeypatch.setattr(store, "finish", away)
    async with Receiver() as receiver, running(store, queue, slots=(1, 200)) as pipeline:
        for number in range(MAX_UNFINISHED + 3):
            await pipeline.schedule(str(number), receiver.url)
        await receiver.wait_for(MAX_UNFINISHED)
        assert len(pipeline.worker._calls.running) == len(receiver.requests) == MAX_UNFINISHED
        back.set()
        await receiver.wait_for(MAX_UNFINISHED + 3)


async def test_stop_gives_back_what_was_not_begun(
    store: Store, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wake-ups that were claimed while the store was away are in the queue again, due at once."""
    was_asked = asyncio.Event()

    async def away(*_: object, **__: object) -> object:
        was_asked.set()
        raise UnavailableError("gone")

    monkeypatch.setattr(store, "begin", away)
    async with working(store, queue):
        await queue.put([DUE_LONG_AGO])
        await was_asked.wait()
        assert await claim(queue) == []
    assert await claim(queue) == [wake_up("a")]


async def test_an_unreadable_record_is_told_and_left_aside(store: Store, queue: Queue, redis: Redis) -> None:
    """By name, for each wake-up that met it; its neighbour is delivered."""
    with capture_logs() as logs:
        async with Receiver() as receiver, running(store, queue) as pipeline:
            await store_bad(redis, queue, b"garbage")
            await pipeline.schedule("good", receiver.url)
            await pipeline.until("good", State.DONE)
            await until_set_aside(redis)
    told = [log for log in logs if log["event"] == "attempt.unreadable"]
    assert {log["timer"] for log in told} == {"default:bad"}
