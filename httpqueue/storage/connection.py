"""Connections to Redis. Whatever goes wrong with one becomes UnavailableError."""

import asyncio
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.connection import parse_url
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from httpqueue.clock import StoreNow
from httpqueue.errors import UnavailableError

SOCKET_TIMEOUT_S: Final = 5
"""A server that does not answer for this long counts as away. Blocking reads must block for less."""
LISTEN_S: Final = 10
"""How long one wait for a message of a pub/sub channel takes, in s. The next one follows at once."""

_URL: Final = re.compile(r"(rediss?|unix)://\S+")


class _PromptWrites(AbstractConnection):
    """A redis-py connection whose writes can be cancelled, and whose failures are all RedisError or OSError.

    redis-py runs each write in asyncio.wait_for, which creates a task for each command. Before Python 3.12,
    wait_for may also swallow a cancellation (cpython issue 86296), and a stopped part would go on running.

    redis-py expects OSError from a broken connection, but uvloop raises RuntimeError when a closed transport
    is used. After any failure the connection is closed, so that the pool opens a new one.
    """

    async def connect(self) -> None:
        try:
            await super().connect()  # type: ignore[no-untyped-call] # redis-py
        except BaseException:  # redis-py may leave it half open and then take it for connected
            await self.disconnect(nowait=True)
            raise

    async def send_packed_command(
        self,
        command: bytes | str | Iterable[bytes],
        check_health: bool = True,  # noqa: FBT001, FBT002 - redis-py's signature
    ) -> None:
        if not self.is_connected:
            await self.connect()
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
        except (OSError, RuntimeError) as error:
            await self.disconnect(nowait=True)
            raise RedisConnectionError(f"Error while writing to socket: {error}") from error
        except BaseException:  # part of the command may be written already
            await self.disconnect(nowait=True)
            raise

    async def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*args, **options)
        except RuntimeError as error:
            await self.disconnect(nowait=True)
            raise RedisConnectionError(f"Error while reading from socket: {error}") from error

    async def can_read_destructive(self) -> bool:
        try:
            return bool(await super().can_read_destructive())  # type: ignore[no-untyped-call] # redis-py
        except RuntimeError as error:
            await self.disconnect(nowait=True)
            raise RedisConnectionError(f"Error while reading from socket: {error}") from error


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
    """Return the URL unchanged if redis-py can use it. Raises ValueError with a sentence for the user."""
    try:
        if _URL.fullmatch(url):
            parse_url(url)  # type: ignore[no-untyped-call] # redis-py 5 has no annotations here
            return url
    except ValueError:
        pass
    raise ValueError("must be host:port, or a URL that begins with redis://, rediss:// or unix://")


RedisT = TypeVar("RedisT", bound=Redis)


def connect(url: str, redis_class: type[RedisT]) -> RedisT:
    """Create a client for a redis://, rediss:// or unix:// URL. It connects when it is first used."""
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
    """Turn every error of the server or of its connection into UnavailableError."""
    try:
        yield
    except (RedisError, OSError) as error:
        raise UnavailableError(f"{type(error).__name__}: {error}") from error


def time_ms(time: tuple[int, int], now: StoreNow) -> int:
    """The time in ms since the epoch: now() if it gives one, else what the command TIME answered."""
    seconds, microseconds = time
    now_ms = now()
    return seconds * 1000 + microseconds // 1000 if now_ms is None else now_ms


async def listen(redis: Redis, channel: str, partitions: Sequence[int], tell: Callable[[int], None]) -> None:
    """Call tell(partition) for each message of a pub/sub channel. Runs until cancelled or until an error.

    After each connect, the first one too, it calls tell for all partitions: messages may have been missed.
    """
    numbers = {str(partition).encode(): partition for partition in partitions}
    with redis_errors():
        async with redis.pubsub() as subscription:
            await subscription.subscribe(channel)
            while True:
                message = await subscription.get_message(timeout=LISTEN_S)
                if message:  # without a number it is the confirmation of the subscription
                    number = numbers.get(message["data"])
                    for partition in partitions if number is None else (number,):
                        tell(partition)
