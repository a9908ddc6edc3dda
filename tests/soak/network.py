"""The way from one process to one server, which can be cut, slow, half open, or lose a reply."""

import asyncio
from collections import deque
from typing import Self

from tests.support.proxy import Proxy, _Link, _Side


class Way(Proxy):
    """A proxy of one process to one server."""

    def __init__(self, redis_url: str) -> None:
        super().__init__(redis_url)
        self.latency_s = 0.0
        """How long each piece of data takes."""
        self.is_half_open = False
        """While it is set, new connections are accepted, and nothing that is sent on them ever arrives."""
        self.drops_reply = False
        """The next reply is lost, with its connection. What was asked has happened."""

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Side(_WayLink(self)), "127.0.0.1", 0)
        return self

    async def connect(self, side: _Side) -> None:
        """A server that is away hangs up."""
        try:
            await super().connect(side)
        except OSError:
            side._link.lost()

    def half_open(self) -> None:
        """Swallow what is sent on all connections for good, and on new ones until `mend`. None is closed."""
        self.is_half_open = True
        for link in tuple(self._links):
            assert isinstance(link, _WayLink)
            link.is_dead = True

    def mend(self) -> None:
        """All is well for new connections. Those that were half open stay so."""
        super().mend()
        self.is_half_open = False
        self.drops_reply = False
        self.latency_s = 0.0


class _WayLink(_Link):
    """A connection that can be dead, although both sides believe that it is open."""

    def __init__(self, way: Way) -> None:
        super().__init__(way)
        self._way = way
        self.is_dead = way.is_half_open
        self._on_the_way: deque[tuple[_Side, bytes]] = deque()

    def pass_on(self, side: _Side, data: bytes) -> None:
        if self.is_dead:
            return
        if self._way.drops_reply and side is self._server:
            self._way.drops_reply = False
            self.reset()
        elif self._way.latency_s or self._on_the_way:
            # Each arrival passes on the oldest: timers may come in another order, the data must not.
            self._on_the_way.append((side, data))
            asyncio.get_running_loop().call_later(self._way.latency_s, self._arrive)
        else:
            super().pass_on(side, data)

    def _arrive(self) -> None:
        side, data = self._on_the_way.popleft()
        if not self.is_dead:
            super().pass_on(side, data)
