"""Starts a job, and tells the client where to follow it."""

from http import HTTPStatus
from typing import Final

from starlette.responses import Response

from httpqueue.api import responses
from httpqueue.api.problems import ProblemError
from httpqueue.api.schema.render import job_view
from httpqueue.storage.jobs import MAX_OPEN, Jobs
from httpqueue.timers.jobs import JobSpec

_RETRY_AFTER_S: Final = "5"


async def start(jobs: Jobs, spec: JobSpec) -> Response:
    """202 with the new job and its path; raises ProblemError (429) when the application has too many."""
    async with responses.in_time():
        job = await jobs.add(spec)
    if job is None:
        detail = (
            f"the application has {MAX_OPEN} jobs that have not ended: wait for one of them, or cancel it"
        )
        headers = {"Retry-After": _RETRY_AFTER_S}
        raise ProblemError(HTTPStatus.TOO_MANY_REQUESTS, detail, headers=headers)
    return responses.json_response(job_view(job), HTTPStatus.ACCEPTED, {"Location": f"/jobs/{job.id}"})
