"""What clients get, as pydantic models for the OpenAPI document; render.py makes the answers themselves."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from httpqueue.api.schema.field_types import EXAMPLE_ID, EXAMPLE_INSTANT
from httpqueue.timers.explain import Code
from httpqueue.timers.jobs import JobKind, JobState
from httpqueue.timers.timer import State


class StoredTimer(BaseModel):
    """A timer that is stored."""

    id: str = Field(description="The timer's id.", examples=[EXAMPLE_ID])
    due: str = Field(
        description="When its webhook is called, RFC 3339; of a timer that has ended, when it was.",
        examples=[EXAMPLE_INSTANT],
    )
    created: bool | None = Field(
        default=None,
        description="Status 200 only: always false. The id had a timer already.",
        json_schema_extra={"const": False},
    )
    status: State | None = Field(
        default=None, description="Status 200 only: the state of the timer that has the id."
    )


class ChangedTimer(BaseModel):
    """A timer after a change."""

    id: str = Field(description="The timer's id.", examples=[EXAMPLE_ID])
    status: str = Field(description="scheduled, cancelled, deleted, or ending.", examples=["scheduled"])
    due: str | None = Field(None, description="When its webhook is called.", examples=[EXAMPLE_INSTANT])


class BatchResult(BaseModel):
    """The result of one timer of a batch. Statuses 200 and 201 have id and due, others are problems."""

    status: int = Field(description="The status that POST /timers would give.", examples=[201])
    id: str | None = Field(default=None, description="The timer's id.", examples=[EXAMPLE_ID])
    due: str | None = Field(
        default=None, description="When its webhook is called.", examples=[EXAMPLE_INSTANT]
    )
    type: str | None = Field(default=None, description="Problems only: always about:blank.")
    title: str | None = Field(default=None, description="Problems only: the status in words.")
    detail: str | None = Field(default=None, description="Problems only: what is wrong, for people.")
    errors: list["ProblemField"] | None = Field(
        default=None, description="Problems only: every faulty field."
    )
    created: bool | None = Field(
        default=None, description="Status 200 only: always false. The id had a timer already."
    )
    timer_status: State | None = Field(
        default=None, description="Status 200 and problems only: the state of the timer that has the id."
    )
    quota: Literal["pending", "bytes", "rate"] | None = Field(
        default=None, description="Problems only: the quota of the application that is used up."
    )


class BatchAnswer(BaseModel):
    """The results of a batch."""

    results: list[BatchResult] = Field(description="One for each timer, in the same order.")


class AttemptView(BaseModel):
    """One attempt: one call of the webhook."""

    number: int = Field(
        description="1 for the first attempt, in each run of a recurring timer.", examples=[1]
    )
    generation: int = Field(description="The timer's generation at that time.")
    due: str = Field(description="When it should have started.", examples=[EXAMPLE_INSTANT])
    started: str = Field(description="When it started.", examples=[EXAMPLE_INSTANT])
    lateness_ms: int = Field(description="started minus due, in ms.", examples=[3])
    duration_ms: int = Field(description="Ms until the answer or the error.", examples=[12])
    status: int | None = Field(
        description="The HTTP status of the answer; null without an answer.", examples=[200]
    )
    error: str | None = Field(
        description="Why the attempt failed; null for a success.", examples=["HTTP 503"]
    )
    response: str = Field(description="The first KiB of the answer's body.")


class AttemptsAnswer(BaseModel):
    """The last attempts of a timer."""

    attempts: list[AttemptView] = Field(description="At most ten, oldest first.")


class TimerSummary(BaseModel):
    """A timer as it is now."""

    id: str = Field(description="The timer's id.", examples=[EXAMPLE_ID])
    application: str = Field(description="The application that the timer belongs to.", examples=["default"])
    status: State = Field(description="The timer's state.")
    time_left: int = Field(
        description="Seconds until it is due, rounded up; 0 when it is due, running or finished.",
        examples=[30],
    )
    due: str = Field(description="When its next (or last) attempt should start.", examples=[EXAMPLE_INSTANT])
    due_local: str | None = Field(description="due in the timer's timezone; null without one.")
    generation: int = Field(description="Grows by 1 with each change and each run of a recurring timer.")
    attempts: int = Field(description="Attempts in this generation.", examples=[0])
    lateness_ms: int | None = Field(description="Ms between the last attempt's due time and its start.")
    last_status: int | None = Field(description="The HTTP status of the last attempt.", examples=[200])
    last_error: str | None = Field(description="Why the last attempt failed; null for a success.")
    executed_at: str | None = Field(description="When the last attempt started.")
    url: str = Field(description="As given.")
    method: str = Field(description="As given.", examples=["POST"])
    headers: dict[str, str] = Field(description="As given; credentials are ••• unless revealed.")
    body: Any = Field(description="As given.")
    delay_ms: int | None = Field(description="The delay in ms; null without one.")
    fire_at: str | None = Field(description="As given; an instant is shown in UTC.")
    cron: str | None = Field(description="As given.")
    timezone: str | None = Field(description="As given: the time zone of cron or of a local fire_at.")
    timeout: float | None = Field(description="As given, in seconds.")
    retry: dict[str, Any] | None = Field(description="As given.")
    callback: dict[str, Any] | None = Field(description="As given; credentials are ••• unless revealed.")
    ordering_key: str | None = Field(description="As given.")
    labels: dict[str, str] = Field(description="As given.")
    past_due: Any = Field(description="As given.", examples=["fire"])
    retention: dict[str, Any] | None = Field(description="As given.")


class TimerView(TimerSummary):
    """A timer as it is now, with its last attempts."""

    last_attempts: list[AttemptView] = Field(description="At most ten, oldest first.")


class ArchivedTimer(BaseModel):
    """A timer that finished so long ago that only its id is remembered."""

    id: str = Field(description="The timer's id.", examples=[EXAMPLE_ID])
    status: State = Field(
        default=State.ARCHIVED, description="Always archived.", json_schema_extra={"const": "archived"}
    )
    time_left: int = Field(default=0, description="Always 0.")
    archived: bool = Field(
        default=True,
        description="Always true. By default one in a million unknown ids is wrongly shown as archived.",
    )


class TimerList(BaseModel):
    """A page of timers, sorted by due time."""

    timers: list[TimerSummary] = Field(
        description="The page. It may be short or even empty although more follow."
    )
    next_cursor: str | None = Field(description="The cursor of the next page; null on the last page.")


class ExplainAnswer(BaseModel):
    """Why a timer has not fired yet."""

    code: Code = Field(description="The reason, for programs.")
    reason: str = Field(description="The reason in one sentence, for people.", examples=["it is due at …"])
    details: dict[str, Any] = Field(description="The names and numbers of the sentence.")


class JobView(BaseModel):
    """A job: work on many timers that goes on after the answer."""

    id: str = Field(description="Its id.", examples=["Jx3kQ9vTz1bWn0cE"])
    application: str = Field(description="The application whose timers it is about.", examples=["default"])
    kind: JobKind = Field(description="What it does.")
    dry_run: bool = Field(description="Whether it only counts the timers.")
    state: JobState = Field(
        description="waiting until a relay begins; cancelling until the relay has heard of the DELETE."
    )
    total: int | None = Field(
        description="About how many timers it has to look at; null until it begins.", examples=[600000]
    )
    done: int = Field(description="How many of them it has looked at.", examples=[250000])
    matched: int = Field(description="How many of those meet the conditions.", examples=[1200])
    changed: int = Field(
        description="How many of those it has changed. The others changed while it looked at them.",
        examples=[1200],
    )
    created: str = Field(description="When it was asked for.", examples=[EXAMPLE_INSTANT])
    started: str | None = Field(description="When it began.", examples=[EXAMPLE_INSTANT])
    ended: str | None = Field(description="When it ended.", examples=[EXAMPLE_INSTANT])
    error: str | None = Field(description="Why it failed; null otherwise.")


class QuotaView(BaseModel):
    """How much an application may store and post; null: without limit."""

    pending: int | None = Field(description="The most timers that are scheduled or running.")
    bytes: int | None = Field(description="The most bytes of its timers.")
    rate: float | None = Field(description="The most timers that may be posted per second.")


class ApplicationView(BaseModel):
    """An application: it has its own timers, ids and settings."""

    application: str = Field(description="Its name.", examples=["shop"])
    paused: bool = Field(description="Whether its webhooks are held back.")
    counts: dict[str, int] = Field(
        description="The number of its timers by status.", examples=[{"scheduled": 3}]
    )
    retention: dict[str, float] | None = Field(
        description="How many seconds its finished timers can be read."
    )
    secrets: int = Field(description="The number of secrets that sign its webhooks.")
    quota: QuotaView | None = Field(description="null: without limit.")
    bytes: int = Field(description="How many bytes the records of its timers have, finished ones included.")
    deleting: bool = Field(description="Whether a job is deleting it: it takes no new timers.")


class ApplicationList(BaseModel):
    """The applications that have timers or settings."""

    applications: list[ApplicationView] = Field(description="The page, sorted by name.")
    next_cursor: str | None = Field(description="The cursor of the next page; null on the last page.")


class HealthView(BaseModel):
    """How the last calls of a host went."""

    failures: int = Field(description="Failed calls since the last successful one.")
    last_call: str = Field(description="When the last call ended.", examples=[EXAMPLE_INSTANT])
    last_result: str = Field(description="The HTTP status or the error of the last call.", examples=["200"])


class DestinationView(BaseModel):
    """A host that timers call."""

    host: str = Field(description="Its name.", examples=["example.com"])
    rate: float | None = Field(description="The most calls per second; null: no limit.")
    concurrency: int | None = Field(description="The most calls at the same time; null: no limit.")
    paused: bool = Field(description="Whether all calls are stopped.")
    waiting: int = Field(description="Due timers that wait for this host.")
    calls: int = Field(description="Calls right now; only counted while concurrency is limited.")
    health: HealthView | None = Field(description="null when the host was never called.")


class DestinationList(BaseModel):
    """The hosts that were called or have limits."""

    destinations: list[DestinationView] = Field(description="The page, sorted by name.")
    next_cursor: str | None = Field(description="The cursor of the next page; null on the last page.")


class AuditEntryView(BaseModel):
    """One change that was made over the API."""

    at: str = Field(
        description="When it was written down, usually within 0.1 s of the answer.",
        examples=[EXAMPLE_INSTANT],
    )
    key: str | None = Field(
        description="The id of the API key that made it; null when nobody needed one.", examples=["1f0c9a2b"]
    )
    action: str = Field(description="What was done: an operationId of this API.", examples=["cancelTimer"])
    application: str | None = Field(description="The application that it concerns; null: none, or several.")
    target: str | None = Field(
        description="The id of the timer, or the host; null where the action says it all.",
        examples=[EXAMPLE_ID],
    )
    status: int = Field(
        description="The status of the answer. From 500 on, it is unknown whether the change was made.",
        examples=[200],
    )


class AuditList(BaseModel):
    """A page of the audit log, the latest change first."""

    entries: list[AuditEntryView] = Field(
        description="The page. It may be short or even empty although more follow."
    )
    next_cursor: str | None = Field(description="The cursor of the next page; null on the last page.")


class ClockView(BaseModel):
    """The virtual clock."""

    now: str = Field(description="Its time.", examples=[EXAMPLE_INSTANT])


class ProbeView(BaseModel):
    """The answer of a probe."""

    status: str = Field(description="Always ok.", examples=["ok"])


class ProblemField(BaseModel):
    """A faulty field."""

    field: str = Field(description="The path of the field in the request.", examples=["headers.Host"])
    detail: str = Field(
        description="What is wrong with it.", examples=["follows from url and body: remove it"]
    )


class Problem(BaseModel):
    """Why the request was not served (RFC 9457)."""

    type: str = Field(
        description="Always about:blank: the status tells the kind of problem.", examples=["about:blank"]
    )
    title: str = Field(description="The status in words.", examples=["Unprocessable Content"])
    status: int = Field(description="The HTTP status.", examples=[422])
    detail: str = Field(description="What is wrong, for people.")
    errors: list[ProblemField] = Field(default=[], description="Every faulty field.")
    timer_status: State | None = Field(
        default=None, description="The state of the timer, where that is the reason."
    )
    quota: Literal["pending", "bytes", "rate"] | None = Field(
        default=None, description="The quota of the application that is used up, where that is the reason."
    )
