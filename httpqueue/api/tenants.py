"""Applications and destinations: who uses httpqueue, whom it calls, and how both are held back."""

from collections.abc import Callable
from http import HTTPStatus

from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from httpqueue.api import answers, rules
from httpqueue.api.auth import application_of, sees_all
from httpqueue.api.models import ApplicationRequest, DestinationRequest
from httpqueue.api.problems import FieldError, faulty_fields
from httpqueue.api.queries import check_query
from httpqueue.api.rendering import application_view, destination_view
from httpqueue.api.requests import read, retention_of
from httpqueue.storage.policies import Application, Policies
from httpqueue.timers.policies import ApplicationPolicy, DestinationPolicy


class Applications:
    """/applications and what is below it."""

    def __init__(self, policies: Policies) -> None:
        self._policies = policies

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
        async with answers.in_time():
            applications = await self._policies.applications()
        if not sees_all(request.scope):
            own = application_of(request.scope, None)
            applications = [each for each in applications if each.name == own]
        return answers.json_response({"applications": [application_view(each) for each in applications]})

    async def get(self, request: Request) -> Response:
        """One, known or not."""
        return await self._view(_application(request))

    async def put(self, request: Request) -> Response:
        """Other settings; a pause stays as it is."""
        name = _application(request)
        wish = read(ApplicationRequest, await answers.read_members(request))
        retention = retention_of(wish.retention)
        return await self._update(
            name,
            lambda policy: ApplicationPolicy(
                paused=policy.paused,
                retention_done_ms=retention.done_ms if retention else None,
                retention_failed_ms=retention.failed_ms if retention else None,
                secrets=tuple(wish.secrets or ()),
            ),
        )

    async def pause(self, request: Request) -> Response:
        """Hold its webhooks back."""
        await answers.read_nothing(request)
        return await self._update(_application(request), lambda policy: replace(policy, paused=True))

    async def resume(self, request: Request) -> Response:
        """Let them go; what became due meanwhile is called at once."""
        await answers.read_nothing(request)
        return await self._update(_application(request), lambda policy: replace(policy, paused=False))

    async def _update(self, name: str, change: Callable[[ApplicationPolicy], ApplicationPolicy]) -> Response:
        async with answers.in_time():
            await self._policies.update_application(name, change)
        return await self._view(name)

    async def _view(self, name: str) -> Response:
        async with answers.in_time():
            applications = {each.name: each for each in await self._policies.applications()}
        return answers.json_response(
            application_view(applications.get(name, Application(name, ApplicationPolicy())))
        )


class Destinations:
    """/destinations and what is below it."""

    def __init__(self, policies: Policies) -> None:
        self._policies = policies

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
        async with answers.in_time():
            hosts = await self._policies.destinations()
        return answers.json_response({"destinations": [destination_view(host) for host in hosts]})

    async def get(self, request: Request) -> Response:
        """One, known or not."""
        return await self._view(_host(request))

    async def put(self, request: Request) -> Response:
        """Other limits; who waits tries again under them."""
        name = _host(request)
        wish = read(DestinationRequest, await answers.read_members(request))
        return await self._set(name, DestinationPolicy(wish.paused, wish.rate, wish.concurrency))

    async def delete(self, request: Request) -> Response:
        """No limits any more."""
        return await self._set(_host(request), DestinationPolicy())

    async def _set(self, name: str, policy: DestinationPolicy) -> Response:
        async with answers.in_time():
            await self._policies.set_destination(name, policy)
        return await self._view(name)

    async def _view(self, name: str) -> Response:
        async with answers.in_time():
            host = await self._policies.destination(name)
        return answers.json_response(destination_view(host))


def _application(request: Request) -> str:
    """Of the path; raises ProblemError (403, 422)."""
    check_query(request.scope)
    name = _checked("application", request.path_params["application"], rules.check_application)
    return application_of(request.scope, name)


def _host(request: Request) -> str:
    """Of the path; raises ProblemError (422)."""
    check_query(request.scope)
    return _checked("host", request.path_params["host"], rules.check_host)


def _checked(field: str, text: str, check: Callable[[str], str]) -> str:
    try:
        return check(text)
    except ValueError as error:
        errors = [FieldError(field, str(error))]
        raise faulty_fields(HTTPStatus.UNPROCESSABLE_ENTITY, errors) from None
