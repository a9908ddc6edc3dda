"""One timer: post, look at, change, cancel. A POST is answered when its timer is committed, with others."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from httpqueue import clock
from httpqueue.api import responses
from httpqueue.api.auth import application_of
from httpqueue.api.problems import FieldError, ProblemError, faulty_fields, problem_content
from httpqueue.api.schema.field_checks import is_known_id
from httpqueue.api.schema.json_body import MAX_BATCH_BYTES, read_object
from httpqueue.api.schema.query import application_in_query, check_query, if_match
from httpqueue.api.schema.read_timer import callback_of, patched, read, read_batch, read_content, read_timer
from httpqueue.api.schema.render import attempt_view, timer_view
from httpqueue.api.schema.request_models import CallbackChange
from httpqueue.runtime.batch import Batcher
from httpqueue.runtime.metrics import TIMERS_CREATED
from httpqueue.storage.survey import Survey
from httpqueue.storage.timers import Store
from httpqueue.timers.commands import Answer, Change, Changed, Created, Creation, Found, NewTimer
from httpqueue.timers.explain import explain
from httpqueue.timers.schedule import After, At, format_instant
from httpqueue.timers.spec import Spec
from httpqueue.timers.timer import DEFAULT_APPLICATION, State, Timer

MAX_COMMIT: Final = 500
"""Timers of single POSTs that share one commit."""
CONFLICT: Final = faulty_fields(
    HTTPStatus.CONFLICT,
    [FieldError("id", "belongs to a timer with other content: choose another, or send the same content")],
)
IN_FLIGHT: Final = responses.state_conflict(State.RUNNING)
CHANGEABLE: Final = frozenset({State.SCHEDULED})
REPLAYABLE: Final = frozenset({State.FAILED})
NO_VERSION: Final = "-"
"""No timer has it."""

NowMs = Callable[[], int]
WorkerSilence = Callable[[], Awaitable[int | None]]
"""Ms since a worker was seen; None: never."""


class PostTimer:
    """POST /timers, the hot route: plain ASGI, which costs half of what request and response objects do."""

    def __init__(self, store: Store, now_ms: NowMs) -> None:
        self._creations: Batcher[NewTimer, Created] = Batcher(store.create, max_items=MAX_COMMIT)
        self._now_ms = now_ms

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """201 for a new timer, 200 for one that has the id, 409 for another one under its id."""
        check_query(scope)
        members = await read_object(scope, receive)
        timer = read_timer(members, now_ms=self._now_ms(), application_of=partial(application_of, scope))
        async with asyncio.timeout(responses.ANSWER_WITHIN_S):
            created = await self._creations.submit(timer)
        _check_created(created)
        body = orjson.dumps({"id": timer.id, "due": format_instant(created.due_ms)})
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        status = 200
        if created.creation is Creation.CREATED:
            TIMERS_CREATED.inc()
            status = 201
            headers.append((b"location", _path(timer.application, timer.id).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class Timers:
    """/timers/batch, /timers/{timer_id} and what is below it."""

    def __init__(
        self,
        *,
        store: Store,
        survey: Survey,
        worker_silence_ms: WorkerSilence,
        now_ms: NowMs = clock.now_ms,
        retention_ms: int,
    ) -> None:
        self._store = store
        self._survey = survey
        self._worker_silence_ms = worker_silence_ms
        self._now_ms = now_ms
        self._retention_ms = retention_ms

    def routes(self) -> list[Route]:
        """What is served here."""
        one = "/timers/{timer_id}"
        return [
            Route("/timers", PostTimer(self._store, self._now_ms), methods=["POST"]),
            Route("/timers/batch", self.post_batch, methods=["POST"]),
            Route(one, self.get, methods=["GET"]),
            Route(one, self.put, methods=["PUT"]),
            Route(one, self.patch, methods=["PATCH"]),
            Route(one, self.delete, methods=["DELETE"]),
            Route(f"{one}/attempts", self.attempts, methods=["GET"]),
            Route(f"{one}/explain", self.explain, methods=["GET"]),
            Route(f"{one}/fire", self.fire, methods=["POST"]),
            Route(f"{one}/replay", self.replay, methods=["POST"]),
            Route(f"{one}/callback", self.put_callback, methods=["PUT"]),
        ]

    async def post_batch(self, request: Request) -> Response:
        """Each timer as if it were posted alone, all in one commit; the results stand in their order."""
        check_query(request.scope)
        members = await read_object(request.scope, request.receive, max_bytes=MAX_BATCH_BYTES)
        whose = partial(application_of, request.scope)
        items = read_batch(members, now_ms=self._now_ms(), application_of=whose)
        timers = [item for item in items if isinstance(item, NewTimer)]
        async with responses.in_time():
            created = iter(await self._store.create(timers) if timers else ())
        results = [
            problem_content(item) if isinstance(item, ProblemError) else _result(item, next(created))
            for item in items
        ]
        TIMERS_CREATED.inc(sum(result["status"] == HTTPStatus.CREATED for result in results))
        return responses.json_response({"results": results})

    async def get(self, request: Request) -> Response:
        """The timer, or what the archive remembers of it, or 404."""
        application, timer_id = _address(request)
        async with responses.in_time():
            found = await self._store.get(application, timer_id)
            if found is not None:
                view = timer_view(found.timer, found.now_ms)
                return responses.json_response(view, headers=responses.etag(found.timer.version))
            if await self._store.is_archived(application, timer_id):
                return responses.json_response(
                    {"id": timer_id, "status": State.ARCHIVED, "time_left": 0, "archived": True}
                )
        raise responses.not_found()

    async def attempts(self, request: Request) -> Response:
        """The last attempts."""
        async with responses.in_time():
            found = await self._find(*_address(request))
        return responses.json_response({"attempts": [attempt_view(each) for each in found.timer.log]})

    async def explain(self, request: Request) -> Response:
        """Why it has not fired yet."""
        application, timer_id = _address(request)
        async with responses.in_time():
            await self._find(application, timer_id)  # whose retention is over, or whose record is damaged
            facts = await self._survey.facts(application, timer_id)
            if facts is None:
                raise await self._missing(application, timer_id)
            explanation = explain(facts, worker_silence_ms=await self._worker_silence_ms())
        return responses.json_response(
            {
                "code": explanation.code,
                "reason": explanation.reason,
                "details": explanation.details,
            }
        )

    async def put(self, request: Request) -> Response:
        """Other content under the same id."""
        application, timer_id = _address(request)
        members = await responses.read_members(request)
        for name, own in (("id", timer_id), ("application", application)):
            if members.pop(name, None) not in (None, own):
                errors = [FieldError(name, f"must be {own}, as in the path, or left out")]
                raise faulty_fields(HTTPStatus.UNPROCESSABLE_ENTITY, errors)
        spec, due_ms = read_content(members, now_ms=self._now_ms())
        change = _rescheduled(Change(application, timer_id, CHANGEABLE, spec=spec), spec, due_ms)
        return await self._answer_change(request, change)

    async def patch(self, request: Request) -> Response:
        """A merge patch (RFC 7396) of what GET shows; it is due as before unless the patch says when."""
        application, timer_id = _address(request)
        patch = await responses.read_members(request)

        def patched_change(timer: Timer) -> Change:
            spec, due_ms, reschedules = patched(timer.spec, patch, now_ms=self._now_ms())
            change = Change(application, timer_id, CHANGEABLE, spec=spec)
            return _rescheduled(change, spec, due_ms) if reschedules else change

        return await self._edit(request, patched_change)

    async def put_callback(self, request: Request) -> Response:
        """Another callback, and nothing else."""
        application, timer_id = _address(request)
        wanted = read(CallbackChange, await responses.read_members(request)).callback

        def change(timer: Timer) -> Change:
            spec = replace(timer.spec, callback=callback_of(wanted, timer.spec.url))
            return Change(application, timer_id, CHANGEABLE, spec=spec)

        return await self._edit(request, change)

    async def fire(self, request: Request) -> Response:
        """Due now."""
        application, timer_id = _address(request)
        await responses.read_nothing(request)
        change = Change(application, timer_id, CHANGEABLE, due_ms=0, from_now=True)
        return await self._answer_change(request, change)

    async def replay(self, request: Request) -> Response:
        """A failed timer once more."""
        application, timer_id = _address(request)
        await responses.read_nothing(request)
        change = Change(application, timer_id, REPLAYABLE, due_ms=0, from_now=True)
        return await self._answer_change(request, change)

    async def delete(self, request: Request) -> Response:
        """Cancel it before it is sent, or delete it when it has failed."""
        application, timer_id = _address(request)
        wanted = if_match(request)
        async with responses.in_time():
            version = None if wanted is None else await self._matching_version(application, timer_id, wanted)
            cancelled = await self._store.cancel(
                application, timer_id, version=version, ms=self._retention_ms
            )
            if cancelled.answer is Answer.GONE:
                raise await self._missing(application, timer_id)
        if cancelled.answer is not Answer.OTHER_STATE or cancelled.state is not State.CANCELLED:
            responses.check_changed(cancelled)
        status = "deleted" if cancelled.state is State.FAILED else State.CANCELLED.value
        return responses.json_response({"id": timer_id, "status": status, "due": None})

    async def _edit(self, request: Request, change: Callable[[Timer], Change]) -> Response:
        """Read, change, and write only if nobody else did meanwhile; else once more."""
        application, timer_id = _address(request)
        wanted = if_match(request)
        async with responses.in_time():
            while True:
                timer = (await self._find(application, timer_id)).timer
                if timer.state not in CHANGEABLE:
                    raise responses.state_conflict(timer.state)
                if wanted is not None and timer.version not in wanted:
                    raise responses.precondition_failed()
                wish = replace(change(timer), version=timer.version)
                [changed] = await self._store.change([wish])
                if changed.answer is not Answer.OTHER_VERSION:
                    return await self._answer(wish, changed)

    async def _answer_change(self, request: Request, change: Change) -> Response:
        wanted = if_match(request)
        async with responses.in_time():
            if wanted is not None:
                version = await self._matching_version(change.application, change.id, wanted)
                change = replace(change, version=version)
            [changed] = await self._store.change([change])
            return await self._answer(change, changed)

    async def _answer(self, change: Change, changed: Changed) -> Response:
        if changed.answer is Answer.GONE:
            raise await self._missing(change.application, change.id)
        responses.check_changed(changed)
        return responses.json_response(
            {"id": change.id, "status": State.SCHEDULED, "due": format_instant(changed.due_ms)},
            headers=responses.etag(f"{changed.generation}.0.{State.SCHEDULED.letter}"),
        )

    async def _matching_version(self, application: str, timer_id: str, wanted: frozenset[str]) -> str:
        """The version that it has, if it is one of those; the script then insists on it."""
        if len(wanted) == 1:
            return next(iter(wanted))
        timer = (await self._find(application, timer_id)).timer
        return timer.version if timer.version in wanted else NO_VERSION

    async def _find(self, application: str, timer_id: str) -> Found:
        found = await self._store.get(application, timer_id)
        if found is None:
            raise await self._missing(application, timer_id)
        return found

    async def _missing(self, application: str, timer_id: str) -> ProblemError:
        await self._store.get(application, timer_id)  # raises InvalidTimerError for a damaged record
        if await self._store.is_archived(application, timer_id):
            return responses.state_conflict(State.ARCHIVED)
        return responses.not_found()


def _address(request: Request) -> tuple[str, str]:
    """(application, id); raises ProblemError (404, 403, 422)."""
    timer_id: str = request.path_params["timer_id"]
    application = application_in_query(request)
    if not is_known_id(timer_id):
        raise responses.not_found()
    return application, timer_id


def _path(application: str, timer_id: str) -> str:
    path = f"/timers/{timer_id}"
    return path if application == DEFAULT_APPLICATION else f"{path}?application={application}"


def _rescheduled(change: Change, spec: Spec, due_ms: int | None) -> Change:
    match spec.schedule:
        case After(delay_ms):
            return replace(change, due_ms=delay_ms, from_now=True)
        case At(fire_at_ms):
            return replace(change, due_ms=fire_at_ms)
    return replace(change, due_ms=due_ms)


def _check_created(created: Created) -> None:
    if created.creation is Creation.CONFLICT:
        raise CONFLICT
    if created.creation is Creation.RUNNING:
        raise IN_FLIGHT


def _result(timer: NewTimer, created: Created) -> dict[str, Any]:
    try:
        _check_created(created)
    except ProblemError as problem:
        return problem_content(problem)
    status = HTTPStatus.CREATED if created.creation is Creation.CREATED else HTTPStatus.OK
    return {"status": status.value, "id": timer.id, "due": format_instant(created.due_ms)}
