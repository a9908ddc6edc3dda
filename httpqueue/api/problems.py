"""Every error answer, in one shape: application/problem+json (RFC 9457)."""

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import orjson
import structlog
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from httpqueue.errors import InvalidTimerError, UnavailableError
from httpqueue.runtime.metrics import UNAVAILABLE

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER_S: Final = "1"
_MAX_ERRORS: Final = 100  # an answer must not outgrow the request that caused it
_MAX_FIELD: Final = 200
_FAULTS_IN_DETAIL: Final = 3
_FIELDS_IN_DETAIL: Final = 5
# As RFC 9110 names them: the standard library's phrases differ between Python versions.
_TITLES: Final = {413: "Content Too Large", 422: "Unprocessable Content"}

_UNREADABLE: Final = "the timer's record is damaged: it is kept for the operators to look into"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class FieldError:
    """A faulty field by its path, such as headers.X-Foo, and what it must be: a predicate for the client."""

    field: str
    detail: str


class ProblemError(Exception):
    """The request cannot be served: the answer to it, as an exception; extra: further members of it."""

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = errors
        self.headers = headers
        self.extra = extra or {}


def faulty_fields(status: HTTPStatus, errors: Sequence[FieldError]) -> ProblemError:
    """The problem that names these fields; its sentence for people names the first few."""
    fields_of: dict[str, list[str]] = {}
    for error in errors[:_MAX_ERRORS]:
        fields_of.setdefault(error.detail, []).append(_short(error.field))
    faults = [
        f"{', '.join(_first(fields, _FIELDS_IN_DETAIL))}: {detail}" for detail, fields in fields_of.items()
    ]
    sentence = "; ".join(_first(faults, _FAULTS_IN_DETAIL))
    return ProblemError(status, sentence, errors=errors)


def problem_content(problem: ProblemError) -> dict[str, Any]:
    """ProblemError -> the members of its answer."""
    content: dict[str, Any] = {
        "type": "about:blank",
        "title": _TITLES.get(problem.status, problem.status.phrase),
        "status": problem.status.value,
        "detail": problem.detail,
        **problem.extra,
    }
    if problem.errors:
        content["errors"] = [
            {"field": _short(error.field), "detail": error.detail} for error in problem.errors[:_MAX_ERRORS]
        ]
    return content


def problem_response(problem: ProblemError) -> Response:
    """ProblemError -> answer."""
    return Response(orjson.dumps(problem_content(problem)), problem.status, problem.headers, MEDIA_TYPE)


class Problems:
    """ASGI middleware: every error becomes its answer; one that nobody foresaw is logged once, and a 500."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["app"] = self  # Starlette's routes then raise what they refuse, instead of answering it
        started = False

        def note_start(message: Message) -> Awaitable[None]:
            nonlocal started
            started = True
            return send(message)

        try:
            await self._app(scope, receive, note_start)
        except ClientDisconnect:
            return  # nobody is left to be answered
        except Exception as error:
            problem = _problem_of(scope, error)
            if started:
                raise  # the server must cut the connection: half an answer is out
            await problem_response(problem)(scope, receive, send)


def _problem_of(scope: Scope, error: Exception) -> ProblemError:
    match error:
        case ProblemError():
            return error
        case HTTPException():
            return _of_router(scope, error)
        case UnavailableError() | TimeoutError():
            return _of_outage(scope, error)
        case InvalidTimerError():
            log.warning("api.unreadable_timer", method=scope["method"], path=scope["path"])
            return ProblemError(HTTPStatus.GONE, _UNREADABLE)
    log.error("api.error", method=scope["method"], path=scope["path"], exc_info=error)
    detail = "something went wrong in httpqueue; its log says what"
    return ProblemError(HTTPStatus.INTERNAL_SERVER_ERROR, detail)


def _of_router(scope: Scope, error: HTTPException) -> ProblemError:
    status = HTTPStatus(error.status_code)
    detail = {
        HTTPStatus.NOT_FOUND: "there is nothing at this path; /docs shows what there is",
        HTTPStatus.METHOD_NOT_ALLOWED: f"{scope['method']} is no method of this path; see Allow",
    }.get(status, error.detail)
    return ProblemError(status, detail, headers=error.headers)


def _of_outage(scope: Scope, error: Exception) -> ProblemError:
    reason = str(error) if isinstance(error, UnavailableError) else "Redis did not answer in time"
    UNAVAILABLE.labels("api").inc()
    log.warning("api.unavailable", method=scope["method"], reason=reason)
    detail = f"{reason}; try again"
    if scope["path"] in {"/timers", "/timers/batch"} and scope["method"] == "POST":
        detail += ", with the same id: whether the timer was stored is unknown"
    elif scope["method"] not in {"GET", "HEAD"}:
        detail += ": whether the change was made is unknown"
    return ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers={"Retry-After": RETRY_AFTER_S})


def _first(items: list[str], count: int) -> list[str]:
    return items if len(items) <= count else [*items[:count], "…"]


def _short(field: str) -> str:
    return field if len(field) <= _MAX_FIELD else f"{field[:_MAX_FIELD]}…"
