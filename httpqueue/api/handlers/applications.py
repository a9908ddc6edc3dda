"""/applications: their settings, their counts of timers, and whether they are paused."""

from collections.abc import Callable
from typing import Final

from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response

from httpqueue.api import responses
from httpqueue.api.auth import application_of, sees_all
from httpqueue.api.problems import faulty_field
from httpqueue.api.schema.field_checks import check_application
from httpqueue.api.schema.json_body import read_nothing, read_object
from httpqueue.api.schema.query import check_query
from httpqueue.api.schema.read_timer import retention_of
from httpqueue.api.schema.render import application_view
from httpqueue.api.schema.request_models import ApplicationRequest
from httpqueue.api.schema.validate import validate
from httpqueue.storage.policies import Application, Policies
from httpqueue.storage.secret_box import NoSecretsKeyError
from httpqueue.timers.policies import ApplicationPolicy

_NO_KEY: Final = "cannot be stored: whoever runs httpqueue has to set HTTPQUEUE_SECRETS_KEY first"


class Applications:
    """Shows and changes applications. One that is unknown is shown with the default settings."""

    def __init__(self, policies: Policies) -> None:
        self._policies = policies

    async def list(self, request: Request) -> Response:
        """GET /applications: those that the caller may see."""
        check_query(request.scope)
        async with responses.in_time():
            applications = await self._policies.applications()
        if not sees_all(request.scope):
            own = application_of(request.scope, None)
            applications = [application for application in applications if application.name == own]
        return responses.json_response({"applications": [application_view(each) for each in applications]})

    async def get(self, request: Request) -> Response:
        """GET /applications/{application}."""
        return await self._view(_application(request))

    async def put(self, request: Request) -> Response:
        """PUT /applications/{application}: replaces the settings; a paused application stays paused."""
        name = _application(request)
        settings = validate(ApplicationRequest, await read_object(request.scope, request.receive))
        retention = retention_of(settings.retention)
        return await self._update(
            name,
            lambda policy: ApplicationPolicy(
                paused=policy.paused,
                retention_done_ms=retention.done_ms if retention else None,
                retention_failed_ms=retention.failed_ms if retention else None,
                secrets=tuple(settings.secrets or ()),
            ),
        )

    async def pause(self, request: Request) -> Response:
        """POST /applications/{application}/pause: hold its webhooks back."""
        await read_nothing(request.scope, request.receive)
        return await self._update(_application(request), lambda policy: replace(policy, paused=True))

    async def resume(self, request: Request) -> Response:
        """POST /applications/{application}/resume: timers that became due meanwhile are called at once."""
        await read_nothing(request.scope, request.receive)
        return await self._update(_application(request), lambda policy: replace(policy, paused=False))

    async def _update(self, name: str, change: Callable[[ApplicationPolicy], ApplicationPolicy]) -> Response:
        async with responses.in_time():
            try:
                await self._policies.update_application(name, change)
            except NoSecretsKeyError:
                raise faulty_field("secrets", _NO_KEY) from None
        return await self._view(name)

    async def _view(self, name: str) -> Response:
        async with responses.in_time():
            known = {application.name: application for application in await self._policies.applications()}
        return responses.json_response(
            application_view(known.get(name, Application(name, ApplicationPolicy())))
        )


def _application(request: Request) -> str:
    """The application that the path names; raises ProblemError (403, 422)."""
    check_query(request.scope)
    try:
        name = check_application(request.path_params["application"])
    except ValueError as error:
        raise faulty_field("application", str(error)) from None
    return application_of(request.scope, name)
