"""Notes every change that is made over the API, and has it written down in the background.

No answer waits for that: docs/adr/0029 says why, and what is lost when.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from http import HTTPStatus
from itertools import islice
from typing import Final
from urllib.parse import parse_qs

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from httpqueue import clock
from httpqueue.api.auth import GRANT
from httpqueue.api.problems import ProblemError
from httpqueue.api.schema.operation import Operation
from httpqueue.errors import InvalidTimerError, UnavailableError
from httpqueue.runtime.metrics import AUDIT_LOST
from httpqueue.runtime.outage import Outage
from httpqueue.timers.access import Grant
from httpqueue.timers.access import Scope as KeyScope
from httpqueue.timers.audit import AuditEntry
from httpqueue.timers.names import DEFAULT_APPLICATION, TimerName

GATHER_S: Final = 0.05
"""How long changes are gathered before they are written down together."""
MAX_BATCH: Final = 1_000
MAX_WAITING: Final = 10_000
"""More changes than this wait for no Redis: they are counted, and lost."""
CLOSE_WITHIN_S: Final = 3.0
MAX_TARGET: Final = 256

_CHANGED: Final = "httpqueue.changed"
_SAFE_METHODS: Final = frozenset({"GET", "HEAD"})

log = structlog.get_logger()

Append = Callable[[Sequence[AuditEntry]], Awaitable[None]]


def changed(scope: Scope, *names: TimerName) -> None:
    """Say which timers a request changes, where its path does not. The last call counts."""
    scope[_CHANGED] = names


class AuditTrail:
    """Notes the changes of one process."""

    def __init__(self, append: Append) -> None:
        """append: writes entries down; raises UnavailableError."""
        self._append = append
        self._waiting: deque[AuditEntry] = deque()
        self._writer: asyncio.Task[None] | None = None
        self._outage = Outage("audit")
        self._is_losing = False

    async def serve(
        self, operation: Operation, handler: ASGIApp, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Serve a request, and note it if it changed something, or may have."""
        if operation.method in _SAFE_METHODS:
            await handler(scope, receive, send)
            return
        status = 0

        def note_status(message: Message) -> Awaitable[None]:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            return send(message)

        try:
            await handler(scope, receive, note_status)
        except ClientDisconnect:
            raise  # the request was never read
        except Exception as error:
            status = status or _status_of(error)
            raise
        finally:
            # A request that was refused (4xx) changed nothing. Otherwise strangers could fill the log.
            if status and not HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR:
                self._note(operation, scope, status)

    async def flush(self) -> None:
        """Wait until what is noted now is written, so that a client sees its own changes in the log."""
        if self._writer is not None:
            await asyncio.shield(self._writer)

    async def close(self) -> None:
        """Write down what is noted, or give up after CLOSE_WITHIN_S. Call this when no request is served."""
        if self._writer is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._writer, CLOSE_WITHIN_S)
        if self._waiting:
            self._lose(len(self._waiting))

    def _note(self, operation: Operation, scope: Scope, status: int) -> None:
        grant: Grant | None = scope.get(GRANT)
        key_id = "" if grant is None else grant.id
        is_setting = operation.scope is KeyScope.ADMIN
        names = scope[_CHANGED] if _CHANGED in scope else [_subject(scope, grant)]
        room = MAX_WAITING - len(self._waiting)
        for application, target in names[:room]:
            self._waiting.append(AuditEntry(key_id, operation.name, application, target, status, is_setting))
        if len(names) > room:
            self._lose(len(names) - room)
        if self._writer is None:
            self._writer = asyncio.create_task(self._write())

    async def _write(self) -> None:
        """Write until nothing is left."""
        try:
            await clock.sleep(GATHER_S)
            while self._waiting:
                batch = list(islice(self._waiting, MAX_BATCH))
                try:
                    await self._append(batch)
                except UnavailableError as error:
                    await self._outage.wait(error)
                    continue
                except Exception:  # the next ones must be written all the same
                    log.exception("audit.bug")
                    self._lose(len(batch))
                else:
                    self._outage.over()
                    self._is_losing = False
                for _ in batch:
                    self._waiting.popleft()
        finally:
            self._writer = None

    def _lose(self, count: int) -> None:
        AUDIT_LOST.inc(count)
        if not self._is_losing:
            log.error("audit.lost", count=count, remedy="the metric httpqueue_audit_lost_total counts all")
        self._is_losing = True


def _status_of(error: Exception) -> int:
    """The status that problems.py answers with."""
    if isinstance(error, ProblemError):
        return error.status
    if isinstance(error, InvalidTimerError):
        return HTTPStatus.GONE
    if isinstance(error, UnavailableError | TimeoutError):
        return HTTPStatus.SERVICE_UNAVAILABLE
    return HTTPStatus.INTERNAL_SERVER_ERROR


def _subject(scope: Scope, grant: Grant | None) -> tuple[str, str]:
    """(application, target) of a request whose path names them; '' where it names none."""
    parameters: dict[str, str] = scope["path_params"]
    if "application" in parameters:
        return parameters["application"], ""
    application = parse_qs(scope["query_string"].decode("latin-1")).get("application", [""])[0]
    if not application and grant is not None:
        application = grant.application or ""
    if not application and "timer_id" in parameters:
        application = DEFAULT_APPLICATION
    target = "/".join(parameters.values())
    return application, target[:MAX_TARGET]
