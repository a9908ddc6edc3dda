"""How httpqueue talks to Redis: how it connects, runs a script, and reports that a server is away."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from typing import Any, Final, TypeVar

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from httpqueue.errors import UnavailableError

SOCKET_TIMEOUT_S: Final = 5
"""No answer for this long: the server is away. Blocking reads must ask for less."""

_COMMON: Final = files("httpqueue.storage").joinpath("lua", "common.lua").read_text(encoding="utf-8")


class _PromptWrites(AbstractConnection):
    """A redis-py connection whose writes can be cancelled, and whose every failure is an error of Redis.

    redis-py puts each write into asyncio.wait_for, which makes a task of each command. Before Python 3.12 it
    may also swallow a cancellation (cpython issue 86296); a stopped part would then run on.

    redis-py expects OSError from a broken connection, but uvloop raises RuntimeError when somebody uses a
    transport that it has closed. Whatever fails, the connection is closed, so the pool has to open it again.
    """

    async def connect(self) -> None:
        try:
            await super().connect()  # type: ignore[no-untyped-call] # redis-py
        except BaseException:  # redis-py may leave it half open, and would then believe that it is connected
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
        except BaseException:  # what was written so far cannot be taken back
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
    """Turn any error of the server, or of the connection to it, into UnavailableError."""
    try:
        yield
    except (RedisError, OSError) as error:
        raise UnavailableError(f"{type(error).__name__}: {error}") from error


class Script:
    """One file of lua/, run by its hash; the server is taught it when it does not know it."""

    def __init__(self, redis: Redis, name: str) -> None:
        text = files("httpqueue.storage").joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")
        self._script = redis.register_script(_COMMON + text)

    async def __call__(self, keys: Sequence[str], *args: Any) -> Any:
        """Returns what the file's header says; raises UnavailableError."""
        with redis_errors():
            return await self._script(keys=keys, args=args)
