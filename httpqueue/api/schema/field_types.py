"""The types of request fields: how a value is checked, what it becomes, and what its JSON schema is."""

from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, WithJsonSchema

from httpqueue.api.schema import field_checks
from httpqueue.timers import commands
from httpqueue.timers.cron import check_cron, check_zone
from httpqueue.timers.schedule import MAX_DUE_MS, MS_PER_S, has_offset, parse_instant_ms, parse_local
from httpqueue.webhooks import signing

DEFAULT_METHOD: Final = "POST"
EXAMPLE_ID: Final = "order-4711"
EXAMPLE_INSTANT: Final = "2030-01-01T00:00:00.000Z"
MAX_RETENTION_S: Final = 10 * 366 * 86_400
MAX_TIMEOUT_S: Final = 3_600
MAX_WAIT_S: Final = 30 * 86_400

_NOT_AN_INSTANT: Final = "must be RFC 3339 with an offset, or epoch seconds"


def _instant_ms(value: Any) -> int:
    """RFC 3339 or epoch seconds -> ms since the epoch, at least 1, because 0 means no time in the store."""
    match value:
        case str():
            ms = parse_instant_ms(value)
        case bool():
            raise ValueError(_NOT_AN_INSTANT)
        case int() | float():
            if value * 1.0 > MAX_DUE_MS / MS_PER_S:
                raise ValueError("must not be beyond the year 9999 (epoch seconds, not milliseconds)")
            ms = round(max(value, 0) * MS_PER_S)
        case _:
            raise ValueError(_NOT_AN_INSTANT)
    if ms > MAX_DUE_MS:
        raise ValueError("must not be beyond the year 9999")
    return max(ms, 1)


def _fire_at(value: Any) -> int | str | None:
    """An instant becomes ms since the epoch; a local time, which has no offset, stays a string."""
    if value is None:
        return None
    if isinstance(value, str) and not has_offset(value):
        return parse_local(value)
    return _instant_ms(value)


def _past_due(value: Any) -> Any:
    """The words fire and skip stay; {"fire_within": seconds} becomes ms."""
    match value:
        case None | "fire" | "skip":
            return value or "fire"
        case {"fire_within": int() | float() as seconds, **others} if not others:
            if not isinstance(seconds, bool) and 0 <= seconds <= MAX_RETENTION_S:
                return round(seconds * MS_PER_S)
    raise ValueError('must be "fire", "skip", or {"fire_within": seconds}')


def _if_exists(value: Any) -> commands.IfExists:
    try:
        return commands.IfExists.CONFLICT if value is None else commands.IfExists(value)
    except ValueError as error:
        raise ValueError(f"must be one of {', '.join(commands.IfExists)}") from error


def _nullable(check: Any) -> AfterValidator:
    return AfterValidator(lambda text: None if text is None else check(text))


def _any_of(*types: dict[str, Any]) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [*types]})


_STRING: Final = {"type": "string"}
_NUMBER: Final = {"type": "number"}
_NULL: Final = {"type": "null"}

Few: Final = BeforeValidator(field_checks.check_member_count)
"""Refuses a value with very many members at once, instead of one error for each."""

# --- a timer's call ---

Url = Annotated[
    str,
    AfterValidator(field_checks.check_url),
    Field(
        examples=["https://example.com/hooks/{id}"],
        json_schema_extra={"maxLength": field_checks.MAX_URL_CHARACTERS},
    ),
]
Method = Annotated[
    str,
    BeforeValidator(lambda method: DEFAULT_METHOD if method is None else method),
    AfterValidator(field_checks.check_method),
    WithJsonSchema({"type": "string", "enum": list(field_checks.METHODS)}),
]
HeaderName = Annotated[str, AfterValidator(field_checks.check_header_name)]
HeaderValue = Annotated[str, AfterValidator(field_checks.check_header_value)]
Headers = Annotated[
    dict[HeaderName, HeaderValue],
    BeforeValidator(field_checks.check_header_count),
    AfterValidator(field_checks.check_headers),
]
Timeout = Annotated[float | None, Field(ge=0.001, le=MAX_TIMEOUT_S)]
Wait = Annotated[float | None, Field(ge=0.001, le=MAX_WAIT_S)]

# --- a timer's schedule ---

Amount = Annotated[float | None, Field(ge=0)]
"""Hours, minutes or seconds of a delay."""
Instant = Annotated[
    int | None,
    PlainValidator(lambda value: None if value is None else _instant_ms(value)),
    _any_of({"type": "string", "format": "date-time"}, _NUMBER, _NULL),
]
"""Ms since the epoch."""
FireAt = Annotated[int | str | None, PlainValidator(_fire_at), _any_of(_STRING, _NUMBER, _NULL)]
"""Ms since the epoch, or a local time as text."""
CronExpression = Annotated[str | None, _nullable(check_cron)]
TimeZone = Annotated[str | None, _nullable(check_zone)]
PastDue = Annotated[
    Any,
    PlainValidator(_past_due),
    _any_of(
        {"enum": ["fire", "skip"]},
        {
            "type": "object",
            "properties": {"fire_within": {"type": "number", "minimum": 0, "maximum": MAX_RETENTION_S}},
            "required": ["fire_within"],
            "additionalProperties": False,
        },
    ),
]
"""fire, skip, or the ms within which to fire."""

# --- names, and how timers are kept ---

TimerId = Annotated[str | None, _nullable(field_checks.check_id)]
ApplicationName = Annotated[
    str | None,
    _nullable(field_checks.check_application),
    Field(examples=["shop"], json_schema_extra={"pattern": field_checks.APPLICATION_PATTERN}),
]
OrderingKey = Annotated[str | None, _nullable(field_checks.check_ordering_key)]
HostName = Annotated[str | None, _nullable(field_checks.check_host)]
Labels = Annotated[
    dict[str, str],
    BeforeValidator(field_checks.check_label_count),
    AfterValidator(field_checks.check_labels),
]
LabelFilter = Annotated[str | None, _nullable(field_checks.check_label_filter)]
IfExists = Annotated[
    commands.IfExists,
    PlainValidator(_if_exists),
    WithJsonSchema({"enum": [*(policy.value for policy in commands.IfExists), None]}),
]
Retention = Annotated[float | None, Field(ge=0, le=MAX_RETENTION_S)]
"""Seconds."""
Secret = Annotated[str, AfterValidator(signing.check_secret)]
