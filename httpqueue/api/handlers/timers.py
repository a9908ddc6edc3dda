"""/timers/{timer_id} and the paths below it: show, explain, change, fire, replay and cancel one timer."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from httpqueue.api import responses
from httpqueue.api.auth import application_of
from httpqueue.api.backend import Backend
from httpqueue.api.problems import ProblemError, faulty_field
from httpqueue.api.schema.etag import etag, if_match
from httpqueue.api.schema.field_checks import is_known_id
from httpqueue.api.schema.json_body import read_nothing, read_object
from httpqueue.api.schema.patch_timer import patched
from httpqueue.api.schema.query import application_parameter
from httpqueue.api.schema.read_timer import callback_of, read_content
from httpqueue.api.schema.render import attempt_view, timer_view
from httpqueue.api.schema.request_models import CallbackChange
from httpqueue.api.schema.validate import validate
from httpqueue.api.timer_problems import check_changed, not_found, precondition_failed, state_conflict
from httpqueue.timers.commands import Answer, Change, Changed, Found
from httpqueue.timers.explain import explain
from httpqueue.timers.schedule import After, At, format_instant
from httpqueue.timers.spec import Spec
from httpqueue.timers.timer import State, Timer

CHANGEABLE: Final = frozenset({State.SCHEDULED})
REPLAYABLE: Final = frozenset({State.FAILED})
NO_VERSION: Final = "-"
"""A version that no timer has: a change that insists on it is refused."""


class Timers:
    """Shows and changes existing timers. The store refuses a change if the timer is not as it must be."""

    def __init__(self, backend: Backend) -> None:
        self._store = backend.store
        self._survey = backend.survey
        self._worker_silence_ms = backend.worker_silence_ms
        self._now_ms = backend.now_ms
        self._retention_ms = backend.retention_ms

    async def get(self, request: Request) -> Response:
        """GET /timers/{timer_id}: the timer, or what the archive remembers of it, or 404."""
        application, timer_id = _address(request)
        async with responses.in_time():
            found = await self._store.get(application, timer_id)
            if found is not None:
                view = timer_view(found.timer, found.now_ms)
                return responses.json_response(view, headers=etag(found.timer.version))
            if await self._store.is_archived(application, timer_id):
                return responses.json_response(
                    {"id": timer_id, "status": State.ARCHIVED, "time_left": 0, "archived": True}
                )
        raise not_found()

    async def attempts(self, request: Request) -> Response:
        """GET /timers/{timer_id}/attempts: the last attempts, oldest first."""
        async with responses.in_time():
            found = await self._find(*_address(request))
        return responses.json_response({"attempts": [attempt_view(each) for each in found.timer.log]})

    async def explain(self, request: Request) -> Response:
        """GET /timers/{timer_id}/explain: why the timer has not fired yet."""
        application, timer_id = _address(request)
        async with responses.in_time():
            await self._find(application, timer_id)  # raises for a timer that is archived or damaged
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
        """PUT /timers/{timer_id}: replaces the content of a scheduled timer."""
        application, timer_id = _address(request)
        members = await read_object(request.scope, request.receive)
        for name, own in (("id", timer_id), ("application", application)):
            if members.pop(name, None) not in (None, own):
                raise faulty_field(name, f"must be {own}, as in the path, or left out")
        spec, due_ms = read_content(members, now_ms=self._now_ms())
        change = _rescheduled(Change(application, timer_id, CHANGEABLE, spec=spec), spec, due_ms)
        return await self._answer_change(request, change)

    async def patch(self, request: Request) -> Response:
        """PATCH /timers/{timer_id}: a merge patch (RFC 7396); the due time stays if it has no schedule."""
        application, timer_id = _address(request)
        patch = await read_object(request.scope, request.receive)

        def patched_change(timer: Timer) -> Change:
            spec, due_ms, reschedules = patched(timer.spec, patch, now_ms=self._now_ms())
            change = Change(application, timer_id, CHANGEABLE, spec=spec)
            return _rescheduled(change, spec, due_ms) if reschedules else change

        return await self._edit(request, patched_change)

    async def put_callback(self, request: Request) -> Response:
        """PUT /timers/{timer_id}/callback: replaces or removes the callback."""
        application, timer_id = _address(request)
        wanted = validate(CallbackChange, await read_object(request.scope, request.receive)).callback

        def change(timer: Timer) -> Change:
            spec = replace(timer.spec, callback=callback_of(wanted, timer.spec.url))
            return Change(application, timer_id, CHANGEABLE, spec=spec)

        return await self._edit(request, change)

    async def fire(self, request: Request) -> Response:
        """POST /timers/{timer_id}/fire: makes a scheduled timer due now."""
        application, timer_id = _address(request)
        await read_nothing(request.scope, request.receive)
        change = Change(application, timer_id, CHANGEABLE, due_ms=0, from_now=True)
        return await self._answer_change(request, change)

    async def replay(self, request: Request) -> Response:
        """POST /timers/{timer_id}/replay: schedules a failed timer again, due now."""
        application, timer_id = _address(request)
        await read_nothing(request.scope, request.receive)
        change = Change(application, timer_id, REPLAYABLE, due_ms=0, from_now=True)
        return await self._answer_change(request, change)

    async def delete(self, request: Request) -> Response:
        """DELETE /timers/{timer_id}: cancels a scheduled timer, or deletes a failed one."""
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
            check_changed(cancelled)
        status = "deleted" if cancelled.state is State.FAILED else State.CANCELLED.value
        return responses.json_response({"id": timer_id, "status": status, "due": None})

    async def _edit(self, request: Request, change: Callable[[Timer], Change]) -> Response:
        """Read the timer and write the change; start again if somebody else changed the timer in between."""
        application, timer_id = _address(request)
        wanted = if_match(request)
        async with responses.in_time():
            while True:
                timer = (await self._find(application, timer_id)).timer
                if timer.state not in CHANGEABLE:
                    raise state_conflict(timer.state)
                if wanted is not None and timer.version not in wanted:
                    raise precondition_failed()
                wanted_change = replace(change(timer), version=timer.version)
                [changed] = await self._store.change([wanted_change])
                if changed.answer is not Answer.OTHER_VERSION:
                    return await self._answer(wanted_change, changed)

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
        check_changed(changed)
        return responses.json_response(
            {"id": change.id, "status": State.SCHEDULED, "due": format_instant(changed.due_ms)},
            headers=etag(f"{changed.generation}.0.{State.SCHEDULED.letter}"),
        )

    async def _matching_version(self, application: str, timer_id: str, wanted: frozenset[str]) -> str:
        """One of `wanted`, for the store to insist on; NO_VERSION if the timer has none of them."""
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
            return state_conflict(State.ARCHIVED)
        return not_found()


def _address(request: Request) -> tuple[str, str]:
    """(application, timer id) of a request; raises ProblemError (403, 404, 422)."""
    timer_id: str = request.path_params["timer_id"]
    application = application_of(request.scope, application_parameter(request))
    if not is_known_id(timer_id):
        raise not_found()
    return application, timer_id


def _rescheduled(change: Change, spec: Spec, due_ms: int | None) -> Change:
    match spec.schedule:
        case After(delay_ms):
            return replace(change, due_ms=delay_ms, from_now=True)
        case At(fire_at_ms):
            return replace(change, due_ms=fire_at_ms)
    return replace(change, due_ms=due_ms)
