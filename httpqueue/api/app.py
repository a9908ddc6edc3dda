"""The ASGI applications: the whole API, and the part of it that every process offers to its operators."""

from collections.abc import Sequence

from starlette.routing import Route, Router
from starlette.types import ASGIApp

from httpqueue.api import openapi, swagger_ui
from httpqueue.api.auth import Auth, KeyRing
from httpqueue.api.problems import Problems
from httpqueue.api.routes import Readiness, TimerStore, ops_routes, timer_routes


def create_app(
    *,
    store: TimerStore,
    readiness: Readiness,
    keys: KeyRing | None = None,
    rate_limit_per_s: float | None = None,
) -> ASGIApp:
    """Timers, operations and documentation, for whoever the keys let in; keys None: for everybody."""
    routes = [*timer_routes(store), *ops_routes(readiness), *openapi.routes(), *swagger_ui.routes()]
    if keys is None:
        return Problems(_router(routes))
    return Problems(Auth(_router(routes), keys, rate_limit_per_s=rate_limit_per_s))


def create_ops_app(*, readiness: Readiness) -> ASGIApp:
    """/healthz, /readyz and /metrics alone, for the metrics port of relay and worker."""
    return Problems(_router(ops_routes(readiness)))


def _router(routes: Sequence[Route]) -> ASGIApp:
    # Starlette's router without its application: three layers less on the way of each request.
    # /timers/ is unknown like any other path.
    return Router(routes, redirect_slashes=False)
