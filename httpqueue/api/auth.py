"""Who sends a request, may they, and not too often? And does a foreign web page make them send it?

What an operation needs stands in the table of operations. The rate limit counts the requests of this
process: two API processes together let twice as many through.
"""

from collections.abc import Iterable
from http import HTTPStatus
from math import ceil
from typing import Final

from starlette.types import Scope as Connection

from httpqueue import clock
from httpqueue.api.browser_guard import BrowserGuard
from httpqueue.api.key_ring import KeyRing
from httpqueue.api.problems import FieldError, ProblemError, faulty_fields
from httpqueue.api.schema.operation import Operation
from httpqueue.timers.access import Grant, RateLimit, Scope, permits
from httpqueue.timers.names import DEFAULT_APPLICATION

GRANT: Final = "httpqueue.grant"
"""The key of a request's Grant in its ASGI scope; the Grant is None if nobody needs an API key."""


class Auth:
    """Admits requests, or raises ProblemError: 401, 403 or 429."""

    def __init__(
        self, key_ring: KeyRing, *, rate_limit_per_s: float | None = None, guard: BrowserGuard | None = None
    ) -> None:
        self._key_ring = key_ring
        self._guard = guard or BrowserGuard()
        self._rate_limit_per_s = rate_limit_per_s
        self._limit = RateLimit(rate_limit_per_s, max(1, rate_limit_per_s)) if rate_limit_per_s else None

    async def admit(self, connection: Connection, operation: Operation | None) -> None:
        """Check one request, and put its Grant into its scope; the router has put path_params there.

        operation None: the request asks for no known operation. Any API key may learn that.
        """
        if operation is not None and operation.is_open:
            return
        self._guard.check_origin(connection["headers"])
        grant = await self._authenticate(connection)
        if grant is None:
            self._guard.check_host(connection["headers"])
        self._spend(connection, grant)
        if grant is not None and operation is not None:
            _authorize(connection, operation, grant)
        connection[GRANT] = grant

    async def _authenticate(self, connection: Connection) -> Grant | None:
        api_key = _api_key_of(connection["headers"])
        # Even while no API key is known, the one that was sent is looked up: it may have just been created,
        # and its owner's timers must not be stored under another application.
        grant = await self._key_ring.find(api_key) if api_key else None
        if grant is not None and grant.has_expired(clock.now_ms()):
            raise _unauthorized("the API key has expired: `httpqueue keys create` makes a new one")
        if grant is not None or not await self._key_ring.are_required():
            return grant
        detail = (
            "the API key is not known: it may have been revoked"
            if api_key
            else "an API key must be sent, as X-API-Key: <key> or as Authorization: Bearer <key>; "
            "`httpqueue keys create` makes one"
        )
        raise _unauthorized(detail)

    def _spend(self, connection: Connection, grant: Grant | None) -> None:
        """Count the request against its API key, or against its address when there is no API key."""
        if self._limit is None:
            return
        address, _ = connection.get("client") or ("", 0)
        wait_s = self._limit.decide(address if grant is None else grant.id, clock.monotonic_s())
        if wait_s > 0:
            retry_after_s = ceil(wait_s)
            raise ProblemError(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"there must be at most {self._rate_limit_per_s:g} requests per second: "
                f"try again in {retry_after_s} s",
                headers={"Retry-After": str(retry_after_s)},
            )


def application_of(connection: Connection, given: str | None) -> str:
    """The application that a request is about.

    given: the application that the request names. None: the API key's own, or else the default one. Raises
    ProblemError (403) if the API key is for another application.
    """
    grant: Grant | None = connection.get(GRANT)
    if grant is None or grant.application is None:
        return given or DEFAULT_APPLICATION
    if given not in {None, grant.application}:
        detail = f"must be the API key's own, {grant.application}, or left out"
        raise faulty_fields(HTTPStatus.FORBIDDEN, [FieldError("application", detail)])
    return grant.application


def sees_all(connection: Connection) -> bool:
    """Whether a request may be about all applications at once."""
    grant: Grant | None = connection.get(GRANT)
    return grant is None or grant.application is None


def may_administer(connection: Connection) -> bool:
    """Whether a request may do what needs the scope admin."""
    grant: Grant | None = connection.get(GRANT)
    return grant is None or grant.scope.includes(Scope.ADMIN)


def check_reveal(connection: Connection) -> None:
    """Raise ProblemError (403) unless the request may show credentials: its key could use them anyway."""
    grant: Grant | None = connection.get(GRANT)
    if grant is not None and not grant.scope.includes(Scope.WRITE):
        detail = f"to reveal credentials, the API key must have the scope write; this one has {grant.scope}"
        raise ProblemError(HTTPStatus.FORBIDDEN, detail)


def _authorize(connection: Connection, operation: Operation, grant: Grant) -> None:
    application = None
    if not operation.all_applications:
        # Where the path names no application, the handler asks application_of.
        application = connection["path_params"].get("application", grant.application)
    scope = operation.scope
    if scope is None or permits(grant, scope, application):
        return
    if not grant.scope.includes(scope):
        detail = f"the API key must have the scope {scope}; this one has {grant.scope}"
    else:
        detail = f"the API key must be one for {application or 'all applications'}"
    raise ProblemError(HTTPStatus.FORBIDDEN, detail)


def _unauthorized(detail: str) -> ProblemError:
    return ProblemError(HTTPStatus.UNAUTHORIZED, detail, headers={"WWW-Authenticate": "Bearer"})


def _api_key_of(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The API key that was sent. X-API-Key wins: a proxy in between may use Authorization for itself."""
    bearer = None
    for name, value in headers:
        if name == b"x-api-key":
            return value.decode("latin-1").strip()
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            bearer = value[7:].decode("latin-1").strip()
    return bearer
