"""GET /timers and POST /timers/replay: timers in pages, and many failed timers sent again."""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from httpqueue.api import responses
from httpqueue.api.auth import application_of, check_reveal, sees_all
from httpqueue.api.schema.cursor import decode_cursor, encode_cursor
from httpqueue.api.schema.json_body import read_optional
from httpqueue.api.schema.query import LISTED, check_query, read_list_query
from httpqueue.api.schema.render import timer_summary
from httpqueue.api.schema.request_models import ReplayRequest
from httpqueue.api.schema.validate import validate
from httpqueue.storage.lookup import Lookup, Window
from httpqueue.storage.timers import Store
from httpqueue.timers.commands import Change, ChangeResult, Position, TimerPage
from httpqueue.timers.schedule import Delay
from httpqueue.timers.timer import State, Timer

MAX_LOOK: Final = 20_000
"""The most timers that one page reads to find those that match. It then ends early, with a cursor."""
LOOK: Final = 1_000
"""Timers that one call of the store reads."""
FIRST_LOOK: Final = 100
"""The first call reads fewer, because most lists need no more."""
REPLAYED_AT_ONCE: Final = 500
"""Timers that one call of the store replays."""

Matches = Callable[[Timer], bool]
"""Whether a timer has the labels and the host that a client asks for; the store knows neither."""


class Lists:
    """Finds timers by state, due time, label and host."""

    def __init__(self, *, store: Store, lookup: Lookup) -> None:
        self._store = store
        self._lookup = lookup

    async def get(self, request: Request) -> Response:
        """GET /timers: a page of timers, sorted by due time."""
        query = read_list_query(request)
        if query.reveal:
            check_reveal(request.scope)
        window = Window(
            states=frozenset(query.status) or LISTED,
            application=_application(request, query.application),
            from_ms=query.due_from or 0,
            to_ms=query.due_to,
        )
        matches = _matcher(query.label, query.host)
        async with responses.in_time():
            listed = await self._page(window, matches, decode_cursor(query.cursor), query.limit)
        return responses.json_response(
            {
                "timers": [
                    timer_summary(timer, listed.now_ms, reveal=query.reveal) for timer in listed.timers
                ],
                "next_cursor": encode_cursor(listed.next) if listed.next else None,
            }
        )

    async def replay(self, request: Request) -> Response:
        """POST /timers/replay: schedules matching failed timers again, due now."""
        check_query(request.scope)
        wanted = validate(ReplayRequest, await read_optional(request.scope, request.receive))
        window = Window(
            states=frozenset({State.FAILED}),
            application=application_of(request.scope, wanted.application),
            from_ms=wanted.due_from or 0,
            to_ms=wanted.due_to,
        )
        matches = _matcher([wanted.label] if wanted.label else [], wanted.host)
        replayed, timers, position = 0, [], None
        async with responses.in_time():
            async for page in self._pages(window, matches, wanted.limit):
                timers += page.timers
                position = page.next
        if not wanted.dry_run:
            replayed = await self._replay(timers)
        return responses.json_response(
            {
                "dry_run": wanted.dry_run,
                "matched": len(timers),
                "replayed": replayed,
                "ids": [timer.name.id for timer in timers],
                "complete": position is None,
            }
        )

    async def _replay(self, timers: list[Timer]) -> int:
        """How many were replayed; a timer that changed since it was read is not."""
        changes = [
            Change(
                timer.name,
                frozenset({State.FAILED}),
                version=timer.version,
                due=Delay(0),
            )
            for timer in timers
        ]
        count = 0
        for first in range(0, len(changes), REPLAYED_AT_ONCE):
            changed = await self._store.change(changes[first : first + REPLAYED_AT_ONCE])
            count += sum(each.result is ChangeResult.CHANGED for each in changed)
        return count

    async def _pages(self, window: Window, matches: Matches, limit: int) -> AsyncIterator[TimerPage]:
        """Pages with at most limit timers together."""
        position: Position | None = None
        while limit:
            page = await self._page(window, matches, position, min(limit, LOOK))
            yield page
            limit -= len(page.timers)
            position = page.next
            if position is None:
                return

    async def _page(
        self, window: Window, matches: Matches, position: Position | None, limit: int
    ) -> TimerPage:
        """At most limit timers; fewer, and yet a next position, when MAX_LOOK timers were read."""
        found: list[Timer] = []
        for n in range(MAX_LOOK // LOOK):
            listed = await self._lookup.list(window, position, look_at=LOOK if n else max(limit, FIRST_LOOK))
            for timer in filter(matches, listed.timers):
                if len(found) == limit:
                    return replace(listed, timers=found, next=Position(found[-1].due_ms, found[-1].name))
                found.append(timer)
            position = listed.next
            if position is None or len(found) == limit:
                break
        return replace(listed, timers=found, next=position)


def _application(request: Request, given: str | None) -> str | None:
    """The application to list; None for all, if none is given and the caller may see all."""
    return None if given is None and sees_all(request.scope) else application_of(request.scope, given)


def _matcher(labels: list[str], host: str | None) -> Matches:
    wanted = [tuple(label.split(":", 1)) for label in labels]

    def matches(timer: Timer) -> bool:
        return all(timer.spec.labels.get(name) == value for name, value in wanted) and (
            host is None or timer.spec.host == host
        )

    return matches
