"""Reads for people: lists of timers, and what holds a timer up. Nothing here writes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import Redis

from httpqueue.clock import StoreNow, server_time
from httpqueue.errors import InvalidTimerError
from httpqueue.storage.connection import redis_errors
from httpqueue.storage.keys import StoreKeys, member_of, name_of, queue_keys, store_keys
from httpqueue.storage.record import decode_policy, decode_record
from httpqueue.storage.scripts import Script
from httpqueue.storage.timers import time_ms
from httpqueue.timers.commands import Position, TimerPage
from httpqueue.timers.explain import Facts
from httpqueue.timers.names import TimerName
from httpqueue.timers.policies import ApplicationPolicy, DestinationPolicy
from httpqueue.timers.timer import State, Timer

MAX_LOOK: Final = 1_000
"""The most index entries that one script call reads."""


@dataclass(frozen=True, slots=True)
class Window:
    """Which timers to list: in these states, due in [from_ms, to_ms], of one application or (None) of all.

    Times are ms since the epoch; to_ms None: no end.
    """

    states: frozenset[State]
    application: str | None = None
    from_ms: int = 0
    to_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Pulse:
    """Whether all is done now, and when the next thing happens (ms since the epoch; None: never)."""

    is_settled: bool
    next_ms: int | None


class Lookup:
    """Reads timers without changing them. Methods raise UnavailableError when the server is away."""

    def __init__(self, redis: Redis, *, now: StoreNow = server_time, keys: StoreKeys | None = None) -> None:
        self._redis = redis
        self._now = now
        self._keys = keys or store_keys()
        self._list, self._explain, self._pulse = (
            Script(redis, name, self._keys, queue_keys()) for name in ("list", "explain", "pulse")
        )

    async def list(self, window: Window, position: Position | None, *, look_at: int) -> TimerPage:
        """List timers of the window in the order of (due_ms, application, id), behind `position`.

        The page comes from at most look_at index entries (1,000 at most), so it may have fewer timers. One
        application costs one script call; all applications cost one call for each.
        """
        if window.application is not None:
            return await self._list_of(window.application, window, position, look_at)
        pages = [await self._list_of(name, window, position, look_at) for name in await self._applications()]
        if not pages:
            return TimerPage([], None, await self._time_ms())
        return _merged(pages, min(look_at, MAX_LOOK))

    async def _list_of(
        self, application: str, window: Window, position: Position | None, look_at: int
    ) -> TimerPage:
        from_ms, after = window.from_ms, ""
        if position is not None and position.due_ms >= from_ms:
            from_ms, after = position.due_ms, _after(application, position)
        now_ms, last_id, last_due_ms, found = await self._list(
            self._script_now(),
            application,
            "".join(state.letter for state in window.states),
            from_ms,
            "" if window.to_ms is None else window.to_ms,
            after,
            min(look_at, MAX_LOOK),
        )
        timers = [
            timer
            for timer_id, record in zip(found[::2], found[1::2], strict=True)
            if (timer := _readable(TimerName(application, timer_id.decode()), record))
        ]
        following = Position(last_due_ms, TimerName(application, last_id.decode())) if last_id else None
        return TimerPage(timers, following, now_ms)

    async def _applications(self) -> set[str]:
        """The applications that have timers."""
        with redis_errors():
            fields = await self._redis.hkeys(self._keys.counts)  # type: ignore[misc] # redis-py: sync or async
        return {field.decode().partition(":")[0] for field in fields}

    async def facts(self, name: TimerName) -> Facts | None:
        """What explain.explain needs to know about a timer. None when there is no readable record."""
        member = member_of(name)
        answer: list[Any] = await self._explain(self._script_now(), member)
        if len(answer) <= 2:  # noqa: PLR2004 - now and the record, which does not say more
            return None
        now_ms, record, application, host, destination, first, start, lease_end, line = answer
        return Facts(
            timer=decode_record(name, record),
            now_ms=now_ms,
            application=decode_policy(ApplicationPolicy, application),
            host=host.decode(),
            destination=decode_policy(DestinationPolicy, destination),
            blocked_by=name_of(first).id if first and first.decode() != member else None,
            reserved_start_ms=round(float(start)) if start else None,
            lease_end_ms=round(float(lease_end)) if lease_end else None,
            is_in_line=bool(line),
        )

    async def pulse(self) -> Pulse:
        """Whether all that is due is settled, for the virtual clock. Store and queue must be one server."""
        is_settled, next_ms = await self._pulse(self._script_now(), MAX_LOOK)
        return Pulse(bool(is_settled), None if next_ms < 0 else next_ms)

    async def _time_ms(self) -> int:
        with redis_errors():
            return time_ms(await self._redis.time(), self._now)

    def _script_now(self) -> int | str:
        now_ms = self._now()
        return "" if now_ms is None else now_ms


def _after(application: str, position: Position) -> str:
    """The id behind which the list of this application goes on, among its timers due at position.due_ms.

    Timers due at the same time are ordered by application, then by id. So an application before that of the
    position goes on behind all of these timers, and a later one before all of them ("").
    """
    if application == position.name.application:
        return position.name.id
    return "\x7f" if application < position.name.application else ""


def _merged(pages: Sequence[TimerPage], limit: int) -> TimerPage:
    """Merge one page per application. Timers behind the end of any page wait for the next page."""
    ends = [page.next for page in pages if page.next is not None]
    end = min(ends, key=_order, default=None)
    timers = sorted(
        (timer for page in pages for timer in page.timers), key=lambda timer: _order(_place(timer))
    )
    if end is not None:
        timers = [timer for timer in timers if _order(_place(timer)) <= _order(end)]
    if len(timers) > limit:
        timers = timers[:limit]
        end = _place(timers[-1])
    return TimerPage(timers, end, max(page.now_ms for page in pages))


def _place(timer: Timer) -> Position:
    return Position(timer.due_ms, timer.name)


def _order(position: Position) -> tuple[int, TimerName]:
    return position.due_ms, position.name


def _readable(name: TimerName, record: bytes) -> Timer | None:
    """None when the record cannot be read; the next begin sets it aside."""
    try:
        return decode_record(name, record)
    except InvalidTimerError:
        return None
