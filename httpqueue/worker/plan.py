"""Decides what becomes of a timer after an attempt. Pure."""

from dataclasses import dataclass, field

from httpqueue.timers.commands import Begun, End, Finish, Recur, Retry
from httpqueue.timers.cron import next_run_ms
from httpqueue.timers.retry import RetryOptions, RetryPolicy
from httpqueue.timers.schedule import Cron
from httpqueue.timers.timer import Attempt, State
from httpqueue.webhooks.message import NOT_CALLED, Fault, Response, SendError
from httpqueue.webhooks.outcome import Outcome, Verdict, is_past_due, judge
from httpqueue.worker.callback import callback_of

MAX_LOST = 3
"""When this many workers were lost in one attempt, the timer fails: it may be what kills them."""
KEPT_RESPONSE_BYTES = 1_024
"""How much of a response's body an attempt keeps."""


@dataclass(frozen=True, slots=True)
class AttemptPolicy:
    """The settings' defaults for attempts and retention. A timer or application may override them."""

    retry: RetryPolicy = field(default_factory=RetryPolicy)
    timeout_ms: int = 20_000
    retention_done_ms: int = 3_600_000
    retention_failed_ms: int = 2_592_000_000
    append_timer_id: bool = False
    callback_timeout_ms: int = 10_000
    callback_delays_ms: tuple[int, ...] = (1_000, 5_000, 30_000)

    def retry_of(self, begun: Begun) -> RetryPolicy:
        """The retry policy of this timer: its own options over the settings."""
        options = begun.spec.retry
        return self.retry if options is None else options.over(self.retry)

    def timeout_ms_of(self, begun: Begun) -> int:
        """How long one attempt of this timer may take, in ms."""
        return begun.spec.timeout_ms or self.timeout_ms


def reason_not_to_call(begun: Begun) -> SendError | None:
    """Why this attempt must not call the webhook. None: call it."""
    if begun.lost >= MAX_LOST:
        return SendError(Fault.LOST_WORKER, f"{begun.lost} workers were lost in this attempt")
    lateness_ms = begun.started_ms - begun.due_ms
    if begun.attempt == 1 and is_past_due(begun.spec, lateness_ms):
        return SendError(Fault.PAST_DUE, f"not sent: {lateness_ms / 1000:,.0f} s past due")
    if not begun.can_sign:
        return SendError(
            Fault.UNSIGNED,
            "not sent: this worker's HTTPQUEUE_SECRETS_KEY cannot decrypt the application's secrets",
        )
    return None


def finish_of(
    begun: Begun, result: Response | SendError, policy: AttemptPolicy, *, duration_ms: int, jitter: float
) -> Finish:
    """What to tell the store of an attempt that took duration_ms. jitter: random, in [0, 1)."""
    verdict = judge(
        result,
        attempt=begun.attempt,
        policy=policy.retry_of(begun),
        jitter=jitter,
        now_ms=begun.started_ms + duration_ms,
    )
    attempt = _attempt(begun, verdict, duration_ms, result)
    return Finish(
        begun,
        attempt,
        plan(begun, verdict, attempt, policy),
        was_called=not (isinstance(result, SendError) and result.fault in NOT_CALLED),
    )


def plan(begun: Begun, verdict: Verdict, attempt: Attempt, policy: AttemptPolicy) -> Retry | Recur | End:
    """What becomes of the timer: Retry, Recur (the next run of its cron) or End."""
    if verdict.outcome is Outcome.RETRY:
        return Retry(verdict.delay_ms)
    state = State.DONE if verdict.outcome is Outcome.DELIVERED else State.FAILED
    callback = callback_of(
        begun,
        attempt,
        state,
        retry=RetryOptions(delays_ms=policy.callback_delays_ms),
        timeout_ms=policy.callback_timeout_ms,
    )
    next_due_ms = _next_due_ms(begun, attempt.started_ms + attempt.duration_ms)
    if next_due_ms is not None:
        return Recur(next_due_ms, callback)
    return End(state, _retention_ms(begun, state, policy), callback)


def _next_due_ms(begun: Begun, ended_ms: int) -> int | None:
    """When a recurring timer runs next. None: it is not recurring, or this machine does not know its zone."""
    if not isinstance(begun.spec.schedule, Cron):
        return None
    try:
        return next_run_ms(begun.spec.schedule, max(ended_ms, begun.due_ms))
    except ValueError:
        return None


def _retention_ms(begun: Begun, state: State, policy: AttemptPolicy) -> int:
    """The retention from the timer, else from its application, else from the settings."""
    for retention in (begun.spec.retention, begun.policy.retention):
        if retention is not None:
            ms = retention.done_ms if state is State.DONE else retention.failed_ms
            if ms is not None:
                return ms
    return policy.retention_done_ms if state is State.DONE else policy.retention_failed_ms


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
