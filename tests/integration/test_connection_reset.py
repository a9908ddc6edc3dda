"""Connections to Redis that are reset under load, on uvloop as in production."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
import uvloop
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection

from httpqueue.errors import UnavailableError
from httpqueue.storage.connection import connect, redis_errors
from httpqueue.storage.embedded import EmbeddedValkey
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
