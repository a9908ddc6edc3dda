"""Attempts: begin, send, judge, finish. What a worker does with a wake-up, for many at once.

A worker that dies in the middle leaves a lease that runs out; the heal pass then wakes the timer again.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import structlog

from httpqueue import clock
from httpqueue.errors import InvalidTimerError, UnavailableError
from httpqueue.runtime.batch import Batcher
from httpqueue.runtime.metrics import ATTEMPTS, ATTEMPTS_REFUSED, IN_FLIGHT, LATENESS, WAKE_UPS_REFUSED
from httpqueue.runtime.outage import Outage
from httpqueue.storage import keys
from httpqueue.storage.timers import LEASE_MARGIN_MS, Store
from httpqueue.timers.commands import Begun, Finish, NewTimer, Refusal, Refused, WakeUp
from httpqueue.timers.cron import next_run_ms
from httpqueue.timers.policies import Application, decode_policy
from httpqueue.timers.retry import Retry, RetryPolicy
from httpqueue.timers.schedule import Cron
from httpqueue.timers.spec import Spec, decode_spec
from httpqueue.timers.timer import Attempt, State
from httpqueue.webhooks.client.sender import Sender
from httpqueue.webhooks.message import NOT_CALLED, Fault, Response, SendError, render, sign
from httpqueue.webhooks.outcome import Outcome, Verdict, is_past_due, judge
from httpqueue.worker.callback import callback_of

MAX_FINISH: Final = 500
KEPT_RESPONSE_BYTES: Final = 1_024
GATHER_S: Final = 0.003
"""How long ended attempts are gathered for one finish; nobody waits for it."""

_COUNT: Final = {outcome: ATTEMPTS.labels(outcome.value) for outcome in Outcome}

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class AttemptPolicy:
    """How attempts are made and what is kept of finished timers, unless timer or application say it."""

    retry: RetryPolicy = field(default_factory=RetryPolicy)
    timeout_ms: int = 20_000
    retention_done_ms: int = 3_600_000
    retention_failed_ms: int = 2_592_000_000
    append_timer_id: bool = False
    callback_timeout_ms: int = 10_000
    callback_delays_ms: tuple[int, ...] = (1_000, 5_000, 30_000)


class Attempts:
    """Runs attempts; how they ended reaches the store in batches."""

    def __init__(self, *, store: Store, sender: Sender, policy: AttemptPolicy) -> None:
        self._store = store
        self._sender = sender
        self._policy = policy
        self._finish: Batcher[Finish, bool] = Batcher(
            self._finish_patiently, max_items=MAX_FINISH, gather_s=GATHER_S
        )

    def on_woken(self, take: Callable[[WakeUp], None] | None) -> None:
        """Who takes the wake-ups that the end of attempts lets start, without a detour through the queue."""
        self._store.on_woken = take

    async def begin(
        self, wake_ups: Sequence[WakeUp], room: dict[str, int] | None = None
    ) -> list[Begun | Refused]:
        """Begin those that the store lets, and that there is room for; raises UnavailableError."""
        answers = await self._store.begin(
            wake_ups, lease_ms=self._policy.timeout_ms + LEASE_MARGIN_MS, room=room
        )
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
        spec, policy = self._spec(begun), self._policy.retry
        if spec is not None and spec.retry is not None:
            policy = spec.retry.over(policy)
        IN_FLIGHT.inc()
        started_s = clock.monotonic_s()
        try:
            result = await self._send(begun, spec, policy)
        finally:
            IN_FLIGHT.dec()
            on_answer()
        duration_ms = round((clock.monotonic_s() - started_s) * 1000)
        verdict = judge(
            result,
            attempt=begun.attempt,
            policy=policy,
            jitter=random.random(),  # noqa: S311 - spreads a herd, guards nothing
            now_ms=begun.started_ms + duration_ms,
        )
        _tell(begun, verdict)
        attempt = _attempt(begun, verdict, duration_ms, result)
        finish = self._finish_of(begun, spec, verdict, attempt)
        if isinstance(result, SendError) and result.fault in NOT_CALLED:
            finish = replace(finish, was_called=False)
        if not await self._finish.submit(finish):
            ATTEMPTS_REFUSED.inc()
            log.warning("attempt.late", timer=begun.wake_up.member, attempt=begun.attempt)

    def _spec(self, begun: Begun) -> Spec | None:
        try:
            return decode_spec(begun.spec)
        except InvalidTimerError:
            return None

    async def _send(self, begun: Begun, spec: Spec | None, policy: RetryPolicy) -> Response | SendError:
        if spec is None:
            return SendError(Fault.INVALID_REQUEST, "unreadable spec")
        if begun.attempt > policy.max_attempts:
            return SendError(Fault.LOST_WORKER, "the worker was lost in the last attempt")
        lateness_ms = begun.started_ms - begun.due_ms
        if begun.attempt == 1 and is_past_due(spec, lateness_ms):
            return SendError(Fault.PAST_DUE, f"not sent: {lateness_ms / 1000:,.0f} s past due")
        _, _, timer_id = begun.wake_up.member.partition(":")
        request = render(
            spec,
            timer_id=timer_id,
            generation=begun.wake_up.generation,
            attempt=begun.attempt,
            started_ms=begun.started_ms,
            append_timer_id=self._policy.append_timer_id,
        )
        if begun.application:
            request = sign(request, decode_policy(Application, begun.application).secrets)
        timeout_ms = spec.timeout_ms or self._policy.timeout_ms
        try:
            return await self._sender.send(request, timeout_s=timeout_ms / 1000)
        except SendError as error:
            return error

    def _finish_of(self, begun: Begun, spec: Spec | None, verdict: Verdict, attempt: Attempt) -> Finish:
        if verdict.outcome is Outcome.RETRY:
            return Finish(begun.wake_up, begun.attempt, verdict.outcome, verdict.delay_ms, attempt)
        state = State.DONE if verdict.outcome is Outcome.DELIVERED else State.FAILED
        ended_ms = attempt.started_ms + attempt.duration_ms
        return Finish(
            begun.wake_up,
            begun.attempt,
            verdict.outcome,
            self._retention_ms(begun, spec, state),
            attempt,
            next_due_ms=_next_due_ms(begun, spec, ended_ms),
            callback=self._callback(begun, spec, attempt, state) if spec and spec.callback else None,
        )

    def _retention_ms(self, begun: Begun, spec: Spec | None, state: State) -> int:
        application = decode_policy(Application, begun.application).retention if begun.application else None
        for retention in (spec.retention if spec else None, application):
            if retention is not None:
                ms = retention.done_ms if state is State.DONE else retention.failed_ms
                if ms is not None:
                    return ms
        return self._policy.retention_done_ms if state is State.DONE else self._policy.retention_failed_ms

    def _callback(self, begun: Begun, spec: Spec, attempt: Attempt, state: State) -> NewTimer | None:
        return callback_of(
            spec,
            attempt,
            state,
            member=begun.wake_up.member,
            retry=Retry(delays_ms=self._policy.callback_delays_ms),
            timeout_ms=self._policy.callback_timeout_ms,
        )

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


def _next_due_ms(begun: Begun, spec: Spec | None, ended_ms: int) -> int | None:
    if spec is None or not isinstance(spec.schedule, Cron):
        return None
    try:
        return next_run_ms(spec.schedule, max(ended_ms, begun.due_ms))
    except ValueError as error:  # its zone is no longer known on this machine
        reason = str(error)
    log.error("attempt.no_next_run", timer=begun.wake_up.member, reason=reason)
    return None


def _attempt(begun: Begun, verdict: Verdict, duration_ms: int, result: Response | SendError) -> Attempt:
    excerpt = result.excerpt if isinstance(result, Response) else b""
    return Attempt(
        started_ms=begun.started_ms,
        lateness_ms=begun.started_ms - begun.due_ms,
        status=verdict.status,
        error=verdict.error,
        duration_ms=duration_ms,
        response=excerpt[:KEPT_RESPONSE_BYTES].decode(errors="replace"),
        number=begun.attempt,
        generation=begun.wake_up.generation,
    )


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
