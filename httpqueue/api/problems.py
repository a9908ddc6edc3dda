"""Every error answer has one shape: application/problem+json (RFC 9457)."""

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import orjson
import structlog
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from httpqueue.errors import HttpqueueError, InvalidTimerError, NewerFormatError, UnavailableError
from httpqueue.runtime.metrics import UNAVAILABLE

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER_S: Final = "1"
PROBES: Final = {"/healthz", "/readyz", "/metrics"}
"""Their answers do not tell whether clients are served."""
# These limits keep an answer from becoming larger than the request that caused it.
MAX_ERRORS: Final = 100
"""The most errors that an answer lists. More need not be looked for."""
_MAX_FIELD_CHARACTERS: Final = 200
_FAULTS_IN_DETAIL: Final = 3
_FIELDS_IN_DETAIL: Final = 5
# The names of RFC 9110; those of the standard library differ between Python versions.
_TITLES: Final = {413: "Content Too Large", 422: "Unprocessable Content"}

_LATE: Final = "Redis did not answer in time"
_UNREADABLE: Final = "the timer's record is damaged: it is kept for the operators to look into"

_NEWER: Final = "the timer was written by a newer httpqueue than this one: try again, or finish the upgrade"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class FieldError:
    """A faulty field by its path, such as headers.X-Foo, and what is wrong with it.

    The detail is a sentence whose subject is the field: "must not be empty".
    """

    field: str
    detail: str


class ProblemError(HttpqueueError):
    """The request cannot be served."""

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """Make an answer with this status and detail; extra: further members of its JSON object."""
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = errors
        self.headers = headers
        self.extra = extra or {}


def faulty_fields(status: HTTPStatus, errors: Sequence[FieldError]) -> ProblemError:
    """A problem with all of these fields; its detail, for people, names only the first few."""
    fields_of: dict[str, list[str]] = {}
    for error in errors[:MAX_ERRORS]:
        fields_of.setdefault(error.detail, []).append(_short(error.field))
    faults = [
        f"{', '.join(_first(fields, _FIELDS_IN_DETAIL))}: {detail}" for detail, fields in fields_of.items()
    ]
    sentence = "; ".join(_first(faults, _FAULTS_IN_DETAIL))
    return ProblemError(status, sentence, errors=errors)


def faulty_field(field: str, detail: str) -> ProblemError:
    """A problem with one field: 422."""
    return faulty_fields(HTTPStatus.UNPROCESSABLE_ENTITY, [FieldError(field, detail)])


def unknown_path() -> ProblemError:
    """404: the API has nothing at the path of the request."""
    return ProblemError(HTTPStatus.NOT_FOUND, "there is nothing at this path; /docs shows what there is")


def problem_content(problem: ProblemError) -> dict[str, Any]:
    """ProblemError -> the members of its JSON object."""
    content: dict[str, Any] = {
        "type": "about:blank",
        "title": _TITLES.get(problem.status, problem.status.phrase),
        "status": problem.status.value,
        "detail": problem.detail,
        **problem.extra,
    }
    if problem.errors:
        content["errors"] = [
            {"field": _short(error.field), "detail": error.detail} for error in problem.errors[:MAX_ERRORS]
        ]
    return content


def problem_response(problem: ProblemError) -> Response:
    """ProblemError -> the answer."""
    return Response(orjson.dumps(problem_content(problem)), problem.status, problem.headers, MEDIA_TYPE)


class Problems:
    """ASGI middleware that turns every exception into an answer.

    An exception that is not expected is logged once, and answered with 500.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._is_away = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        def note_start(message: Message) -> Awaitable[None]:
            nonlocal started
            started = True
            if message.get("status", 500) < HTTPStatus.BAD_REQUEST and scope["path"] not in PROBES:
                self._is_away = False
            return send(message)

        try:
            await self._app(scope, receive, note_start)
        except ClientDisconnect:
            return  # the client is gone
        except Exception as error:
            problem = _problem_of(scope, error)
            if problem.status == HTTPStatus.SERVICE_UNAVAILABLE:
                if not self._is_away:
                    log.warning(
                        "api.unavailable", method=scope["method"], reason=str(error) or problem.detail
                    )
                self._is_away = True
            if started:
                raise  # a part of the answer is sent already, so the server must cut the connection
            await problem_response(problem)(scope, receive, send)


def _problem_of(scope: Scope, error: Exception) -> ProblemError:
    match error:
        case ProblemError():
            return error
        case UnavailableError() | TimeoutError():
            return _of_outage(scope, error)
        case NewerFormatError():
            return ProblemError(
                HTTPStatus.SERVICE_UNAVAILABLE, _NEWER, headers={"Retry-After": RETRY_AFTER_S}
            )
        case InvalidTimerError():
            log.warning("api.unreadable_timer", method=scope["method"], path=scope["path"])
            return ProblemError(HTTPStatus.GONE, _UNREADABLE)
    log.error("api.error", method=scope["method"], path=scope["path"], exc_info=error)
    detail = "something went wrong in httpqueue; its log says what"
    return ProblemError(HTTPStatus.INTERNAL_SERVER_ERROR, detail)


def _of_outage(scope: Scope, error: Exception) -> ProblemError:
    public = error.public if isinstance(error, UnavailableError) else _LATE
    UNAVAILABLE.labels("api").inc()
    detail = f"{public}; try again"
    if scope["path"] in {"/timers", "/timers/batch"} and scope["method"] == "POST":
        detail += ", with the same id: whether the timer was stored is unknown"
    elif scope["method"] not in {"GET", "HEAD"}:
        detail += ": whether the change was made is unknown"
    return ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers={"Retry-After": RETRY_AFTER_S})


def _first(items: list[str], count: int) -> list[str]:
    return items if len(items) <= count else [*items[:count], "…"]


def _short(field: str) -> str:
    return field if len(field) <= _MAX_FIELD_CHARACTERS else f"{field[:_MAX_FIELD_CHARACTERS]}…"
