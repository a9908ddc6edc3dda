"""Many timers: lists in pages, and failed timers replayed in bulk."""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from httpqueue.api import responses
from httpqueue.api.auth import application_of, sees_all
from httpqueue.api.problems import FieldError, faulty_fields
from httpqueue.api.schema.field_checks import check_host
from httpqueue.api.schema.query import LISTED, check_query, decode_cursor, encode_cursor, read_list_query
from httpqueue.api.schema.read_timer import read
from httpqueue.api.schema.render import timer_summary
from httpqueue.api.schema.request_models import ReplayRequest
from httpqueue.storage.survey import Survey, Window
from httpqueue.storage.timers import Store
from httpqueue.timers.commands import Answer, Change, Listed, Place
from httpqueue.timers.timer import State, Timer

MAX_LOOK: Final = 20_000
"""Timers that one request looks at; a list then ends early, with a cursor."""
LOOK: Final = 1_000
FIRST_LOOK: Final = 100
REPLAYED_AT_ONCE: Final = 500

Matches = Callable[[Timer], bool]


class Lists:
    """GET /timers and POST /timers/replay."""

    def __init__(self, *, store: Store, survey: Survey) -> None:
        self._store = store
        self._survey = survey

    def routes(self) -> list[Route]:
        """What is served here."""
        return [
            Route("/timers", self.get, methods=["GET"]),
            Route("/timers/replay", self.replay, methods=["POST"]),
        ]

    async def get(self, request: Request) -> Response:
        """A page of timers, sorted by due."""
        query = read_list_query(request)
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
                "timers": [timer_summary(timer, listed.now_ms) for timer in listed.timers],
                "next_cursor": encode_cursor(listed.next) if listed.next else None,
            }
        )

    async def replay(self, request: Request) -> Response:
        """Failed timers once more."""
        check_query(request.scope)
        wish = read(ReplayRequest, await responses.read_optional(request))
        host = None if wish.host is None else _host(wish.host)
        window = Window(
            states=frozenset({State.FAILED}),
            application=application_of(request.scope, wish.application),
            from_ms=wish.due_from or 0,
            to_ms=wish.due_to,
        )
        matches = _matcher([wish.label] if wish.label else [], host)
        replayed, timers, place = 0, [], None
        async with responses.in_time():
            async for page in self._pages(window, matches, wish.limit):
                timers += page.timers
                place = page.next
        if not wish.dry_run:
            replayed = await self._replay(timers)
        return responses.json_response(
            {
                "dry_run": wish.dry_run,
                "matched": len(timers),
                "replayed": replayed,
                "ids": [timer.id for timer in timers],
                "complete": place is None,
            }
        )

    async def _replay(self, timers: list[Timer]) -> int:
        wishes = [
            Change(
                timer.application,
                timer.id,
                frozenset({State.FAILED}),
                version=timer.version,
                due_ms=0,
                from_now=True,
            )
            for timer in timers
        ]
        count = 0
        for first in range(0, len(wishes), REPLAYED_AT_ONCE):
            changed = await self._store.change(wishes[first : first + REPLAYED_AT_ONCE])
            count += sum(each.answer is Answer.CHANGED for each in changed)
        return count

    async def _pages(self, window: Window, matches: Matches, limit: int) -> AsyncIterator[Listed]:
        place: Place | None = None
        while limit:
            page = await self._page(window, matches, place, min(limit, LOOK))
            yield page
            limit -= len(page.timers)
            place = page.next
            if place is None:
                return

    async def _page(self, window: Window, matches: Matches, place: Place | None, limit: int) -> Listed:
        """At most limit timers; fewer, with a next place, when MAX_LOOK were looked at."""
        found: list[Timer] = []
        for n in range(MAX_LOOK // LOOK):
            # at first no more than may well be enough
            listed = await self._survey.list(window, place, look_at=LOOK if n else max(limit, FIRST_LOOK))
            for timer in filter(matches, listed.timers):
                if len(found) == limit:
                    return replace(listed, timers=found, next=_place(found[-1]))
                found.append(timer)
            place = listed.next
            if place is None or len(found) == limit:
                break
        return replace(listed, timers=found, next=place)


def _application(request: Request, given: str | None) -> str | None:
    """The one that is asked for; all of them when none is and the caller may see all."""
    return None if given is None and sees_all(request.scope) else application_of(request.scope, given)


def _matcher(labels: list[str], host: str | None) -> Matches:
    wanted = [tuple(label.split(":", 1)) for label in labels]

    def matches(timer: Timer) -> bool:
        return all(timer.spec.labels.get(name) == value for name, value in wanted) and (
            host is None or _host_of(timer.spec.url) == host
        )

    return matches


def _host_of(url: str) -> str:
    authority = urlsplit(url).netloc.lower()
    return authority if authority.endswith("]") else authority.rpartition(":")[0] or authority


def _host(text: str) -> str:
    try:
        return check_host(text)
    except ValueError as error:
        errors = [FieldError("host", str(error))]
        raise faulty_fields(HTTPStatus.UNPROCESSABLE_ENTITY, errors) from None


def _place(timer: Timer) -> Place:
    return Place(timer.due_ms, f"{timer.application}:{timer.id}")
