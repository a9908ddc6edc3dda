"""Applications and destinations: who uses httpqueue, whom it calls, and how both are held back."""

from collections.abc import Callable
from dataclasses import replace
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from httpqueue.api import responses
from httpqueue.api.auth import application_of, sees_all
from httpqueue.api.problems import FieldError, faulty_fields
from httpqueue.api.schema import field_checks
from httpqueue.api.schema.query import check_query
from httpqueue.api.schema.read_timer import read, retention_of
from httpqueue.api.schema.render import application_view, destination_view
from httpqueue.api.schema.request_models import ApplicationRequest, DestinationRequest
from httpqueue.storage.registry import Registry, Tenant
from httpqueue.timers.policies import Application, Destination


class Applications:
    """/applications and what is below it."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def routes(self) -> list[Route]:
        """What is served here."""
        one = "/applications/{application}"
        return [
            Route("/applications", self.list, methods=["GET"]),
            Route(one, self.get, methods=["GET"]),
            Route(one, self.put, methods=["PUT"]),
            Route(f"{one}/pause", self.pause, methods=["POST"]),
            Route(f"{one}/resume", self.resume, methods=["POST"]),
        ]

    async def list(self, request: Request) -> Response:
        """Those that the caller may see."""
        check_query(request.scope)
        async with responses.in_time():
            tenants = await self._registry.tenants()
        if not sees_all(request.scope):
            own = application_of(request.scope, None)
            tenants = [tenant for tenant in tenants if tenant.name == own]
        return responses.json_response({"applications": [application_view(tenant) for tenant in tenants]})

    async def get(self, request: Request) -> Response:
        """One, known or not."""
        return await self._view(_application(request))

    async def put(self, request: Request) -> Response:
        """Other settings; a pause stays as it is."""
        name = _application(request)
        wish = read(ApplicationRequest, await responses.read_members(request))
        retention = retention_of(wish.retention)
        return await self._update(
            name,
            lambda policy: Application(
                paused=policy.paused,
                retention_done_ms=retention.done_ms if retention else None,
                retention_failed_ms=retention.failed_ms if retention else None,
                secrets=tuple(wish.secrets or ()),
            ),
        )

    async def pause(self, request: Request) -> Response:
        """Hold its webhooks back."""
        await responses.read_nothing(request)
        return await self._update(_application(request), lambda policy: replace(policy, paused=True))

    async def resume(self, request: Request) -> Response:
        """Let them go; what became due meanwhile is called at once."""
        await responses.read_nothing(request)
        return await self._update(_application(request), lambda policy: replace(policy, paused=False))

    async def _update(self, name: str, change: Callable[[Application], Application]) -> Response:
        async with responses.in_time():
            await self._registry.update_application(name, change)
        return await self._view(name)

    async def _view(self, name: str) -> Response:
        async with responses.in_time():
            tenants = {tenant.name: tenant for tenant in await self._registry.tenants()}
        return responses.json_response(application_view(tenants.get(name, Tenant(name, Application()))))


class Destinations:
    """/destinations and what is below it."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def routes(self) -> list[Route]:
        """What is served here."""
        one = "/destinations/{host}"
        return [
            Route("/destinations", self.list, methods=["GET"]),
            Route(one, self.get, methods=["GET"]),
            Route(one, self.put, methods=["PUT"]),
            Route(one, self.delete, methods=["DELETE"]),
        ]

    async def list(self, request: Request) -> Response:
        """Every one that was called or is set up."""
        check_query(request.scope)
        async with responses.in_time():
            hosts = await self._registry.hosts()
        return responses.json_response({"destinations": [destination_view(host) for host in hosts]})

    async def get(self, request: Request) -> Response:
        """One, known or not."""
        return await self._view(_host(request))

    async def put(self, request: Request) -> Response:
        """Other limits; who waits tries again under them."""
        name = _host(request)
        wish = read(DestinationRequest, await responses.read_members(request))
        return await self._set(name, Destination(wish.paused, wish.rate, wish.concurrency))

    async def delete(self, request: Request) -> Response:
        """No limits any more."""
        return await self._set(_host(request), Destination())

    async def _set(self, name: str, policy: Destination) -> Response:
        async with responses.in_time():
            await self._registry.set_destination(name, policy)
        return await self._view(name)

    async def _view(self, name: str) -> Response:
        async with responses.in_time():
            host = await self._registry.host(name)
        return responses.json_response(destination_view(host))


def _application(request: Request) -> str:
    """Of the path; raises ProblemError (403, 422)."""
    check_query(request.scope)
    name = _checked("application", request.path_params["application"], field_checks.check_application)
    return application_of(request.scope, name)


def _host(request: Request) -> str:
    """Of the path; raises ProblemError (422)."""
    check_query(request.scope)
    return _checked("host", request.path_params["host"], field_checks.check_host)


def _checked(field: str, text: str, check: Callable[[str], str]) -> str:
    try:
        return check(text)
    except ValueError as error:
        errors = [FieldError(field, str(error))]
        raise faulty_fields(HTTPStatus.UNPROCESSABLE_ENTITY, errors) from None
