"""The ASGI applications: the whole API, and the part of it that every process offers to its operators."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from httpqueue import clock
from httpqueue.api import docs_ui
from httpqueue.api.auth import Auth, KeyRing
from httpqueue.api.handlers import probes
from httpqueue.api.handlers.applications import Applications, Destinations
from httpqueue.api.handlers.clock import Advance, clock_routes
from httpqueue.api.handlers.lists import Lists
from httpqueue.api.handlers.probes import Readiness
from httpqueue.api.handlers.timers import NowMs, Timers, WorkerSilence
from httpqueue.api.problems import Problems
from httpqueue.api.schema import openapi
from httpqueue.storage.registry import Registry
from httpqueue.storage.survey import Survey
from httpqueue.storage.timers import Store


@dataclass(frozen=True, slots=True)
class Backend:
    """What the API works on; retention_ms is that of a cancelled timer, advance that of a virtual clock."""

    store: Store
    survey: Survey
    registry: Registry
    readiness: Readiness
    worker_silence_ms: WorkerSilence
    retention_ms: int
    now_ms: NowMs = clock.now_ms
    advance: Advance | None = None


def create_app(
    backend: Backend, *, keys: KeyRing | None = None, rate_limit_per_s: float | None = None
) -> ASGIApp:
    """Timers, operations and documentation, for whoever the keys let in; keys None: for everybody."""
    timers = Timers(
        store=backend.store,
        survey=backend.survey,
        worker_silence_ms=backend.worker_silence_ms,
        now_ms=backend.now_ms,
        retention_ms=backend.retention_ms,
    )
    routes = [
        *Lists(store=backend.store, survey=backend.survey).routes(),
        *timers.routes(),
        *Applications(backend.registry).routes(),
        *Destinations(backend.registry).routes(),
        *(clock_routes(backend.now_ms, backend.advance) if backend.advance else ()),
        *probes.routes(backend.readiness),
        *openapi.routes(),
        *docs_ui.routes(),
    ]
    if keys is None:
        return Problems(_router(routes))
    return Problems(Auth(_router(routes), keys, rate_limit_per_s=rate_limit_per_s))


def create_ops_app(*, readiness: Readiness) -> ASGIApp:
    """/healthz, /readyz and /metrics alone, for the metrics port of relay and worker."""
    return Problems(_router(probes.routes(readiness)))


def _router(routes: Sequence[Route]) -> ASGIApp:
    # Starlette's router without its application: three layers less on the way of each request.
    # /timers/ is unknown like any other path.
    by_path: dict[str, dict[str, ASGIApp]] = {}
    for route in routes:
        by_path.setdefault(route.path, {}).update(dict.fromkeys(route.methods or (), route.app))
    # Fixed paths before those with parameters, so that POST /timers/replay is about no timer of that id.
    paths = sorted(by_path, key=lambda path: "{" in path)
    return Router(
        [Route(path, _ByMethod(by_path[path]), methods=list(by_path[path])) for path in paths],
        redirect_slashes=False,
    )


class _ByMethod:
    """All routes of one path in one, so that a 405 names the methods of all (RFC 9110 section 15.5.6)."""

    def __init__(self, apps: Mapping[str, ASGIApp]) -> None:
        self._apps = apps

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._apps[scope["method"]](scope, receive, send)
