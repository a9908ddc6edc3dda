"""How httpqueue reaches Redis: one way to connect, and one error when a server is away."""

import asyncio
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.connection import parse_url
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from httpqueue.errors import UnavailableError

SOCKET_TIMEOUT_S: Final = 5
"""No answer for this long: the server is away. Blocking reads must ask for less."""


_URL: Final = re.compile(r"(rediss?|unix)://\S+")


class _PromptWrites(AbstractConnection):
    """A connection whose writes can be cancelled and cost no task.

    redis-py puts each write into asyncio.wait_for, which makes a task a command; before Python 3.12 it also
    swallows a cancellation that comes at the wrong moment (cpython issue 86296): a stopped part would run on.
    """

    async def send_packed_command(
        self,
        command: bytes | str | Iterable[bytes],
        check_health: bool = True,  # noqa: FBT001, FBT002 - redis-py's signature
    ) -> None:
        if not self.is_connected:
            await self.connect()  # type: ignore[no-untyped-call] # redis-py
        elif check_health:
            await self.check_health()  # type: ignore[no-untyped-call] # redis-py
        if isinstance(command, str):
            command = command.encode()
        try:
            async with asyncio.timeout(self.socket_timeout):
                await self._send_packed_command([command] if isinstance(command, bytes) else command)
        except TimeoutError as error:
            await self.disconnect(nowait=True)
            raise RedisTimeoutError("Timeout writing to socket") from error
        except OSError as error:
            await self.disconnect(nowait=True)
            raise RedisConnectionError(f"Error while writing to socket: {error}") from error
        except BaseException:  # what was written so far cannot be taken back
            await self.disconnect(nowait=True)
            raise


class _PromptTcp(_PromptWrites, Connection):
    pass


class _PromptTls(_PromptWrites, SSLConnection):
    pass


class _PromptUnix(_PromptWrites, UnixDomainSocketConnection):
    pass


_PROMPT: Final = {
    Connection: _PromptTcp,
    SSLConnection: _PromptTls,
    UnixDomainSocketConnection: _PromptUnix,
}


def check_url(url: str) -> str:
    """The URL as given when redis-py can use it; ValueError with a sentence for the user otherwise."""
    try:
        if _URL.fullmatch(url):
            parse_url(url)  # type: ignore[no-untyped-call] # redis-py 5 has no annotations here
            return url
    except ValueError:
        pass
    raise ValueError("must be host:port, or a URL that begins with redis://, rediss:// or unix://")


RedisT = TypeVar("RedisT", bound=Redis)


def connect(url: str, redis_class: type[RedisT]) -> RedisT:
    """A client with its pool for redis://, rediss:// or unix://; connects when it is first used."""
    tcp_only = {} if url.startswith("unix:") else {"socket_keepalive": True}
    client: RedisT = redis_class.from_url(
        url,
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=2,
        health_check_interval=15,
        **tcp_only,
    )
    pool = client.connection_pool
    pool.connection_class = _PROMPT[pool.connection_class]
    return client


@contextmanager
def redis_errors() -> Iterator[None]:
    """Foreign errors at the edge: whatever the server or the way to it does wrong is UnavailableError."""
    try:
        yield
    except (RedisError, OSError) as error:
        raise UnavailableError(f"{type(error).__name__}: {error}") from error
