"""/applications: their settings, their counts of timers, and whether they are paused."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response

from httpqueue.api import new_jobs, responses
from httpqueue.api.auth import application_of, sees_all
from httpqueue.api.problems import ProblemError, faulty_field
from httpqueue.api.schema.field_checks import check_application
from httpqueue.api.schema.json_body import read_nothing, read_object
from httpqueue.api.schema.query import check_query, read_page_query
from httpqueue.api.schema.read_timer import retention_of
from httpqueue.api.schema.render import application_view
from httpqueue.api.schema.request_models import ApplicationRequest
from httpqueue.api.schema.validate import validate
from httpqueue.storage.jobs import Jobs
from httpqueue.storage.policies import Policies
from httpqueue.storage.secret_box import NoSecretsKeyError
from httpqueue.timers.jobs import JobKind, JobSpec
from httpqueue.timers.policies import ApplicationPolicy

_NO_KEY: Final = "cannot be stored: whoever runs httpqueue has to set HTTPQUEUE_SECRETS_KEY first"


class Applications:
    """Shows and changes applications. One that is unknown is shown with the default settings."""

    def __init__(self, policies: Policies, jobs: Jobs) -> None:
        self._policies = policies
        self._jobs = jobs

    async def list(self, request: Request) -> Response:
        """GET /applications: those that the caller may see."""
        page = read_page_query(request)
        async with responses.in_time():
            if sees_all(request.scope):
                applications = await self._policies.applications(
                    after=page.cursor or "", limit=page.limit + 1
                )
            else:
                own = await self._policies.counted(application_of(request.scope, None))
                applications = [own] if own.counts or own.policy != ApplicationPolicy() else []
        shown = applications[: page.limit]
        return responses.json_response(
            {
                "applications": [application_view(each) for each in shown],
                "next_cursor": shown[-1].name if len(applications) > page.limit else None,
            }
        )

    async def get(self, request: Request) -> Response:
        """GET /applications/{application}."""
        return await self._view(_application(request))

    async def put(self, request: Request) -> Response:
        """PUT /applications/{application}: replaces the settings; a paused application stays paused."""
        name = _application(request)
        settings = validate(ApplicationRequest, await read_object(request.scope, request.receive))
        retention, quota = retention_of(settings.retention), settings.quota
        return await self._update(
            name,
            lambda policy: ApplicationPolicy(
                paused=policy.paused,
                retention_done_ms=retention.done_ms if retention else None,
                retention_failed_ms=retention.failed_ms if retention else None,
                secrets=tuple(settings.secrets or ()),
                max_pending=quota.pending if quota else None,
                max_bytes=quota.bytes if quota else None,
                max_rate=quota.rate if quota else None,
            ),
        )

    async def pause(self, request: Request) -> Response:
        """POST /applications/{application}/pause: hold its webhooks back."""
        await read_nothing(request.scope, request.receive)
        return await self._update(_application(request), lambda policy: replace(policy, paused=True))

    async def resume(self, request: Request) -> Response:
        """POST /applications/{application}/resume: timers that became due meanwhile are called at once.

        When they are very many, a job wakes those that are left.
        """
        await read_nothing(request.scope, request.receive)
        name = _application(request)
        view = await self._update(name, lambda policy: replace(policy, paused=False))
        async with responses.in_time():
            waiting = await self._policies.waiting(name)
        return await new_jobs.start(self._jobs, JobSpec(JobKind.RESUME, name)) if waiting else view

    async def delete(self, request: Request) -> Response:
        """DELETE /applications/{application}: a job that ends all its timers and forgets its settings."""
        await read_nothing(request.scope, request.receive)
        return await new_jobs.start(self._jobs, JobSpec(JobKind.DELETE, _application(request)))

    async def _update(self, name: str, change: Callable[[ApplicationPolicy], ApplicationPolicy]) -> Response:
        def change_unless_deleted(policy: ApplicationPolicy) -> ApplicationPolicy:
            if policy.is_deleted:
                raise ProblemError(HTTPStatus.CONFLICT, "a job is deleting the application: wait for its end")
            return change(policy)

        async with responses.in_time():
            try:
                await self._policies.update_application(name, change_unless_deleted)
            except NoSecretsKeyError:
                raise faulty_field("secrets", _NO_KEY) from None
        return await self._view(name)

    async def _view(self, name: str) -> Response:
        async with responses.in_time():
            return responses.json_response(application_view(await self._policies.counted(name)))


def _application(request: Request) -> str:
    """The application that the path names; raises ProblemError (403, 422)."""
    check_query(request.scope)
    try:
        name = check_application(request.path_params["application"])
    except ValueError as error:
        raise faulty_field("application", str(error)) from None
    return application_of(request.scope, name)
