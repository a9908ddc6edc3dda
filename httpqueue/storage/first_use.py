"""What is decided once, when the store is first used, and then holds for every process that uses it."""

from redis.asyncio import Redis

from httpqueue.storage.connection import redis_errors
from httpqueue.storage.keys import FIRST_USE


class FirstUse:
    """Keeps decisions by name. Its method raises UnavailableError when the server is away."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def decide(self, name: str, proposed: str) -> str:
        """What was decided under this name. If nothing was, `proposed` is, from now on."""
        with redis_errors():
            async with self._redis.pipeline(transaction=True) as pipeline:
                pipeline.hsetnx(FIRST_USE, name, proposed)
                pipeline.hget(FIRST_USE, name)
                _, decided = await pipeline.execute()
        return str(decided, "utf-8", "replace")  # whoever reads it says what it may be
