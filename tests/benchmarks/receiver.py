"""The receiver: takes webhooks as cheaply as Python can, and notes which one came when.

It parses no more of HTTP/1.1 than keeps a connection in step: the target, Content-Length, the blank line.
Webhooks carry their index as the last segment of their path: /w/17.
"""

import asyncio
import re
import ssl
from collections.abc import Callable
from typing import Any, Final, cast

import uvloop

from httpqueue.clock import now_ms
from httpqueue.run.limits import allow_many_connections
from tests.benchmarks.control import Command, serve

ANSWER: Final = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
BACKLOG: Final = 8_192

_BLANK_LINE: Final = b"\r\n\r\n"
_CONTENT_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Arrivals:
    """What came, in its order."""

    def __init__(self) -> None:
        self.targets: list[bytes] = []
        self.times_ms: list[int] = []
        self.delay_s = 0.0
        self._wanted: tuple[int, asyncio.Event] = 0, asyncio.Event()

    def note(self, target: bytes) -> None:
        """A request is complete."""
        self.targets.append(target)
        self.times_ms.append(now_ms())
        wanted, event = self._wanted
        if len(self.targets) == wanted:
            event.set()

    async def wait_for(self, count: int, timeout_s: float) -> None:
        """Until so many came in all, or the time is over."""
        if len(self.targets) >= count:
            return
        self._wanted = count, asyncio.Event()
        try:
            async with asyncio.timeout(timeout_s):
                await self._wanted[1].wait()
        except TimeoutError:
            pass  # the caller sees how many there are


class Connection(asyncio.Protocol):
    """One keep-alive connection; each request is answered 200."""

    def __init__(self, arrivals: Arrivals, call_later: Callable[..., Any]) -> None:
        self._arrivals = arrivals
        self._call_later = call_later
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Part of a request, or of several."""
        if self._rest:
            data = self._rest + data
        start = 0
        while (end := data.find(_BLANK_LINE, start)) >= 0:
            length = _CONTENT_LENGTH.search(data, start, end)
            after = end + len(_BLANK_LINE) + (int(length[1]) if length else 0)
            if after > len(data):
                break
            self._arrivals.note(data[start : data.find(b" HTTP/", start, end)])
            if self._arrivals.delay_s:
                self._call_later(self._arrivals.delay_s, self._answer)
            else:
                self._answer()
            start = after
        self._rest = data[start:]

    def _answer(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(ANSWER)


def _tls(certificate: str | None) -> ssl.SSLContext | None:
    if certificate is None:
        return None
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    return tls


async def main() -> None:
    """Serve `listen` (-> a port a host), `wait` (-> how many came), `arrivals` (-> indexes, times ms)."""
    allow_many_connections()
    arrivals = Arrivals()
    loop = asyncio.get_running_loop()
    listening: list[asyncio.Server] = []

    async def listen(host: str, certificate: str | None) -> int:
        server = await loop.create_server(
            lambda: Connection(arrivals, loop.call_later), host, 0, backlog=BACKLOG, ssl=_tls(certificate)
        )
        listening.append(server)
        port: int = server.sockets[0].getsockname()[1]
        return port

    async def handle(command: Command) -> Any:
        match command["do"]:
            case "listen":
                arrivals.delay_s = command["delay_s"]
                return [await listen(host, command["certificate"]) for host in command["hosts"]]
            case "wait":
                await arrivals.wait_for(command["count"], command["timeout_s"])
                return len(arrivals.targets)
            case _:
                indexes = [int(target.rpartition(b"/")[2]) for target in arrivals.targets]
                return indexes, arrivals.times_ms

    await serve(handle)


if __name__ == "__main__":
    uvloop.run(main())
