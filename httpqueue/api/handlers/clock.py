"""The virtual clock, for users' tests: /clock and /clock/advance."""

from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from httpqueue.api import responses
from httpqueue.api.backend import Advance, NowMs
from httpqueue.api.problems import faulty_field
from httpqueue.api.schema.json_body import read_object
from httpqueue.api.schema.query import check_query
from httpqueue.api.schema.request_models import AdvanceRequest
from httpqueue.api.schema.validate import validate
from httpqueue.timers.schedule import MAX_DUE_MS, MS_PER_S, format_instant


class Clock:
    """Time stands still until a client advances it."""

    def __init__(self, now_ms: NowMs, advance: Advance) -> None:
        self._now_ms = now_ms
        self._advance = advance

    async def get(self, request: Request) -> Response:
        """GET /clock."""
        check_query(request.scope)
        return self._answer()

    async def advance(self, request: Request) -> Response:
        """POST /clock/advance; raises ProblemError (422) for a time in the clock's past."""
        check_query(request.scope)
        wanted = validate(AdvanceRequest, await read_object(request.scope, request.receive))
        if (wanted.seconds is None) is (wanted.to is None):
            raise faulty_field("seconds", "send either seconds or to")
        # Another request may be advancing the clock. Faults are reported now, before waiting for it.
        _target_ms(wanted, self._now_ms())
        await self._advance(partial(_target_ms, wanted))
        return self._answer()

    def _answer(self) -> Response:
        return responses.json_response({"now": format_instant(self._now_ms())})


def _target_ms(wanted: AdvanceRequest, now_ms: int) -> int:
    target_ms = wanted.to or now_ms + round((wanted.seconds or 0) * MS_PER_S)
    if target_ms > MAX_DUE_MS:
        raise faulty_field("seconds", "must not lead beyond the year 9999")
    if target_ms < now_ms:
        raise faulty_field("to", "must not be in the clock's past: it goes forward only")
    return target_ms
