"""Timers that are late: fired, skipped, or fired within limits, as each of them says."""

import pytest

from httpqueue.storage.queue import Queue
from httpqueue.storage.timers import Store
from httpqueue.timers.commands import Change
from httpqueue.timers.names import TimerName
from httpqueue.timers.schedule import Delay
from httpqueue.timers.spec import SKIP_GRACE_MS
from httpqueue.timers.timer import State
from tests.support.frozen import HOUR_MS, FrozenTime, storage_of
from tests.support.pipeline import running
from tests.support.receiver import Receiver, Reply

YEAR_MS = 365 * 24 * HOUR_MS


@pytest.mark.parametrize(
    ("past_due", "late_ms", "is_sent"),
    [
        ("fire", YEAR_MS, True),
        ("skip", SKIP_GRACE_MS, True),
        ("skip", SKIP_GRACE_MS + 1, False),
        (HOUR_MS, HOUR_MS, True),
        (HOUR_MS, HOUR_MS + 1, False),
        (0, 0, True),
        (0, 1, False),
    ],
)
async def test_after_downtime(
    frozen_store: Store,
    frozen_queue: Queue,
    time: FrozenTime,
    *,
    past_due: str | int,
    late_ms: int,
    is_sent: bool,
) -> None:
    """Nobody was at work when it became due; what is not sent has failed, and says how late it was."""
    async with Receiver() as receiver:
        async with running(frozen_store, frozen_queue) as pipeline:
            await pipeline.schedule("a", receiver.url, Delay(1_000), past_due=past_due)
        time.advance(1_000 + late_ms)
        async with running(frozen_store, frozen_queue) as pipeline:
            timer = await pipeline.until("a", State.DONE, State.FAILED)
    assert timer.last_attempt is not None
    assert timer.last_attempt.lateness_ms == late_ms
    if is_sent:
        assert (timer.state, len(receiver.requests)) == (State.DONE, 1)
    else:
        assert (timer.state, receiver.requests) == (State.FAILED, [])
        assert timer.last_attempt.error == f"not sent: {late_ms / 1000:,.0f} s past due"
    [*hosts] = await storage_of(frozen_store).policies.destinations()
    assert [(host.host, host.health and host.health.failures) for host in hosts] == (
        [("127.0.0.1", 0)] if is_sent else []  # a host that was not called is not to blame
    )


async def test_a_retry_is_never_too_late(frozen_store: Store, frozen_queue: Queue, time: FrozenTime) -> None:
    """The first attempt was in time; what follows is backoff, and downtime in it is no reason to give up."""
    async with Receiver() as receiver:
        receiver.answer(Reply(503), Reply(200))
        async with running(frozen_store, frozen_queue) as pipeline:
            await pipeline.schedule("a", receiver.url, past_due=0)
            await pipeline.until_that("a", lambda timer: len(timer.log) == 1)
        time.advance(HOUR_MS)
        async with running(frozen_store, frozen_queue) as pipeline:
            timer = await pipeline.until("a", State.DONE)
    assert timer.attempts == 2


async def test_a_replayed_timer_is_due_anew(
    frozen_store: Store, frozen_queue: Queue, time: FrozenTime
) -> None:
    """One that was too late may be sent after all."""
    async with Receiver() as receiver:
        async with running(frozen_store, frozen_queue) as pipeline:
            await pipeline.schedule("a", receiver.url, Delay(1_000), past_due="skip")
        time.advance(HOUR_MS)
        async with running(frozen_store, frozen_queue) as pipeline:
            await pipeline.until("a", State.FAILED)
            replay = Change(TimerName("default", "a"), frozenset({State.FAILED}), due=Delay(0))
            await frozen_store.change([replay])
            await pipeline.until("a", State.DONE)
    assert len(receiver.requests) == 1
