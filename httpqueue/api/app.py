"""The ASGI applications: the whole API, and the part of it that every process offers to its operators."""

from collections.abc import Sequence

from starlette.routing import Route, Router
from starlette.types import ASGIApp

from httpqueue.api import openapi, swagger_ui
from httpqueue.api.problems import Problems
from httpqueue.api.routes import Readiness, TimerStore, ops_routes, timer_routes


def create_app(*, store: TimerStore, readiness: Readiness) -> ASGIApp:
    """Timers, operations and documentation."""
    return _app([*timer_routes(store), *ops_routes(readiness), *openapi.routes(), *swagger_ui.routes()])


def create_ops_app(*, readiness: Readiness) -> ASGIApp:
    """/healthz, /readyz and /metrics alone, for the metrics port of relay and worker."""
    return _app(ops_routes(readiness))


def _app(routes: Sequence[Route]) -> ASGIApp:
    # Starlette's router without its application: three layers less on the way of each request.
    # /timers/ is unknown like any other path.
    return Problems(Router(routes, redirect_slashes=False))
