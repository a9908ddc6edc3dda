"""What is decided once, when the store is first used, and then holds for every process that uses it."""

from redis.asyncio import Redis

from httpqueue.storage.connection import redis_errors
from httpqueue.storage.keys import FIRST_USE


class FirstUse:
    """Keeps decisions by name. Its methods raise UnavailableError when the server is away."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def decide(self, name: str, proposed: str) -> str:
        """What was decided under this name. If nothing was, `proposed` is, from now on."""
        with redis_errors():
            async with self._redis.pipeline(transaction=True) as pipeline:
                pipeline.hsetnx(FIRST_USE, name, proposed)
                pipeline.hget(FIRST_USE, name)
                _, decided = await pipeline.execute()
        return _text(decided)

    async def read(self, name: str) -> str | None:
        """What was decided under this name; None if nothing was."""
        with redis_errors():
            decided: bytes | None = await self._redis.hget(FIRST_USE, name)  # type: ignore[misc] # redis-py: sync or async
        return None if decided is None else _text(decided)


def _text(decided: bytes) -> str:
    return decided.decode(errors="replace")  # whoever reads it says what it may be
