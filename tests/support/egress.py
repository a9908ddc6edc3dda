"""The rules of tests, whose receivers are on the loopback; and networks and proxies that judge."""

import asyncio
import ssl
from ipaddress import ip_address
from typing import Any, Final, Self
from urllib.parse import urlsplit

import httpcore

from httpqueue.webhooks.egress import Egress, EgressMode
from tests.support.http1 import LOOPBACK, Network

PRIVATE: Final = Egress(EgressMode.PRIVATE)
PUBLIC: Final = Egress(EgressMode.PUBLIC)


class HttpcoreNetwork(httpcore.AsyncNetworkBackend):
    """A Network as httpx sees it."""

    def __init__(self, network: Network) -> None:
        self._network = network

    async def connect_tcp(
        self, host: str, port: int, *args: Any, **options: Any
    ) -> httpcore.AsyncNetworkStream:
        """See httpcore; a host that is no address fails the test."""
        try:
            (await self._network.connect(ip_address(host), port)).close()
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
        return await httpcore.AnyIOBackend().connect_tcp(str(LOOPBACK), port, *args, **options)


class HttpProxy:
    """An HTTP proxy on the loopback: it knows where all hosts are, namely there, or it forbids everything."""

    def __init__(self, *, forbids: bool = False, tls: ssl.SSLContext | None = None) -> None:
        self.heads: list[str] = []
        """The heads of the requests that came to it."""
        self._forbids = forbids
        self._tls = tls
        self._links: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.url = f"{'https' if self._tls else 'http'}://me:secret@127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for link in self._links:
            link.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head.decode())
        method, target, _ = head.decode().split(" ", 2)
        url = urlsplit(f"//{target}" if method == "CONNECT" else target)
        if self._forbids:
            writer.write(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            writer.close()
            return
        there, to = await asyncio.open_connection("127.0.0.1", url.port)
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
        else:
            to.write(head.replace(target.encode(), url.path.encode() or b"/", 1))
        for source, sink in ((reader, to), (there, writer)):
            task = asyncio.create_task(_pipe(source, sink))
            self._links.add(task)


async def _pipe(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(65_536):
            sink.write(data)
    finally:
        sink.close()
