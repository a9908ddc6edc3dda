"""Makes connections: resolve the host, let a judge see its addresses, connect to one of them, do TLS.

The name is resolved once. So a name server cannot get around the judge with another answer later.
"""

import asyncio
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Address
from itertools import chain, zip_longest
from typing import Final, TypeVar

from httpqueue.webhooks.client.http1.origin import Origin
from httpqueue.webhooks.client.http1.resolve import CachedResolver, Resolver, SystemResolver
from httpqueue.webhooks.client.http1.tls import client_context
from httpqueue.webhooks.egress import IPAddress, literal_of
from httpqueue.webhooks.message import Fault, SendError

Judge = Callable[[str, Sequence[IPAddress]], None]
"""Takes a host and its addresses. Raises SendError when the host must not be called."""
Connect = Callable[[IPAddress, int], Awaitable[socket.socket]]
"""Takes an address and a port, gives a connected non-blocking socket. Raises OSError."""

ConnectionT = TypeVar("ConnectionT")

STAGGER_S: Final = 0.25
"""How long to try one address before trying the next one as well (RFC 8305 section 5)."""
_HANDSHAKE_TIMEOUT_S: Final = 86_400.0  # in effect never: the call's deadline comes first
_SHUTDOWN_TIMEOUT_S: Final = 1.0
_MAX_MESSAGE: Final = 199


def allow_all(host: str, addresses: Sequence[IPAddress]) -> None:
    """A judge that refuses nothing."""


async def connect_tcp(address: IPAddress, port: int) -> socket.socket:
    """Connect to this address. Raises OSError."""
    family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(connection, (str(address), port))
    except BaseException:
        connection.close()
        raise
    return connection


@dataclass(frozen=True, slots=True)
class Dialer:
    """Makes connections. Each of its parts can be replaced."""

    resolve: Resolver = field(default_factory=lambda: CachedResolver(SystemResolver()))
    judge: Judge = allow_all
    connect: Connect = connect_tcp
    stagger_s: float = STAGGER_S
    tls: ssl.SSLContext = field(default_factory=client_context)

    async def dial(self, origin: Origin, protocol: asyncio.Protocol) -> None:
        """Connect the protocol to the origin, ready for a request. Has no timeout. Raises SendError."""
        try:
            addresses = await self.addresses(origin.host)
            connection = await first_to_connect(
                addresses,
                lambda address: self.connect(address, origin.port),
                stagger_s=self.stagger_s,
                discard=socket.socket.close,
            )
            await self._attach(connection, origin, protocol)
        except (OSError, UnicodeError) as error:
            raise _translate(error) from None

    async def addresses(self, host: str) -> list[IPAddress]:
        """The host's addresses, all of which may be called, in the order in which to try them.

        Raises SendError when the host must not be called; socket.gaierror and UnicodeError.
        """
        literal = literal_of(host)
        addresses = await self.resolve(host) if literal is None else (literal,)
        self.judge(host, addresses)
        return in_turn(addresses)

    async def _attach(self, connection: socket.socket, origin: Origin, protocol: asyncio.Protocol) -> None:
        """Hand the socket to the event loop, which closes it even if this fails."""
        loop = asyncio.get_running_loop()
        if origin.scheme == "http":
            await loop.create_connection(lambda: protocol, sock=connection)
            return
        await loop.create_connection(
            lambda: protocol,
            sock=connection,
            ssl=self.tls,
            server_hostname=origin.host,
            ssl_handshake_timeout=_HANDSHAKE_TIMEOUT_S,
            ssl_shutdown_timeout=_SHUTDOWN_TIMEOUT_S,
        )


async def first_to_connect(
    addresses: Sequence[IPAddress],
    connect: Callable[[IPAddress], Awaitable[ConnectionT]],
    *,
    stagger_s: float,
    discard: Callable[[ConnectionT], None],
) -> ConnectionT:
    """Happy eyeballs (RFC 8305): try another address every stagger_s, or at once when one fails.

    discard closes a connection that came too late. Raises the error of the first attempt that failed.
    """
    if len(addresses) == 1:
        return await connect(addresses[0])
    attempts: set[asyncio.Future[ConnectionT]] = set()
    errors: list[BaseException] = []
    try:
        for address in addresses:
            attempts.add(asyncio.ensure_future(connect(address)))
            winner = await _first(attempts, errors, stagger_s)
            if winner is not None:
                return winner
        while attempts:
            winner = await _first(attempts, errors, None)
            if winner is not None:
                return winner
        raise errors[0]
    finally:
        for attempt in attempts:
            attempt.cancel()
            attempt.add_done_callback(partial(_discard, discard))


async def _first(
    attempts: set[asyncio.Future[ConnectionT]], errors: list[BaseException], timeout_s: float | None
) -> ConnectionT | None:
    """Wait for the first attempt to end. Returns its connection; else None, and errors may grow."""
    done, _ = await asyncio.wait(attempts, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    for attempt in done:
        attempts.discard(attempt)
        error = attempt.exception()
        if error is None:
            return attempt.result()
        errors.append(error)
    return None


def _discard(discard: Callable[[ConnectionT], None], attempt: asyncio.Future[ConnectionT]) -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        discard(attempt.result())


def in_turn(addresses: Sequence[IPAddress]) -> list[IPAddress]:
    """Alternate IPv6 and IPv4 addresses, beginning with the best address (RFC 8305 section 4)."""
    best = [address for address in addresses if address.version == addresses[0].version]
    others = [address for address in addresses if address.version != addresses[0].version]
    return [address for address in chain.from_iterable(zip_longest(best, others)) if address is not None]


def _translate(error: OSError | UnicodeError) -> SendError:
    if isinstance(error, UnicodeError):  # such as a label of more than 63 characters
        return SendError(Fault.INVALID_REQUEST, "the URL's host is no valid name")
    if isinstance(error, socket.gaierror):
        return SendError(Fault.DNS, f"dns error: {error.strerror}"[:_MAX_MESSAGE])
    if isinstance(error, ssl.SSLCertVerificationError):
        return SendError(Fault.TLS, f"invalid certificate: {error.verify_message}"[:_MAX_MESSAGE])
    if isinstance(error, ssl.SSLError):
        return SendError(Fault.CONNECTION, f"no TLS connection: {error.reason}"[:_MAX_MESSAGE])
    return SendError(Fault.CONNECTION, f"no connection: {reason_of(error)}")


def reason_of(error: BaseException) -> str:
    """The error as the system names it, without the addresses that Python adds to the text."""
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    if isinstance(error, ConnectionError):  # raised by an event loop, without errno
        return "the receiver closed the connection"
    return type(error).__name__
