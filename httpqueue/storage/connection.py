"""Connections to Redis. Whatever goes wrong with one becomes UnavailableError."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from redis.asyncio import Redis
from redis.connection import parse_url
from redis.exceptions import RedisError, ResponseError

from httpqueue.clock import StoreNow
from httpqueue.errors import RefusedError, UnavailableError
from httpqueue.storage.prompt import CONNECT_S, HEALTH_CHECK_S, PromptPool
from httpqueue.storage.sentinel import parse_sentinel_url, sentinel_pool

SOCKET_TIMEOUT_S: Final = 4
"""A server that does not answer for this long counts as away. Blocking reads must block for less."""
LISTEN_S: Final = 10
"""How long one wait for a message of a pub/sub channel takes, in s. The next one follows at once."""

_URL: Final = re.compile(r"(rediss?|unix)://\S+")


def check_url(url: str) -> str:
    """Return the URL unchanged if redis-py can use it. Raises ValueError with a sentence for the user."""
    if parse_sentinel_url(url) is not None:
        return url
    try:
        if _URL.fullmatch(url):
            parse_url(url)  # type: ignore[no-untyped-call] # redis-py 5 has no annotations here
            return url
    except ValueError:
        pass
    raise ValueError(
        "must be host:port, a URL that begins with redis://, rediss:// or unix://, or"
        " redis+sentinel://host:port,host:port,host:port/name[/db]"
    )


RedisT = TypeVar("RedisT", bound=Redis)


def connect(url: str, redis_class: type[RedisT]) -> RedisT:
    """Create a client for a redis://, rediss://, unix:// or redis+sentinel:// URL.

    It connects when it is first used.
    """
    options: dict[str, Any] = {
        "server": url,
        "socket_timeout": SOCKET_TIMEOUT_S,
        "socket_connect_timeout": CONNECT_S,
        "health_check_interval": HEALTH_CHECK_S,
    }
    if not url.startswith("unix:"):
        options["socket_keepalive"] = True
    sentinel = parse_sentinel_url(url)
    pool = PromptPool.from_url(url, **options) if sentinel is None else sentinel_pool(sentinel, **options)
    client: RedisT = redis_class.from_pool(pool)  # type: ignore[assignment] # redis-py
    return client


@contextmanager
def redis_errors() -> Iterator[None]:
    """Turn every error of the server or of its connection into UnavailableError."""
    try:
        yield
    except ResponseError as error:
        raise RefusedError(f"{type(error).__name__}: {error}") from error
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
