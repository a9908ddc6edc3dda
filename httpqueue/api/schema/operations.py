"""The table of all operations: the router, the checks of API keys and the OpenAPI document come from it."""

from typing import Final

from httpqueue.api.schema import answer_models as answers
from httpqueue.api.schema import request_models as requests
from httpqueue.api.schema.operation import AnswerDoc, Operation
from httpqueue.api.schema.query import AuditQuery, ListQuery, PageQuery
from httpqueue.timers.access import Scope

_TIMER: Final = "/timers/{timer_id}"
_APPLICATION: Final = "/applications/{application}"
_DESTINATION: Final = "/destinations/{host}"

_ID_TAKEN: Final = {409: "The id belongs to a timer with other content, or to one that is in flight."}
_QUOTA: Final = {403: "The API key does not permit this, or a quota of the application is used up."}
_OTHER_STATE: Final = {409: "The timer is in another state; timer_status names it."}
_NO_JOB: Final = {404: "There is no such job, or it ended long ago."}
_DELETING: Final = {409: "A job is deleting the application."}
_NO_CLOCK: Final = {404: "There is no virtual clock."}

_CHANGED: Final = {200: AnswerDoc("The timer after the change.", (answers.ChangedTimer,), ("ETag",))}
_STORED: Final = {
    201: AnswerDoc("Stored; the webhook will be called.", (answers.StoredTimer,), ("Location",)),
    200: AnswerDoc("The id already had a timer, which was kept or replaced.", (answers.StoredTimer,)),
}
_FOUND: Final = {
    200: AnswerDoc(
        "The timer, or what the archive remembers of it.",
        (answers.TimerView, answers.ArchivedTimer),
        ("ETag?",),
    )
}
_ONE_APPLICATION: Final = {200: AnswerDoc("The application as it is now.", (answers.ApplicationView,))}
_ONE_DESTINATION: Final = {200: AnswerDoc("The destination as it is now.", (answers.DestinationView,))}
_CLOCK: Final = {200: AnswerDoc("The time of the virtual clock.", (answers.ClockView,))}
_JOB_STARTED: Final = {202: AnswerDoc("The job that does it.", (answers.JobView,), ("Location",))}
_ONE_JOB: Final = {200: AnswerDoc("The job as it is now.", (answers.JobView,))}
_PROBE: Final = {200: AnswerDoc("Yes.", (answers.ProbeView,))}
_PAGE: Final = {200: AnswerDoc("A page or file of the documentation.")}

OPERATIONS: Final = (
    Operation(
        "POST",
        "/timers",
        "createTimer",
        Scope.WRITE,
        "Store a timer",
        _STORED,
        "You may send the same timer with the same id again, or with the same Idempotency-Key: it is stored "
        "once.",
        request=requests.TimerRequest,
        has_idempotency_key=True,
        problems=_ID_TAKEN | _QUOTA,
    ),
    Operation(
        "GET",
        "/timers",
        "listTimers",
        Scope.READ,
        "List timers",
        {200: AnswerDoc("A page of timers.", (answers.TimerList,))},
        "Sorted by due time. You may page through the list while timers fire.",
        query=ListQuery,
    ),
    Operation(
        "POST",
        "/timers/batch",
        "createTimers",
        Scope.WRITE,
        "Store many timers in one commit",
        {200: AnswerDoc("One result for each timer, in the same order.", (answers.BatchAnswer,))},
        "Each timer is stored or refused on its own, as by POST /timers. The body has at most 8 MiB.",
        request=requests.BatchRequest,
    ),
    Operation(
        "POST",
        "/timers/replay",
        "replayTimers",
        Scope.WRITE,
        "Send many failed timers again",
        _JOB_STARTED,
        "A job schedules all failed timers again that meet the conditions. Each is then due at once.",
        request=requests.SelectionRequest,
        is_body_optional=True,
    ),
    Operation(
        "POST",
        "/timers/cancel",
        "cancelTimers",
        Scope.WRITE,
        "Cancel many scheduled timers",
        _JOB_STARTED,
        "A job cancels all scheduled timers that meet the conditions. Timers that are in flight are not.",
        request=requests.SelectionRequest,
    ),
    Operation("GET", _TIMER, "getTimer", Scope.READ, "Get a timer", _FOUND, has_reveal=True),
    Operation(
        "PUT",
        _TIMER,
        "replaceTimer",
        Scope.WRITE,
        "Replace the content of a scheduled timer",
        _CHANGED,
        "Absent fields get the same defaults as in a new timer.",
        request=requests.TimerContent,
        has_if_match=True,
        problems=_OTHER_STATE,
    ),
    Operation(
        "PATCH",
        _TIMER,
        "changeTimer",
        Scope.WRITE,
        "Change some fields of a scheduled timer",
        _CHANGED,
        "The body is a merge patch (RFC 7396): null removes a field. Fields of the schedule in it replace "
        "the whole old schedule; without any, the due time stays.",
        request=requests.TimerContent,
        is_patch=True,
        has_if_match=True,
        problems=_OTHER_STATE,
    ),
    Operation(
        "DELETE",
        _TIMER,
        "cancelTimer",
        Scope.WRITE,
        "Cancel a scheduled timer, or delete a failed one",
        {200: AnswerDoc("The timer is cancelled or deleted.", (answers.ChangedTimer,))},
        "A recurring timer that runs just now is cancelled when the call is over: ending.",
        has_if_match=True,
        problems=_OTHER_STATE,
    ),
    Operation(
        "GET",
        f"{_TIMER}/attempts",
        "listAttempts",
        Scope.READ,
        "List a timer's last attempts",
        {200: AnswerDoc("The attempts, oldest first.", (answers.AttemptsAnswer,))},
        problems=_OTHER_STATE,
    ),
    Operation(
        "GET",
        f"{_TIMER}/explain",
        "explainTimer",
        Scope.READ,
        "Explain why a timer has not fired yet",
        {200: AnswerDoc("The reason, as a code and as a sentence.", (answers.ExplainAnswer,))},
        problems=_OTHER_STATE,
    ),
    Operation(
        "POST",
        f"{_TIMER}/fire",
        "fireTimer",
        Scope.WRITE,
        "Call a scheduled timer's webhook now",
        _CHANGED,
        has_if_match=True,
        problems=_OTHER_STATE,
    ),
    Operation(
        "POST",
        f"{_TIMER}/replay",
        "replayTimer",
        Scope.WRITE,
        "Send a failed timer again",
        _CHANGED,
        has_if_match=True,
        problems=_OTHER_STATE,
    ),
    Operation(
        "PUT",
        f"{_TIMER}/callback",
        "setCallback",
        Scope.WRITE,
        "Set a scheduled timer's callback",
        _CHANGED,
        request=requests.CallbackChange,
        has_if_match=True,
        problems=_OTHER_STATE,
    ),
    Operation(
        "GET",
        "/applications",
        "listApplications",
        Scope.READ,
        "List applications",
        {200: AnswerDoc("The applications that have timers or settings.", (answers.ApplicationList,))},
        "Sorted by name.",
        query=PageQuery,
    ),
    Operation("GET", _APPLICATION, "getApplication", Scope.READ, "Get an application", _ONE_APPLICATION),
    Operation(
        "PUT",
        _APPLICATION,
        "setApplication",
        Scope.ADMIN,
        "Set an application's settings",
        _ONE_APPLICATION,
        "Absent fields get the server's defaults. Whether the application is paused does not change.",
        request=requests.ApplicationRequest,
        problems=_DELETING,
    ),
    Operation(
        "POST",
        f"{_APPLICATION}/pause",
        "pauseApplication",
        Scope.ADMIN,
        "Pause an application: hold its webhooks back",
        _ONE_APPLICATION,
        problems=_DELETING,
    ),
    Operation(
        "POST",
        f"{_APPLICATION}/resume",
        "resumeApplication",
        Scope.ADMIN,
        "Resume an application",
        {
            **_ONE_APPLICATION,
            202: AnswerDoc("So many wait that a job wakes them.", (answers.JobView,), ("Location",)),
        },
        "Timers that became due during the pause are called at once.",
        problems=_DELETING,
    ),
    Operation(
        "DELETE",
        _APPLICATION,
        "deleteApplication",
        Scope.ADMIN,
        "Delete an application",
        _JOB_STARTED,
        "A job ends all its timers and forgets its settings. Meanwhile it is paused and takes no new ones.",
    ),
    Operation(
        "GET",
        "/jobs/{job_id}",
        "getJob",
        Scope.READ,
        "Get a job",
        _ONE_JOB,
        "A job that has ended can be read for 7 days.",
        problems=_NO_JOB,
    ),
    Operation(
        "DELETE",
        "/jobs/{job_id}",
        "cancelJob",
        Scope.WRITE,
        "Stop a job",
        _ONE_JOB,
        "What it has done stays.",
        problems=_NO_JOB,
    ),
    Operation(
        "GET",
        "/destinations",
        "listDestinations",
        Scope.READ,
        "List destinations",
        {200: AnswerDoc("The hosts that were called or have limits.", (answers.DestinationList,))},
        "Sorted by name. Of hosts without limits, the 10,000 that were called last are listed.",
        query=PageQuery,
        all_applications=True,
    ),
    Operation(
        "GET",
        _DESTINATION,
        "getDestination",
        Scope.READ,
        "Get a destination",
        _ONE_DESTINATION,
        all_applications=True,
    ),
    Operation(
        "PUT",
        _DESTINATION,
        "setDestination",
        Scope.ADMIN,
        "Set a destination's limits",
        _ONE_DESTINATION,
        "An absent limit means no limit.",
        request=requests.DestinationRequest,
        all_applications=True,
    ),
    Operation(
        "DELETE",
        _DESTINATION,
        "resetDestination",
        Scope.ADMIN,
        "Remove a destination's limits",
        _ONE_DESTINATION,
        all_applications=True,
    ),
    Operation(
        "GET",
        "/audit",
        "readAudit",
        Scope.ADMIN,
        "See who changed what",
        {200: AnswerDoc("A page of the audit log, the latest change first.", (answers.AuditList,))},
        "The last changes that were made over the API: some 100,000 of timers, and as many of settings.",
        query=AuditQuery,
    ),
    Operation(
        "GET",
        "/clock",
        "readClock",
        Scope.READ,
        "Read the virtual clock",
        _CLOCK,
        problems=_NO_CLOCK,
        all_applications=True,
    ),
    Operation(
        "POST",
        "/clock/advance",
        "advanceClock",
        Scope.ADMIN,
        "Advance the virtual clock",
        _CLOCK,
        "Fires every timer that becomes due on the way, and answers when all of that is done.",
        request=requests.AdvanceRequest,
        problems=_NO_CLOCK,
        all_applications=True,
    ),
    Operation("GET", "/healthz", "isAlive", None, "Is the process alive?", _PROBE),
    Operation(
        "GET",
        "/readyz",
        "isReady",
        None,
        "Can the process work? (Redis answers)",
        _PROBE,
        problems={503: "No; detail says why."},
    ),
    Operation(
        "GET",
        "/metrics",
        "readMetrics",
        Scope.READ,
        "Metrics for Prometheus",
        {200: AnswerDoc("Metrics in Prometheus's text format.")},
        all_applications=True,
    ),
    Operation("GET", "/", "showRoot", None, "Go to /docs", _PAGE, is_documented=False),
    Operation("GET", "/docs", "showDocs", None, "Swagger UI", _PAGE, is_documented=False),
    Operation("GET", "/docs/{name}", "getDocsFile", None, "A file of Swagger UI", _PAGE, is_documented=False),
    Operation("GET", "/openapi.json", "getOpenApi", None, "The OpenAPI document", _PAGE, is_documented=False),
)
"""In the order of the OpenAPI document."""
