"""How often Redis is asked and waited for."""

from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection


class RoundTrips:
    """Counts what a client writes to Redis in one go, and then waits for; without greetings."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, client: Redis) -> None:
        self.count = 0
        connection_class: type[AbstractConnection] = client.connection_pool.connection_class
        send = connection_class.send_packed_command

        async def counted(connection: AbstractConnection, command: Any, *args: Any, **kwargs: Any) -> None:
            text = command if isinstance(command, bytes) else b"".join(command)
            self.count += b"SETINFO" not in text
            await send(connection, command, *args, **kwargs)

        monkeypatch.setattr(connection_class, "send_packed_command", counted)
