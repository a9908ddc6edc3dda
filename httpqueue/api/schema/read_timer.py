"""A request's JSON -> what is to be done; all of its faults are reported together."""

import secrets
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final, TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from httpqueue.api.problems import FieldError, ProblemError, faulty_fields
from httpqueue.api.schema.json_body import MAX_BODY_BYTES
from httpqueue.api.schema.render import content_of, schedule_of
from httpqueue.api.schema.request_models import (
    MAX_BATCH,
    CallbackRequest,
    RetentionRequest,
    RetryRequest,
    TimerContent,
    TimerRequest,
)
from httpqueue.timers.commands import NewTimer
from httpqueue.timers.cron import next_run_ms
from httpqueue.timers.retry import Retry
from httpqueue.timers.schedule import (
    MAX_DUE_MS,
    MS_PER_S,
    After,
    At,
    Cron,
    Local,
    Schedule,
    has_offset,
    local_ms,
)
from httpqueue.timers.spec import Callback, Retention, Spec
from httpqueue.timers.timer import DEFAULT_APPLICATION

ModelT = TypeVar("ModelT", bound=BaseModel)
ApplicationOf = Callable[[str | None], str]
"""The application that a request names, if any -> the one it is for; raises ProblemError (403)."""

_ID_BYTES: Final = 12  # 96 bits, 16 characters: never twice
_MS_PER_UNIT: Final = {"hours": 3_600_000, "minutes": 60_000, "seconds": 1_000}
_SCHEDULE: Final = (*_MS_PER_UNIT, "fire_at", "cron", "timezone")
_MESSAGES: Final = {
    "missing": "is required",
    "extra_forbidden": "is unknown here: remove it",
    "int_parsing": "must be a whole number",
    "string_too_short": "must not be empty",
    "string_type": "must be a string",
    "float_type": "must be a number, not a string or a boolean",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "bool_type": "must be true or false",
    "list_type": "must be an array",
    "greater_than_equal": "must be {ge} or more",
    "less_than_equal": "must be {le} or less",
    "too_short": "must have at least {min_length} items",
    "too_long": "must have at most {max_length} items",
    "dict_type": "must be an object of strings",
    "model_type": "must be an object",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
}


def read(model: type[ModelT], members: dict[str, Any], others: list[FieldError] | None = None) -> ModelT:
    """A request's members as the model; raises ProblemError (422) that names every faulty field."""
    others = others or []
    try:
        request = model.model_validate(members)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)
        errors = [*map(_field_error, faults), *others]
        raise faulty_fields(HTTPStatus.UNPROCESSABLE_ENTITY, errors) from None
    if others:
        raise faulty_fields(HTTPStatus.UNPROCESSABLE_ENTITY, others)
    return request


def default_application(given: str | None) -> str:
    """Without API keys: the one given, or the default."""
    return given or DEFAULT_APPLICATION


def read_timer(
    members: dict[str, Any], *, now_ms: int, application_of: ApplicationOf = default_application
) -> NewTimer:
    """A request's members -> timer; raises ProblemError (422, 403)."""
    request = read(TimerRequest, members, _schedule_errors(members))
    spec, due_ms = _spec(request, now_ms)
    return NewTimer(
        application=application_of(request.application),
        id=request.id or secrets.token_urlsafe(_ID_BYTES),
        spec=spec,
        if_exists=request.if_exists,
        first_due_ms=due_ms,
    )


def read_batch(
    members: dict[str, Any], *, now_ms: int, application_of: ApplicationOf = default_application
) -> list[NewTimer | ProblemError]:
    """A batch's members -> each item's timer, or the problem it alone has; raises ProblemError (422)."""
    errors = [FieldError(name, "is no field of a batch: remove it") for name in members if name != "timers"]
    items = members.get("timers")
    if not isinstance(items, list) or not 1 <= len(items) <= MAX_BATCH:
        errors.append(FieldError("timers", f"must be an array of 1 to {MAX_BATCH:,} timers"))
    if errors or not isinstance(items, list):
        raise faulty_fields(HTTPStatus.UNPROCESSABLE_ENTITY, errors)
    return [_read_item(item, now_ms, application_of) for item in items]


def read_content(members: dict[str, Any], *, now_ms: int) -> tuple[Spec, int | None]:
    """The members of a PUT -> spec, and the first due time of a wall-clock or recurring timer."""
    return _spec(read(TimerContent, members, _schedule_errors(members)), now_ms)


def patched(spec: Spec, patch: dict[str, Any], *, now_ms: int) -> tuple[Spec, int | None, bool]:
    """A merge patch (RFC 7396) on a spec in the words of a request.

    Returns what read_content does, and whether the patch says when it is due; raises ProblemError (422).
    """
    says_when = any(patch.get(name) is not None for name in _SCHEDULE if name != "timezone")
    schedule = schedule_of(spec)
    if says_when:  # one schedule takes the other's place; a zone stays for what is read by the clocks of one
        schedule = {"timezone": schedule.get("timezone")} if _is_local(patch) else {}
    members = _merged({**content_of(spec), **schedule}, patch)
    if len(orjson.dumps(members)) > MAX_BODY_BYTES:  # many patches must not do what no post may
        raise ProblemError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "must not make the timer larger than 1 MiB")
    changed, due_ms = read_content(members, now_ms=now_ms)
    return changed, due_ms, says_when or changed.schedule != spec.schedule


def _is_local(members: dict[str, Any]) -> bool:
    """Whether a schedule is read by the clocks of a zone."""
    fire_at = members.get("fire_at")
    return members.get("cron") is not None or (isinstance(fire_at, str) and not has_offset(fire_at))


def _merged(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merged(merged.get(name), value)
    return merged


def _read_item(item: Any, now_ms: int, application_of: ApplicationOf) -> NewTimer | ProblemError:
    if not isinstance(item, dict):
        return ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, "must be a JSON object: {…}")
    try:
        return read_timer(item, now_ms=now_ms, application_of=application_of)
    except ProblemError as problem:
        return problem


def _schedule_errors(members: dict[str, Any]) -> list[FieldError]:
    """Exactly one schedule; asked of the raw request, so that it is said together with all other faults."""
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


def _spec(request: TimerContent, now_ms: int) -> tuple[Spec, int | None]:
    schedule, due_ms = _schedule(request, now_ms)
    spec = Spec(
        url=request.url,
        schedule=schedule,
        method=request.method,
        headers=request.headers or {},
        body=request.body,
        timeout_ms=_ms(request.timeout),
        retry=retry_of(request.retry),
        callback=callback_of(request.callback, request.url),
        ordering_key=request.ordering_key,
        labels=request.labels or {},
        past_due=request.past_due,
        retention=retention_of(request.retention),
    )
    return spec, due_ms


def _schedule(request: TimerContent, now_ms: int) -> tuple[Schedule, int | None]:
    zone = request.timezone
    if request.cron is not None:
        cron = Cron(request.cron, zone or "UTC")
        due_ms = next_run_ms(cron, now_ms)
        if due_ms is None:
            raise _fault("cron", "must run before the year 10000")
        return cron, due_ms
    match request.fire_at:
        case str(local):
            if zone is None:
                raise _fault("fire_at", "must be RFC 3339 with an offset, or come with a timezone")
            due_ms = local_ms(local, zone)
            if due_ms > MAX_DUE_MS:
                raise _fault("fire_at", "must not be beyond the year 9999")
            return Local(local, zone), max(due_ms, 1)
        case int(fire_at_ms):
            if zone is not None:
                raise _fault("timezone", "belongs to a fire_at without an offset: remove one of them")
            return At(fire_at_ms), None
    return _delay(request, now_ms), None


def _delay(request: TimerContent, now_ms: int) -> Schedule:
    given = {unit: amount for unit in _MS_PER_UNIT if (amount := getattr(request, unit)) is not None}
    delay_ms = sum(amount * _MS_PER_UNIT[unit] for unit, amount in given.items())
    if delay_ms > MAX_DUE_MS - now_ms:  # before rounding, which infinity does not survive
        detail = "must not lead beyond the year 9999"
        errors = [FieldError(unit, detail) for unit, amount in given.items() if amount]
        raise faulty_fields(HTTPStatus.UNPROCESSABLE_ENTITY, errors)
    return After(round(delay_ms))


def retry_of(request: RetryRequest | None) -> Retry | None:
    """Seconds -> ms; raises ProblemError (422)."""
    if request is None:
        return None
    others = [
        name for name in ("max_attempts", "base", "max", "jitter") if getattr(request, name) is not None
    ]
    if request.delays is not None:
        if others:
            raise _fault("retry.delays", f"stands for itself: remove it, or {', '.join(others)}")
        return Retry(delays_ms=tuple(round(seconds * MS_PER_S) for seconds in request.delays))
    if request.base is not None and request.max is not None and request.base > request.max:
        raise _fault("retry.max", "must not be less than base")
    return (
        Retry(request.max_attempts, _ms(request.base), _ms(request.max), request.jitter) if others else None
    )


def callback_of(request: CallbackRequest | None, url: str) -> Callback | None:
    """Raises ProblemError (422) for a timer that would call itself back."""
    if request is None:
        return None
    if request.url == url:
        raise _fault("callback.url", "must be another one than the timer's own url")
    on = dict.fromkeys(request.on or ("done", "failed"))
    return Callback(request.url, request.headers or {}, tuple(on))


def retention_of(request: RetentionRequest | None) -> Retention | None:
    """Seconds -> ms."""
    if request is None or (request.done is None and request.failed is None):
        return None
    return Retention(_ms(request.done), _ms(request.failed))


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * MS_PER_S)


def _fault(field: str, detail: str) -> ProblemError:
    return faulty_fields(HTTPStatus.UNPROCESSABLE_ENTITY, [FieldError(field, detail)])


def _field_error(details: ErrorDetails) -> FieldError:
    # pydantic says of a faulty name in an object: (..., name, "[key]")
    path = ".".join(str(part) for part in details["loc"] if part != "[key]")
    context = {name: _plain(value) for name, value in details.get("ctx", {}).items()}
    if cause := context.get("error"):
        return FieldError(path, str(cause))
    message = _MESSAGES.get(details["type"])
    return FieldError(path, message.format(**context) if message else details["msg"])


def _plain(value: Any) -> Any:
    """3600.0 as 3600."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
