"""A TCP proxy between a process and its Redis, with which tests break the network in between."""

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self, cast

from redis.asyncio.connection import parse_url

from tests.support.traps import Trap

_LINGER_0S: Final = struct.pack("ii", 1, 0)
"""As SO_LINGER: close with a reset instead of a FIN."""


class Proxy:
    """Listens on a free loopback port and forwards each connection to the server of that Redis URL."""

    def __init__(self, redis_url: str) -> None:
        self.resets = 0
        """How many connections were reset."""
        self.on_data: Callable[[], None] = lambda: None
        """Called before each piece of data is passed on; may reset the connections."""
        self.is_cut = False
        """While it is set, new connections are reset at once."""
        self.is_frozen = False
        """While it is set, nothing passes through, and new connections are never answered."""
        self.is_silent = False
        """While it is set, connections stay open, and nothing that is sent arrives."""
        self.delay_s = 0.0
        """How long each piece of data takes, in s."""
        self.trap: Trap | None = None
        self._target = parse_url(redis_url)
        self._links: set[_Link] = set()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Side(_Link(self)), "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        self.reset()

    @property
    def url(self) -> str:
        """The Redis URL of the proxy."""
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def reset(self) -> None:
        """Reset all connections; what is on its way is lost. New connections are accepted."""
        for link in tuple(self._links):
            link.reset()
            self.resets += 1

    def cut(self) -> None:
        """Reset all connections, and new ones, too, until `mend`."""
        self.is_cut = True
        self.reset()

    def mend(self) -> None:
        """Accept new connections again."""
        self.is_cut = self.is_frozen = False

    def freeze(self) -> None:
        """Half-open: nothing passes through, and nobody is told. After `mend`, only new connections work."""
        self.is_frozen = True
        for link in self._links:
            link.is_dead = True

    def point_to(self, redis_url: str) -> None:
        """Forward new connections to another server, as when a name gets another address."""
        self._target = parse_url(redis_url)

    def silence(self) -> None:
        """Leave connections open, new ones, too, but pass nothing on until `speak`: a half-open network."""
        self.is_silent = True

    def speak(self) -> None:
        """Pass everything on again, at first what was sent meanwhile."""
        self.is_silent = False
        for link in tuple(self._links):
            link.pass_on_kept()

    def set_trap(self, command: bytes, *, after: bool = False) -> Trap:
        """Hold the first connection that sends this command; see Trap."""
        self.trap = Trap(command, after=after)
        return self.trap

    def release(self) -> None:
        """Take the trap away, and let the connection that it holds go on."""
        self.trap = None
        for link in tuple(self._links):
            link.is_held = False
            link.pass_on_kept()

    # --- for _Link ---

    async def connect(self, side: "_Side") -> None:
        """Connect this side to the server."""
        loop, target = asyncio.get_running_loop(), self._target
        if "path" in target:
            await loop.create_unix_connection(lambda: side, target["path"])
        else:
            await loop.create_connection(lambda: side, target["host"], target["port"])

    def opened(self, link: "_Link") -> None:
        """A client connected."""
        self._links.add(link)

    def closed(self, link: "_Link") -> None:
        """One of the two sides hung up."""
        self._links.discard(link)


class _Link:
    """A client's connection and the server's connection that belongs to it."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._client: _Side | None = None
        self._server: _Side | None = None
        self._early = b""
        self.is_dead = proxy.is_frozen
        """Nothing passes through it any more."""
        self._connecting: asyncio.Task[None] | None = None
        self._kept: deque[tuple[_Side, bytes]] = deque()
        self.is_held = False

    def made(self, side: "_Side") -> None:
        """The client connected, and then the server."""
        if self._client is None:
            self._client = side
            if self._proxy.is_cut:
                self.reset()
                return
            self._proxy.opened(self)
            if self.is_dead:
                return
            self._connecting = asyncio.create_task(self._connect())
        else:
            self._server = side
            side.transport.write(self._early)
            if self._client.transport.is_closing():
                side.transport.close()

    async def _connect(self) -> None:
        try:
            await self._proxy.connect(_Side(self))
        except OSError:  # there is no server
            self.reset()

    def pass_on(self, side: "_Side", data: bytes) -> None:
        """One side sent something."""
        if self.is_dead:
            return
        self._proxy.on_data()
        trap = self._proxy.trap
        if trap is not None and not self.is_held:
            self.is_held = trap.catches(self, data, is_request=side is self._client)
        if self.is_held or self._proxy.is_silent:
            self._kept.append((side, data))
        elif self._proxy.delay_s or self._kept:
            self._kept.append((side, data))
            asyncio.get_running_loop().call_later(self._proxy.delay_s, self._pass_on_one)
        else:
            self._forward(side, data)

    def pass_on_kept(self) -> None:
        """Pass on all that was kept."""
        while self._kept and not self.is_held and not self._proxy.is_silent:
            self._forward(*self._kept.popleft())

    def _pass_on_one(self) -> None:
        if self._kept and not self.is_held and not self._proxy.is_silent:
            self._forward(*self._kept.popleft())

    def _forward(self, side: "_Side", data: bytes) -> None:
        to = self._server if side is self._client else self._client
        if to is None:
            self._early += data
        elif not to.transport.is_closing():
            to.transport.write(data)

    def lost(self) -> None:
        """One side hung up: hang up on the other."""
        self._proxy.closed(self)
        for side in (self._client, self._server):
            if side:
                side.transport.close()

    def reset(self) -> None:
        """Reset the client's connection, and end the server's."""
        self._proxy.closed(self)
        if self._client:
            sock = self._client.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0S)
            self._client.transport.abort()
        if self._server:
            self._server.transport.abort()


class _Side(asyncio.Protocol):
    """One of the two connections of a link."""

    def __init__(self, link: _Link) -> None:
        self._link = link

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is connected."""
        self.transport = cast("asyncio.Transport", transport)
        self._link.made(self)

    def data_received(self, data: bytes) -> None:
        """It sent something."""
        self._link.pass_on(self, data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's signature
        """It is gone."""
        self._link.lost()
