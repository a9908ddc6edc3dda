"""A request's JSON -> the timer to store; all of its faults are reported together."""

import secrets
from http import HTTPStatus
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from httpqueue.api.models import TimerRequest
from httpqueue.api.problems import FieldError, ProblemError, faulty_fields
from httpqueue.schedule import MAX_DUE_MS, After, At, Schedule
from httpqueue.spec import Spec
from httpqueue.timer import DEFAULT_APPLICATION
from httpqueue.transitions import NewTimer

MAX_BATCH: Final = 1_000

_ID_BYTES: Final = 12  # 96 bits, 16 characters: never twice
_MS_PER_UNIT: Final = {"hours": 3_600_000, "minutes": 60_000, "seconds": 1_000}
_MESSAGES: Final = {
    "missing": "is required",
    "extra_forbidden": "is no field of a timer: remove it",
    "string_type": "must be a string",
    "float_type": "must be a number, not a string or a boolean",
    "greater_than_equal": "must be 0 or more",
    "dict_type": "must be an object of strings",
}


def read_timer(members: dict[str, Any], *, now_ms: int) -> NewTimer:
    """A request's members -> timer; raises ProblemError (422) that names every faulty field."""
    errors = _schedule_errors(members)
    try:
        request = TimerRequest.model_validate(members)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)
        errors = [*map(_field_error, faults), *errors]
        raise faulty_fields(HTTPStatus.UNPROCESSABLE_ENTITY, errors) from None
    if errors:
        raise faulty_fields(HTTPStatus.UNPROCESSABLE_ENTITY, errors)
    return NewTimer(
        application=DEFAULT_APPLICATION,
        id=request.id or secrets.token_urlsafe(_ID_BYTES),
        spec=Spec(
            url=request.url,
            schedule=_schedule(request, now_ms),
            method=request.method,
            headers=request.headers or {},
            body=request.body,
        ),
    )


def read_batch(members: dict[str, Any], *, now_ms: int) -> list[NewTimer | ProblemError]:
    """A batch's members -> each item's timer, or the problem it alone has; raises ProblemError (422)."""
    errors = [FieldError(name, "is no field of a batch: remove it") for name in members if name != "timers"]
    items = members.get("timers")
    if not isinstance(items, list) or not 1 <= len(items) <= MAX_BATCH:
        errors.append(FieldError("timers", f"must be an array of 1 to {MAX_BATCH:,} timers"))
    if errors or not isinstance(items, list):
        raise faulty_fields(HTTPStatus.UNPROCESSABLE_ENTITY, errors)
    return [_read_item(item, now_ms) for item in items]


def _read_item(item: Any, now_ms: int) -> NewTimer | ProblemError:
    if not isinstance(item, dict):
        return ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, "must be a JSON object: {…}")
    try:
        return read_timer(item, now_ms=now_ms)
    except ProblemError as problem:
        return problem


def _schedule_errors(members: dict[str, Any]) -> list[FieldError]:
    """Exactly one schedule; asked of the raw request, so that it is said together with all other faults."""
    delays = [unit for unit in _MS_PER_UNIT if members.get(unit) is not None]
    instant = members.get("fire_at") is not None
    if delays and instant:
        detail = "send either fire_at, or hours, minutes, seconds, not both"
        return [FieldError(name, detail) for name in (*delays, "fire_at")]
    if not delays and not instant:
        detail = "send fire_at, or at least one of hours, minutes, seconds"
        return [FieldError(name, detail) for name in (*_MS_PER_UNIT, "fire_at")]
    return []


def _schedule(request: TimerRequest, now_ms: int) -> Schedule:
    if request.fire_at is not None:
        return At(request.fire_at)
    given = {unit: amount for unit in _MS_PER_UNIT if (amount := getattr(request, unit)) is not None}
    delay_ms = sum(amount * _MS_PER_UNIT[unit] for unit, amount in given.items())
    if delay_ms > MAX_DUE_MS - now_ms:  # before rounding, which infinity does not survive
        detail = "must not lead beyond the year 9999"
        errors = [FieldError(unit, detail) for unit, amount in given.items() if amount]
        raise faulty_fields(HTTPStatus.UNPROCESSABLE_ENTITY, errors)
    return After(round(delay_ms))


def _field_error(details: ErrorDetails) -> FieldError:
    # pydantic says of a faulty name in an object: (..., name, "[key]")
    path = ".".join(str(part) for part in details["loc"] if part != "[key]")
    cause = details.get("ctx", {}).get("error")
    return FieldError(path, str(cause) if cause else _MESSAGES.get(details["type"], details["msg"]))
