"""/destinations: the hosts that timers call, their limits, and how their last calls went."""

from starlette.requests import Request
from starlette.responses import Response

from httpqueue.api import responses
from httpqueue.api.problems import faulty_field
from httpqueue.api.schema.field_checks import check_host
from httpqueue.api.schema.json_body import read_object
from httpqueue.api.schema.query import check_query, read_page_query
from httpqueue.api.schema.render import destination_view
from httpqueue.api.schema.request_models import DestinationRequest
from httpqueue.api.schema.validate import validate
from httpqueue.storage.policies import Policies
from httpqueue.timers.policies import DestinationPolicy


class Destinations:
    """Shows and changes destinations. One that is unknown is shown without limits and calls."""

    def __init__(self, policies: Policies) -> None:
        self._policies = policies

    async def list(self, request: Request) -> Response:
        """GET /destinations: the hosts that were called or have limits."""
        page = read_page_query(request)
        async with responses.in_time():
            found = await self._policies.destinations(after=page.cursor or "", limit=page.limit + 1)
        shown = found[: page.limit]
        return responses.json_response(
            {
                "destinations": [destination_view(each) for each in shown],
                "next_cursor": shown[-1].host if len(found) > page.limit else None,
            }
        )

    async def get(self, request: Request) -> Response:
        """GET /destinations/{host}."""
        return await self._view(_host(request))

    async def put(self, request: Request) -> Response:
        """PUT /destinations/{host}: replaces the limits; waiting timers try again under the new ones."""
        host = _host(request)
        limits = validate(DestinationRequest, await read_object(request.scope, request.receive))
        return await self._set(host, DestinationPolicy(limits.paused, limits.rate, limits.concurrency))

    async def delete(self, request: Request) -> Response:
        """DELETE /destinations/{host}: removes its limits."""
        return await self._set(_host(request), DestinationPolicy())

    async def _set(self, host: str, policy: DestinationPolicy) -> Response:
        async with responses.in_time():
            await self._policies.set_destination(host, policy)
        return await self._view(host)

    async def _view(self, host: str) -> Response:
        async with responses.in_time():
            destination = await self._policies.destination(host)
        return responses.json_response(destination_view(destination))


def _host(request: Request) -> str:
    """The host that the path names; raises ProblemError (422)."""
    check_query(request.scope)
    try:
        return check_host(request.path_params["host"])
    except ValueError as error:
        raise faulty_field("host", str(error)) from None
