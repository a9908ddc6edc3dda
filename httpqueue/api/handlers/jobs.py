"""/jobs/{job_id}: how far a job has come, and its end. A job of another application is not to be seen."""

from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import Response

from httpqueue.api import responses
from httpqueue.api.auth import application_of, may_administer, sees_all
from httpqueue.api.problems import ProblemError
from httpqueue.api.schema.json_body import read_nothing
from httpqueue.api.schema.query import check_query
from httpqueue.api.schema.render import job_view
from httpqueue.storage.jobs import Jobs as StoredJobs
from httpqueue.timers.jobs import SOLE, Job


class Jobs:
    """Shows and cancels jobs."""

    def __init__(self, jobs: StoredJobs) -> None:
        self._jobs = jobs

    async def get(self, request: Request) -> Response:
        """GET /jobs/{job_id}."""
        async with responses.in_time():
            return responses.json_response(job_view(await self._find(request)))

    async def delete(self, request: Request) -> Response:
        """DELETE /jobs/{job_id}: stops a job; what it has done stays. One that has ended is only shown."""
        await read_nothing(request.scope, request.receive)
        async with responses.in_time():
            job = await self._find(request)
            if job.spec.kind in SOLE and not may_administer(request.scope):
                detail = f"the API key must have the scope admin to stop a job of the kind {job.spec.kind}"
                raise ProblemError(HTTPStatus.FORBIDDEN, detail)
            await self._jobs.cancel(job.id)
            return responses.json_response(job_view(await self._find(request)))

    async def _find(self, request: Request) -> Job:
        """Raises ProblemError (404)."""
        check_query(request.scope)
        job = await self._jobs.get(request.path_params["job_id"])
        if job is None or (
            not sees_all(request.scope) and job.spec.application != application_of(request.scope, None)
        ):
            raise ProblemError(
                HTTPStatus.NOT_FOUND, "there is no such job: it never was, or it ended more than 7 days ago"
            )
        return job
