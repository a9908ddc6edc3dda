"""POST /timers/replay and POST /timers/cancel: jobs for all timers that meet some conditions."""

from starlette.requests import Request
from starlette.responses import Response

from httpqueue.api import new_jobs
from httpqueue.api.auth import application_of
from httpqueue.api.backend import Backend
from httpqueue.api.schema.json_body import read_object, read_optional
from httpqueue.api.schema.query import check_query
from httpqueue.api.schema.request_models import SelectionRequest
from httpqueue.api.schema.validate import validate
from httpqueue.timers.jobs import JobKind, JobSpec, Selection


class Bulk:
    """Starts jobs that change many timers of one application."""

    def __init__(self, backend: Backend) -> None:
        self._jobs = backend.jobs
        self._retention_ms = backend.retention_ms

    async def replay(self, request: Request) -> Response:
        """POST /timers/replay: schedules matching failed timers again, due now."""
        check_query(request.scope)
        wanted = validate(SelectionRequest, await read_optional(request.scope, request.receive))
        return await new_jobs.start(self._jobs, self._spec(request, JobKind.REPLAY, wanted))

    async def cancel(self, request: Request) -> Response:
        """POST /timers/cancel: cancels matching scheduled timers."""
        check_query(request.scope)
        wanted = validate(SelectionRequest, await read_object(request.scope, request.receive))
        return await new_jobs.start(self._jobs, self._spec(request, JobKind.CANCEL, wanted))

    def _spec(self, request: Request, kind: JobKind, wanted: SelectionRequest) -> JobSpec:
        selection = Selection(wanted.label, wanted.host, wanted.due_from or 0, wanted.due_to)
        return JobSpec(
            kind,
            application_of(request.scope, wanted.application),
            selection,
            dry_run=wanted.dry_run,
            retention_ms=self._retention_ms,
        )
