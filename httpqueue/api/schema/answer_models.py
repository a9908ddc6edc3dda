"""What clients get, as pydantic models; rendering.py fills them."""

from typing import Any

from pydantic import BaseModel, Field

from httpqueue.api.schema.request_models import EXAMPLE_ID, EXAMPLE_INSTANT
from httpqueue.timers.explain import Code
from httpqueue.timers.timer import State


class StoredTimer(BaseModel):
    """The timer is stored."""

    id: str = Field(description="The timer's id.", examples=[EXAMPLE_ID])
    due: str = Field(description="When its webhook is called, RFC 3339.", examples=[EXAMPLE_INSTANT])


class ChangedTimer(BaseModel):
    """What a timer has become."""

    id: str = Field(description="The timer's id.", examples=[EXAMPLE_ID])
    status: str = Field(description="scheduled, cancelled, or deleted.", examples=["scheduled"])
    due: str | None = Field(None, description="When its webhook is called.", examples=[EXAMPLE_INSTANT])


class BatchResult(BaseModel):
    """What became of one timer of a batch: 201 and 200 have id and due, everything else is a problem."""

    status: int = Field(description="As if it had been posted alone.", examples=[201])
    id: str | None = Field(default=None, description="The timer's id.", examples=[EXAMPLE_ID])
    due: str | None = Field(
        default=None, description="When its webhook is called.", examples=[EXAMPLE_INSTANT]
    )
    type: str | None = Field(default=None, description="Of a problem: always about:blank.")
    title: str | None = Field(default=None, description="Of a problem: the status in words.")
    detail: str | None = Field(default=None, description="Of a problem: what is wrong, for people.")
    errors: list["ProblemField"] | None = Field(default=None, description="Of a problem: every faulty field.")
    timer_status: State | None = Field(default=None, description="Of a problem: the state of who has the id.")


class BatchAnswer(BaseModel):
    """What became of each timer, in their order."""

    results: list[BatchResult] = Field(description="One for each timer.")


class AttemptView(BaseModel):
    """How an attempt went."""

    number: int = Field(description="From 1, in each run of a recurring timer anew.", examples=[1])
    generation: int = Field(description="Of the timer at the time; grows with each change and each run.")
    due: str = Field(description="When it should have started.", examples=[EXAMPLE_INSTANT])
    started: str = Field(description="When it started.", examples=[EXAMPLE_INSTANT])
    lateness_ms: int = Field(description="started minus due.", examples=[3])
    duration_ms: int = Field(description="Until there was an answer, or none.", examples=[12])
    status: int | None = Field(description="The answer's HTTP status.", examples=[200])
    error: str | None = Field(description="Why it was no success.", examples=["HTTP 503"])
    response: str = Field(description="The first KiB of the answer's body.")


class AttemptsAnswer(BaseModel):
    """The last attempts, the oldest first."""

    attempts: list[AttemptView] = Field(description="At most ten.")


class TimerSummary(BaseModel):
    """A timer as it is now."""

    id: str = Field(description="The timer's id.", examples=[EXAMPLE_ID])
    application: str = Field(description="Whose timer it is.", examples=["default"])
    status: State = Field(description="Where it is in its life.")
    time_left: int = Field(
        description="Whole seconds until it is due, rounded up; 0 when due or finished.", examples=[30]
    )
    due: str = Field(description="When its next (or last) attempt should start.", examples=[EXAMPLE_INSTANT])
    due_local: str | None = Field(description="The same in its own timezone; null when it has none.")
    generation: int = Field(description="Grows whenever it is changed, and with each run of a recurring one.")
    attempts: int = Field(description="How often its webhook was called in this generation.", examples=[0])
    lateness_ms: int | None = Field(description="The last attempt's start minus its due time.")
    last_status: int | None = Field(description="The last attempt's HTTP status.", examples=[200])
    last_error: str | None = Field(description="Why the last attempt was no success.")
    executed_at: str | None = Field(description="When the last attempt started.")
    url: str = Field(description="As given.")
    method: str = Field(description="As given.", examples=["POST"])
    headers: dict[str, str] = Field(description="As given.")
    body: Any = Field(description="As given.")
    delay_ms: int | None = Field(description="The delay as given, all of it in ms; null without one.")
    fire_at: str | None = Field(description="As given, an instant in UTC; null without one.")
    cron: str | None = Field(description="As given.")
    timezone: str | None = Field(description="As given; of cron or of a local fire_at.")
    timeout: float | None = Field(description="As given, in seconds.")
    retry: dict[str, Any] | None = Field(description="As given.")
    callback: dict[str, Any] | None = Field(description="As given.")
    ordering_key: str | None = Field(description="As given.")
    labels: dict[str, str] = Field(description="As given.")
    past_due: Any = Field(description="As given.", examples=["fire"])
    retention: dict[str, Any] | None = Field(description="As given.")


class TimerView(TimerSummary):
    """A timer as it is now, and how its last attempts went."""

    last_attempts: list[AttemptView] = Field(description="The oldest first; at most ten.")


class ArchivedTimer(BaseModel):
    """A timer that finished so long ago that only its id is remembered."""

    id: str = Field(description="The timer's id.", examples=[EXAMPLE_ID])
    status: State = Field(
        default=State.ARCHIVED, description="Always archived.", json_schema_extra={"const": "archived"}
    )
    time_left: int = Field(default=0, description="Always 0.")
    archived: bool = Field(
        default=True, description="The archive says so; it errs once in a million ids by default."
    )


class TimerList(BaseModel):
    """Timers in the order of their due times."""

    timers: list[TimerSummary] = Field(description="A page; it may be short, or empty, while more follow.")
    next_cursor: str | None = Field(description="For the next page; null: there is none.")


class ExplainAnswer(BaseModel):
    """Why a timer has not fired yet."""

    code: Code = Field(description="For programs.")
    reason: str = Field(description="For people: one sentence.", examples=["it is not due before …"])
    details: dict[str, Any] = Field(description="The names and figures in the sentence.")


class ReplayAnswer(BaseModel):
    """Which failed timers are sent again."""

    dry_run: bool = Field(description="Whether nothing was done.")
    matched: int = Field(description="How many meet the conditions, up to the limit.")
    replayed: int = Field(
        description="How many are scheduled again; others were replayed or deleted meanwhile."
    )
    ids: list[str] = Field(description="Those that meet the conditions, the earliest first.")
    complete: bool = Field(description="Whether there are no more; otherwise send the same again.")


class ApplicationView(BaseModel):
    """An application: a tenant with timers of its own."""

    application: str = Field(description="Its name.", examples=["shop"])
    paused: bool = Field(description="Whether its webhooks are held back.")
    counts: dict[str, int] = Field(description="Its timers by status.", examples=[{"scheduled": 3}])
    retention: dict[str, float] | None = Field(
        description="How long its finished timers can be read, seconds."
    )
    secrets: int = Field(description="With how many secrets its webhooks are signed.")


class ApplicationList(BaseModel):
    """Every application that has timers or is set up."""

    applications: list[ApplicationView] = Field(description="By name.")


class HealthView(BaseModel):
    """What the last calls to a host gave."""

    failures: int = Field(description="Failed calls in a row.")
    last_call: str = Field(description="When a call ended last.", examples=[EXAMPLE_INSTANT])
    last_result: str = Field(description="Its HTTP status or error.", examples=["200"])


class DestinationView(BaseModel):
    """A host that timers call."""

    host: str = Field(description="Its name.", examples=["example.com"])
    rate: float | None = Field(description="Calls a second at most.")
    concurrency: int | None = Field(description="Calls at once at most.")
    paused: bool = Field(description="Whether it is not called at all.")
    waiting: int = Field(description="Timers that are due and wait for it.")
    calls: int = Field(description="Calls now; counted when concurrency is limited.")
    health: HealthView | None = Field(description="Null when it was never called.")


class DestinationList(BaseModel):
    """Every host that was called or is set up."""

    destinations: list[DestinationView] = Field(description="By name.")


class ClockView(BaseModel):
    """The virtual clock."""

    now: str = Field(description="Where it stands.", examples=[EXAMPLE_INSTANT])


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
    timer_status: State | None = Field(
        default=None, description="Of the timer, where that is why the request was not served."
    )
