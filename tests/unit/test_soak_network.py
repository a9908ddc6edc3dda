"""The soak's ways between processes and servers break as they should. The server is an echo."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import cast

import pytest

from tests.soak.network import Way

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def a_way() -> AsyncIterator[tuple[Way, list[bytes]]]:
    """A way to an echo, and all that the echo has heard."""
    heard: list[bytes] = []

    class Echo(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = cast("asyncio.Transport", transport)
            opened.append(self.transport)

        def data_received(self, data: bytes) -> None:
            heard.append(data)
            self.transport.write(data)

    opened: list[asyncio.Transport] = []
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with asyncio.timeout(10), Way(f"redis://127.0.0.1:{port}") as way:
        yield way, heard
        server.close()
        for transport in opened:
            transport.abort()
    await asyncio.sleep(0)  # noqa: TID251 - what was aborted is closed now


@asynccontextmanager
async def connected(way: Way) -> AsyncIterator[Streams]:
    """A connection that has echoed once, unless the way is half open."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(way.url.rpartition(":")[2]))
    try:
        if not way.is_half_open:
            await says((reader, writer), b"hello")
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def says(streams: Streams, data: bytes) -> None:
    """It comes back."""
    reader, writer = streams
    writer.write(data)
    assert await reader.readexactly(len(data)) == data


async def test_a_lost_reply_was_asked() -> None:
    """The server has heard it; the client sees a reset. The next connection works."""
    async with a_way() as (way, heard), connected(way) as (reader, writer):
        way.drops_reply = True
        writer.write(b"once")
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        assert heard == [b"hello", b"once"]
        async with connected(way):
            pass


async def test_a_half_open_connection_stays_silent_for_good() -> None:
    """New ones too, until it is mended; then new ones work, and the old ones still do not."""
    async with a_way() as (way, heard), connected(way) as old:
        way.half_open()
        async with connected(way) as silent:
            for _, writer in (old, silent):
                writer.write(b"lost")
                await writer.drain()
            way.mend()
            async with connected(way):
                pass
            old[1].write(b"lost")
            assert not old[0].at_eof()
            assert heard == [b"hello", b"hello"]


async def test_slow_data_keeps_its_order() -> None:
    """Also when the way gets fast again while some of it is on its way."""
    async with a_way() as (way, _), connected(way) as (reader, writer):
        way.latency_s = 0.05
        numbers = count()
        sent = b"".join(b"%04d" % next(numbers) for _ in range(50))
        for start in range(0, len(sent), 4):
            writer.write(sent[start : start + 4])
            await asyncio.sleep(0)  # noqa: TID251 - lets the proxy see pieces
            if start == len(sent) // 2:
                way.latency_s = 0.0
        assert await reader.readexactly(len(sent)) == sent


async def test_a_cut_way_resets_and_refuses() -> None:
    """Until it is mended."""
    async with a_way() as (way, _), connected(way) as (reader, _):
        way.cut()
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            async with connected(way):
                pass
        way.mend()
        async with connected(way):
            pass


async def test_a_server_that_is_away_hangs_up() -> None:
    """And does not leave them waiting."""
    async with a_way() as (way, _):
        async with Way("redis://127.0.0.1:1") as nowhere:
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                async with connected(nowhere):
                    pass
        async with connected(way):
            pass
