"""What clients send, as pydantic models: a request's check and its documentation are one text."""

from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    WithJsonSchema,
)

from httpqueue.api.schema import field_checks
from httpqueue.timers.commands import IfExists
from httpqueue.timers.cron import check_cron, check_zone
from httpqueue.timers.schedule import MAX_DUE_MS, MS_PER_S, has_offset, parse_instant_ms, parse_local
from httpqueue.webhooks import signing

DEFAULT_METHOD: Final = "POST"
EXAMPLE_ID: Final = "order-4711"
EXAMPLE_INSTANT: Final = "2030-01-01T00:00:00.000Z"
MAX_RETENTION_S: Final = 10 * 366 * 86_400
MAX_TIMEOUT_S: Final = 3_600
MAX_WAIT_S: Final = 30 * 86_400
MAX_ATTEMPTS: Final = 1_000
MAX_DELAYS: Final = 100
MAX_BATCH: Final = 1_000

_NOT_AN_INSTANT: Final = "must be RFC 3339 with an offset, or epoch seconds"


def _instant_ms(value: Any) -> int:
    """RFC 3339 or epoch seconds -> ms since the epoch, at least 1: a queue score of 0 would mean none."""
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
    """An instant in ms, or a local time (a string) that has no offset."""
    if value is None:
        return None
    if isinstance(value, str) and not has_offset(value):
        return parse_local(value)
    return _instant_ms(value)


def _past_due(value: Any) -> Any:
    """Fire, skip, or how late in ms at most."""
    match value:
        case None | "fire" | "skip":
            return value or "fire"
        case {"fire_within": int() | float() as seconds, **others} if not others:
            if not isinstance(seconds, bool) and 0 <= seconds <= MAX_RETENTION_S:
                return round(seconds * MS_PER_S)
    raise ValueError('must be "fire", "skip", or {"fire_within": seconds}')


def _if_exists(value: Any) -> IfExists:
    try:
        return IfExists.CONFLICT if value is None else IfExists(value)
    except ValueError as error:
        raise ValueError(f"must be one of {', '.join(IfExists)}") from error


def _nullable(check: Any) -> AfterValidator:
    return AfterValidator(lambda text: None if text is None else check(text))


class _Request(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)


Amount = Annotated[float | None, Field(ge=0)]
HeaderName = Annotated[str, AfterValidator(field_checks.check_header_name)]
HeaderValue = Annotated[str, AfterValidator(field_checks.check_header_value)]
Headers = Annotated[
    dict[HeaderName, HeaderValue],
    BeforeValidator(field_checks.check_header_count),
    AfterValidator(field_checks.check_headers),
]
Url = Annotated[
    str,
    AfterValidator(field_checks.check_url),
    Field(
        examples=["https://example.com/hooks/{id}"],
        json_schema_extra={"maxLength": field_checks.MAX_URL_CHARACTERS},
    ),
]
Instant = Annotated[
    int | None,
    PlainValidator(lambda value: None if value is None else _instant_ms(value)),
    WithJsonSchema(
        {"anyOf": [{"type": "string", "format": "date-time"}, {"type": "number"}, {"type": "null"}]}
    ),
]
ApplicationName = Annotated[
    str | None,
    _nullable(field_checks.check_application),
    Field(examples=["shop"], json_schema_extra={"pattern": field_checks.APPLICATION_PATTERN}),
]
Seconds = Annotated[float | None, Field(ge=0, le=MAX_RETENTION_S)]


class RetryRequest(_Request):
    """How a failed attempt is repeated: exponential backoff, or a list of waits instead. Seconds."""

    max_attempts: Annotated[int | None, Field(ge=1, le=MAX_ATTEMPTS)] = Field(
        None, description="Attempts in all.", examples=[5]
    )
    base: Annotated[float | None, Field(ge=0.001, le=MAX_WAIT_S)] = Field(
        None, description="The wait after the first attempt, then doubled.", examples=[1]
    )
    max: Annotated[float | None, Field(ge=0.001, le=MAX_WAIT_S)] = Field(
        None, description="The longest wait.", examples=[3600]
    )
    jitter: bool | None = Field(None, description="Spread the waits (as by default), or keep them exact.")
    delays: Annotated[
        list[Annotated[float, Field(ge=0, le=MAX_WAIT_S)]] | None, Field(min_length=1, max_length=MAX_DELAYS)
    ] = Field(
        None,
        description="Instead of the others: the wait after each attempt; one attempt more than waits.",
        examples=[[1, 5, 30]],
    )


class CallbackRequest(_Request):
    """Who is told, by a POST of the finished timer, that it is done or has failed."""

    url: Url = Field(description="Like a timer's url; {id} becomes the timer's id.")
    headers: Headers | None = Field(None, description="Headers of the call.")
    on: Annotated[list[Literal["done", "failed"]] | None, Field(min_length=1, max_length=2)] = Field(
        None, description="After which ends; both when absent."
    )


class RetentionRequest(_Request):
    """How long a finished timer can be read, in seconds; 0: archived at once."""

    done: Seconds = Field(None, description="When it is done or cancelled.", examples=[3600])
    failed: Seconds = Field(None, description="When it has failed.", examples=[2592000])


class TimerContent(_Request):
    """A timer. Give exactly one schedule: `fire_at`, `cron`, or some of `hours`, `minutes` and `seconds`."""

    url: Url = Field(
        description="The webhook, http or https, called exactly as given; {id} in its path or query is "
        f"replaced by the timer's id. At most {field_checks.MAX_URL_CHARACTERS:,} characters, no credentials."
    )
    hours: Amount = Field(None, description="Added to minutes and seconds.", examples=[1])
    minutes: Amount = Field(None, description="Added to hours and seconds.", examples=[15])
    seconds: Amount = Field(
        None, description="Added to hours and minutes; 0 fires at once.", examples=[30, 0.25]
    )
    fire_at: Annotated[
        int | str | None,
        PlainValidator(_fire_at),
        WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "number"}, {"type": "null"}]}),
    ] = Field(
        None,
        description="Instead of a delay: RFC 3339 with an offset, or epoch seconds; or, with `timezone`, a "
        "local time without an offset. The past fires at once.",
        examples=[EXAMPLE_INSTANT, 1893456000, "2030-01-01T09:00:00"],
    )
    cron: Annotated[str | None, _nullable(check_cron)] = Field(
        None,
        description="A recurring timer: five fields (names, ranges, steps), or @hourly, @daily, @weekly, "
        "@monthly, @yearly.",
        examples=["*/15 8-18 * * MON-FRI"],
    )
    timezone: Annotated[str | None, _nullable(check_zone)] = Field(
        None,
        description="IANA zone of `cron` (UTC when absent), or of a local `fire_at`.",
        examples=["Europe/Berlin"],
    )
    method: Annotated[
        str,
        BeforeValidator(lambda method: DEFAULT_METHOD if method is None else method),
        AfterValidator(field_checks.check_method),
        WithJsonSchema({"type": "string", "enum": list(field_checks.METHODS)}),
    ] = Field(DEFAULT_METHOD, description="The method of the call; small letters are accepted.")
    headers: Headers | None = Field(
        None,
        description=f"Headers of the call, at most {field_checks.MAX_HEADERS}. Not Host, Content-Length, "
        "those of the connection, and those that httpqueue sets itself (webhook-id, webhook-timestamp, "
        "webhook-signature, httpqueue-attempt).",
        examples=[{"X-Source": "shop"}],
    )
    body: Any = Field(
        None,
        description="A string is sent as it is, null as an empty body, any other JSON value as JSON.",
        examples=[{"order": 4711}],
    )
    timeout: Annotated[float | None, Field(ge=0.001, le=MAX_TIMEOUT_S)] = Field(
        None, description="Seconds that one attempt may take in all.", examples=[10]
    )
    retry: RetryRequest | None = Field(None, description="Retries; what is absent is as the server is set.")
    callback: CallbackRequest | None = Field(None, description="Who is told when it has finished.")
    ordering_key: Annotated[str | None, _nullable(field_checks.check_ordering_key)] = Field(
        None,
        description="Timers of one application with the same key are called one after another, in the order "
        "of their due times; the next one starts when the one before it is done or has failed.",
        examples=["customer-17"],
        json_schema_extra={"pattern": field_checks.ORDERING_KEY_PATTERN},
    )
    labels: Annotated[dict[str, str], AfterValidator(field_checks.check_labels)] | None = Field(
        None, description=f"For filters; at most {field_checks.MAX_LABELS}.", examples=[{"team": "blue"}]
    )
    past_due: Annotated[
        Any,
        PlainValidator(_past_due),
        WithJsonSchema(
            {
                "anyOf": [
                    {"enum": ["fire", "skip"]},
                    {
                        "type": "object",
                        "properties": {
                            "fire_within": {"type": "number", "minimum": 0, "maximum": MAX_RETENTION_S}
                        },
                        "required": ["fire_within"],
                        "additionalProperties": False,
                    },
                ]
            }
        ),
    ] = Field(
        "fire",
        description="When it is late (after downtime, or by a fire_at in the past): fire it however late, "
        "skip it when it is more than 10 s late, or fire it within so many seconds. A skipped one has "
        "failed; a recurring one goes on with its next run.",
    )
    retention: RetentionRequest | None = Field(
        None, description="How long it can be read when it has finished."
    )


class TimerRequest(TimerContent):
    """A timer to be stored. Its schedule is `fire_at`, `cron`, or some of `hours`, `minutes`, `seconds`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "url": "https://example.com/hooks/{id}",
                    "seconds": 30,
                    "headers": {"X-Source": "shop"},
                    "body": {"order": 4711},
                }
            ]
        },
    )

    id: Annotated[
        str | None,
        _nullable(field_checks.check_id),
        Field(
            description="Chosen by the client, so that a POST can be repeated safely; made up when absent. "
            "Unique in its application.",
            examples=[EXAMPLE_ID],
            json_schema_extra={"pattern": field_checks.ID_PATTERN},
        ),
    ] = None
    application: ApplicationName = Field(None, description="Whose timer it is; `default` when absent.")
    if_exists: Annotated[
        IfExists,
        PlainValidator(_if_exists),
        WithJsonSchema({"enum": [*(policy.value for policy in IfExists), None]}),
    ] = Field(
        IfExists.CONFLICT,
        description="When another timer has the id: refuse (409), keep that one, replace it, or keep "
        "whichever is due earlier or later. A running timer is never replaced.",
    )


class BatchRequest(_Request):
    """Timers to be stored in one commit."""

    timers: list[TimerRequest] = Field(description="Up to 1,000.", min_length=1, max_length=MAX_BATCH)


class CallbackChange(_Request):
    """A timer's new callback; null: none."""

    callback: CallbackRequest | None = Field(description="Who is told when it has finished.")


class ReplayRequest(_Request):
    """Which failed timers are to be sent again: those that meet every condition given."""

    application: ApplicationName = Field(None, description="Whose timers; `default` when absent.")
    label: Annotated[str | None, _nullable(field_checks.check_label_filter)] = Field(
        None, description="name:value", examples=["team:blue"]
    )
    host: str | None = Field(None, description="The host of their url.", examples=["example.com"])
    due_from: Instant = Field(None, description="Due at this instant or later.", examples=[EXAMPLE_INSTANT])
    due_to: Instant = Field(None, description="Due at this instant or earlier.")
    limit: Annotated[int, Field(ge=1, le=10_000)] = Field(
        1_000, description="At most so many, the earliest first."
    )
    dry_run: bool = Field(False, description="Only say which they are.")


class ApplicationRequest(_Request):
    """How an application's timers are treated; what is absent is as the server is set."""

    retention: RetentionRequest | None = Field(None, description="How long finished timers can be read.")
    secrets: Annotated[
        list[Annotated[str, AfterValidator(signing.check_secret)]] | None, Field(max_length=2)
    ] = Field(
        None,
        description="Its webhooks are signed with these (Standard Webhooks: whsec_ and 24 to 64 bytes in "
        "base64); two while a secret is being replaced, the new one first. They are never shown again.",
        examples=[["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]],
    )


class DestinationRequest(_Request):
    """How a host may be called; what is absent is without limit."""

    rate: Annotated[float | None, Field(ge=0.001, le=100_000)] = Field(
        None, description="Calls a second, all workers together.", examples=[10]
    )
    concurrency: Annotated[int | None, Field(ge=1, le=100_000)] = Field(
        None, description="Calls at once, all workers together.", examples=[4]
    )
    paused: bool = Field(False, description="No calls at all.")


class AdvanceRequest(_Request):
    """How far the virtual clock is to go: seconds from where it stands, or to an instant."""

    seconds: Annotated[float | None, Field(ge=0, le=100 * MAX_RETENTION_S)] = Field(
        None, description="So many seconds.", examples=[3600]
    )
    to: Instant = Field(None, description="Instead: to this instant.", examples=[EXAMPLE_INSTANT])
