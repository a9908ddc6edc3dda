"""Connections to Redis that are reset under load, on uvloop as in production."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
import uvloop
from redis._parsers.hiredis import _AsyncHiredisParser
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from httpqueue.errors import UnavailableError
from httpqueue.storage.connection import connect, redis_errors
from httpqueue.storage.embedded import EmbeddedValkey
from httpqueue.storage.prompt import PromptTcp, PromptUnix
from httpqueue.storage.queue import open_queue
from tests.support.keys import PARTITIONS
from tests.support.proxy import Proxy

CALLERS = 20
RESETS = 300
CHANCE = 0.01
"""That a piece of data resets all connections instead of passing through."""
BIG = b"x" * 300_000
"""More than the socket's buffer takes at once."""


async def small(client: Redis) -> None:
    """A command and its answer."""
    await client.get("small")


async def big(client: Redis) -> None:
    """A write that is paused in the middle, and an answer in many pieces."""
    await client.set("big", BIG)
    await client.get("big")


async def many(client: Redis) -> None:
    """A transaction."""
    pipeline = client.pipeline(transaction=True)
    for number in range(10):
        pipeline.set(f"{{0}}key{number}", number)
    await pipeline.execute()


async def hammer(redis_url: str, call: Callable[[Redis], Awaitable[None]]) -> None:
    """Call until there were enough resets, then once more from each caller without any."""
    dice = random.Random(8)
    async with (
        Proxy(redis_url) as proxy,
        asyncio.timeout(60),
        open_queue(proxy.url, partitions=PARTITIONS) as queue,
        connect(proxy.url, Redis) as client,
    ):

        def maybe_reset() -> None:
            if dice.random() < CHANCE:
                proxy.reset()

        async def caller() -> None:
            while proxy.resets < RESETS:
                with suppress(UnavailableError), redis_errors():
                    await call(client)

        async def listener() -> None:
            while proxy.resets < RESETS:
                with suppress(UnavailableError):
                    await queue.listen(lambda _: None)

        proxy.on_data = maybe_reset
        async with asyncio.TaskGroup() as tasks:
            listening = tasks.create_task(listener())
            async with asyncio.TaskGroup() as callers:
                for _ in range(CALLERS):
                    callers.create_task(caller())
            listening.cancel()
        proxy.on_data = lambda: None
        await asyncio.gather(*(call(client) for _ in range(CALLERS)))


@pytest.mark.parametrize("call", [small, big, many])
def test_a_reset_connection_is_an_outage(
    valkey_server: EmbeddedValkey, call: Callable[[Redis], Awaitable[None]]
) -> None:
    """Every call that a reset hits raises UnavailableError, and the pool keeps no broken connection."""
    uvloop.run(hammer(valkey_server.url, call))


@pytest.fixture
async def client(valkey_server: EmbeddedValkey) -> AsyncIterator[Redis]:
    """A client whose pool holds one open connection."""
    async with connect(valkey_server.url, Redis) as client:
        await client.ping()
        yield client


def break_once(
    monkeypatch: pytest.MonkeyPatch, client: Redis, stream: str, method: str, *, after: int = 0
) -> AbstractConnection:
    """After so many calls, let a method of the connection's stream raise what a closed transport raises."""
    [connection] = client.connection_pool._available_connections
    target = getattr(connection, stream)
    works, calls = getattr(target, method), iter(range(after))

    def broken(*args: Any) -> Any:
        if next(calls, None) is None:
            raise RuntimeError("unable to perform operation on <TCPTransport>; the handler is closed")
        return works(*args)

    monkeypatch.setattr(target, method, broken)
    return connection


@pytest.mark.parametrize(
    ("stream", "method", "after"), [("_writer", "writelines", 0), ("_reader", "read", 1)]
)
async def test_a_closed_transport_is_an_outage(
    monkeypatch: pytest.MonkeyPatch, client: Redis, stream: str, method: str, after: int
) -> None:
    """Writing and reading alike; the connection is dropped, and the next call works."""
    connection = break_once(monkeypatch, client, stream, method, after=after)
    with pytest.raises(UnavailableError, match="the handler is closed"), redis_errors():
        await client.ping()
    assert not connection.is_connected
    assert await client.ping()


async def test_a_closed_transport_in_the_pool_is_replaced(
    monkeypatch: pytest.MonkeyPatch, client: Redis
) -> None:
    """The pool looks whether a connection is alive before it lends it."""
    break_once(monkeypatch, client, "_reader", "read")
    assert await client.ping()


async def test_a_connection_that_fails_half_open_is_closed(
    monkeypatch: pytest.MonkeyPatch, client: Redis
) -> None:
    """The next call connects again."""
    [connection] = client.connection_pool._available_connections
    await connection.disconnect()
    open_connection = connection._connect

    async def fails_late() -> None:
        await open_connection()  # type: ignore[no-untyped-call] # redis-py
        raise OSError("no such option")

    with monkeypatch.context() as patch:
        patch.setattr(connection, "_connect", fails_late)
        with pytest.raises(UnavailableError, match="no such option"), redis_errors():
            await client.ping()
    assert not connection.is_connected
    assert await client.ping()


async def test_whoever_waits_for_a_connect_fails_with_it(
    monkeypatch: pytest.MonkeyPatch, client: Redis
) -> None:
    """A server that is away costs one timeout, not one for each caller."""
    [connection] = client.connection_pool._available_connections
    await connection.disconnect()
    connects, release = 0, asyncio.Event()

    async def never(_: AbstractConnection) -> None:
        nonlocal connects
        connects += 1
        await release.wait()
        raise OSError("no route")

    monkeypatch.setattr(PromptUnix, "_connect", never)
    monkeypatch.setattr(PromptTcp, "_connect", never)

    async def call() -> None:
        with redis_errors():
            await client.ping()

    calls = [asyncio.create_task(call()) for _ in range(CALLERS)]
    while not connects:
        await asyncio.wait(calls, timeout=0)
    release.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert connects == 1
    assert all(isinstance(each, UnavailableError) for each in results)


async def test_one_timeout_drops_all_silent_connections(valkey_server: EmbeddedValkey) -> None:
    """Also those of another client of the server. One that answers meanwhile stays."""
    async with (
        asyncio.timeout(30),
        connect(valkey_server.url, Redis) as one,
        connect(valkey_server.url, Redis) as other,
    ):
        await asyncio.gather(*(client.ping() for client in (one, other) for _ in range(5)))
        [asking, *idle] = [
            *one.connection_pool._available_connections,
            *other.connection_pool._available_connections,
        ]
        asking.socket_timeout = 0.1
        await asking.send_command("XREAD", "BLOCK", "0", "STREAMS", "{0}nothing", "$")
        alive = idle.pop()
        await alive.send_command("PING")
        await alive.read_response()
        assert alive.is_connected
        with pytest.raises(RedisTimeoutError):
            await asking.read_response()
        assert not any(connection.is_connected for connection in (asking, *idle))
        assert alive.is_connected
        assert await one.ping()
        assert await other.ping()


@pytest.mark.parametrize("code", ["READONLY", "LOADING", "MASTERDOWN", "ERR Error running script: -READONLY"])
async def test_a_server_that_cannot_serve_loses_all_connections(
    monkeypatch: pytest.MonkeyPatch, client: Redis, code: str
) -> None:
    """Defect 5: the next call resolves the server's address anew."""
    await asyncio.gather(*(client.ping() for _ in range(3)))
    connections = list(client.connection_pool._available_connections)
    with monkeypatch.context() as patch:

        async def refused(_: object, **__: object) -> Any:
            error = _AsyncHiredisParser.parse_error(f"{code} now")  # type: ignore[no-untyped-call] # redis-py
            if isinstance(error, RedisConnectionError):  # as the parser does
                raise error
            return error

        patch.setattr(_AsyncHiredisParser, "read_response", refused)
        with pytest.raises(UnavailableError, match="cannot serve"), redis_errors():
            await client.ping()
    assert not any(connection.is_connected for connection in connections)
    assert await client.ping()
