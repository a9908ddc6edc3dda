"""The ASGI applications: the whole API, and the part of it that every process offers to its operators."""

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route

from httpqueue.api import openapi, problems, swagger_ui
from httpqueue.api.routes import Readiness, TimerStore, ops_routes, timer_routes


def create_app(*, store: TimerStore, readiness: Readiness) -> Starlette:
    """Timers, operations and documentation."""
    return _app([*timer_routes(store), *ops_routes(readiness), *openapi.routes(), *swagger_ui.routes()])


def create_ops_app(*, readiness: Readiness) -> Starlette:
    """/healthz, /readyz and /metrics alone, for the metrics port of relay and worker."""
    return _app(ops_routes(readiness))


def _app(routes: Sequence[Route]) -> Starlette:
    app = Starlette(
        routes=routes,
        middleware=[Middleware(problems.UnexpectedErrors)],
        exception_handlers=dict.fromkeys(problems.EXPECTED, problems.on_error),
    )
    app.router.redirect_slashes = False  # /timers/ is unknown like any other path
    return app
