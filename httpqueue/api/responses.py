"""What all handlers share: how long Redis may take, how JSON is answered, what a refused change is told."""

import asyncio
from http import HTTPStatus
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response

from httpqueue.api.problems import FieldError, ProblemError, faulty_fields
from httpqueue.api.schema import json_body
from httpqueue.timers.commands import Answer, Changed
from httpqueue.timers.timer import State

ANSWER_WITHIN_S: Final = 5

_UNDER_WAY: Final = {
    State.RUNNING: "the timer is in flight: its webhook is being called",
    State.DONE: "the timer is done: its webhook was delivered",
    State.FAILED: "the timer has failed: replay or delete it",
    State.CANCELLED: "the timer was cancelled",
    State.SCHEDULED: "the timer is scheduled: it has not failed",
    State.ARCHIVED: "the timer finished so long ago that only its id is remembered",
}


def in_time() -> asyncio.Timeout:
    """Raises TimeoutError, which Problems answers with 503, when Redis takes too long."""
    return asyncio.timeout(ANSWER_WITHIN_S)


def json_response(
    content: Any, status: HTTPStatus = HTTPStatus.OK, headers: dict[str, str] | None = None
) -> Response:
    """Content -> answer."""
    return Response(orjson.dumps(content), status, headers, "application/json")


async def read_members(request: Request) -> dict[str, Any]:
    """The request's JSON object."""
    return await json_body.read_object(request.scope, request.receive)


async def read_optional(request: Request) -> dict[str, Any]:
    """The same for requests whose body may be missing."""
    return await json_body.read_optional(request.scope, request.receive)


async def read_nothing(request: Request) -> None:
    """For requests without a body, or with an empty object; raises ProblemError (400, 413, 415, 422)."""
    if errors := [FieldError(name, "is unknown here: remove it") for name in await read_optional(request)]:
        raise faulty_fields(HTTPStatus.UNPROCESSABLE_ENTITY, errors)


def not_found() -> ProblemError:
    """There is no such timer."""
    return ProblemError(HTTPStatus.NOT_FOUND, "there never was a timer of this id")


def state_conflict(state: State) -> ProblemError:
    """The definite answer to a change that comes too late or too early."""
    return ProblemError(HTTPStatus.CONFLICT, _UNDER_WAY[state], extra={"timer_status": state.value})


def precondition_failed() -> ProblemError:
    """If-Match names another version."""
    detail = "the timer has changed since: get it again, and send its new ETag in If-Match"
    return ProblemError(HTTPStatus.PRECONDITION_FAILED, detail)


def check_changed(changed: Changed) -> None:
    """Raises the problem of a change that was refused; GONE is for the caller to look into."""
    match changed.answer:
        case Answer.OTHER_VERSION:
            raise precondition_failed()
        case Answer.OTHER_STATE if changed.state is not None:
            raise state_conflict(changed.state)


def etag(version: str) -> dict[str, str]:
    """The version as a header."""
    return {"ETag": f'"{version}"'}
