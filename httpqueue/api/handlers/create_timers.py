"""POST /timers and POST /timers/batch. A request is answered when its timers are committed."""

import asyncio
from functools import partial
from http import HTTPStatus
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from httpqueue.api import responses
from httpqueue.api.audit_trail import changed
from httpqueue.api.auth import application_of
from httpqueue.api.backend import Backend
from httpqueue.api.problems import FieldError, ProblemError, faulty_fields, problem_content
from httpqueue.api.schema.idempotency import idempotency_key, key_reused
from httpqueue.api.schema.json_body import MAX_BATCH_BYTES, read_object
from httpqueue.api.schema.query import check_query
from httpqueue.api.schema.read_timer import read_batch, read_timer
from httpqueue.api.timer_problems import LIMITS, limit_met, other_lane, state_conflict
from httpqueue.runtime.batch import Batcher
from httpqueue.runtime.metrics import TIMERS_CREATED
from httpqueue.timers.commands import Created, Creation, NewTimer
from httpqueue.timers.names import DEFAULT_APPLICATION, TimerName
from httpqueue.timers.schedule import format_instant
from httpqueue.timers.timer import State

MAX_COMMIT: Final = 500
"""The most timers of POST /timers that share one commit."""
MAX_COMMIT_BYTES: Final = 4_000_000
"""A larger commit would keep Redis from everybody else for too long."""
CONFLICT: Final = faulty_fields(
    HTTPStatus.CONFLICT,
    [FieldError("id", "belongs to a timer with other content: choose another, or send the same content")],
)
REUSED: Final = key_reused()
IN_FLIGHT: Final = state_conflict(State.RUNNING)
OTHER_LANE: Final = other_lane()


class CreateTimers:
    """Stores new timers. Single ones that arrive at the same time share a call of the store."""

    def __init__(self, backend: Backend) -> None:
        store = self._store = backend.store
        self._creations: Batcher[NewTimer, Created] = Batcher(
            store.create, max_items=MAX_COMMIT, max_bytes=MAX_COMMIT_BYTES, size_of=_size_of
        )
        self._now_ms = backend.now_ms
        self._egress = backend.egress

    async def post(self, scope: Scope, receive: Receive, send: Send) -> None:
        """POST /timers: 201 for a new timer, 200 when the id has one already, 409 for other content.

        This is the hot path. It is plain ASGI, which costs half of what Request and Response objects do.
        """
        check_query(scope)
        members = await read_object(scope, receive)
        whose = partial(application_of, scope)
        timer = read_timer(
            members,
            now_ms=self._now_ms(),
            egress=self._egress(),
            application_of=whose,
            idempotency_key=idempotency_key(scope),
        )
        changed(scope, timer.name)
        async with asyncio.timeout(responses.ANSWER_WITHIN_S):
            created = await self._creations.submit(timer)
        _check_created(timer, created)
        answer: dict[str, Any] = {"id": timer.name.id, "due": format_instant(created.due_ms)}
        if created.creation is not Creation.CREATED:
            answer |= {"created": False, "status": created.state}
        body = orjson.dumps(answer)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        status = 200
        if created.creation is Creation.CREATED:
            if not created.is_repeated:
                TIMERS_CREATED.inc()
            status = 201
            headers.append((b"location", _path(timer.name).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def post_batch(self, request: Request) -> Response:
        """POST /timers/batch: all valid timers in one commit; each item has a result of its own."""
        check_query(request.scope)
        members = await read_object(request.scope, request.receive, max_bytes=MAX_BATCH_BYTES)
        whose = partial(application_of, request.scope)
        items = await read_batch(members, now_ms=self._now_ms(), egress=self._egress(), application_of=whose)
        timers = [item for item in items if isinstance(item, NewTimer)]
        changed(request.scope, *(timer.name for timer in timers))
        async with responses.in_time():
            created = iter(await self._store.create(timers) if timers else ())
        results = [
            problem_content(item) if isinstance(item, ProblemError) else _result(item, next(created))
            async for item in responses.in_turns(items)
        ]
        changed(
            request.scope,
            *(
                item.name
                for item, result in zip(items, results, strict=True)
                if isinstance(item, NewTimer) and result["status"] < HTTPStatus.BAD_REQUEST
            ),
        )
        TIMERS_CREATED.inc(sum(result["status"] == HTTPStatus.CREATED for result in results))
        return responses.json_response({"results": results})


def _size_of(timer: NewTimer) -> int:
    """About how many bytes a timer has: a large one is large because of its body."""
    body = timer.spec.body
    return 0 if body is None else len(orjson.dumps(body))  # a character may take six bytes


def _path(name: TimerName) -> str:
    path = f"/timers/{name.id}"
    return path if name.application == DEFAULT_APPLICATION else f"{path}?application={name.application}"


def _check_created(timer: NewTimer, created: Created) -> None:
    if created.creation is Creation.REUSED:
        raise REUSED
    if created.creation is Creation.CONFLICT:
        raise REUSED if timer.name.id == timer.idempotency_key else CONFLICT
    if created.creation is Creation.RUNNING:
        raise IN_FLIGHT
    if created.creation is Creation.OTHER_LANE:
        raise OTHER_LANE
    if created.creation in LIMITS:
        raise limit_met(created)


def _result(timer: NewTimer, created: Created) -> dict[str, Any]:
    try:
        _check_created(timer, created)
    except ProblemError as problem:
        return problem_content(problem)
    answer = {"id": timer.name.id, "due": format_instant(created.due_ms)}
    if created.creation is Creation.CREATED:
        return {"status": HTTPStatus.CREATED.value, **answer}
    return {"status": HTTPStatus.OK.value, **answer, "created": False, "timer_status": created.state}
