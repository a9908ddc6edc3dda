"""The probes /healthz, /readyz and /metrics, for those who run httpqueue."""

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import Response

from httpqueue.api import responses
from httpqueue.api.backend import Readiness


class Probes:
    """Whether the process is alive, whether it can work, and its metrics."""

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness

    async def healthz(self, _request: Request) -> Response:
        """GET /healthz: the process is alive, whatever Redis does."""
        return responses.json_response({"status": "ok"})

    async def readyz(self, _request: Request) -> Response:
        """GET /readyz: 200 when the process can work, else 503 with the reason."""
        async with responses.in_time():
            await self._readiness()
        return responses.json_response({"status": "ok"})

    async def metrics(self, _request: Request) -> Response:
        """GET /metrics: this process's metrics in Prometheus's text format."""
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
