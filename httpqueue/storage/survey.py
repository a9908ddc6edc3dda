"""What is read for people: lists of timers, what holds one up. Nothing here changes anything."""

from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import Redis

from httpqueue.clock import StoreNow, server_time
from httpqueue.errors import InvalidTimerError
from httpqueue.storage import keys
from httpqueue.storage.connection import Script
from httpqueue.storage.timers import SCRIPT_KEYS
from httpqueue.timers.commands import Listed, Place
from httpqueue.timers.explain import Facts
from httpqueue.timers.policies import Application, Destination, decode_policy
from httpqueue.timers.timer import State, Timer, decode_record

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


class Survey:
    """Every method raises UnavailableError when the server is away."""

    def __init__(self, redis: Redis, *, now: StoreNow = server_time) -> None:
        self._now = now
        self._list, self._explain, self._pulse = (
            Script(redis, name) for name in ("list", "explain", "pulse")
        )

    async def list(self, window: Window, place: Place | None, *, look_at: int) -> Listed:
        """The window's timers among the next look_at entries (1,000 at most) behind that place."""
        now_ms = self._now()
        now_ms, member, due_ms, found = await self._list(
            SCRIPT_KEYS,
            "" if now_ms is None else now_ms,
            window.from_ms if place is None else max(place.due_ms, window.from_ms),
            "" if window.to_ms is None else window.to_ms,
            place.member if place is not None and place.due_ms >= window.from_ms else "",
            min(look_at, MAX_LOOK),
            window.application or "",
            "".join(state.letter for state in window.states),
        )
        timers = [
            timer
            for name, record in zip(found[::2], found[1::2], strict=True)
            if (timer := _readable(name, record))
        ]
        return Listed(timers, Place(due_ms, member.decode()) if member else None, now_ms)

    async def facts(self, application: str, timer_id: str) -> Facts | None:
        """What explain.explain needs to know of a timer; None when there is no record that can be read."""
        now_ms = self._now()
        member = keys.member(application, timer_id)
        answer: list[Any] = await self._explain(SCRIPT_KEYS, "" if now_ms is None else now_ms, member)
        if len(answer) <= 2:  # noqa: PLR2004 - now and the record, which does not say more
            return None
        now_ms, record, tenant, host, destination, first, slot, lease, line = answer
        return Facts(
            timer=decode_record(application, timer_id, record),
            now_ms=now_ms,
            application=decode_policy(Application, tenant),
            host=host.decode(),
            destination=decode_policy(Destination, destination),
            blocked_by=first.decode().partition(":")[2] if first and first.decode() != member else None,
            slot_ms=round(float(slot)) if slot else None,
            lease_end_ms=round(float(lease)) if lease else None,
            is_in_line=bool(line),
        )

    async def pulse(self) -> Pulse:
        """For the virtual clock; store and queue must be one server."""
        now_ms = self._now()
        is_settled, next_ms = await self._pulse((*SCRIPT_KEYS, keys.QUEUE), "" if now_ms is None else now_ms)
        return Pulse(bool(is_settled), None if next_ms < 0 else next_ms)


def _readable(member: bytes, record: bytes) -> Timer | None:
    """A record that cannot be read is no timer; begin sets it aside."""
    application, _, timer_id = member.decode().partition(":")
    try:
        return decode_record(application, timer_id, record)
    except InvalidTimerError:
        return None
