"""Attempts: begin, send, judge, finish. What a worker does with a wake-up, for many at once.

A worker that dies in the middle leaves a lease that runs out; the heal pass then wakes the timer again.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog

from httpqueue import clock, keys
from httpqueue.backoff import RetryPolicy
from httpqueue.batch import Batcher
from httpqueue.delivery.sender import Sender
from httpqueue.errors import InvalidTimerError, UnavailableError
from httpqueue.metrics import ATTEMPTS, ATTEMPTS_REFUSED, IN_FLIGHT, LATENESS, WAKE_UPS_REFUSED
from httpqueue.outage import Outage
from httpqueue.outcome import Outcome, Verdict, judge
from httpqueue.store import Store
from httpqueue.timer import Attempt, decode_spec
from httpqueue.transitions import Begun, Finish, Refusal, Refused, WakeUp
from httpqueue.webhook import Fault, Response, SendError, render

LEASE_MARGIN_MS: Final = 10_000
"""A running attempt is believed alive this much longer than it may take."""
MAX_FINISH: Final = 500
GATHER_S: Final = 0.003
"""How long ended attempts are gathered for one finish; nobody waits for it."""

_COUNT: Final = {outcome: ATTEMPTS.labels(outcome.value) for outcome in Outcome}

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class AttemptPolicy:
    """How attempts are made and what is kept of finished timers."""

    retry: RetryPolicy = field(default_factory=RetryPolicy)
    timeout_ms: int = 20_000
    retention_done_ms: int = 3_600_000
    retention_failed_ms: int = 2_592_000_000
    append_timer_id: bool = False


class Attempts:
    """Runs attempts; how they ended reaches the store in batches."""

    def __init__(self, *, store: Store, sender: Sender, policy: AttemptPolicy) -> None:
        self._store = store
        self._sender = sender
        self._policy = policy
        self._finish: Batcher[Finish, bool] = Batcher(
            self._finish_patiently, max_items=MAX_FINISH, gather_s=GATHER_S
        )

    async def begin(self, wake_ups: Sequence[WakeUp]) -> list[Begun | Refused]:
        """Begin those that the store lets; raises UnavailableError."""
        answers = await self._store.begin(wake_ups, lease_ms=self._policy.timeout_ms + LEASE_MARGIN_MS)
        for answer in answers:
            if isinstance(answer, Refused):
                WAKE_UPS_REFUSED.labels(answer.refusal.value).inc()
                if answer.refusal is Refusal.UNREADABLE:
                    log.error("attempt.unreadable", timer=answer.wake_up.member, kept_in=keys.SET_ASIDE)
            else:
                LATENESS.observe((answer.started_ms - answer.due_ms) / 1000)
        return answers

    async def run(self, begun: Begun, on_answer: Callable[[], None] = lambda: None) -> None:
        """Call the webhook, then on_answer, then tell the store how it ended, however long it is away."""
        IN_FLIGHT.inc()
        try:
            result = await self._send(begun)
        finally:
            IN_FLIGHT.dec()
            on_answer()
        verdict = judge(
            result,
            attempt=begun.attempt,
            policy=self._policy.retry,
            jitter=random.random(),  # noqa: S311 - spreads a herd, guards nothing
            now_ms=clock.now_ms(),
        )
        _tell(begun, verdict)
        if not await self._finish.submit(self._finish_of(begun, verdict)):
            ATTEMPTS_REFUSED.inc()
            log.warning("attempt.late", timer=begun.wake_up.member, attempt=begun.attempt)

    async def _send(self, begun: Begun) -> Response | SendError:
        if begun.attempt > self._policy.retry.max_attempts:
            return SendError(Fault.LOST_WORKER, "the worker was lost in the last attempt")
        _, _, timer_id = begun.wake_up.member.partition(":")
        try:
            request = render(
                decode_spec(begun.spec),
                timer_id=timer_id,
                generation=begun.wake_up.generation,
                attempt=begun.attempt,
                started_ms=begun.started_ms,
                append_timer_id=self._policy.append_timer_id,
            )
            return await self._sender.send(request, timeout_s=self._policy.timeout_ms / 1000)
        except SendError as error:
            return error
        except InvalidTimerError as error:
            return SendError(Fault.INVALID_REQUEST, str(error))

    def _finish_of(self, begun: Begun, verdict: Verdict) -> Finish:
        match verdict.outcome:
            case Outcome.RETRY:
                ms = verdict.delay_ms
            case Outcome.DELIVERED:
                ms = self._policy.retention_done_ms
            case Outcome.FAILED:
                ms = self._policy.retention_failed_ms
        lateness_ms = begun.started_ms - begun.due_ms
        last_attempt = Attempt(begun.started_ms, lateness_ms, verdict.status, verdict.error)
        return Finish(begun.wake_up, begun.attempt, verdict.outcome, ms, last_attempt)

    async def _finish_patiently(self, batch: Sequence[Finish]) -> list[bool]:
        outage = Outage("worker.finish")
        while True:
            try:
                answers = await self._store.finish(batch)
            except UnavailableError as error:
                await outage.wait(error)
            else:
                outage.over()
                return answers


def _tell(begun: Begun, verdict: Verdict) -> None:
    _COUNT[verdict.outcome].inc()
    if verdict.outcome is Outcome.DELIVERED:
        return
    say = log.warning if verdict.outcome is Outcome.FAILED else log.info
    say(
        f"attempt.{verdict.outcome.value}",
        timer=begun.wake_up.member,
        attempt=begun.attempt,
        error=verdict.error,
        retry_in_ms=verdict.delay_ms,
    )
