"""redis-py's connections and pool, mended: dead connections are noticed soon, and all errors are outages.

A half-open network (the other side is gone, and nothing says so) costs one wait, not one for each connection:
when a server does not answer in time, all connections that have been silent since then are dropped. So are
all connections when the server turns out to be a replica, or to be loading its data. Whoever needs a
connection next resolves the server's address anew.
"""

import asyncio
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final
from weakref import WeakSet

from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    ConnectionPool,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.exceptions import BusyLoadingError, ReadOnlyError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

CONNECT_S: Final = 2
"""How long a connect may take, with the greeting."""
HEALTH_CHECK_S: Final = 15
"""A connection that was silent for this long is tried before it is used."""

_CANNOT_SERVE: Final = re.compile(r"(^|-)(READONLY|LOADING|MASTERDOWN) ")
"""What servers before version 7 write into the errors of scripts."""


class PromptConnection(AbstractConnection):
    """A redis-py connection whose writes can be cancelled, and whose failures are all RedisError or OSError.

    redis-py runs each write in asyncio.wait_for, which creates a task for each command. Before Python 3.12,
    wait_for may also swallow a cancellation (cpython issue 86296), and a stopped part would go on running.

    redis-py expects OSError from a broken connection, but uvloop raises RuntimeError when a closed transport
    is used, and redis-py itself AttributeError when somebody else closed the connection. After any failure
    the connection is closed, so that the pool opens a new one.
    """

    pool: "PromptPool"
    _asked_s = 0.0

    async def connect(self) -> None:
        """Open it, unless it is open. Raises RedisError."""
        if self.is_connected:
            return
        self.next_health_check = -1  # it has not answered yet: see is_silent_since
        try:
            async with asyncio.timeout(CONNECT_S):
                with _outages("connecting to"):
                    await super().connect()  # type: ignore[no-untyped-call] # redis-py
        except TimeoutError as error:
            self.abort()
            raise RedisTimeoutError("Timeout connecting to server") from error
        except BaseException:  # redis-py may leave it half open and then take it for connected
            self.abort()
            raise

    async def disconnect(self, nowait: bool = False) -> None:  # noqa: FBT001, FBT002 - redis-py's signature
        """Close it."""
        if nowait:
            self.abort()
        else:
            await super().disconnect()

    def abort(self) -> None:
        """Close it at once. What is not sent yet is dropped: the other side may be gone."""
        writer, self._writer, self._reader = self._writer, None, None
        self._parser.on_disconnect()  # type: ignore[no-untyped-call] # redis-py
        if writer is not None:
            writer.transport.abort()

    def is_silent_since(self, instant_s: float) -> bool:
        """Whether its last answer is older than this instant of the loop's time. A new one has given none."""
        return 0 <= self.next_health_check <= instant_s + HEALTH_CHECK_S

    async def send_packed_command(
        self,
        command: bytes | str | Iterable[bytes],
        check_health: bool = True,  # noqa: FBT001, FBT002 - redis-py's signature
    ) -> None:
        """Write a command."""
        if not self.is_connected:
            await self.connect()
        elif check_health:
            await self.check_health()  # type: ignore[no-untyped-call] # redis-py
        if isinstance(command, str):
            command = command.encode()
        self._asked_s = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(self.socket_timeout):
                with _outages("writing to"):
                    await self._send_packed_command([command] if isinstance(command, bytes) else command)
        except TimeoutError as error:
            self.abort()
            self.pool.drop_silent(self._asked_s)
            raise RedisTimeoutError("Timeout writing to socket") from error
        except BaseException:  # part of the command may be written already
            self.abort()
            raise

    async def read_response(self, *args: Any, **options: Any) -> Any:
        """Read an answer."""
        try:
            with _outages("reading from"):
                return await super().read_response(*args, **options)
        except RedisTimeoutError:
            self.pool.drop_silent(self._asked_s)
            raise
        except RedisError as error:
            if _cannot_serve(error):
                self.pool.drop_all()
                raise RedisConnectionError(f"the server cannot serve now: {error}") from error
            if not isinstance(error, ResponseError):
                self.abort()
            raise

    async def can_read_destructive(self) -> bool:
        """Whether there is something to read that nobody asked for."""
        try:
            with _outages("reading from"):
                return bool(await super().can_read_destructive())  # type: ignore[no-untyped-call] # redis-py
        except BaseException:
            self.abort()
            raise


class PromptTcp(PromptConnection, Connection):
    """Over TCP."""


class PromptTls(PromptConnection, SSLConnection):
    """Over TLS."""


class PromptUnix(PromptConnection, UnixDomainSocketConnection):
    """Over a Unix socket."""


PROMPT: Final[dict[type[AbstractConnection], type[PromptConnection]]] = {
    Connection: PromptTcp,
    SSLConnection: PromptTls,
    UnixDomainSocketConnection: PromptUnix,
}
"""The mended class of each class of redis-py."""


class PromptPool(ConnectionPool):
    """redis-py's pool, in which nobody waits for one dead connection after the other.

    Connections are opened one after the other. Whoever waits while one cannot be opened fails with it.
    Pools with the same `server`, such as its URL, drop their connections together.
    """

    def __init__(self, *, server: str, **options: Any) -> None:
        super().__init__(**options)
        self.connection_class = PROMPT.get(self.connection_class, self.connection_class)
        self._failures = 0
        self._failure = ""
        self.server = server
        _pools.add(self)

    def make_connection(self) -> PromptConnection:
        """A new connection."""
        connection: PromptConnection = super().make_connection()  # type: ignore[no-untyped-call] # redis-py
        connection.pool = self
        return connection

    async def get_connection(self, *_: Any, **__: Any) -> AbstractConnection:
        """A connection that is open. Raises RedisError."""
        failures = self._failures
        async with self._lock:
            if self._failures != failures:
                raise RedisConnectionError(self._failure)
            connection: AbstractConnection = self.get_available_connection()  # type: ignore[no-untyped-call]
            try:
                await self.ensure_connection(connection)
            except BaseException as error:
                await self.release(connection)
                if isinstance(error, (RedisError, OSError)):
                    self._failures += 1
                    self._failure = str(error)
                raise
        return connection

    def drop_silent(self, instant_s: float) -> None:
        """Drop the connections to this server that have not answered since this instant of loop time."""
        for connection in self._all():
            if connection.is_silent_since(instant_s):
                connection.abort()

    def drop_all(self) -> None:
        """Drop all connections to this server. Whoever uses one gets an error."""
        for connection in self._all():
            connection.abort()

    def _all(self) -> list[PromptConnection]:
        """The connections to this server, of all pools: the queue may be on the store's server."""
        return [each for pool in _pools if pool.server == self.server for each in pool.own()]

    def own(self) -> list[PromptConnection]:
        """The connections of this pool."""
        return [*self._available_connections, *self._in_use_connections]  # type: ignore[list-item] # we made them


_pools: Final["WeakSet[PromptPool]"] = WeakSet()


@contextmanager
def _outages(doing: str) -> Iterator[None]:
    """Whatever goes wrong on the way to the server is an outage, also what redis-py does not expect."""
    try:
        yield
    except (RedisError, OSError) as error:
        if isinstance(error, (RedisError, TimeoutError)):
            raise
        raise RedisConnectionError(f"Error while {doing} the server: {error}") from error
    except Exception as error:
        raise RedisConnectionError(f"Error while {doing} the server: {error!r}") from error


def _cannot_serve(error: RedisError) -> bool:
    """Whether another server may serve, or this one later: it is a replica, or is loading its data."""
    return (
        isinstance(error, (ReadOnlyError, BusyLoadingError)) or _CANNOT_SERVE.search(str(error)) is not None
    )
