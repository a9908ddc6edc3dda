"""The virtual clock, for users' tests: it stands still until it is told to go on."""

from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from httpqueue.api import responses
from httpqueue.api.problems import FieldError, faulty_fields
from httpqueue.api.schema.query import check_query
from httpqueue.api.schema.read_timer import read
from httpqueue.api.schema.request_models import AdvanceRequest
from httpqueue.timers.schedule import MAX_DUE_MS, MS_PER_S, format_instant

Advance = Callable[[Callable[[int], int]], Awaitable[None]]
"""Goes from now, ms, to the instant that the function says, and fires all that is due on the way."""


def clock_routes(now_ms: Callable[[], int], advance: Advance) -> list[Route]:
    """/clock and /clock/advance."""

    async def get(request: Request) -> Response:
        check_query(request.scope)
        return responses.json_response({"now": format_instant(now_ms())})

    async def post_advance(request: Request) -> Response:
        check_query(request.scope)
        wish = read(AdvanceRequest, await responses.read_members(request))
        if (wish.seconds is None) is (wish.to is None):
            raise _fault("seconds", "send either seconds or to")
        _target_ms(wish, now_ms())  # what is wrong with it is said before it waits for others
        await advance(partial(_target_ms, wish))
        return responses.json_response({"now": format_instant(now_ms())})

    return [
        Route("/clock", get, methods=["GET"]),
        Route("/clock/advance", post_advance, methods=["POST"]),
    ]


def _target_ms(wish: AdvanceRequest, now_ms: int) -> int:
    target_ms = wish.to or now_ms + round((wish.seconds or 0) * MS_PER_S)
    if target_ms > MAX_DUE_MS:
        raise _fault("seconds", "must not lead beyond the year 9999")
    if target_ms < now_ms:
        raise _fault("to", "must not be in the clock's past: it goes forward only")
    return target_ms


def _fault(field: str, detail: str) -> Exception:
    return faulty_fields(HTTPStatus.UNPROCESSABLE_ENTITY, [FieldError(field, detail)])
