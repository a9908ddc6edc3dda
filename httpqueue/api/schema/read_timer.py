"""The members of a request's JSON object -> a timer, or a part of one. Seconds become milliseconds."""

import secrets
from collections.abc import Callable
from http import HTTPStatus
from itertools import islice
from typing import Any, Final

from httpqueue.api.problems import MAX_ERRORS, FieldError, ProblemError, faulty_field, faulty_fields
from httpqueue.api.responses import in_turns
from httpqueue.api.schema.request_models import (
    MAX_BATCH,
    CallbackRequest,
    RetentionRequest,
    RetryRequest,
    TimerContent,
    TimerRequest,
)
from httpqueue.api.schema.validate import validate
from httpqueue.timers.commands import NewTimer
from httpqueue.timers.cron import next_run_ms
from httpqueue.timers.names import TimerName, hash_of_key
from httpqueue.timers.retry import RetryOptions
from httpqueue.timers.schedule import (
    MAX_DUE_MS,
    MS_PER_S,
    Cron,
    Delay,
    Instant,
    Local,
    Schedule,
    local_ms,
)
from httpqueue.timers.spec import Callback, Retention, Spec
from httpqueue.webhooks.egress import Egress

ApplicationOf = Callable[[str | None], str]
"""The application that a request names, or None -> the one it is about; raises ProblemError (403)."""

_ID_BYTES: Final = 12  # 16 characters; 96 random bits never come twice
_MS_PER_UNIT: Final = {"hours": 3_600_000, "minutes": 60_000, "seconds": 1_000}
SCHEDULE_FIELDS: Final = (*_MS_PER_UNIT, "fire_at", "cron", "timezone")


def read_timer(
    members: dict[str, Any],
    *,
    now_ms: int,
    egress: Egress,
    application_of: ApplicationOf,
    idempotency_key: str | None = None,
) -> NewTimer:
    """The members of a TimerRequest -> a timer; raises ProblemError (403, 422).

    A timer without an id gets a random one, or one that follows from its Idempotency-Key.
    """
    request = validate(TimerRequest, members, _schedule_errors(members))
    key_hash = None if idempotency_key is None else hash_of_key(idempotency_key)
    timer_id = request.id or key_hash or secrets.token_urlsafe(_ID_BYTES)
    name = TimerName(application_of(request.application), timer_id)
    return NewTimer(name, _spec(request, now_ms, egress), request.if_exists, key_hash)


async def read_batch(
    members: dict[str, Any], *, now_ms: int, egress: Egress, application_of: ApplicationOf
) -> list[NewTimer | ProblemError]:
    """The members of a BatchRequest -> for each item a timer, or the problem that this item has.

    Raises ProblemError (422) if the batch itself is faulty.
    """
    unknown = (name for name in members if name != "timers")
    errors = [FieldError(name, "is no field of a batch: remove it") for name in islice(unknown, MAX_ERRORS)]
    items = members.get("timers")
    if not isinstance(items, list) or not 1 <= len(items) <= MAX_BATCH:
        errors.append(FieldError("timers", f"must be an array of 1 to {MAX_BATCH:,} timers"))
    if errors or not isinstance(items, list):
        raise faulty_fields(HTTPStatus.UNPROCESSABLE_ENTITY, errors)
    return [_read_item(item, now_ms, egress, application_of) async for item in in_turns(items)]


def read_content(members: dict[str, Any], *, now_ms: int, egress: Egress) -> Spec:
    """The members of a TimerContent -> a spec; raises ProblemError (422)."""
    return _spec(validate(TimerContent, members, _schedule_errors(members)), now_ms, egress)


def _read_item(
    item: Any, now_ms: int, egress: Egress, application_of: ApplicationOf
) -> NewTimer | ProblemError:
    if not isinstance(item, dict):
        return ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, "must be a JSON object: {…}")
    try:
        return read_timer(item, now_ms=now_ms, egress=egress, application_of=application_of)
    except ProblemError as problem:
        return problem


def _schedule_errors(members: dict[str, Any]) -> list[FieldError]:
    """Faults unless there is exactly one schedule.

    The raw members are checked, so that these faults are reported together with those of the fields.
    """
    delays = [unit for unit in _MS_PER_UNIT if members.get(unit) is not None]
    others = [name for name in ("fire_at", "cron") if members.get(name) is not None]
    if len(others) + bool(delays) > 1:
        detail = "send either fire_at, or cron, or hours, minutes, seconds, only one of them"
        return [FieldError(name, detail) for name in (*delays, *others)]
    if not delays and not others:
        detail = "send fire_at, or cron, or at least one of hours, minutes, seconds"
        return [FieldError(name, detail) for name in (*_MS_PER_UNIT, "fire_at", "cron")]
    if delays and members.get("timezone") is not None:
        return [FieldError("timezone", "belongs to cron or to a local fire_at: remove it")]
    return []


def _spec(request: TimerContent, now_ms: int, egress: Egress) -> Spec:
    return Spec(
        url=_callable(request.url, "url", egress),
        schedule=_schedule(request, now_ms),
        method=request.method,
        headers=request.headers or {},
        body=request.body,
        timeout_ms=_ms(request.timeout),
        retry=retry_of(request.retry),
        callback=callback_of(request.callback, request.url, egress),
        ordering_key=request.ordering_key,
        labels=request.labels or {},
        past_due=request.past_due,
        retention=retention_of(request.retention),
    )


def _schedule(request: TimerContent, now_ms: int) -> Schedule:
    """The schedule, within the calendar. When the timer is due first, the store's clock decides."""
    zone = request.timezone
    if request.cron is not None:
        cron = Cron(request.cron, zone or "UTC")
        if next_run_ms(cron, now_ms) is None:
            raise faulty_field("cron", "must run before the year 10000")
        return cron
    match request.fire_at:
        case str(local):
            if zone is None:
                raise faulty_field("fire_at", "must be RFC 3339 with an offset, or come with a timezone")
            if local_ms(local, zone) > MAX_DUE_MS:
                raise faulty_field("fire_at", "must not be beyond the year 9999")
            return Local(local, zone)
        case int(at_ms):
            if zone is not None:
                raise faulty_field("timezone", "belongs to a fire_at without an offset: remove one of them")
            return Instant(at_ms)
    return _delay(request, now_ms)


def _delay(request: TimerContent, now_ms: int) -> Schedule:
    given = {unit: amount for unit in _MS_PER_UNIT if (amount := getattr(request, unit)) is not None}
    delay_ms = sum(amount * _MS_PER_UNIT[unit] for unit, amount in given.items())
    if delay_ms > MAX_DUE_MS - now_ms:  # round() cannot take infinity
        detail = "must not lead beyond the year 9999"
        errors = [FieldError(unit, detail) for unit, amount in given.items() if amount]
        raise faulty_fields(HTTPStatus.UNPROCESSABLE_ENTITY, errors)
    return Delay(round(delay_ms))


def retry_of(request: RetryRequest | None) -> RetryOptions | None:
    """How to repeat attempts, None: as the server is set. Raises ProblemError (422) for a contradiction."""
    if request is None:
        return None
    others = [
        name for name in ("max_attempts", "base", "max", "jitter") if getattr(request, name) is not None
    ]
    if request.delays is not None:
        if others:
            raise faulty_field(
                "retry.delays", f"replaces the other fields: remove it, or {', '.join(others)}"
            )
        return RetryOptions(delays_ms=tuple(round(seconds * MS_PER_S) for seconds in request.delays))
    if request.base is not None and request.max is not None and request.base > request.max:
        raise faulty_field("retry.max", "must not be less than base")
    return (
        RetryOptions(request.max_attempts, _ms(request.base), _ms(request.max), request.jitter)
        if others
        else None
    )


def callback_of(request: CallbackRequest | None, url: str, egress: Egress) -> Callback | None:
    """The callback of a timer with that url; raises ProblemError (422) if its own url cannot be used."""
    if request is None:
        return None
    if request.url == url:
        raise faulty_field("callback.url", "must be another one than the timer's own url")
    on = dict.fromkeys(request.on or ("done", "failed"))
    return Callback(_callable(request.url, "callback.url", egress), request.headers or {}, tuple(on))


def _callable(url: str, field: str, egress: Egress) -> str:
    """The url as given; raises ProblemError (422) if its host is an address that must not be called."""
    reason = egress.refusal_of(url)
    if reason is not None:
        raise faulty_field(field, reason)
    return url


def retention_of(request: RetentionRequest | None) -> Retention | None:
    """How long to keep finished timers; None: as the application or the server is set."""
    if request is None or (request.done is None and request.failed is None):
        return None
    return Retention(_ms(request.done), _ms(request.failed))


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * MS_PER_S)
