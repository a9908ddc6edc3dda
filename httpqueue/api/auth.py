"""Who calls, may they, and not too often? Plain ASGI inside Problems; off while there is no API key at all.

The keys are held in memory, so that a request asks Redis for nothing; a revoked key ends within FRESH_S.
When Redis is away, the keys that were known last go on. The rate limit is this process's own: two API
processes together let twice as much through.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from http import HTTPStatus
from math import ceil, inf
from typing import Final

import structlog
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as Connection

from httpqueue import clock
from httpqueue.api.problems import FieldError, ProblemError, faulty_fields
from httpqueue.errors import UnavailableError
from httpqueue.timers.access import Grant, RateLimit, Scope, hash_key, permits
from httpqueue.timers.names import DEFAULT_APPLICATION

GRANT: Final = "httpqueue.grant"
"""Where a request's Grant is in its ASGI scope; None while there is no key at all."""
FRESH_S: Final = 1.0
RELOAD_GAP_S: Final = 0.1
"""Unknown keys and failures make the process ask Redis again, but not more often than this."""
LOAD_WITHIN_S: Final = 2

_OPEN: Final = frozenset({"/", "/healthz", "/readyz", "/openapi.json", "/docs"})
_DOCS: Final = "/docs/"
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})  # of RFC 9110 section 9.2.1; TRACE has no use here
_ADMINISTRATION: Final = frozenset({"applications", "destinations", "clock"})
_SHARED: Final = frozenset({"destinations", "clock", "metrics"})
"""What tells of, or acts on, every application."""

Load = Callable[[], Awaitable[Mapping[str, Grant | None]]]
"""hash_key(key) -> what it permits, None: nothing; raises UnavailableError."""

log = structlog.get_logger()


class KeyRing:
    """The API keys as this process knows them, and the one that the environment gives, which may do all.

    They are looked up by their hash. How long a lookup takes may then tell of hashes, never of a key: nobody
    can choose a key whose hash begins as a stored one does.
    """

    def __init__(self, load: Load, *, fixed_key: str | None = None) -> None:
        self._load = load
        self._fixed = {hash_key(fixed_key): Grant("environment", None, Scope.ADMIN)} if fixed_key else {}
        self._grants: Mapping[str, Grant | None] | None = None
        self._failure: str | None = None
        self._asked_s = -inf
        self._asking = asyncio.Lock()

    async def exist(self) -> bool:
        """Whether there is any key; raises UnavailableError when this process never knew."""
        return bool(self._fixed) or bool(await self._current())

    async def find(self, key: str) -> Grant | None:
        """What the key permits, or None. A key is unknown only if Redis was asked after this call began."""
        called_s, digest = clock.monotonic_s(), hash_key(key)
        known = self._fixed.get(digest) or (await self._current()).get(digest)
        return known or (await self._loaded_since(called_s)).get(digest)

    async def _current(self) -> Mapping[str, Grant | None]:
        now_s = clock.monotonic_s()
        if self._grants is None:
            return await self._loaded_since(now_s - RELOAD_GAP_S)
        if now_s - self._asked_s < FRESH_S or self._asking.locked():
            return self._grants
        return await self._loaded_since(now_s - FRESH_S)

    async def _loaded_since(self, instant_s: float) -> Mapping[str, Grant | None]:
        """The keys, asked for after instant_s: one call for all who wait, whatever comes of it."""
        async with self._asking:
            if self._asked_s <= instant_s:
                gap_s = self._asked_s + RELOAD_GAP_S - clock.monotonic_s()
                if self._grants and gap_s > 0:  # without keys nobody guesses, and nobody should wait
                    await clock.sleep(gap_s)
                await self._reload()
        if self._grants is None:
            raise UnavailableError(self._failure)
        return self._grants

    async def _reload(self) -> None:
        self._asked_s = clock.monotonic_s()
        try:
            async with asyncio.timeout(LOAD_WITHIN_S):
                self._grants = await self._load()
        except (UnavailableError, TimeoutError) as error:
            if self._failure is None:
                log.warning("auth.keys_not_renewed", reason=str(error) or "Redis did not answer in time")
            self._failure = str(error) or "Redis did not answer in time"
        else:
            self._failure = None


class Auth:
    """ASGI middleware: raises ProblemError 401, 403 or 429, or hands on the request with its grant."""

    def __init__(self, app: ASGIApp, keys: KeyRing, *, rate_limit_per_s: float | None = None) -> None:
        self._app = app
        self._keys = keys
        self._rate_limit_per_s = rate_limit_per_s
        self._limit = RateLimit(rate_limit_per_s, max(1, rate_limit_per_s)) if rate_limit_per_s else None

    async def __call__(self, connection: Connection, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if connection["type"] == "http" and not _is_open(connection["path"]):
            grant = await self._authenticate(connection)
            self._spend(connection, grant)
            if grant is not None:
                _authorize(connection, grant)
            connection[GRANT] = grant
        await self._app(connection, receive, send)

    async def _authenticate(self, connection: Connection) -> Grant | None:
        key = _key_of(connection["headers"])
        # A key is looked up while there seems to be none, too: it may have been made a moment ago, and its
        # owner's timer must not go to another application.
        grant = await self._keys.find(key) if key else None
        if grant is not None or not await self._keys.exist():
            return grant
        detail = (
            "the API key is not known: it may have been revoked"
            if key
            else "an API key must be sent, as X-API-Key: <key> or as Authorization: Bearer <key>"
        )
        raise ProblemError(HTTPStatus.UNAUTHORIZED, detail, headers={"WWW-Authenticate": "Bearer"})

    def _spend(self, connection: Connection, grant: Grant | None) -> None:
        if self._limit is None:
            return
        host, _ = connection.get("client") or ("", 0)
        wait_s = self._limit.decide(host if grant is None else grant.id, clock.monotonic_s())
        if wait_s > 0:
            retry_after_s = ceil(wait_s)
            raise ProblemError(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"there must be at most {self._rate_limit_per_s:g} requests per second: "
                f"try again in {retry_after_s} s",
                headers={"Retry-After": str(retry_after_s)},
            )


def application_of(connection: Connection, given: str | None) -> str:
    """The application that a request is about; given: the one it names. ProblemError 403 if it may not."""
    grant: Grant | None = connection.get(GRANT)
    if grant is None or grant.application is None:
        return given or DEFAULT_APPLICATION
    if given not in {None, grant.application}:
        detail = f"must be the API key's own, {grant.application}, or left out"
        raise faulty_fields(HTTPStatus.FORBIDDEN, [FieldError("application", detail)])
    return grant.application


def sees_all(connection: Connection) -> bool:
    """Whether a request may be about every application at once."""
    grant: Grant | None = connection.get(GRANT)
    return grant is None or grant.application is None


def _is_open(path: str) -> bool:
    """What anyone may ask for: whether the process works, and how it is used."""
    return path in _OPEN or path.startswith(_DOCS)


def scope_of(method: str, path: str) -> Scope:
    """What a key must have for that call."""
    if method in _SAFE:
        return Scope.READ
    return Scope.ADMIN if path.split("/")[1] in _ADMINISTRATION else Scope.WRITE


def _authorize(connection: Connection, grant: Grant) -> None:
    area, _, below = connection["path"].removeprefix("/").partition("/")
    scope, application = scope_of(connection["method"], connection["path"]), grant.application
    if area in _SHARED:
        application = None
    elif area == "applications" and below:
        application = below.partition("/")[0]
    if permits(grant, scope, application):
        return
    if not grant.scope.includes(scope):
        detail = f"the API key must have the scope {scope}; this one has {grant.scope}"
    else:
        detail = f"the API key must be one for {application or 'all applications'}"
    raise ProblemError(HTTPStatus.FORBIDDEN, detail)


def _key_of(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The key that was sent; X-API-Key wins, for a proxy may use Authorization for itself."""
    bearer = None
    for name, value in headers:
        if name == b"x-api-key":
            return value.decode("latin-1").strip()
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            bearer = value[7:].decode("latin-1").strip()
    return bearer
