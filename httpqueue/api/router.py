"""Finds the operation that a request asks for, lets Auth check the request, and calls the handler.

A request is matched once: Auth checks exactly the operation whose handler is called.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Router as StarletteRouter
from starlette.types import ASGIApp, Receive, Scope, Send

from httpqueue.api.audit_trail import AuditTrail
from httpqueue.api.auth import Auth
from httpqueue.api.problems import ProblemError, unknown_path
from httpqueue.api.schema.operation import Operation
from httpqueue.api.schema.operations import OPERATIONS

Endpoint = Callable[[Request], Awaitable[Response]]

_PARAMETER: Final = re.compile(r"\\{(\w+)\\}")  # {name} in a path, after re.escape


@dataclass(frozen=True, slots=True)
class _Route:
    operation: Operation
    handler: ASGIApp


_ByMethod = dict[str, _Route]


class Router:
    """ASGI application of every operation that has a handler.

    Raises ProblemError: 404 for an unknown path, 405 for an unknown method, and what Auth raises.
    """

    def __init__(
        self, handlers: Mapping[str, ASGIApp], auth: Auth | None = None, trail: AuditTrail | None = None
    ) -> None:
        """Serve the operations whose names `handlers` has.

        auth None: without any check. trail None: no change is noted.
        """
        self._auth = auth
        self._trail = trail
        self._fixed: dict[
            str, _ByMethod
        ] = {}  # paths without parameters need no pattern: POST /timers is hot
        patterns: dict[str, _ByMethod] = {}
        for operation in OPERATIONS:
            if operation.name in handlers:
                paths = patterns if "{" in operation.path else self._fixed
                route = _Route(operation, handlers[operation.name])
                by_method = paths.setdefault(operation.path, {})
                by_method[operation.method] = route
                if operation.method == "GET":
                    by_method["HEAD"] = route  # RFC 9110 section 9.3.2
        self._patterns = [(_pattern(path), by_method) for path, by_method in patterns.items()]
        self._not_http = StarletteRouter()  # answers the lifespan protocol, refuses WebSockets

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._not_http(scope, receive, send)
            return
        route, scope["path_params"] = self._find(scope["method"], scope["path"])
        if self._auth is not None:
            await self._auth.admit(scope, None if route is None else route.operation)
        if route is None:
            raise self._no_route(scope["method"], scope["path"])
        if self._trail is None:
            await route.handler(scope, receive, send)
        else:
            await self._trail.serve(route.operation, route.handler, scope, receive, send)

    def _find(self, method: str, path: str) -> tuple[_Route | None, dict[str, str]]:
        """(route, parameters of the path); the fixed path /timers/batch goes before /timers/{timer_id}."""
        route = self._fixed.get(path, {}).get(method)
        if route is not None:
            return route, {}
        for pattern, by_method in self._patterns:
            match = pattern.fullmatch(path)
            if match is not None and method in by_method:
                return by_method[method], match.groupdict()
        return None, {}

    def _no_route(self, method: str, path: str) -> ProblemError:
        methods = {*self._fixed.get(path, {})}
        for pattern, by_method in self._patterns:
            if pattern.fullmatch(path):
                methods |= by_method.keys()
        if not methods:
            return unknown_path()
        return ProblemError(
            HTTPStatus.METHOD_NOT_ALLOWED,
            f"{method} is not a method of this path; see Allow",
            headers={"Allow": ", ".join(sorted(methods))},  # RFC 9110 section 15.5.6
        )


def endpoint(answer: Endpoint) -> ASGIApp:
    """A function from request to response -> an ASGI application."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        response = await answer(Request(scope, receive, send))
        await response(scope, receive, send)

    return app


def _pattern(path: str) -> re.Pattern[str]:
    """A path with parameters -> its pattern; a parameter is any text without a slash."""
    return re.compile(_PARAMETER.sub(r"(?P<\1>[^/]+)", re.escape(path)))
