"""Keeps the connections of each origin for reuse, and limits how many there are.

A call takes the origin's idle connection that was used last. If there is none, it takes a new connection. If
the limit per origin is reached, it waits for one of that origin. If the total limit is reached, the oldest
idle connection is closed to make room; if none is idle, the call waits. Both waits are first come, first
served. No connection is idle while a call waits at the total limit.
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
"""A connection that was idle for longer is not used: common servers close it after 5 s."""
SWEEP_S: Final = 0.5
"""Seconds between two searches for idle connections that are about to become too old."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The most connections, including those being made."""

    total: int = 10_000
    per_origin: int = 2_000


@dataclass(slots=True)
class _Line:
    """The connections of one origin, and the calls that wait for one."""

    places: int = 0
    """The number of connections, including those being made."""
    idle: deque[Connection] = field(default_factory=deque)
    """Idle connections; the one that was used last is last."""
    waiting: deque[Call] = field(default_factory=deque)
    """Calls that wait because the limit per origin is reached."""


class Pool:
    """All connections of a client. It is the Owner of each."""

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
        """Close connections that will soon have been idle for too long."""
        self._sweep = None
        before_s = self._now_s() - IDLE_S + SWEEP_S
        while self._idle_since_s and next(iter(self._idle_since_s.values())) <= before_s:
            self._close_oldest()
        if self._idle_since_s:
            self._sweep_later()

    async def close(self) -> None:
        """Close all connections. The caller must have ended all calls before."""
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
        """Give a place to the first call that waits at the total limit."""
        call = _next(self._waiting)
        if call is None:
            return
        line = self._line(call.origin)
        if line.places < self._limits.per_origin:
            self._dial(line, call)
        else:
            line.waiting.append(call)

    def _hand_on(self, connection: Connection, line: _Line) -> bool:
        """Pass a free connection to a waiting call. Returns whether there was one.

        A call that waits at the total limit comes first. If it is for another origin, this connection is
        closed to make room.
        """
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
        """Whether one more connection may be made. At the total limit, closes the oldest idle one."""
        if self._places >= self._limits.total and self._idle_since_s:
            self._close_oldest()
        return self._places < self._limits.total

    # --- idle connections ---

    def _fresh(self, origin: Origin) -> Connection | None:
        """The origin's idle connection that was used last, or None. Closes those that cannot be used."""
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
        connection = Connection(call.origin, self)
        task = asyncio.get_running_loop().create_task(self._connect(call, connection))
        call.give_up = task.cancel
        self._dials.add(task)

        def done(_: asyncio.Task[None]) -> None:
            self._dials.discard(task)
            if task.cancelled():  # not in the task: one that is cancelled early never begins
                connection.give_back()

        task.add_done_callback(done)

    async def _connect(self, call: Call, connection: Connection) -> None:
        error: SendError
        try:
            await self._dialer.dial(call.origin, connection)
        except SendError as expected:
            error = expected
        except Exception as unexpected:  # noqa: BLE001 - a bug in a resolver must fail this call alone
            error = SendError(Fault.CONNECTION, f"no connection: {type(unexpected).__name__}")
        else:
            if call.is_over:  # the resolver could not be cancelled
                self.free(connection)
            else:
                connection.send(call)
            return
        connection.give_back()
        call.end(error)


def _next(line: deque[Call]) -> Call | None:
    """Take the first call that has not ended; None when there is none."""
    while line:
        call = line.popleft()
        if not call.is_over:
            return call
    return None
