"""Helpers for the tests of our own HTTP/1.1 client."""

import asyncio
import socket
import ssl
from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from typing import Final

from httpqueue.webhooks.client.http1.dial import Connect, Dialer, connect_tcp
from httpqueue.webhooks.client.http1.resolve import Resolver
from httpqueue.webhooks.client.http1.sender import Http1Sender
from httpqueue.webhooks.client.sender import Sender
from httpqueue.webhooks.egress import IPAddress
from httpqueue.webhooks.message import Request, Response, SendError
from tests.support.receiver import Handler, Received, Writer

PLAIN: Final = Dialer(tls=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
"""Without certificates, whose reading takes long."""
LOOPBACK: Final = ip_address("127.0.0.1")
TIMEOUT_S: Final = 30.0
NEVER_S: Final = 3_600.0


class Now:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.s = 1_000.0

    def __call__(self) -> float:  # noqa: D102 - the class says it
        return self.s


class Taken:
    """How many bytes of answers the client has read: with it, a receiver knows that a write arrived alone."""

    def __init__(self) -> None:
        self.count = 0
        self._change = asyncio.Event()

    def add(self, count: int) -> None:
        """So many more."""
        self.count += count
        self._change.set()

    async def wait_for(self, count: int) -> None:
        """Until there are so many."""
        while self.count < count:
            self._change.clear()
            await self._change.wait()


class Results:
    """What calls in callback form became, in the order in which they ended."""

    def __init__(self) -> None:
        self.ended: list[Response | SendError] = []
        self._change = asyncio.Event()

    def add(self, result: Response | SendError) -> None:
        """The on_done of a call."""
        self.ended.append(result)
        self._change.set()

    async def wait_for(self, count: int) -> list[Response | SendError]:
        """The results, as soon as there are so many."""
        async with asyncio.timeout(TIMEOUT_S):
            while len(self.ended) < count:
                self._change.clear()
                await self._change.wait()
        return self.ended


def in_parts(parts: Iterable[bytes], taken: Taken, *, close: bool) -> Handler:
    """Write a part as soon as the client has read the one before; then hang up, or leave the line open."""

    async def handler(_request: Received, writer: Writer) -> None:
        count = taken.count
        for part in parts:
            writer.write(part)
            count += len(part)
            await taken.wait_for(count)
        if close:
            writer.close()

    return handler


def endless(beginning: bytes, part: bytes) -> Handler:
    """Never stop writing."""

    async def handler(_request: Received, writer: Writer) -> None:
        writer.write(beginning)
        while True:
            writer.write(part)
            await writer.drain()

    return handler


def resolver(*addresses: str) -> Resolver:
    """Every host has these addresses."""

    async def resolve(_host: str) -> Sequence[IPAddress]:
        return [ip_address(address) for address in addresses]

    return resolve


def call(url: str, method: str = "POST", body: bytes = b"hello") -> Request:
    """A request without headers."""
    return Request(method, url, (), body)


class Network:
    """Some addresses lead to the loopback, some refuse, all others are silent."""

    def __init__(self, *, open_to: Sequence[str] = (), refuse: Sequence[str] = ()) -> None:
        self.tried: list[str] = []
        self.given_up: list[str] = []
        self.open_to = open_to
        self._refuse = refuse

    async def connect(self, address: IPAddress, port: int) -> socket.socket:
        """See Connect."""
        self.tried.append(str(address))
        if str(address) in self._refuse:
            raise ConnectionRefusedError(111, "to 192.0.2.1")
        if str(address) in self.open_to:
            return await connect_tcp(LOOPBACK, port)
        try:
            await asyncio.Event().wait()
        finally:
            self.given_up.append(str(address))
        raise AssertionError


def sender_for(
    network: Network, addresses: Sequence[str], *, stagger_s: float = NEVER_S, tls: ssl.SSLContext = PLAIN.tls
) -> Http1Sender:
    """A sender in that network, for which every host has these addresses."""
    connect: Connect = network.connect
    return Http1Sender(Dialer(resolve=resolver(*addresses), connect=connect, stagger_s=stagger_s, tls=tls))


async def outcome(
    sender: Sender, request: Request | str, *, timeout_s: float = TIMEOUT_S
) -> Response | SendError:
    """What becomes of a call."""
    try:
        return await sender.send(call(request) if isinstance(request, str) else request, timeout_s=timeout_s)
    except SendError as error:
        return error


async def fault(sender: Sender, request: Request | str, *, timeout_s: float = TIMEOUT_S) -> SendError:
    """The error of a call that has to fail."""
    result = await outcome(sender, request, timeout_s=timeout_s)
    assert isinstance(result, SendError)
    return result
