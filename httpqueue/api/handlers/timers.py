"""/timers/{timer_id} and the paths below it: show, explain, change, fire, replay and cancel one timer."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from msgspec import structs
from starlette.requests import Request
from starlette.responses import Response

from httpqueue.api import responses
from httpqueue.api.auth import application_of, check_reveal, sees_all
from httpqueue.api.backend import Backend
from httpqueue.api.problems import ProblemError, faulty_field
from httpqueue.api.schema.etag import etag, if_match
from httpqueue.api.schema.field_checks import is_known_id
from httpqueue.api.schema.json_body import read_nothing, read_object
from httpqueue.api.schema.patch_timer import patched
from httpqueue.api.schema.query import application_parameter, reveal_parameter
from httpqueue.api.schema.read_timer import callback_of, read_content
from httpqueue.api.schema.render import attempt_view, timer_view
from httpqueue.api.schema.request_models import CallbackChange
from httpqueue.api.schema.validate import validate
from httpqueue.api.timer_problems import (
    check_changed,
    not_found,
    precondition_failed,
    several_applications,
    state_conflict,
)
from httpqueue.timers.commands import Change, Changed, ChangeResult, Found
from httpqueue.timers.explain import explain
from httpqueue.timers.names import TimerName
from httpqueue.timers.schedule import Delay, format_instant
from httpqueue.timers.timer import State, Timer

CHANGEABLE: Final = frozenset({State.SCHEDULED})
REPLAYABLE: Final = frozenset({State.FAILED})
_AFTER_DELETE: Final = {State.FAILED: "deleted", State.RUNNING: "ending"}
NO_VERSION: Final = "-"
"""A version that no timer has: a change that insists on it is refused."""


class Timers:
    """Shows and changes existing timers. The store refuses a change if the timer is not as it must be."""

    def __init__(self, backend: Backend) -> None:
        self._store = backend.store
        self._lookup = backend.lookup
        self._worker_silence_ms = backend.worker_silence_ms
        self._now_ms = backend.now_ms
        self._egress = backend.egress
        self._retention_ms = backend.retention_ms

    async def get(self, request: Request) -> Response:
        """GET /timers/{timer_id}: the timer, or what the archive remembers of it, or 404."""
        name = _name(request, "reveal")
        if reveal := reveal_parameter(request):
            check_reveal(request.scope)
        async with responses.in_time():
            name, found = await self._seen(request, name)
            if found is not None:
                view = timer_view(found.timer, found.now_ms, reveal=reveal)
                return responses.json_response(view, headers=etag(found.timer.version))
            if await self._store.is_archived(name):
                return responses.json_response(
                    {"id": name.id, "status": State.ARCHIVED, "time_left": 0, "archived": True}
                )
        raise not_found()

    async def attempts(self, request: Request) -> Response:
        """GET /timers/{timer_id}/attempts: the last attempts, oldest first."""
        async with responses.in_time():
            name, found = await self._seen(request, _name(request))
            if found is None:
                raise await self._missing(name)
        return responses.json_response({"attempts": [attempt_view(each) for each in found.timer.log]})

    async def explain(self, request: Request) -> Response:
        """GET /timers/{timer_id}/explain: why the timer has not fired yet."""
        async with responses.in_time():
            name, found = await self._seen(request, _name(request))
            facts = None if found is None else await self._lookup.facts(name)
            if facts is None:
                raise await self._missing(name)
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
        name = _name(request)
        members = await read_object(request.scope, request.receive)
        for field, own in (("id", name.id), ("application", name.application)):
            if members.pop(field, None) not in (None, own):
                raise faulty_field(field, f"must be {own}, as in the path, or left out")
        spec = read_content(members, now_ms=self._now_ms(), egress=self._egress())
        change = Change(name, CHANGEABLE, spec=spec, due=spec.schedule)
        return await self._answer_change(request, change)

    async def patch(self, request: Request) -> Response:
        """PATCH /timers/{timer_id}: a merge patch (RFC 7396); the due time stays if it has no schedule."""
        name = _name(request)
        patch = await read_object(request.scope, request.receive)

        def patched_change(timer: Timer) -> Change:
            spec, reschedules = patched(timer.spec, patch, now_ms=self._now_ms(), egress=self._egress())
            return Change(name, CHANGEABLE, spec=spec, due=spec.schedule if reschedules else None)

        return await self._edit(request, patched_change)

    async def put_callback(self, request: Request) -> Response:
        """PUT /timers/{timer_id}/callback: replaces or removes the callback."""
        name = _name(request)
        wanted = validate(CallbackChange, await read_object(request.scope, request.receive)).callback

        def change(timer: Timer) -> Change:
            callback = callback_of(wanted, timer.spec.url, self._egress())
            spec = structs.replace(timer.spec, callback=callback)
            return Change(name, CHANGEABLE, spec=spec)

        return await self._edit(request, change)

    async def fire(self, request: Request) -> Response:
        """POST /timers/{timer_id}/fire: makes a scheduled timer due now."""
        name = _name(request)
        await read_nothing(request.scope, request.receive)
        change = Change(name, CHANGEABLE, due=Delay(0))
        return await self._answer_change(request, change)

    async def replay(self, request: Request) -> Response:
        """POST /timers/{timer_id}/replay: schedules a failed timer again, due now."""
        name = _name(request)
        await read_nothing(request.scope, request.receive)
        change = Change(name, REPLAYABLE, due=Delay(0))
        return await self._answer_change(request, change)

    async def delete(self, request: Request) -> Response:
        """DELETE /timers/{timer_id}: cancels a scheduled timer, or deletes a failed one.

        A recurring timer that runs is cancelled when the attempt is over.
        """
        name = _name(request)
        wanted = if_match(request)
        async with responses.in_time():
            version = None if wanted is None else await self._matching_version(name, wanted)
            cancelled = await self._store.cancel(name, version=version, retention_ms=self._retention_ms)
            if cancelled.result is ChangeResult.GONE:
                raise await self._missing(name)
        if cancelled.result is not ChangeResult.OTHER_STATE or cancelled.state is not State.CANCELLED:
            check_changed(cancelled)
        status = _AFTER_DELETE.get(cancelled.state or State.CANCELLED, State.CANCELLED.value)
        return responses.json_response({"id": name.id, "status": status, "due": None})

    async def _edit(self, request: Request, change: Callable[[Timer], Change]) -> Response:
        """Read the timer and write the change; start again if somebody else changed the timer in between."""
        name = _name(request)
        wanted = if_match(request)
        async with responses.in_time():
            while True:
                timer = (await self._find(name)).timer
                if timer.state not in CHANGEABLE:
                    raise state_conflict(timer.state)
                if wanted is not None and timer.version not in wanted:
                    raise precondition_failed()
                wanted_change = replace(change(timer), version=timer.version)
                [changed] = await self._store.change([wanted_change])
                if changed.result is not ChangeResult.OTHER_VERSION:
                    return await self._answer(wanted_change, changed)

    async def _answer_change(self, request: Request, change: Change) -> Response:
        wanted = if_match(request)
        async with responses.in_time():
            if wanted is not None:
                version = await self._matching_version(change.name, wanted)
                change = replace(change, version=version)
            [changed] = await self._store.change([change])
            return await self._answer(change, changed)

    async def _answer(self, change: Change, changed: Changed) -> Response:
        if changed.result is ChangeResult.GONE:
            raise await self._missing(change.name)
        check_changed(changed)
        return responses.json_response(
            {"id": change.name.id, "status": State.SCHEDULED, "due": format_instant(changed.due_ms)},
            headers=etag(changed.version),
        )

    async def _matching_version(self, name: TimerName, wanted: frozenset[str]) -> str:
        """One of `wanted`, for the store to insist on; NO_VERSION if the timer has none of them."""
        if len(wanted) == 1:
            return next(iter(wanted))
        timer = (await self._find(name)).timer
        return timer.version if timer.version in wanted else NO_VERSION

    async def _seen(self, request: Request, name: TimerName) -> tuple[TimerName, Found | None]:
        """The timer to show, and its name; None: it has no record. name: as the request has it.

        If the request names no application and may see all, it is the one that lists show, whatever its
        application. Raises ProblemError (409) if several have it. Changes are not made so: they could meet
        the timer of somebody else.
        """
        found = await self._store.get(name)
        if found is not None or "application" in request.query_params or not sees_all(request.scope):
            return name, found
        applications = await self._lookup.applications_with(name.id)
        if len(applications) > 1:
            raise several_applications(applications)
        if applications:
            other = TimerName(applications[0], name.id)
            if (found := await self._store.get(other)) is not None:
                return other, found
        return name, None

    async def _find(self, name: TimerName) -> Found:
        found = await self._store.get(name)
        if found is None:
            raise await self._missing(name)
        return found

    async def _missing(self, name: TimerName) -> ProblemError:
        await self._store.get(name)  # raises InvalidTimerError for a damaged record
        if await self._store.is_archived(name):
            return state_conflict(State.ARCHIVED)
        return not_found()


def _name(request: Request, *others: str) -> TimerName:
    """The timer that the path names; raises ProblemError (403, 404, 422).

    others: parameters that the query may have besides the application.
    """
    timer_id: str = request.path_params["timer_id"]
    application = application_of(request.scope, application_parameter(request, *others))
    if not is_known_id(timer_id):
        raise not_found()
    return TimerName(application, timer_id)
