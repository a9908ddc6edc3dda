"""Timers, applications and destinations -> the members of their answers, as in answer_models.py."""

from typing import Any

from msgspec.structs import asdict, replace

from httpqueue.storage.hosts import Destination
from httpqueue.storage.policies import Application
from httpqueue.timers.audit import AuditEntry
from httpqueue.timers.credentials import masked
from httpqueue.timers.jobs import Job
from httpqueue.timers.retry import RetryOptions
from httpqueue.timers.schedule import (
    MS_PER_S,
    Cron,
    Delay,
    Instant,
    Local,
    format_instant,
    format_local,
    time_left_s,
)
from httpqueue.timers.spec import Retention, Spec
from httpqueue.timers.timer import Attempt, State, Timer


def content_of(spec: Spec) -> dict[str, Any]:
    """A spec -> the members of a TimerContent, without the schedule; defaults are None or empty."""
    callback = spec.callback
    past_due = spec.past_due
    return {
        "url": spec.url,
        "method": spec.method,
        "headers": spec.headers,
        "body": spec.body,
        "timeout": _seconds(spec.timeout_ms),
        "retry": None if spec.retry is None else _retry(spec.retry),
        "callback": None
        if callback is None
        else {"url": callback.url, "headers": callback.headers, "on": list(callback.on)},
        "ordering_key": spec.ordering_key,
        "labels": spec.labels,
        "past_due": {"fire_within": past_due / MS_PER_S} if isinstance(past_due, int) else past_due,
        "retention": _retention(spec.retention),
    }


def schedule_of(spec: Spec) -> dict[str, Any]:
    """A spec -> the members of a TimerContent that say its schedule."""
    match spec.schedule:
        case Delay(delay_ms):
            return {"seconds": delay_ms / MS_PER_S}
        case Instant(at_ms):
            return {"fire_at": format_instant(at_ms)}
        case Local(local, zone):
            return {"fire_at": local, "timezone": zone}
        case Cron(expression, zone):
            return {"cron": expression, "timezone": zone}


def timer_view(timer: Timer, now_ms: int, *, reveal: bool) -> dict[str, Any]:
    """The members of a TimerView. reveal: as in timer_summary."""
    return {
        **timer_summary(timer, now_ms, reveal=reveal),
        "last_attempts": [attempt_view(each) for each in timer.log],
    }


def timer_summary(timer: Timer, now_ms: int, *, reveal: bool) -> dict[str, Any]:
    """The members of a TimerSummary. reveal: show credentials in headers, too."""
    attempt, schedule = timer.last_attempt, schedule_of(timer.spec)
    zone = schedule.get("timezone")
    return {
        "id": timer.name.id,
        "application": timer.name.application,
        "status": timer.state,
        "time_left": time_left_s(timer.due_ms, now_ms) if timer.state is State.SCHEDULED else 0,
        "due": format_instant(timer.due_ms),
        "due_local": _local(timer.due_ms, zone),
        "generation": timer.generation,
        "attempts": timer.attempts,
        "lateness_ms": attempt.lateness_ms if attempt else None,
        "last_status": attempt.status if attempt else None,
        "last_error": attempt.error if attempt else None,
        "executed_at": format_instant(attempt.started_ms) if attempt else None,
        "delay_ms": timer.spec.schedule.delay_ms if isinstance(timer.spec.schedule, Delay) else None,
        "fire_at": schedule.get("fire_at"),
        "cron": schedule.get("cron"),
        "timezone": zone,
        **content_of(timer.spec if reveal else _without_credentials(timer.spec)),
    }


def _without_credentials(spec: Spec) -> Spec:
    callback = spec.callback
    return replace(
        spec,
        headers=masked(spec.headers),
        callback=None if callback is None else replace(callback, headers=masked(callback.headers)),
    )


def attempt_view(attempt: Attempt) -> dict[str, Any]:
    """The members of an AttemptView."""
    return {
        "number": attempt.number,
        "generation": attempt.generation,
        "due": format_instant(attempt.due_ms),
        "started": format_instant(attempt.started_ms),
        "lateness_ms": attempt.lateness_ms,
        "duration_ms": attempt.duration_ms,
        "status": attempt.status,
        "error": attempt.error,
        "response": attempt.response,
    }


def application_view(application: Application) -> dict[str, Any]:
    """The members of an ApplicationView; secrets are only counted, never shown."""
    policy = application.policy
    quota = {"pending": policy.max_pending, "bytes": policy.max_bytes, "rate": policy.max_rate}
    return {
        "application": application.name,
        "paused": policy.paused,
        "counts": {state.value: count for state, count in application.counts.items()},
        "retention": _retention(policy.retention),
        "secrets": len(policy.secrets),
        "quota": None if all(limit is None for limit in quota.values()) else quota,
        "bytes": application.bytes,
        "deleting": policy.is_deleted,
    }


def job_view(job: Job) -> dict[str, Any]:
    """The members of a JobView."""
    spec = job.spec
    return {
        "id": job.id,
        "application": spec.application,
        "kind": spec.kind,
        "dry_run": spec.dry_run,
        "state": job.state,
        "total": job.total,
        "done": job.done,
        "matched": job.matched,
        "changed": job.changed,
        "created": format_instant(job.created_ms),
        "started": None if job.started_ms is None else format_instant(job.started_ms),
        "ended": None if job.ended_ms is None else format_instant(job.ended_ms),
        "error": job.error,
    }


def destination_view(destination: Destination) -> dict[str, Any]:
    """The members of a DestinationView."""
    health = destination.health
    return {
        "host": destination.host,
        **asdict(destination.policy),
        "waiting": destination.waiting,
        "calls": destination.calls,
        "health": None
        if health is None
        else {
            "failures": health.failures,
            "last_call": format_instant(health.last_ms),
            "last_result": health.last_result,
        },
    }


def _local(ms: int, zone: str | None) -> str | None:
    """None without a zone, and when this machine does not know the zone (any more)."""
    try:
        return format_local(ms, zone) if zone else None
    except ValueError:
        return None


def audit_view(entry: AuditEntry) -> dict[str, Any]:
    """The members of an AuditEntryView."""
    return {
        "at": format_instant(entry.at_ms),
        "key": entry.key_id or None,
        "action": entry.action,
        "application": entry.application or None,
        "target": entry.target or None,
        "status": entry.status,
    }


def _retry(retry: RetryOptions) -> dict[str, Any]:
    if retry.delays_ms is not None:
        return {"delays": [ms / MS_PER_S for ms in retry.delays_ms]}
    given = {
        "max_attempts": retry.max_attempts,
        "base": _seconds(retry.base_ms),
        "max": _seconds(retry.max_ms),
        "jitter": retry.jitter,
    }
    return {name: value for name, value in given.items() if value is not None}


def _retention(retention: Retention | None) -> dict[str, float] | None:
    if retention is None:
        return None
    given = {"done": _seconds(retention.done_ms), "failed": _seconds(retention.failed_ms)}
    return {name: value for name, value in given.items() if value is not None} or None


def _seconds(ms: int | None) -> float | None:
    return None if ms is None else ms / MS_PER_S
