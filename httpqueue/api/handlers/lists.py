"""GET /timers: timers in pages."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from httpqueue.api import responses
from httpqueue.api.auth import application_of, check_reveal, sees_all
from httpqueue.api.schema.cursor import decode_cursor, encode_cursor
from httpqueue.api.schema.query import LISTED, read_list_query
from httpqueue.api.schema.render import timer_summary
from httpqueue.storage.lookup import Lookup, Window
from httpqueue.timers.commands import Position, TimerPage
from httpqueue.timers.timer import Timer

MAX_LOOK: Final = 20_000
"""The most timers that one page reads to find those that match. It then ends early, with a cursor."""
LOOK: Final = 1_000
"""Timers that one call of the store reads."""
FIRST_LOOK: Final = 100
"""The first call reads fewer, because most lists need no more."""

Matches = Callable[[Timer], bool]
"""Whether a timer has the labels and the host that a client asks for; the store knows neither."""


class Lists:
    """Finds timers by state, due time, label and host."""

    def __init__(self, lookup: Lookup) -> None:
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
