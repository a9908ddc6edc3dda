"""What clients send and get, as pydantic models: a request's check and its documentation are one text."""

from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    WithJsonSchema,
)

from httpqueue.api import rules
from httpqueue.schedule import MAX_DUE_MS, MS_PER_S, parse_instant_ms
from httpqueue.timer import State

DEFAULT_METHOD: Final = "POST"
_EXAMPLE_ID: Final = "order-4711"
_EXAMPLE_INSTANT: Final = "2030-01-01T00:00:00.000Z"


def _fire_at_ms(value: Any) -> int | None:
    """RFC 3339 or epoch seconds -> ms since the epoch, at least 1: a queue score of 0 would mean none."""
    match value:
        case None:
            return None
        case str():
            ms = parse_instant_ms(value)
        case bool():
            raise ValueError("must be RFC 3339 with an offset, or epoch seconds")
        case int() | float():
            if value * 1.0 > MAX_DUE_MS / MS_PER_S:
                raise ValueError("must not be beyond the year 9999 (epoch seconds, not milliseconds)")
            ms = round(max(value, 0) * MS_PER_S)
        case _:
            raise ValueError("must be RFC 3339 with an offset, or epoch seconds")
    if ms > MAX_DUE_MS:
        raise ValueError("must not be beyond the year 9999")
    return max(ms, 1)


Amount = Annotated[float | None, Field(ge=0)]
HeaderName = Annotated[str, AfterValidator(rules.check_header_name)]
HeaderValue = Annotated[str, AfterValidator(rules.check_header_value)]
Headers = Annotated[
    dict[HeaderName, HeaderValue],
    BeforeValidator(rules.check_header_count),
    AfterValidator(rules.check_headers),
]


class TimerRequest(BaseModel):
    """A timer to be stored. Give either `fire_at`, or at least one of `hours`, `minutes` and `seconds`."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        hide_input_in_errors=True,
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

    url: Annotated[
        str,
        AfterValidator(rules.check_url),
        Field(
            description="The webhook, http or https, called exactly as given; {id} in its path or query is "
            f"replaced by the timer's id. At most {rules.MAX_URL_CHARACTERS:,} characters, no credentials.",
            examples=["https://example.com/hooks/{id}"],
            json_schema_extra={"maxLength": rules.MAX_URL_CHARACTERS},
        ),
    ]
    hours: Amount = Field(None, description="Added to minutes and seconds.", examples=[1])
    minutes: Amount = Field(None, description="Added to hours and seconds.", examples=[15])
    seconds: Amount = Field(
        None, description="Added to hours and minutes; 0 fires at once.", examples=[30, 0.25]
    )
    fire_at: Annotated[
        int | None,
        PlainValidator(_fire_at_ms),
        WithJsonSchema(
            {"anyOf": [{"type": "string", "format": "date-time"}, {"type": "number"}, {"type": "null"}]}
        ),
    ] = Field(
        None,
        description="Instead of a delay: RFC 3339 with an offset, or epoch seconds. The past fires at once.",
        examples=[_EXAMPLE_INSTANT, 1893456000],
    )
    method: Annotated[
        str,
        BeforeValidator(lambda method: DEFAULT_METHOD if method is None else method),
        AfterValidator(rules.check_method),
        WithJsonSchema({"type": "string", "enum": list(rules.METHODS)}),
    ] = Field(DEFAULT_METHOD, description="The method of the call; small letters are accepted.")
    headers: Headers | None = Field(
        None,
        description=f"Headers of the call, at most {rules.MAX_HEADERS}. Not Host, Content-Length, those of "
        "the connection, and those that httpqueue sets itself (webhook-id, webhook-timestamp, "
        "webhook-signature, httpqueue-attempt).",
        examples=[{"X-Source": "shop"}],
    )
    body: Any = Field(
        None,
        description="A string is sent as it is, null as an empty body, any other JSON value as JSON.",
        examples=[{"order": 4711}],
    )
    id: Annotated[
        str | None,
        AfterValidator(lambda text: None if text is None else rules.check_id(text)),
        Field(
            description="Chosen by the client, so that a POST can be repeated safely; made up when absent.",
            examples=[_EXAMPLE_ID],
            json_schema_extra={"pattern": rules.ID_PATTERN},
        ),
    ] = None


class StoredTimer(BaseModel):
    """The timer is stored."""

    id: str = Field(description="The timer's id.", examples=[_EXAMPLE_ID])
    due: str = Field(description="When its webhook is called, RFC 3339.", examples=[_EXAMPLE_INSTANT])


class BatchRequest(BaseModel):
    """Timers to be stored in one commit."""

    timers: list[TimerRequest] = Field(description="Up to 1,000.", min_length=1, max_length=1_000)


class BatchResult(BaseModel):
    """What became of one timer of a batch: 201 and 200 have id and due, everything else is a problem."""

    status: int = Field(description="As if it had been posted alone.", examples=[201])
    id: str | None = Field(default=None, description="The timer's id.", examples=[_EXAMPLE_ID])
    due: str | None = Field(
        default=None, description="When its webhook is called.", examples=[_EXAMPLE_INSTANT]
    )
    type: str | None = Field(default=None, description="Of a problem: always about:blank.")
    title: str | None = Field(default=None, description="Of a problem: the status in words.")
    detail: str | None = Field(default=None, description="Of a problem: what is wrong, for people.")
    errors: list["ProblemField"] | None = Field(default=None, description="Of a problem: every faulty field.")


class BatchAnswer(BaseModel):
    """What became of each timer, in their order."""

    results: list[BatchResult] = Field(description="One for each timer.")


class TimerView(BaseModel):
    """A timer as it is now."""

    id: str = Field(description="The timer's id.", examples=[_EXAMPLE_ID])
    application: str = Field(description="Whose timer it is.", examples=["default"])
    status: State = Field(description="Where it is in its life.")
    time_left: int = Field(
        description="Whole seconds until it is due, rounded up; 0 when due or finished.", examples=[30]
    )
    due: str = Field(description="When its next (or last) attempt should start.", examples=[_EXAMPLE_INSTANT])
    attempts: int = Field(description="How often its webhook was called so far.", examples=[0])
    lateness_ms: int | None = Field(description="The last attempt's start minus its due time.")
    last_status: int | None = Field(description="The last attempt's HTTP status.", examples=[200])
    last_error: str | None = Field(description="Why the last attempt was no success.")
    executed_at: str | None = Field(description="When the last attempt started.")
    url: str = Field(description="As given.")
    method: str = Field(description="As given.", examples=["POST"])
    headers: dict[str, str] = Field(description="As given.")
    body: Any = Field(description="As given.")
    delay_ms: int | None = Field(description="The delay as given, all of it in ms; null with fire_at.")
    fire_at: str | None = Field(description="As given, in UTC; null with a delay.")


class ArchivedTimer(BaseModel):
    """A timer that finished so long ago that only its id is remembered."""

    id: str = Field(description="The timer's id.", examples=[_EXAMPLE_ID])
    status: State = Field(
        default=State.ARCHIVED, description="Always archived.", json_schema_extra={"const": "archived"}
    )
    time_left: int = Field(default=0, description="Always 0.")
    archived: bool = Field(
        default=True, description="The archive says so; it errs once in a million ids by default."
    )


class Health(BaseModel):
    """The process answers."""

    status: str = Field(description="ok", examples=["ok"])


class ProblemField(BaseModel):
    """A faulty field."""

    field: str = Field(description="Its path in the request.", examples=["headers.Host"])
    detail: str = Field(description="What to change.", examples=["follows from url and body: remove it"])


class Problem(BaseModel):
    """Why the request was not served (RFC 9457)."""

    type: str = Field(
        description="Always about:blank: the status says what kind it is.", examples=["about:blank"]
    )
    title: str = Field(description="The status in words.", examples=["Unprocessable Content"])
    status: int = Field(description="The HTTP status.", examples=[422])
    detail: str = Field(description="What is wrong, for people.")
    errors: list[ProblemField] = Field(default=[], description="Every faulty field.")
