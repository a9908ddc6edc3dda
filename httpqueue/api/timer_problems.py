"""The problems that a request about one timer can meet: it is unknown, changed, or in the wrong state."""

from collections.abc import Sequence
from http import HTTPStatus
from math import ceil
from typing import Final

from httpqueue.api.problems import FieldError, ProblemError, faulty_fields
from httpqueue.timers.commands import Changed, ChangeResult, Created, Creation
from httpqueue.timers.schedule import MS_PER_S
from httpqueue.timers.timer import State

_NAMED: Final = 5
_CONFLICT: Final = {
    State.RUNNING: "the timer is in flight: its webhook is being called",
    State.DONE: "the timer is done: its webhook was delivered",
    State.FAILED: "the timer has failed: replay or delete it",
    State.CANCELLED: "the timer was cancelled",
    State.SCHEDULED: "the timer is scheduled: it has not failed",
    State.ARCHIVED: "the timer finished so long ago that only its id is remembered",
}


LIMITS: Final = frozenset({Creation.RATE, Creation.PENDING, Creation.BYTES, Creation.FULL, Creation.DELETED})
"""What keeps timers from being stored whatever is in them."""
_QUOTA: Final = {
    Creation.PENDING: "the application has as many pending timers as it may have: cancel some of them, or "
    "wait until some have fired",
    Creation.BYTES: "the application's timers take as many bytes as they may: delete some of them, or wait "
    "until the retention of finished ones is over",
}
_FULL_RETRY_AFTER_S: Final = "5"


def not_found() -> ProblemError:
    """404: there is no such timer, and there never was one."""
    return ProblemError(HTTPStatus.NOT_FOUND, "there never was a timer of this id")


def state_conflict(state: State) -> ProblemError:
    """409: the timer's state does not allow the change; timer_status in the answer names the state."""
    return ProblemError(HTTPStatus.CONFLICT, _CONFLICT[state], extra={"timer_status": state.value})


def precondition_failed() -> ProblemError:
    """412: the timer no longer has the version that If-Match names (RFC 9110 section 13.1.1)."""
    detail = "the timer has changed since: get it again, and send its new ETag in If-Match"
    return ProblemError(HTTPStatus.PRECONDITION_FAILED, detail)


def other_lane() -> ProblemError:
    """409: the timer has another ordering key, which it keeps for as long as it has a record."""
    message = "cannot be changed or replaced: delete the timer, or choose another id"
    return faulty_fields(HTTPStatus.CONFLICT, [FieldError("ordering_key", message)])


def several_applications(names: Sequence[str]) -> ProblemError:
    """409: the request names no application, and several have a timer of this id."""
    listed = ", ".join([*names[:_NAMED], *(["…"] if len(names) > _NAMED else [])])
    message = f"must be named, as in ?application={names[0]}: {listed} have timers of this id"
    return faulty_fields(HTTPStatus.CONFLICT, [FieldError("application", message)])


def limit_met(created: Created) -> ProblemError:
    """A timer was not stored, whatever is in it: 403 with the name of the quota, 409, 429 or 503."""
    match created.creation:
        case Creation.DELETED:
            return ProblemError(HTTPStatus.CONFLICT, "a job is deleting the application: wait for its end")
        case Creation.FULL:
            detail = "httpqueue has as many pending timers as it may have: try again later"
            return ProblemError(
                HTTPStatus.SERVICE_UNAVAILABLE, detail, headers={"Retry-After": _FULL_RETRY_AFTER_S}
            )
        case Creation.RATE:
            retry_after_s = ceil(created.wait_ms / MS_PER_S)
            detail = f"the application has posted as many timers as it may: try again in {retry_after_s} s"
            headers = {"Retry-After": str(retry_after_s)}
            return ProblemError(
                HTTPStatus.TOO_MANY_REQUESTS, detail, headers=headers, extra={"quota": "rate"}
            )
    return ProblemError(
        HTTPStatus.FORBIDDEN, _QUOTA[created.creation], extra={"quota": created.creation.value}
    )


def check_changed(changed: Changed) -> None:
    """Raise ProblemError (409, 412) if the store refused a change.

    ChangeResult.GONE passes: only the caller can tell whether the timer is archived or never existed.
    """
    match changed.result:
        case ChangeResult.OTHER_VERSION:
            raise precondition_failed()
        case ChangeResult.OTHER_LANE:
            raise other_lane()
        case ChangeResult.OTHER_STATE if changed.state is not None:
            raise state_conflict(changed.state)
