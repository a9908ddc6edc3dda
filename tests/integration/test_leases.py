"""Leases: who leads an attempt while workers freeze, stop and die, and while the store is away."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from structlog.testing import capture_logs

from httpqueue import clock
from httpqueue.errors import UnavailableError
from httpqueue.storage.queue import Claim, Queue
from httpqueue.storage.scripts import Script
from httpqueue.storage.timers import Store
from httpqueue.timers.commands import Begun, Finish, Finished, NewTimer, Refusal, Refused, WakeUp
from httpqueue.timers.names import DEFAULT_APPLICATION, TimerName
from httpqueue.timers.retry import RetryOptions
from httpqueue.timers.schedule import Delay
from httpqueue.timers.spec import Spec
from httpqueue.timers.timer import State, Timer
from httpqueue.webhooks.client.factory import SenderKind, create_sender
from httpqueue.webhooks.outcome import Outcome
from httpqueue.worker import calls
from httpqueue.worker.attempts import BEAT_S, BEATS_LEFT, Attempts, Running
from httpqueue.worker.plan import MAX_LOST
from tests.support.egress import PRIVATE
from tests.support.frozen import (
    LEASE_MS,
    FrozenTime,
    begin,
    begin_one,
    finish_of,
    lose_leases,
    pass_time,
    wake_up,
)
from tests.support.keys import here
from tests.support.pipeline import QUICK, running, working
from tests.support.receiver import Receiver, Reply, hang, reply_when

ONCE = RetryOptions(max_attempts=1)
OUTAGE_MS = LEASE_MS + 10_000
HOUR_MS = 3_600_000


@asynccontextmanager
async def attempts_on(store: Store) -> AsyncIterator[Attempts]:
    """A worker without its engine: what it does with a wake-up, step by step."""
    sender = create_sender(SenderKind.HTTP1, PRIVATE.judge)
    attempts = Attempts(store=store, sender=sender, policy=QUICK)
    finishing = asyncio.create_task(attempts.finishes.run())
    yield attempts
    finishing.cancel()
    await sender.close()


async def begun_by(attempts: Attempts, timer_id: str = "a") -> Running:
    """An attempt that must not be refused."""
    [answer] = await attempts.begin(attempts.begin_call([wake_up(timer_id)]))
    assert isinstance(answer, Running), answer
    return answer


async def schedule(store: Store, url: str, *timer_ids: str, **spec: Any) -> None:
    """Timers that are due at once."""
    names = [TimerName(DEFAULT_APPLICATION, timer_id) for timer_id in timer_ids]
    await store.create([NewTimer(name, Spec(url, Delay(0), **spec)) for name in names])


async def stored(store: Store, timer_id: str = "a") -> Timer:
    """As it is now."""
    found = await store.get(TimerName(DEFAULT_APPLICATION, timer_id))
    assert found is not None
    return found.timer


@dataclass
class Suspension:
    """Lets boot time go on by itself, as it does while a machine or a process is suspended."""

    slept_s: float = 0.0


@pytest.fixture
def suspension(monkeypatch: pytest.MonkeyPatch) -> Suspension:
    """Boot time goes on by what the test says."""
    suspended, boottime_s = Suspension(), clock.boottime_s
    monkeypatch.setattr(clock, "boottime_s", lambda: boottime_s() + suspended.slept_s)
    return suspended


# --- the answer to begin is lost ---


async def test_a_begin_whose_answer_was_lost_spends_nothing(
    frozen_store: Store, frozen_queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store began the only attempt of a timer, and nobody heard: it is made all the same, once.

    Time stands still: no lease ends, so that nobody else could make it.
    """
    begin_in_store = frozen_store.begin
    lost: list[Begun | Refused] = []

    async def deaf(wake_ups: Sequence[WakeUp], **options: Any) -> list[Begun | Refused]:
        answers = await begin_in_store(wake_ups, **options)
        if not lost:
            lost.extend(answers)
            raise UnavailableError("the answer did not come")
        return answers

    monkeypatch.setattr(frozen_store, "begin", deaf)
    async with Receiver() as receiver, running(frozen_store, frozen_queue) as pipeline:
        await pipeline.schedule("a", receiver.url, retry=ONCE)
        timer = await pipeline.until("a", State.DONE)
    begun = [answer for answer in lost if isinstance(answer, Begun)]
    assert len(begun) == 1  # its wake-up may have been claimed twice
    assert (timer.attempts, len(receiver.requests)) == (1, 1)


async def test_a_begin_that_is_not_repeated_is_another_one(store: Store) -> None:
    """A second wake-up that reaches the same worker starts nothing beside the first."""
    await schedule(store, "http://receiver/", "a")
    async with attempts_on(store) as attempts:
        await begun_by(attempts)
        [second] = await attempts.begin(attempts.begin_call([wake_up("a")]))
    assert isinstance(second, Refused)
    assert second.refusal is Refusal.RUNNING


# --- the worker is frozen ---


async def test_a_frozen_worker_does_not_send_what_another_one_has(
    frozen_store: Store, time: FrozenTime, suspension: Suspension
) -> None:
    """Frozen between begin and call, for longer than its lease: only who took the timer over calls it."""
    async with (
        Receiver() as receiver,
        attempts_on(frozen_store) as frozen,
        attempts_on(frozen_store) as other,
    ):
        await schedule(frozen_store, receiver.url, "a")
        late = await begun_by(frozen)
        suspension.slept_s += 60
        await pass_time(frozen_store, time, 60_000)
        taken_over = await begun_by(other)
        await frozen.make(late)
        assert receiver.requests == []
        await other.make(taken_over)
    assert len(receiver.requests) == 1
    timer = await stored(frozen_store)
    assert (timer.state, timer.attempts) == (State.DONE, 1)


async def test_a_frozen_worker_hands_back_what_nobody_has(store: Store, suspension: Suspension) -> None:
    """It may be another one's at any moment: it is scheduled again, and costs neither attempt nor worker."""
    async with Receiver() as receiver, attempts_on(store) as attempts:
        await schedule(store, receiver.url, "a", retry=ONCE)
        late = await begun_by(attempts)
        suspension.slept_s += 60
        await attempts.make(late)
        timer = await stored(store)
        assert (timer.state, timer.attempts, receiver.requests) == (State.SCHEDULED, 0, [])
        again = await begun_by(attempts)
        assert (again.begun.attempt, again.begun.lost) == (1, 0)
        await attempts.make(again)
    assert (await stored(store)).state is State.DONE
    assert len(receiver.requests) == 1


@pytest.mark.parametrize("timeout_ms", [1, 100, HOUR_MS])
async def test_a_call_starts_after_a_slow_begin(
    store: Store, suspension: Suspension, timeout_ms: int
) -> None:
    """However short its timeout is, a lease leaves time for a begin of one beat's length."""
    async with Receiver() as receiver, attempts_on(store) as attempts:
        receiver.answer(Reply(200))
        await schedule(store, receiver.url, "a", timeout_ms=timeout_ms)
        one = await begun_by(attempts)
        suspension.slept_s += BEAT_S - 1
        with capture_logs() as logs:
            await attempts.make(one)
    assert "attempt.dropped" not in [log["event"] for log in logs]
    assert one.is_called


async def test_a_call_starts_only_with_beats_left(store: Store, suspension: Suspension) -> None:
    """Just before that many beats are left it starts, just after it does not."""
    async with Receiver() as receiver, attempts_on(store) as attempts:
        await schedule(store, receiver.url, "a", "b")
        early, late = await begun_by(attempts, "a"), await begun_by(attempts, "b")
        suspension.slept_s = early.lease_end_s - BEATS_LEFT * BEAT_S - 1 - clock.boottime_s()
        await attempts.make(early)
        suspension.slept_s += 2
        await attempts.make(late)
    assert len(receiver.requests) == 1
    assert (await stored(store, "b")).state is State.SCHEDULED


# --- the lease is lost during the call ---


async def test_a_refused_beat_ends_the_call(
    frozen_store: Store, frozen_queue: Queue, time: FrozenTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker has the timer: nobody waits for the answer, and how the call ends counts no more."""
    beat, may_beat = frozen_store.beat, asyncio.Event()

    async def gated(attempts: Sequence[Begun]) -> list[bool]:
        if attempts:
            await may_beat.wait()
        return await beat(attempts)

    monkeypatch.setattr(calls, "BEAT_S", 0.01)
    monkeypatch.setattr(frozen_store, "beat", gated)
    with capture_logs() as logs:
        async with Receiver() as receiver, working(frozen_store, frozen_queue) as worker:
            receiver.answer(hang)
            await schedule(frozen_store, receiver.url, "a", timeout_ms=HOUR_MS)
            await frozen_queue.put([wake_up("a")])
            await receiver.wait_for(1)
            [late] = [each.begun for each in worker._calls.running.values()]
            await lose_leases(frozen_store, time)
            taken_over = await begin_one(frozen_store, "a")
            [call] = worker._calls.running.values()
            may_beat.set()
            async with asyncio.timeout(10):
                await worker._calls.settled.wait()
            assert call.is_answered
    assert "attempt.lost" in [log["event"] for log in logs]
    assert (await frozen_store.finish([finish_of(late, Outcome.FAILED)])).counted == [False]
    assert (await frozen_store.finish([finish_of(taken_over, Outcome.DELIVERED)])).counted == [True]


async def test_a_late_worker_changes_nothing(frozen_store: Store, time: FrozenTime) -> None:
    """Its timer was begun again elsewhere while it waited for the answer: its finish is refused."""
    answer = asyncio.Event()
    async with Receiver() as receiver, attempts_on(frozen_store) as slow:
        receiver.answer(reply_when(answer, Reply(200)))
        await schedule(frozen_store, receiver.url, "a")
        call = asyncio.create_task(slow.make(await begun_by(slow)))
        await receiver.wait_for(1)
        await lose_leases(frozen_store, time)
        await begin_one(frozen_store, "a")
        answer.set()
        with capture_logs() as logs:
            await call
    timer = await stored(frozen_store)
    assert (timer.state, timer.attempts, timer.log) == (State.RUNNING, 1, ())
    assert [log["event"] for log in logs] == ["attempt.late"]


async def test_beats_keep_a_long_call_alive(
    frozen_store: Store, frozen_queue: Queue, time: FrozenTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that lasts for three leases stays its worker's."""
    beat, answer = frozen_store.beat, asyncio.Event()
    beaten: asyncio.Queue[list[bool]] = asyncio.Queue()

    async def told(attempts: Sequence[Begun]) -> list[bool]:
        answers = await beat(attempts)
        if attempts:
            beaten.put_nowait(answers)
        return answers

    monkeypatch.setattr(calls, "BEAT_S", 0.01)
    monkeypatch.setattr(frozen_store, "beat", told)
    async with Receiver() as receiver, running(frozen_store, frozen_queue) as pipeline:
        receiver.answer(reply_when(answer, Reply(200)))
        await pipeline.schedule("a", receiver.url, timeout_ms=HOUR_MS)
        await receiver.wait_for(1)
        for _ in range(3 * LEASE_MS // 4_000):
            time.advance(4_000)
            while not beaten.empty():
                beaten.get_nowait()
            assert await beaten.get() == [True]  # it may have begun before the time went on
            assert await beaten.get() == [True]
        [refused] = await begin(frozen_store, [wake_up("a")])
        assert isinstance(refused, Refused)
        answer.set()
        timer = await pipeline.until("a", State.DONE)
    assert (timer.attempts, len(receiver.requests)) == (1, 1)


# --- the worker stops or dies ---


async def test_what_outlasts_the_grace_time_is_made_elsewhere_at_once(store: Store, queue: Queue) -> None:
    """Whatever its timeout is: it is scheduled when the worker has stopped, not when a lease has ended."""
    async with Receiver() as receiver:
        receiver.answer(hang, Reply(200))
        async with working(store, queue) as stopped:
            await schedule(store, receiver.url, "a", timeout_ms=HOUR_MS, retry=ONCE)
            await queue.put([wake_up("a")])
            await receiver.wait_for(1)
            stopped._grace_s = 0
        timer = await stored(store)
        assert (timer.state, timer.attempts) == (State.SCHEDULED, 0)
        async with running(store, queue) as pipeline:
            timer = await pipeline.until("a", State.DONE)
    assert (timer.attempts, len(receiver.requests)) == (1, 2)
    assert len({request.header("webhook-id") for request in receiver.requests}) == 1


async def test_only_what_was_called_counts_as_a_lost_worker(store: Store) -> None:
    """Neither costs an attempt."""
    async with Receiver() as receiver, attempts_on(store) as attempts:
        receiver.answer(hang)
        await schedule(store, receiver.url, "called", "waiting", retry=ONCE)
        called, waiting = await begun_by(attempts, "called"), await begun_by(attempts, "waiting")
        call = asyncio.create_task(attempts.make(called))
        await receiver.wait_for(1)
        call.cancel()
        await asyncio.wait([call])
        await attempts.hand_back([called, waiting])
        again = [(await begun_by(attempts, timer_id)).begun for timer_id in ("called", "waiting")]
    assert [(begun.attempt, begun.lost) for begun in again] == [(1, 1), (1, 0)]


async def test_an_answer_that_came_before_the_end_is_not_handed_back(
    store: Store, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that stops without any grace tells the store what it knows already."""
    finish, may_finish, asked = store.finish, asyncio.Event(), asyncio.Event()

    async def slow(attempts: Sequence[Finish], **options: Any) -> Finished:
        asked.set()
        await may_finish.wait()
        return await finish(attempts, **options)

    monkeypatch.setattr(store, "finish", slow)
    async with Receiver() as receiver, working(store, queue) as stopped:
        await schedule(store, receiver.url, "a")
        await queue.put([wake_up("a")])
        await asked.wait()
        stopped._grace_s = 0
        await stopped.stop()
        asyncio.get_running_loop().call_later(0.05, may_finish.set)
    assert (await stored(store)).state is State.DONE


async def test_a_worker_that_dies_costs_no_attempt(
    frozen_store: Store, frozen_queue: Queue, time: FrozenTime
) -> None:
    """A timer with one attempt, whose worker died before the call, is called; so it is after the next."""
    async with Receiver() as receiver:
        await schedule(frozen_store, receiver.url, "a", retry=ONCE)
        for lost in range(MAX_LOST - 1):
            assert (await begin_one(frozen_store, "a")).lost == lost
            await lose_leases(frozen_store, time)
        async with running(frozen_store, frozen_queue) as pipeline:
            await pipeline.relay.heal()
            timer = await pipeline.until("a", State.DONE)
    assert (timer.attempts, len(receiver.requests)) == (1, 1)


async def test_a_timer_that_kills_its_workers_fails(
    frozen_store: Store, frozen_queue: Queue, time: FrozenTime
) -> None:
    """After so many in one attempt it is not called again, and says why."""
    async with Receiver() as receiver:
        await schedule(frozen_store, receiver.url, "a")
        for _ in range(MAX_LOST):
            await begin_one(frozen_store, "a")
            await lose_leases(frozen_store, time)
        async with running(frozen_store, frozen_queue) as pipeline:
            await pipeline.relay.heal()
            timer = await pipeline.until("a", State.FAILED)
    assert receiver.requests == []
    assert timer.last_attempt is not None
    assert timer.last_attempt.error == "3 workers were lost in this attempt"
    assert timer.attempts == 1


# --- the store is away ---


@dataclass
class Outage:
    """While it is on, all scripts fail; tells when a finish has failed, and a beat has gone through."""

    store: Store
    is_on: bool = False

    def __post_init__(self) -> None:
        self.failed_finish = asyncio.Event()
        self.beaten = asyncio.Event()

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Every script asks this switch first."""
        run, outage = Script.__call__, self

        async def switched(script: Script, *args: Any) -> Any:
            if outage.is_on:
                if script is outage.store._leases._finish:
                    outage.failed_finish.set()
                raise UnavailableError("gone")
            answer = await run(script, *args)
            if script is outage.store._leases._beat and answer:
                outage.beaten.set()
            return answer

        monkeypatch.setattr(Script, "__call__", switched)


async def test_an_outage_longer_than_a_lease_repeats_nothing(
    frozen_store: Store, frozen_queue: Queue, time: FrozenTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the calls end while the store is away, half later: each webhook is called once."""
    ids = {path: [f"{path}-{number}" for number in range(10)] for path in ("during", "after")}
    wake_ups = [wake_up(timer_id) for part in ids.values() for timer_id in part]
    during, after = asyncio.Event(), asyncio.Event()
    outage = Outage(frozen_store)
    outage.install(monkeypatch)
    monkeypatch.setattr(calls, "BEAT_S", 0.01)
    async with Receiver() as receiver, running(frozen_store, frozen_queue) as pipeline:
        receiver.answer(reply_when(during, Reply(200)), path="/during")
        receiver.answer(reply_when(after, Reply(200)), path="/after")
        for path, part in ids.items():
            await schedule(frozen_store, f"{receiver.url}/{path}", *part, timeout_ms=HOUR_MS)
        await receiver.wait_for(len(wake_ups))
        outage.is_on = True
        during.set()
        await outage.failed_finish.wait()
        time.advance(OUTAGE_MS)
        outage.is_on = False
        outage.beaten.clear()
        # All leases have ended, but nobody takes a timer over: its worker may still be there.
        answers = await begin(frozen_store, wake_ups)
        assert [answer for answer in answers if isinstance(answer, Begun)] == []
        assert await pipeline.relay.heal() == 0
        # And when the time for that is over, workers have had their say.
        await outage.beaten.wait()
        await pipeline.until_all_finished(but=10)
        await pass_time(frozen_store, time, 16_000)
        assert await pipeline.relay.heal() == 0
        after.set()
        await pipeline.until_all_finished()
    assert len(receiver.requests) == len(wake_ups)
    timers = [await stored(frozen_store, wake.name.id) for wake in wake_ups]
    assert {(timer.state, timer.attempts) for timer in timers} == {(State.DONE, 1)}


async def test_what_has_ended_is_told_before_anything_is_begun(
    store: Store, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While ended attempts wait for the store, their worker claims nothing: it might be one of them."""
    finish, claim = store.finish, queue.claim
    order: list[str] = []
    is_away, failures = True, asyncio.Queue[None]()

    async def flaky(attempts: Sequence[Finish], **options: Any) -> Finished:
        if is_away:
            failures.put_nowait(None)
            raise UnavailableError("gone")
        order.append("finished")
        return await finish(attempts, **options)

    async def told(partition: int, limit: int) -> Claim:
        claimed = await claim(partition, limit)
        order.extend(wake.name.id for wake in claimed.wake_ups)
        return claimed

    monkeypatch.setattr(store, "finish", flaky)
    monkeypatch.setattr(queue, "claim", told)
    async with Receiver() as receiver, running(store, queue) as pipeline:
        a, b = here("a"), here("b")  # of one partition; others go on
        await pipeline.schedule(a, receiver.url)
        await failures.get()
        await pipeline.schedule(b, receiver.url)
        await pipeline.relay.drain()
        for _ in range(3):  # each after a longer pause, in which the worker could have claimed
            await failures.get()
        is_away = False
        await pipeline.until(b, State.DONE)
    assert order.index("finished") < order.index(b)


async def test_a_finish_whose_answer_was_lost_is_no_late_one(
    store: Store, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Defect 6: the worker repeats the call, and says nothing of a late attempt."""
    finish, failures = store.finish, [UnavailableError("gone")]

    async def lose_answer(*args: Any, **options: Any) -> Finished:
        finished = await finish(*args, **options)
        if failures:
            raise failures.pop()
        return finished

    monkeypatch.setattr(store, "finish", lose_answer)
    with capture_logs() as logs:
        async with Receiver() as receiver, running(store, queue) as pipeline:
            told: asyncio.Queue[Finished] = asyncio.Queue()
            pipeline.worker._finishes.told.listen(lambda batch: told.put_nowait(batch[1]))
            await pipeline.schedule("a", receiver.url)
            async with asyncio.timeout(30):
                assert (await told.get()).counted == [True]
            assert not pipeline.worker._calls.running
    assert "attempt.late" not in [log["event"] for log in logs]
