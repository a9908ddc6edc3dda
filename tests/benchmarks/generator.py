"""The load generator: writes prepared POSTs over keep-alive connections and counts what is answered.

Without a rate, each connection sends its next request when it has its answer. With one, requests are released
at that rate and wait for a free connection, so that a slow server cannot slow the load down.
"""

import asyncio
import re
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Final, cast

import uvloop

from httpqueue.clock import monotonic_s, sleep
from tests.benchmarks.control import Command, serve

TICK_S: Final = 0.001

_BLANK_LINE: Final = b"\r\n\r\n"
_CONTENT_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_STATUS: Final = slice(9, 12)  # of b"HTTP/1.1 201 Created"

OnAnswer = Callable[["Connection", bytes], None]


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request on its way."""

    def __init__(self, on_answer: OnAnswer, on_lost: Callable[[], None]) -> None:
        self.index = 0
        """Of the request that is on its way."""
        self._on_answer = on_answer
        self._on_lost = on_lost
        self._received = b""

    def send(self, index: int, request: bytes) -> None:
        """Write a request."""
        self.index = index
        self._transport.write(request)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's signature
        """The server hung up, or the run is over."""
        self._on_lost()

    def data_received(self, data: bytes) -> None:
        """Part of an answer."""
        self._received += data
        end = self._received.find(_BLANK_LINE)
        if end < 0:
            return
        length = _CONTENT_LENGTH.search(self._received, 0, end)
        if len(self._received) < end + len(_BLANK_LINE) + (int(length[1]) if length else 0):
            return
        answer, self._received = self._received, b""
        self._on_answer(self, answer)

    def close(self) -> None:
        """Hang up."""
        self._transport.close()


class Load:
    """One run: requests in their order, and what became of them."""

    def __init__(self, requests: list[bytes]) -> None:
        self.statuses: Counter[str] = Counter()
        self.answers: list[bytes] = [b""] * len(requests)
        self.released = 0
        self.failure: str | None = None
        self._requests = requests
        self._next = 0
        self._answered = 0
        self._idle: deque[Connection] = deque()
        self._connections: list[Connection] = []
        self._done = asyncio.Event()

    async def connect(self, port: int, connections: int) -> None:
        """Open the connections."""
        loop = asyncio.get_running_loop()
        for _ in range(connections):
            _, connection = await loop.create_connection(
                lambda: Connection(self._answer, self._lost), "127.0.0.1", port
            )
            self._connections.append(connection)
        self._idle.extend(self._connections)

    async def run(self, rate: float | None) -> float:
        """Send everything; returns the seconds from the first request to the last answer."""
        started_s = monotonic_s()
        while self.released < len(self._requests):
            due = len(self._requests) if rate is None else int((monotonic_s() - started_s) * rate) + 1
            self.released = min(due, len(self._requests))
            self._send()
            await sleep(TICK_S)
        await self._done.wait()
        seconds = monotonic_s() - started_s
        for connection in self._connections:
            connection.close()
        return seconds

    def _send(self) -> None:
        while self._idle and self._next < self.released:
            self._idle.popleft().send(self._next, self._requests[self._next])
            self._next += 1

    def _answer(self, connection: Connection, answer: bytes) -> None:
        self.statuses[answer[_STATUS].decode()] += 1
        self.answers[connection.index] = answer
        self._answered += 1
        if self._answered == len(self._requests):
            self._done.set()
        self._idle.append(connection)
        self._send()

    def _lost(self) -> None:
        if not self._done.is_set():
            self.failure = f"a connection was closed after {self._answered} answers"
            self._done.set()


def prepare(command: Command) -> list[bytes]:
    """`count` requests to `path`: item, # replaced by its index; or `batch` of them in a list."""
    item, batch, count = command["item"].encode(), command["batch"], command["count"]
    requests = []
    for number in range(count):
        body = item.replace(b"#", b"%d" % number)
        if batch:
            items = (item.replace(b"#", b"%d" % (number * batch + index)) for index in range(batch))
            body = b'{"timers":[%s]}' % b",".join(items)
        head = (
            f"POST {command['path']} HTTP/1.1\r\nhost: 127.0.0.1:{command['port']}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        requests.append(head.encode() + body)
    return requests


async def handle(command: Command) -> Any:
    """One run -> its seconds, statuses and the answers' bodies (if asked for)."""
    load = Load(prepare(command))
    await load.connect(command["port"], command["connections"])
    seconds = await load.run(command["rate"])
    bodies = [answer.partition(_BLANK_LINE)[2].decode() for answer in load.answers]
    return {
        "seconds": seconds,
        "statuses": load.statuses,
        "failure": load.failure,
        "bodies": bodies if command["bodies"] else bodies[:1],
    }


if __name__ == "__main__":
    uvloop.run(serve(handle))
