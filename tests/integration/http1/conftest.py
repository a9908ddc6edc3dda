"""The tests of our own HTTP/1.1 client run on both event loops; they need no Valkey."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import uvloop

from httpqueue.webhooks.client.http1.connection import Connection
from httpqueue.webhooks.client.http1.sender import Http1Sender
from tests.support.http1 import PLAIN, Taken
from tests.support.receiver import Receiver


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Both loops: uvloop is what runs in production."""
    del config, item
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
async def sender() -> AsyncIterator[Http1Sender]:
    """A sender that needs no certificates."""
    sender = Http1Sender(PLAIN)
    yield sender
    await sender.close()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A receiver that answers 200."""
    async with Receiver() as receiver:
        yield receiver


@pytest.fixture
async def taken(monkeypatch: pytest.MonkeyPatch) -> Taken:
    """What the client's connections have read."""
    taken = Taken()
    read = Connection.data_received

    def data_received(connection: Connection, data: bytes) -> None:
        read(connection, data)
        taken.add(len(data))

    monkeypatch.setattr(Connection, "data_received", data_received)
    return taken
