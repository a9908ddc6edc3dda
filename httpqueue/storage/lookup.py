"""What is read for people: lists of timers, what holds one up. Nothing here changes anything."""

from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import Redis

from httpqueue.clock import StoreNow, server_time
from httpqueue.storage.keys import member_of, name_of, queue_keys, store_keys
from httpqueue.storage.record import decode_policy, decode_record
from httpqueue.storage.scripts import Script
from httpqueue.storage.timers import readable
from httpqueue.timers.commands import Position, TimerPage
from httpqueue.timers.explain import Facts
from httpqueue.timers.names import TimerName
from httpqueue.timers.policies import ApplicationPolicy, DestinationPolicy
from httpqueue.timers.timer import State

MAX_LOOK: Final = 1_000
"""Index entries that one script call looks at."""


@dataclass(frozen=True, slots=True)
class Window:
    """Which timers to look at: these states, due in [from_ms, to_ms], of one application or of all."""

    states: frozenset[State]
    application: str | None = None
    from_ms: int = 0
    to_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Pulse:
    """Whether anything is still to be done now, and when there will be something; None: never."""

    is_settled: bool
    next_ms: int | None


class Lookup:
    """Every method raises UnavailableError when the server is away."""

    def __init__(self, redis: Redis, *, now: StoreNow = server_time) -> None:
        self._now = now
        self._list, self._explain, self._pulse = (
            Script(redis, name, store_keys(), queue_keys()) for name in ("list", "explain", "pulse")
        )

    async def list(self, window: Window, position: Position | None, *, look_at: int) -> TimerPage:
        """The window's timers among the next look_at entries (1,000 at most) behind that position."""
        is_inside = position is not None and position.due_ms >= window.from_ms
        now_ms, last, last_due_ms, found = await self._list(
            self._script_now(),
            position.due_ms if position and is_inside else window.from_ms,
            "" if window.to_ms is None else window.to_ms,
            member_of(position.name) if position and position.name and is_inside else "",
            min(look_at, MAX_LOOK),
            window.application or "",
            "".join(state.letter for state in window.states),
        )
        timers = [
            timer
            for member, record in zip(found[::2], found[1::2], strict=True)
            if (timer := readable(member, record))
        ]
        return TimerPage(timers, Position(last_due_ms, name_of(last)) if last else None, now_ms)

    async def facts(self, name: TimerName) -> Facts | None:
        """What explain.explain needs to know of a timer; None when there is no record that can be read."""
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
        """For the virtual clock; store and queue must be one server."""
        first = 0
        while True:
            is_settled, looked_at, next_ms = await self._pulse(self._script_now(), first, MAX_LOOK)
            if not is_settled or looked_at < MAX_LOOK:
                return Pulse(bool(is_settled), None if next_ms < 0 else next_ms)
            first += looked_at

    def _script_now(self) -> int | str:
        now_ms = self._now()
        return "" if now_ms is None else now_ms
