"""What clients send, as pydantic models: they check requests, and the OpenAPI document is made from them."""

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from httpqueue.api.schema import field_checks
from httpqueue.api.schema.field_types import (
    DEFAULT_METHOD,
    EXAMPLE_ID,
    EXAMPLE_INSTANT,
    MAX_RETENTION_S,
    MAX_WAIT_S,
    Amount,
    ApplicationName,
    CronExpression,
    Few,
    FireAt,
    Headers,
    HostName,
    IfExists,
    Instant,
    LabelFilter,
    Labels,
    Method,
    OrderingKey,
    PastDue,
    Retention,
    Secret,
    Timeout,
    TimerId,
    TimeZone,
    Url,
    Wait,
)
from httpqueue.timers import commands

MAX_ATTEMPTS: Final = 1_000
MAX_DELAYS: Final = 100
MAX_BATCH: Final = 1_000
MAX_QUOTA: Final = 10**12


class _Request(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)


class RetryRequest(_Request):
    """How a failed attempt is repeated: with exponential backoff, or after a list of waits. In seconds."""

    max_attempts: Annotated[int | None, Field(ge=1, le=MAX_ATTEMPTS)] = Field(
        None, description="The most attempts, the first one included.", examples=[5]
    )
    base: Wait = Field(
        None, description="The wait after the first attempt; it doubles after each further one.", examples=[1]
    )
    max: Wait = Field(None, description="The longest wait.", examples=[3600])
    jitter: bool | None = Field(
        None, description="true makes the waits random, false keeps them exact. Absent: true."
    )
    delays: Annotated[
        list[Annotated[float, Field(ge=0, le=MAX_WAIT_S)]] | None, Field(min_length=1, max_length=MAX_DELAYS)
    ] = Field(
        None,
        description="Replaces the other fields: the waits between attempts. n waits mean n + 1 attempts.",
        examples=[[1, 5, 30]],
    )


class CallbackRequest(_Request):
    """A URL that is told by a POST when the timer is done or has failed. The body describes the timer."""

    url: Url = Field(description="Like a timer's url; {id} is replaced by the timer's id.")
    headers: Headers | None = Field(None, description="Headers of the callback.")
    on: Annotated[list[Literal["done", "failed"]] | None, Field(min_length=1, max_length=2)] = Field(
        None, description="The ends that are told. Absent: both."
    )


class RetentionRequest(_Request):
    """How long a finished timer can be read, in seconds. 0 archives it at once."""

    done: Retention = Field(None, description="After it is done or cancelled.", examples=[3600])
    failed: Retention = Field(None, description="After it has failed.", examples=[2592000])


class TimerContent(_Request):
    """A timer. Give exactly one schedule: `fire_at`, `cron`, or some of `hours`, `minutes` and `seconds`."""

    url: Url = Field(
        description="The URL to call, http or https, exactly as given. {id} in its path or query is replaced "
        f"by the timer's id. At most {field_checks.MAX_URL_CHARACTERS:,} characters, no credentials."
    )
    hours: Amount = Field(None, description="Hours to wait; added to minutes and seconds.", examples=[1])
    minutes: Amount = Field(None, description="Minutes to wait; added to hours and seconds.", examples=[15])
    seconds: Amount = Field(
        None,
        description="Seconds to wait; added to hours and minutes. 0 fires at once.",
        examples=[30, 0.25],
    )
    fire_at: FireAt = Field(
        None,
        description="When to fire, instead of a delay: RFC 3339 with an offset, or epoch seconds; or, "
        "together with `timezone`, a local time without an offset. A time in the past fires at once.",
        examples=[EXAMPLE_INSTANT, 1893456000, "2030-01-01T09:00:00"],
    )
    cron: CronExpression = Field(
        None,
        description="When a recurring timer fires: five fields (names, ranges and steps are allowed), or "
        "@hourly, @daily, @weekly, @monthly, @yearly.",
        examples=["*/15 8-18 * * MON-FRI"],
    )
    timezone: TimeZone = Field(
        None,
        description="The IANA time zone of `cron` (absent: UTC), or of a local `fire_at`.",
        examples=["Europe/Berlin"],
    )
    method: Method = Field(DEFAULT_METHOD, description="The method of the call. Lower case is accepted.")
    headers: Headers | None = Field(
        None,
        description=f"Headers of the call, at most {field_checks.MAX_HEADERS}. Not allowed: Host, "
        "Content-Length, headers of the connection, and those that httpqueue sets (webhook-id, "
        "webhook-timestamp, webhook-signature, httpqueue-attempt).",
        examples=[{"X-Source": "shop"}],
    )
    body: Any = Field(
        None,
        description="The body of the call. A string is sent as it is, null as an empty body, any other value "
        "as JSON.",
        examples=[{"order": 4711}],
    )
    timeout: Timeout = Field(None, description="The most seconds that one attempt may take.", examples=[10])
    retry: Annotated[RetryRequest | None, Few] = Field(
        None, description="How failed attempts are repeated. Absent fields: as the server is set."
    )
    callback: Annotated[CallbackRequest | None, Few] = Field(
        None, description="A URL that is told when the timer has finished."
    )
    ordering_key: OrderingKey = Field(
        None,
        description="Timers of one application with the same key are called one after another, in the order "
        "of their due times. The next one starts when the previous one is done or has failed.",
        examples=["customer-17"],
        json_schema_extra={"pattern": field_checks.ORDERING_KEY_PATTERN},
    )
    labels: Labels | None = Field(
        None,
        description=f"Names and values to filter lists by; at most {field_checks.MAX_LABELS}.",
        examples=[{"team": "blue"}],
    )
    past_due: PastDue = Field(
        "fire",
        description="What to do with a timer that is late, after downtime or by a fire_at in the past. "
        '"fire": call it however late. "skip": do not call it when it is more than 10 s late. '
        '{"fire_within": n}: call it when it is at most n seconds late. A timer that is not called has '
        "failed; a recurring timer continues with its next run.",
    )
    retention: Annotated[RetentionRequest | None, Few] = Field(
        None, description="How long the timer can be read after it has finished."
    )


class TimerRequest(TimerContent):
    """A timer to store. Its schedule is `fire_at`, `cron`, or some of `hours`, `minutes` and `seconds`."""

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

    id: TimerId = Field(
        None,
        description="Choose an id, so that you can safely repeat the POST. It is unique in its application. "
        "Absent: a random id.",
        examples=[EXAMPLE_ID],
        json_schema_extra={"pattern": field_checks.ID_PATTERN},
    )
    application: ApplicationName = Field(
        None, description="The application that the timer belongs to. Absent: `default`."
    )
    if_exists: IfExists = Field(
        commands.IfExists.CONFLICT,
        description="What to do when the id belongs to a timer with other content: refuse (`conflict`, 409), "
        "`keep` the old one, `replace` it, or keep the one that is due first (`earliest`) or last "
        "(`latest`). A running timer is never replaced.",
    )


class BatchRequest(_Request):
    """Timers to store in one commit."""

    timers: list[TimerRequest] = Field(description="1 to 1,000 timers.", min_length=1, max_length=MAX_BATCH)


class CallbackChange(_Request):
    """A timer's new callback."""

    callback: Annotated[CallbackRequest | None, Few] = Field(
        description="A URL that is told when the timer has finished; null removes the callback."
    )


class SelectionRequest(_Request):
    """Which timers a job is about: those that meet all of the given conditions."""

    application: ApplicationName = Field(None, description="Timers of this application. Absent: `default`.")
    label: LabelFilter = Field(
        None, description="Timers with this label, as name:value.", examples=["team:blue"]
    )
    host: HostName = Field(None, description="Timers whose url has this host.", examples=["example.com"])
    due_from: Instant = Field(
        None, description="Timers due at this instant or later.", examples=[EXAMPLE_INSTANT]
    )
    due_to: Instant = Field(None, description="Timers due at this instant or earlier.")
    dry_run: bool = Field(False, description="true only counts the timers.")


class QuotaRequest(_Request):
    """How much an application may store and post. An absent member means no limit."""

    pending: Annotated[int | None, Field(ge=0, le=MAX_QUOTA)] = Field(
        None, description="The most timers that are scheduled or running.", examples=[100000]
    )
    bytes: Annotated[int | None, Field(ge=0, le=MAX_QUOTA)] = Field(
        None,
        description="The most bytes that the records of its timers may have, finished ones included.",
        examples=[100000000],
    )
    rate: Annotated[float | None, Field(ge=0.001, le=1_000_000)] = Field(
        None,
        description="The most timers that may be posted per second, to all API processes together. Those of "
        "one second may come at once.",
        examples=[100],
    )


class ApplicationRequest(_Request):
    """An application's settings. Absent fields: as the server is set."""

    retention: Annotated[RetentionRequest | None, Few] = Field(
        None, description="How long finished timers can be read."
    )
    secrets: Annotated[list[Secret] | None, Field(max_length=2)] = Field(
        None,
        description="The secrets that sign the application's webhooks (Standard Webhooks: whsec_ and 24 to "
        "64 bytes in base64). Give two while you replace a secret, the new one first. They are never shown.",
        examples=[["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]],
    )
    quota: QuotaRequest | None = Field(
        None, description="How much the application may store and post. Absent: without limit."
    )


class DestinationRequest(_Request):
    """A host's limits. An absent limit means no limit."""

    rate: Annotated[float | None, Field(ge=0.001, le=100_000)] = Field(
        None, description="The most calls per second, of all workers together.", examples=[10]
    )
    concurrency: Annotated[int | None, Field(ge=1, le=100_000)] = Field(
        None, description="The most calls at the same time, of all workers together.", examples=[4]
    )
    paused: bool = Field(False, description="true stops all calls.")


class AdvanceRequest(_Request):
    """How far to advance the virtual clock: give either `seconds` or `to`."""

    seconds: Annotated[float | None, Field(ge=0, le=100 * MAX_RETENTION_S)] = Field(
        None, description="The seconds to advance it by.", examples=[3600]
    )
    to: Instant = Field(None, description="The instant to advance it to.", examples=[EXAMPLE_INSTANT])
