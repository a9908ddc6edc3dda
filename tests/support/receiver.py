"""A real HTTP/1.1 server in the test's event loop: what webhooks are sent to.

    async with Receiver() as receiver:
        receiver.answer(Reply(503), Reply(503), Reply(200), path="/flaky")
        ...  # something calls f"{receiver.url}/flaky"
        first, second, third = await receiver.wait_for(3)

Misbehaviour is a handler: `async def handler(request, writer)`. It is cancelled when the client hangs up.
"""

import asyncio
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self, cast

import httptools

from httpqueue.clock import now_ms, sleep


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it came off the wire; header names keep the client's spelling."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    arrived_ms: int
    """When its first bytes came, by httpqueue.clock."""

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    @property
    def run(self) -> str:
        """Whose run it is, by its webhook-id: application:id:generation, without the nonce."""
        name, _, generation = (self.header("webhook-id") or "").rpartition(":")
        return f"{name.rpartition(':')[0]}:{generation}"

    def header(self, name: str) -> str | None:
        """The header's value, whatever its case; several are joined by a comma."""
        values = [value for key, value in self.headers if key.lower() == name.lower()]
        return ", ".join(values) if values else None


@dataclass(frozen=True, slots=True)
class Reply:
    """A well-behaved answer; content-length is added."""

    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()

    def encode(self) -> bytes:
        """The answer's bytes."""
        lines = [f"HTTP/1.1 {self.status} Status", f"content-length: {len(self.body)}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + self.body


class Writer(asyncio.Protocol):
    """One connection: parses requests, hands each to the receiver's answer, writes what that says."""

    def __init__(self, receiver: "Receiver") -> None:
        self._receiver = receiver
        self._parser = httptools.HttpRequestParser(self)
        self._handler: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    def write(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._transport.write(data)

    async def drain(self) -> None:
        """Wait until the client has taken most of what was written."""
        await self._writable.wait()

    def close(self) -> None:
        """Hang up once everything written is sent."""
        self._transport.close()

    def reset(self) -> None:
        """Hang up with a TCP reset."""
        linger_0s = struct.pack("ii", 1, 0)
        self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_0s)
        self._transport.abort()

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        self._transport = cast("asyncio.Transport", transport)
        self._receiver.connected(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's signature
        """The client, or this side, hung up: a running handler has nobody left to answer."""
        if self._handler is not None:
            self._handler.cancel()
        self._receiver.disconnected(self)

    def pause_writing(self) -> None:
        """The client reads too slowly."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """The client caught up."""
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        """Part of a request, or of several."""
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.write(Reply(400).encode())
            self.close()

    # --- httptools ---

    def on_message_begin(self) -> None:
        """The first bytes of a request."""
        self._arrived_ms = now_ms()
        self._target = b""
        self._headers: list[tuple[str, str]] = []
        self._body = b""

    def on_url(self, url: bytes) -> None:
        """Part of the target."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A whole header."""
        self._headers.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_body(self, body: bytes) -> None:
        """Part of the body."""
        self._body += body

    def on_message_complete(self) -> None:
        """The request is whole: answer it."""
        method, target = self._parser.get_method().decode(), self._target.decode("latin-1")
        request = Received(method, target, self._headers, self._body, self._arrived_ms)
        answer = self._receiver.received(request)
        if isinstance(answer, Reply):
            self.write(answer.encode())
        else:
            self._handler = asyncio.ensure_future(answer(request, self))


Handler = Callable[[Received, Writer], Awaitable[None]]
Answer = Reply | Handler


class Receiver:
    """Listens on a free loopback port; requests stand in the order in which they came."""

    def __init__(self, *, tls: ssl.SSLContext | None = None, address: str = "127.0.0.1") -> None:
        """address: another one of the loopback is another host."""
        self._address = address
        self.requests: list[Received] = []
        self.connections = 0
        """How many were ever accepted."""
        self._tls = tls
        self._script: dict[str | None, list[Answer]] = {None: [Reply()]}
        self._open: set[Writer] = set()
        self._change = asyncio.Event()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Writer(self), self._address, 0, ssl=self._tls, backlog=4096
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for writer in tuple(self._open):
            writer.reset()
        await self.wait_for_disconnect()

    @property
    def port(self) -> int:
        """The port it listens on."""
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def url(self) -> str:
        """Scheme, host and port, without a slash at the end."""
        return f"{'https' if self._tls else 'http'}://{self._address}:{self.port}"

    def answer(self, *answers: Answer, path: str | None = None) -> None:
        """Answer requests to that path (None: to every other one) with these in turn, the last for ever."""
        self._script[path] = list(answers)

    async def wait_for(
        self, count: int, *, path: str | None = None, timeout_s: float = 30.0
    ) -> list[Received]:
        """The requests (to that path) as soon as there are count of them; TimeoutError says how many came."""

        def arrived() -> list[Received]:
            return [request for request in self.requests if path in (None, request.path)]

        try:
            await self._wait_until(lambda: len(self.requests) >= count and len(arrived()) >= count, timeout_s)
        except TimeoutError:
            raise TimeoutError(f"{len(arrived())} of {count} requests came in {timeout_s} s") from None
        return arrived()

    async def wait_for_disconnect(self, *, timeout_s: float = 30.0) -> None:
        """Until no connection is open."""
        await self._wait_until(lambda: not self._open, timeout_s)

    async def _wait_until(self, condition: Callable[[], bool], timeout_s: float) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition():
                self._change.clear()
                await self._change.wait()

    # --- for Writer ---

    def connected(self, writer: Writer) -> None:
        """A connection is open."""
        self.connections += 1
        self._open.add(writer)

    def disconnected(self, writer: Writer) -> None:
        """A connection is gone."""
        self._open.discard(writer)
        self._change.set()

    def received(self, request: Received) -> Answer:
        """Note a request and say what to do with it."""
        self.requests.append(request)
        self._change.set()
        answers = self._script.get(request.path) or self._script[None]
        return answers.pop(0) if len(answers) > 1 else answers[0]


async def hang(_request: Received, _writer: Writer) -> None:
    """Never answer."""
    await asyncio.Event().wait()


async def reset(_request: Received, writer: Writer) -> None:
    """Answer with a TCP reset."""
    writer.reset()


def raw(data: bytes) -> Handler:
    """Write these bytes, then hang up."""

    async def handler(_request: Received, writer: Writer) -> None:
        writer.write(data)
        writer.close()

    return handler


def reply_when(event: asyncio.Event, reply: Reply) -> Handler:
    """Reply as soon as the event is set."""

    async def handler(_request: Received, writer: Writer) -> None:
        await event.wait()
        writer.write(reply.encode())

    return handler


def drip(interval_s: float) -> Handler:
    """Answer 200 with a body of 1 GB, a byte an interval."""

    async def handler(_request: Received, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n")
        while True:
            writer.write(b".")
            await sleep(interval_s)

    return handler
