"""What the API answers. A POST is answered after its timer is committed, in one call with its neighbours."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Any, Final, Protocol

import orjson
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from httpqueue import clock
from httpqueue.api.models import ArchivedTimer, Health, TimerView
from httpqueue.api.parsing import MAX_BATCH_BYTES, read_object
from httpqueue.api.problems import FieldError, ProblemError, faulty_fields, problem_content
from httpqueue.api.requests import read_batch, read_timer
from httpqueue.api.rules import is_id
from httpqueue.batch import Batcher
from httpqueue.metrics import TIMERS_CREATED
from httpqueue.schedule import After, At, format_instant, time_left_s
from httpqueue.timer import DEFAULT_APPLICATION, State
from httpqueue.transitions import Created, Creation, Found, NewTimer

ANSWER_WITHIN_S: Final = 5
MAX_COMMIT: Final = 500
"""Timers of single POSTs that share one commit."""
CONFLICT: Final = faulty_fields(
    HTTPStatus.CONFLICT,
    [FieldError("id", "belongs to a timer with other content: choose another, or send the same content")],
)

Readiness = Callable[[], Awaitable[None]]
"""Returns when the process can work; raises UnavailableError with the reason when it cannot."""


class TimerStore(Protocol):
    """What the API needs of the store; each raises UnavailableError."""

    async def create(self, timers: Sequence[NewTimer]) -> list[Created]:
        """Store new timers."""
        ...

    async def get(self, application: str, timer_id: str) -> Found | None:
        """A timer that has a record."""
        ...

    async def is_archived(self, application: str, timer_id: str) -> bool:
        """Whether a timer finished once."""
        ...


class PostTimer:
    """POST /timers, the hot route: plain ASGI, which costs half of what request and response objects do."""

    def __init__(self, store: TimerStore) -> None:
        self._creations: Batcher[NewTimer, Created] = Batcher(store.create, max_items=MAX_COMMIT)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """201 for a new timer, 200 for the same one again, 409 for another one under its id."""
        timer = read_timer(await read_object(scope, receive), now_ms=clock.now_ms())
        async with asyncio.timeout(ANSWER_WITHIN_S):
            created = await self._creations.submit(timer)
        if created.creation is Creation.CONFLICT:
            raise CONFLICT
        body = orjson.dumps({"id": timer.id, "due": format_instant(created.due_ms)})
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        status = 200
        if created.creation is Creation.CREATED:
            TIMERS_CREATED.inc()
            status = 201
            headers.append((b"location", b"/timers/" + timer.id.encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class Timers:
    """/timers/batch and /timers/{timer_id}."""

    def __init__(self, store: TimerStore) -> None:
        self._store = store

    async def post_batch(self, request: Request) -> Response:
        """Each timer as if it were posted alone, all in one commit; the results stand in their order."""
        members = await read_object(request.scope, request.receive, max_bytes=MAX_BATCH_BYTES)
        items = read_batch(members, now_ms=clock.now_ms())
        timers = [item for item in items if isinstance(item, NewTimer)]
        async with asyncio.timeout(ANSWER_WITHIN_S):
            created = iter(await self._store.create(timers) if timers else ())
        results = [
            problem_content(item) if isinstance(item, ProblemError) else _result(item, next(created))
            for item in items
        ]
        TIMERS_CREATED.inc(sum(result["status"] == HTTPStatus.CREATED for result in results))
        return Response(orjson.dumps({"results": results}), media_type="application/json")

    async def get(self, request: Request) -> Response:
        """The timer, or what the archive remembers of it, or 404."""
        timer_id = request.path_params["timer_id"]
        if is_id(timer_id):
            async with asyncio.timeout(ANSWER_WITHIN_S):
                found = await self._store.get(DEFAULT_APPLICATION, timer_id)
                if found is not None:
                    return _json(_view(found))
                if await self._store.is_archived(DEFAULT_APPLICATION, timer_id):
                    return _json(ArchivedTimer(id=timer_id))
        raise ProblemError(HTTPStatus.NOT_FOUND, "there never was a timer of this id")


def _result(timer: NewTimer, created: Created) -> dict[str, Any]:
    if created.creation is Creation.CONFLICT:
        return problem_content(CONFLICT)
    status = HTTPStatus.CREATED if created.creation is Creation.CREATED else HTTPStatus.OK
    return {"status": status.value, "id": timer.id, "due": format_instant(created.due_ms)}


def _view(found: Found) -> TimerView:
    timer = found.timer
    spec, attempt = timer.spec, timer.last_attempt
    waiting = timer.state is State.SCHEDULED
    return TimerView(
        id=timer.id,
        application=timer.application,
        status=timer.state,
        time_left=time_left_s(timer.due_ms, found.now_ms) if waiting else 0,
        due=format_instant(timer.due_ms),
        attempts=timer.attempts,
        lateness_ms=attempt.lateness_ms if attempt else None,
        last_status=attempt.status if attempt else None,
        last_error=attempt.error if attempt else None,
        executed_at=format_instant(attempt.started_ms) if attempt else None,
        url=spec.url,
        method=spec.method,
        headers=spec.headers,
        body=spec.body,
        delay_ms=spec.schedule.delay_ms if isinstance(spec.schedule, After) else None,
        fire_at=format_instant(spec.schedule.fire_at_ms) if isinstance(spec.schedule, At) else None,
    )


def _json(
    answer: TimerView | ArchivedTimer | Health,
    status: HTTPStatus = HTTPStatus.OK,
    headers: dict[str, str] | None = None,
) -> Response:
    return Response(orjson.dumps(dict(answer)), status, headers, "application/json")


def timer_routes(store: TimerStore) -> list[Route]:
    """/timers and what is below it."""
    timers = Timers(store)
    return [
        Route("/timers", PostTimer(store), methods=["POST"]),
        Route("/timers/batch", timers.post_batch, methods=["POST"]),
        Route("/timers/{timer_id}", timers.get, methods=["GET"]),
    ]


def ops_routes(readiness: Readiness) -> list[Route]:
    """What those ask who operate httpqueue: /healthz, /readyz, /metrics."""

    async def healthz(_request: Request) -> Response:
        return _json(Health(status="ok"))

    async def readyz(_request: Request) -> Response:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            await readiness()
        return _json(Health(status="ok"))

    async def metrics(_request: Request) -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)]
