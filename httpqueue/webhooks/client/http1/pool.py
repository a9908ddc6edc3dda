"""Connections by origin: reused while fresh, bounded in number, and who waits for one.

A call takes, in this order: the origin's connection that was free last; a new one; a place in a line. There
are two kinds of lines, both first come, first served: for a place with the origin, then for a place in all.
Nothing is idle while a call waits for a place in all.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from httpqueue import clock
from httpqueue.webhooks.client.http1.call import Call
from httpqueue.webhooks.client.http1.connection import Connection
from httpqueue.webhooks.client.http1.dial import Dialer
from httpqueue.webhooks.client.http1.origin import Origin
from httpqueue.webhooks.message import Fault, SendError

IDLE_S: Final = 4.0
"""No connection is used that was idle for longer: common servers drop it after 5 s."""
SWEEP_S: Final = 0.5
"""How often idle connections are looked through; one is closed before it gets too old."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How many connections there may be, those being made included."""

    total: int = 10_000
    per_origin: int = 2_000


@dataclass(slots=True)
class _Line:
    """What there is of one origin."""

    places: int = 0
    """Connections, those being made included."""
    idle: deque[Connection] = field(default_factory=deque)
    """The one that was free last stands last."""
    waiting: deque[Call] = field(default_factory=deque)
    """Calls for which the origin has no place; there may be some only while there is none."""


class Pool:
    """All connections of a client; the Owner of each of them."""

    def __init__(
        self, dialer: Dialer, limits: Limits, now_s: Callable[[], float] = clock.monotonic_s
    ) -> None:
        self._dialer = dialer
        self._limits = limits
        self._now_s = now_s
        self._lines: dict[Origin, _Line] = {}
        self._places = 0
        self._idle_since_s: OrderedDict[Connection, float] = OrderedDict()
        self._waiting: deque[Call] = deque()
        self._open: set[Connection] = set()
        self._dials: set[asyncio.Task[None]] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._all_lost = asyncio.Event()

    def take(self, call: Call) -> None:
        """Send the call as soon as there is a connection for it."""
        connection = self._fresh(call.origin)
        if connection is not None:
            connection.send(call)
            return
        line = self._line(call.origin)
        if line.places >= self._limits.per_origin:
            line.waiting.append(call)
        elif self._has_room():
            self._dial(line, call)
        else:
            self._waiting.append(call)

    def sweep(self) -> None:
        """Close connections before they have been idle for too long."""
        self._sweep = None
        before_s = self._now_s() - IDLE_S + SWEEP_S
        while self._idle_since_s and next(iter(self._idle_since_s.values())) <= before_s:
            self._close_oldest()
        if self._idle_since_s:
            self._sweep_later()

    async def close(self) -> None:
        """Close all connections; whoever has calls in flight ended them before."""
        if self._sweep is not None:
            self._sweep.cancel()
        dials = tuple(self._dials)
        for dial in dials:
            dial.cancel()
        await asyncio.gather(*dials, return_exceptions=True)
        for connection in tuple(self._open):
            connection.abort()
        while self._open:
            self._all_lost.clear()
            await self._all_lost.wait()

    # --- Owner ---

    def opened(self, connection: Connection) -> None:
        """See Owner."""
        self._open.add(connection)

    def lost(self, connection: Connection) -> None:
        """See Owner."""
        self._open.discard(connection)
        if not self._open:
            self._all_lost.set()

    def free(self, connection: Connection) -> None:
        """See Owner."""
        line = self._lines[connection.origin]
        if (self._waiting or line.waiting) and self._hand_on(connection, line):
            return
        line.idle.append(connection)
        self._idle_since_s[connection] = self._now_s()
        if self._sweep is None:
            self._sweep_later()

    def dropped(self, connection: Connection) -> None:
        """See Owner."""
        line = self._leave(connection)
        if line.waiting and (call := _next(line.waiting)) is not None:
            self._waiting.append(call)
        while self._waiting and self._places < self._limits.total:
            self._serve_next()
        if not line.places:
            self._lines.pop(connection.origin, None)

    def repeat(self, connection: Connection, call: Call) -> None:
        """See Owner."""
        self._dial(self._leave(connection), call)

    # --- places ---

    def _line(self, origin: Origin) -> _Line:
        line = self._lines.get(origin)
        if line is None:
            line = self._lines[origin] = _Line()
        return line

    def _leave(self, connection: Connection) -> _Line:
        line = self._lines[connection.origin]
        line.places -= 1
        self._places -= 1
        if self._idle_since_s.pop(connection, None) is not None:
            line.idle.remove(connection)
        return line

    def _serve_next(self) -> None:
        """Give a place to the call that waits for one in all."""
        call = _next(self._waiting)
        if call is None:
            return
        line = self._line(call.origin)
        if line.places < self._limits.per_origin:
            self._dial(line, call)
        else:
            line.waiting.append(call)

    def _hand_on(self, connection: Connection, line: _Line) -> bool:
        """Who waits for a place in all comes first, at the cost of a connection; whether anybody took it."""
        call = _next(self._waiting)
        if call is None:
            call = _next(line.waiting)
            if call is None:
                return False
        elif call.origin != connection.origin:
            self._waiting.appendleft(call)
            connection.close()
            return True
        connection.send(call)
        return True

    def _has_room(self) -> bool:
        """Whether there is a place for one more; an idle connection of another origin gives way."""
        if self._places >= self._limits.total and self._idle_since_s:
            self._close_oldest()
        return self._places < self._limits.total

    # --- idle connections ---

    def _fresh(self, origin: Origin) -> Connection | None:
        """The origin's connection that was free last, if it can be used; those that cannot are closed."""
        line = self._lines.get(origin)
        while line is not None and line.idle:
            connection = line.idle[-1]
            if connection.is_usable() and self._idle_since_s[connection] > self._now_s() - IDLE_S:
                line.idle.pop()
                del self._idle_since_s[connection]
                return connection
            connection.close()
        return None

    def _close_oldest(self) -> None:
        next(iter(self._idle_since_s)).close()

    def _sweep_later(self) -> None:
        self._sweep = asyncio.get_running_loop().call_later(SWEEP_S, self.sweep)

    # --- new connections ---

    def _dial(self, line: _Line, call: Call) -> None:
        line.places += 1
        self._places += 1
        task = asyncio.get_running_loop().create_task(self._connect(call))
        call.give_up = task.cancel
        self._dials.add(task)
        task.add_done_callback(self._dials.discard)

    async def _connect(self, call: Call) -> None:
        connection = Connection(call.origin, self)
        error: SendError
        try:
            await self._dialer.dial(call.origin, connection)
        except SendError as expected:
            error = expected
        except Exception as unexpected:  # noqa: BLE001 - a broken resolver fails this call alone
            error = SendError(Fault.CONNECTION, f"no connection: {type(unexpected).__name__}")
        except asyncio.CancelledError:
            connection.give_back()
            raise
        else:
            if call.is_over:  # a resolver that cannot be cancelled
                self.free(connection)
            else:
                connection.send(call)
            return
        connection.give_back()
        call.end(error)


def _next(line: deque[Call]) -> Call | None:
    """The first call that still waits."""
    while line:
        call = line.popleft()
        if not call.is_over:
            return call
    return None
