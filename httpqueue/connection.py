"""How httpqueue talks to Redis: one way to connect, to run a script, and to say that a server is away."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from typing import Any, Final, TypeVar

from redis.asyncio import Redis
from redis.exceptions import RedisError

from httpqueue.errors import UnavailableError

SOCKET_TIMEOUT_S: Final = 5
"""No answer for this long: the server is away. Blocking reads must ask for less."""

_COMMON: Final = files("httpqueue").joinpath("lua", "common.lua").read_text(encoding="utf-8")

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
    return client


@contextmanager
def redis_errors() -> Iterator[None]:
    """Foreign errors at the edge: whatever the server or the way to it does wrong is UnavailableError."""
    try:
        yield
    except (RedisError, OSError) as error:
        raise UnavailableError(f"{type(error).__name__}: {error}") from error


class Script:
    """One file of lua/, run by its hash; the server is taught it when it does not know it."""

    def __init__(self, redis: Redis, name: str) -> None:
        text = files("httpqueue").joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")
        self._script = redis.register_script(_COMMON + text)

    async def __call__(self, keys: Sequence[str], *args: Any) -> Any:
        """Returns what the file's header says; raises UnavailableError."""
        with redis_errors():
            return await self._script(keys=keys, args=args)
