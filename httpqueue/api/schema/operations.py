"""Every call of the API at a glance: what it takes, what it answers. openapi.py makes the document of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pydantic import BaseModel

from httpqueue.api.schema.answer_models import (
    ApplicationList,
    ApplicationView,
    ArchivedTimer,
    AttemptsAnswer,
    BatchAnswer,
    ChangedTimer,
    ClockView,
    DestinationList,
    DestinationView,
    ExplainAnswer,
    Health,
    ReplayAnswer,
    StoredTimer,
    TimerList,
    TimerView,
)
from httpqueue.api.schema.request_models import (
    AdvanceRequest,
    ApplicationRequest,
    BatchRequest,
    CallbackChange,
    DestinationRequest,
    ReplayRequest,
    TimerContent,
    TimerRequest,
)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer's meaning, its body (anyOf; none: text), and the names of its headers."""

    description: str
    models: tuple[type[BaseModel], ...] = ()
    headers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Call:
    """One method of one path. Statuses that follow from its parts are not repeated here."""

    method: str
    path: str
    name: str
    """Its operationId."""
    summary: str
    answers: Mapping[int, Answer]
    description: str = ""
    takes: type[BaseModel] | None = None
    takes_patch: bool = False
    """The body is a merge patch (RFC 7396) of `takes`."""
    body_optional: bool = False
    lists: bool = False
    """The query is a ListQuery."""
    if_match: bool = False
    problems: Mapping[int, str] = field(default_factory=dict)
    """Statuses of its own, and what they mean here."""
    is_open: bool = False
    """No API key is asked for."""


TAGS: Final = {
    "timers": "Schedule webhooks and see what became of them.",
    "applications": "Tenants: each has timers of its own.",
    "destinations": "The hosts that timers call.",
    "clock": "Of `httpqueue --virtual-clock` alone: time stands still until it is told to go on.",
    "operations": "For those who run httpqueue.",
}
_ONE: Final = "/timers/{timer_id}"
_TENANT: Final = "/applications/{application}"
_HOST: Final = "/destinations/{host}"
_TAKEN: Final = {409: "The id belongs to a timer with other content, or to one that is in flight."}
_TOO_LATE: Final = {409: "The timer is in another state, which timer_status says."}
_NO_CLOCK: Final = {404: "The clock is the machine's own."}
_CHANGED: Final = {200: Answer("What the timer has become.", (ChangedTimer,), ("ETag",))}
_STORED: Final = {
    201: Answer("Stored; the webhook will be called.", (StoredTimer,), ("Location",)),
    200: Answer("The id had a timer, which stays or was replaced.", (StoredTimer,)),
}
_APPLICATION: Final = {200: Answer("As it is now.", (ApplicationView,))}
_DESTINATION: Final = {200: Answer("As it is now.", (DestinationView,))}
_CLOCK: Final = {200: Answer("Where it stands.", (ClockView,))}
_HEALTHY: Final = {200: Answer("Yes.", (Health,))}

CALLS: Final = (
    Call(
        *("POST", "/timers", "createTimer", "Store a timer", _STORED),
        "Sending the same id with the same content again is safe: it is stored once.",
        takes=TimerRequest,
        problems=_TAKEN,
    ),
    Call(
        *("GET", "/timers", "listTimers", "List timers"),
        {200: Answer("A page.", (TimerList,))},
        "In the order of their due times. Pages stay right while timers fire.",
        lists=True,
    ),
    Call(
        *("POST", "/timers/batch", "createTimers", "Store many timers in one commit"),
        {200: Answer("What became of each, in their order.", (BatchAnswer,))},
        "Each is stored or refused as if it had been posted alone. At most 8 MiB.",
        takes=BatchRequest,
    ),
    Call(
        *("POST", "/timers/replay", "replayTimers", "Send failed timers again"),
        {200: Answer("Which they are.", (ReplayAnswer,))},
        takes=ReplayRequest,
        body_optional=True,
    ),
    Call(
        *("GET", _ONE, "getTimer", "Look at a timer"),
        {
            200: Answer(
                "The timer, or what the archive remembers of it.", (TimerView, ArchivedTimer), ("ETag?",)
            )
        },
    ),
    Call(
        *("PUT", _ONE, "replaceTimer", "Give a scheduled timer other content", _CHANGED),
        "What is absent is as in a new timer.",
        takes=TimerContent,
        if_match=True,
        problems=_TOO_LATE,
    ),
    Call(
        *("PATCH", _ONE, "changeTimer", "Change parts of a scheduled timer", _CHANGED),
        "A merge patch (RFC 7396): null removes. The schedule's fields replace the old schedule together; "
        "without any, it stays due when it was.",
        takes=TimerContent,
        takes_patch=True,
        if_match=True,
        problems=_TOO_LATE,
    ),
    Call(
        *("DELETE", _ONE, "cancelTimer", "Cancel a timer before it is sent, or delete a failed one"),
        {200: Answer("It is cancelled, or deleted.", (ChangedTimer,))},
        if_match=True,
        problems=_TOO_LATE,
    ),
    Call(
        *("GET", f"{_ONE}/attempts", "listAttempts", "Look at a timer's last attempts"),
        {200: Answer("The oldest first.", (AttemptsAnswer,))},
        problems=_TOO_LATE,
    ),
    Call(
        *("GET", f"{_ONE}/explain", "explainTimer", "Why has a timer not fired yet?"),
        {200: Answer("A code and a sentence.", (ExplainAnswer,))},
        problems=_TOO_LATE,
    ),
    Call(
        *("POST", f"{_ONE}/fire", "fireTimer", "Call a scheduled timer's webhook now", _CHANGED),
        if_match=True,
        problems=_TOO_LATE,
    ),
    Call(
        *("POST", f"{_ONE}/replay", "replayTimer", "Send a failed timer again", _CHANGED),
        if_match=True,
        problems=_TOO_LATE,
    ),
    Call(
        *("PUT", f"{_ONE}/callback", "setCallback", "Set a scheduled timer's callback", _CHANGED),
        takes=CallbackChange,
        if_match=True,
        problems=_TOO_LATE,
    ),
    Call(
        *("GET", "/applications", "listApplications", "List applications"),
        {200: Answer("Those that have timers or are set up.", (ApplicationList,))},
    ),
    Call("GET", _TENANT, "getApplication", "Look at an application", _APPLICATION),
    Call(
        *("PUT", _TENANT, "setApplication", "Set an application up", _APPLICATION),
        "What is absent is as the server is set; a pause stays as it is.",
        takes=ApplicationRequest,
    ),
    Call("POST", f"{_TENANT}/pause", "pauseApplication", "Hold an application's webhooks back", _APPLICATION),
    Call("POST", f"{_TENANT}/resume", "resumeApplication", "Let an application's webhooks go", _APPLICATION),
    Call(
        *("GET", "/destinations", "listDestinations", "List destinations"),
        {200: Answer("Those that were called or are set up.", (DestinationList,))},
    ),
    Call("GET", _HOST, "getDestination", "Look at a destination", _DESTINATION),
    Call(
        *("PUT", _HOST, "setDestination", "Set a destination's limits", _DESTINATION),
        "What is absent is without limit.",
        takes=DestinationRequest,
    ),
    Call("DELETE", _HOST, "resetDestination", "Drop a destination's limits", _DESTINATION),
    Call("GET", "/clock", "readClock", "Read the virtual clock", _CLOCK, problems=_NO_CLOCK),
    Call(
        *("POST", "/clock/advance", "advanceClock", "Let virtual time pass", _CLOCK),
        "Fires all that is due on the way, and answers when that is done.",
        takes=AdvanceRequest,
        problems=_NO_CLOCK,
    ),
    Call("GET", "/healthz", "isAlive", "Is the process alive?", _HEALTHY, is_open=True),
    Call(
        *("GET", "/readyz", "isReady", "Can it work? (Redis answers)", _HEALTHY),
        is_open=True,
        problems={503: "No: detail says why."},
    ),
    Call("GET", "/metrics", "readMetrics", "Figures for Prometheus", {200: Answer("Prometheus text.")}),
)
"""In the order of the document."""
