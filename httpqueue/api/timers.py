"""One timer: post, look at, change, cancel. A POST is answered when its timer is committed, with others."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from typing import Any, Final

import orjson
from msgspec import structs
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from httpqueue import clock
from httpqueue.api import answers
from httpqueue.api.auth import application_of
from httpqueue.api.models import CallbackChange
from httpqueue.api.parsing import MAX_BATCH_BYTES, read_object
from httpqueue.api.problems import FieldError, ProblemError, faulty_fields, problem_content
from httpqueue.api.queries import application_in_query, check_query, if_match
from httpqueue.api.rendering import attempt_view, timer_view
from httpqueue.api.requests import callback_of, patched, read, read_batch, read_content, read_timer
from httpqueue.api.rules import is_known_id
from httpqueue.runtime.batch import Batcher
from httpqueue.runtime.metrics import TIMERS_CREATED
from httpqueue.storage.lookup import Lookup
from httpqueue.storage.timers import Store
from httpqueue.timers.commands import Change, Changed, ChangeResult, Created, Creation, Found, NewTimer
from httpqueue.timers.explain import explain
from httpqueue.timers.names import DEFAULT_APPLICATION, TimerName
from httpqueue.timers.schedule import Delay, format_instant
from httpqueue.timers.timer import State, Timer

MAX_COMMIT: Final = 500
"""Timers of single POSTs that share one commit."""
CONFLICT: Final = faulty_fields(
    HTTPStatus.CONFLICT,
    [FieldError("id", "belongs to a timer with other content: choose another, or send the same content")],
)
IN_FLIGHT: Final = answers.state_conflict(State.RUNNING)
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
        async with asyncio.timeout(answers.ANSWER_WITHIN_S):
            created = await self._creations.submit(timer)
        _check_created(created)
        body = orjson.dumps({"id": timer.name.id, "due": format_instant(created.due_ms)})
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        status = 200
        if created.creation is Creation.CREATED:
            TIMERS_CREATED.inc()
            status = 201
            headers.append((b"location", _path(timer.name).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class Timers:
    """/timers/batch, /timers/{timer_id} and what is below it."""

    def __init__(
        self,
        *,
        store: Store,
        lookup: Lookup,
        worker_silence_ms: WorkerSilence,
        now_ms: NowMs = clock.now_ms,
        retention_ms: int,
    ) -> None:
        self._store = store
        self._lookup = lookup
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
        async with answers.in_time():
            created = iter(await self._store.create(timers) if timers else ())
        results = [
            problem_content(item) if isinstance(item, ProblemError) else _result(item, next(created))
            for item in items
        ]
        TIMERS_CREATED.inc(sum(result["status"] == HTTPStatus.CREATED for result in results))
        return answers.json_response({"results": results})

    async def get(self, request: Request) -> Response:
        """The timer, or what the archive remembers of it, or 404."""
        name = _name(request)
        async with answers.in_time():
            found = await self._store.get(name)
            if found is not None:
                view = timer_view(found.timer, found.now_ms)
                return answers.json_response(view, headers=answers.etag(found.timer.version))
            if await self._store.is_archived(name):
                return answers.json_response(
                    {"id": name.id, "status": State.ARCHIVED, "time_left": 0, "archived": True}
                )
        raise answers.not_found()

    async def attempts(self, request: Request) -> Response:
        """The last attempts."""
        async with answers.in_time():
            found = await self._find(_name(request))
        return answers.json_response({"attempts": [attempt_view(each) for each in found.timer.log]})

    async def explain(self, request: Request) -> Response:
        """Why it has not fired yet."""
        name = _name(request)
        async with answers.in_time():
            await self._find(name)  # whose retention is over, or whose record is damaged
            facts = await self._lookup.facts(name)
            if facts is None:
                raise await self._missing(name)
            explanation = explain(facts, worker_silence_ms=await self._worker_silence_ms())
        return answers.json_response(
            {
                "code": explanation.code,
                "reason": explanation.reason,
                "details": explanation.details,
            }
        )

    async def put(self, request: Request) -> Response:
        """Other content under the same id."""
        name = _name(request)
        members = await answers.read_members(request)
        for field, own in (("id", name.id), ("application", name.application)):
            if members.pop(field, None) not in (None, own):
                errors = [FieldError(field, f"must be {own}, as in the path, or left out")]
                raise faulty_fields(HTTPStatus.UNPROCESSABLE_ENTITY, errors)
        spec = read_content(members, now_ms=self._now_ms())
        change = Change(name, CHANGEABLE, spec=spec, due=spec.schedule)
        return await self._answer_change(request, change)

    async def patch(self, request: Request) -> Response:
        """A merge patch (RFC 7396) of what GET shows; it is due as before unless the patch says when."""
        name = _name(request)
        patch = await answers.read_members(request)

        def patched_change(timer: Timer) -> Change:
            spec, reschedules = patched(timer.spec, patch, now_ms=self._now_ms())
            return Change(name, CHANGEABLE, spec=spec, due=spec.schedule if reschedules else None)

        return await self._edit(request, patched_change)

    async def put_callback(self, request: Request) -> Response:
        """Another callback, and nothing else."""
        name = _name(request)
        wanted = read(CallbackChange, await answers.read_members(request)).callback

        def change(timer: Timer) -> Change:
            spec = structs.replace(timer.spec, callback=callback_of(wanted, timer.spec.url))
            return Change(name, CHANGEABLE, spec=spec)

        return await self._edit(request, change)

    async def fire(self, request: Request) -> Response:
        """Due now."""
        name = _name(request)
        await answers.read_nothing(request)
        change = Change(name, CHANGEABLE, due=Delay(0))
        return await self._answer_change(request, change)

    async def replay(self, request: Request) -> Response:
        """A failed timer once more."""
        name = _name(request)
        await answers.read_nothing(request)
        change = Change(name, REPLAYABLE, due=Delay(0))
        return await self._answer_change(request, change)

    async def delete(self, request: Request) -> Response:
        """Cancel it before it is sent, or delete it when it has failed."""
        name = _name(request)
        wanted = if_match(request)
        async with answers.in_time():
            version = None if wanted is None else await self._matching_version(name, wanted)
            cancelled = await self._store.cancel(name, version=version, retention_ms=self._retention_ms)
            if cancelled.result is ChangeResult.GONE:
                raise await self._missing(name)
        if cancelled.result is not ChangeResult.OTHER_STATE or cancelled.state is not State.CANCELLED:
            answers.check_changed(cancelled)
        status = "deleted" if cancelled.state is State.FAILED else State.CANCELLED.value
        return answers.json_response({"id": name.id, "status": status, "due": None})

    async def _edit(self, request: Request, change: Callable[[Timer], Change]) -> Response:
        """Read, change, and write only if nobody else did meanwhile; else once more."""
        name = _name(request)
        wanted = if_match(request)
        async with answers.in_time():
            while True:
                timer = (await self._find(name)).timer
                if timer.state not in CHANGEABLE:
                    raise answers.state_conflict(timer.state)
                if wanted is not None and timer.version not in wanted:
                    raise answers.precondition_failed()
                wish = replace(change(timer), version=timer.version)
                [changed] = await self._store.change([wish])
                if changed.result is not ChangeResult.OTHER_VERSION:
                    return await self._answer(wish, changed)

    async def _answer_change(self, request: Request, change: Change) -> Response:
        wanted = if_match(request)
        async with answers.in_time():
            if wanted is not None:
                version = await self._matching_version(change.name, wanted)
                change = replace(change, version=version)
            [changed] = await self._store.change([change])
            return await self._answer(change, changed)

    async def _answer(self, change: Change, changed: Changed) -> Response:
        if changed.result is ChangeResult.GONE:
            raise await self._missing(change.name)
        answers.check_changed(changed)
        return answers.json_response(
            {"id": change.name.id, "status": State.SCHEDULED, "due": format_instant(changed.due_ms)},
            headers=answers.etag(f"{changed.generation}.0.{State.SCHEDULED.letter}"),
        )

    async def _matching_version(self, name: TimerName, wanted: frozenset[str]) -> str:
        """The version that it has, if it is one of those; the script then insists on it."""
        if len(wanted) == 1:
            return next(iter(wanted))
        timer = (await self._find(name)).timer
        return timer.version if timer.version in wanted else NO_VERSION

    async def _find(self, name: TimerName) -> Found:
        found = await self._store.get(name)
        if found is None:
            raise await self._missing(name)
        return found

    async def _missing(self, name: TimerName) -> ProblemError:
        await self._store.get(name)  # raises InvalidTimerError for a damaged record
        if await self._store.is_archived(name):
            return answers.state_conflict(State.ARCHIVED)
        return answers.not_found()


def _name(request: Request) -> TimerName:
    """The timer that the path names; raises ProblemError (404, 403, 422)."""
    timer_id: str = request.path_params["timer_id"]
    application = application_in_query(request)
    if not is_known_id(timer_id):
        raise answers.not_found()
    return TimerName(application, timer_id)


def _path(name: TimerName) -> str:
    path = f"/timers/{name.id}"
    return path if name.application == DEFAULT_APPLICATION else f"{path}?application={name.application}"


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
    return {"status": status.value, "id": timer.name.id, "due": format_instant(created.due_ms)}
