"""/destinations: the hosts that timers call, their limits, and how their last calls went."""

from starlette.requests import Request
from starlette.responses import Response

from httpqueue.api import responses
from httpqueue.api.problems import faulty_field
from httpqueue.api.schema.field_checks import check_host
from httpqueue.api.schema.json_body import read_object
from httpqueue.api.schema.query import check_query
from httpqueue.api.schema.render import destination_view
from httpqueue.api.schema.request_models import DestinationRequest
from httpqueue.api.schema.validate import validate
from httpqueue.storage.registry import Registry
from httpqueue.timers.policies import Destination


class Destinations:
    """Shows and changes destinations. One that is unknown is shown without limits and calls."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def list(self, request: Request) -> Response:
        """GET /destinations: the hosts that were called or have limits."""
        check_query(request.scope)
        async with responses.in_time():
            hosts = await self._registry.hosts()
        return responses.json_response({"destinations": [destination_view(host) for host in hosts]})

    async def get(self, request: Request) -> Response:
        """GET /destinations/{host}."""
        return await self._view(_host(request))

    async def put(self, request: Request) -> Response:
        """PUT /destinations/{host}: replaces the limits; waiting timers try again under the new ones."""
        name = _host(request)
        limits = validate(DestinationRequest, await read_object(request.scope, request.receive))
        return await self._set(name, Destination(limits.paused, limits.rate, limits.concurrency))

    async def delete(self, request: Request) -> Response:
        """DELETE /destinations/{host}: removes its limits."""
        return await self._set(_host(request), Destination())

    async def _set(self, name: str, policy: Destination) -> Response:
        async with responses.in_time():
            await self._registry.set_destination(name, policy)
        return await self._view(name)

    async def _view(self, name: str) -> Response:
        async with responses.in_time():
            host = await self._registry.host(name)
        return responses.json_response(destination_view(host))


def _host(request: Request) -> str:
    """The host that the path names; raises ProblemError (422)."""
    check_query(request.scope)
    try:
        return check_host(request.path_params["host"])
    except ValueError as error:
        raise faulty_field("host", str(error)) from None
