"""Makes the callback of a finished timer. It is a timer itself, without a callback. Pure."""

from typing import Any

from httpqueue.timers.commands import Begun, NewTimer
from httpqueue.timers.credentials import masked
from httpqueue.timers.names import CALLBACK_MARK, TimerName
from httpqueue.timers.retry import RetryOptions
from httpqueue.timers.schedule import Cron, Delay, Instant, Local, Schedule, format_instant, local_ms
from httpqueue.timers.spec import Spec
from httpqueue.timers.timer import Attempt, State
from httpqueue.webhooks.message import ID_PLACEHOLDER


def callback_of(
    begun: Begun,
    attempt: Attempt,
    state: State,
    *,
    retry: RetryOptions,
    timeout_ms: int,
) -> NewTimer | None:
    """The callback for the end of a timer, due at once. None when the timer wants none.

    Its id has the nonce and the generation: so the runs of all timers that have had this name differ.
    """
    name, spec = begun.wake_up.name, begun.spec
    callback = spec.callback
    if callback is None or state.value not in callback.on:
        return None
    return NewTimer(
        TimerName(name.application, f"{name.id}{CALLBACK_MARK}{begun.nonce}-{attempt.generation}"),
        Spec(
            url=callback.url.replace(ID_PLACEHOLDER, name.id),
            schedule=Delay(0),
            headers=callback.headers,
            body=finished_timer(name, spec, attempt, state),
            retry=retry,
            timeout_ms=timeout_ms,
        ),
    )


def finished_timer(name: TimerName, spec: Spec, attempt: Attempt, state: State) -> dict[str, Any]:
    """The JSON body of a callback, in the shape of schedule-rs.

    The timer's credentials are for its own receiver: the callback's gets them masked.
    """
    request = {"url": spec.url, "method": spec.method, "headers": masked(spec.headers), "body": spec.body}
    told: dict[str, Any] = {
        "id": name.id,
        "application": name.application,
        "request": request,
        **describe(spec.schedule, attempt.due_ms),
        "status": state.value,
        "executed_at": format_instant(attempt.started_ms),
        "attempts": attempt.number,
        "lateness_ms": attempt.lateness_ms,
        "last_status": attempt.status,
    }
    if attempt.error is not None:
        told["last_error"] = attempt.error
    if spec.labels:
        told["labels"] = spec.labels
    return told


def describe(schedule: Schedule, due_ms: int) -> dict[str, Any]:
    """A schedule as schedule-rs writes it: `schedule` for a cron, `schedule_at` for everything else."""
    match schedule:
        case Cron(expression, zone):
            return {"schedule": expression, "timezone": zone}
        case Local(local, zone):
            return {"schedule_at": format_instant(local_ms(local, zone)), "timezone": zone}
        case Instant(at_ms):
            return {"schedule_at": format_instant(at_ms)}
    return {"schedule_at": format_instant(due_ms)}
