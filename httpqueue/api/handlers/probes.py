"""What those ask who operate httpqueue: /healthz, /readyz, /metrics."""

from collections.abc import Awaitable, Callable

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from httpqueue.api import responses

Readiness = Callable[[], Awaitable[None]]
"""Returns when the process can work; raises UnavailableError with the reason when it cannot."""


def routes(readiness: Readiness) -> list[Route]:
    """The three of them."""

    async def healthz(_request: Request) -> Response:
        return responses.json_response({"status": "ok"})

    async def readyz(_request: Request) -> Response:
        async with responses.in_time():
            await readiness()
        return responses.json_response({"status": "ok"})

    async def metrics(_request: Request) -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)]
