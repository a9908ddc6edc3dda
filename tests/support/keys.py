"""The keys of all partitions, for tests that look into Redis.

HTTPQUEUE_TEST_PARTITIONS=4 runs the tests with four partitions, on a server in cluster mode.
"""

import os
from typing import Any, Final

from redis.asyncio import Redis

from httpqueue.storage.partitions import Partitions
from httpqueue.timers.names import DEFAULT_APPLICATION, TimerName
from httpqueue.timers.timer import State

PARTITIONS: Final = Partitions(int(os.environ.get("HTTPQUEUE_TEST_PARTITIONS", "1")))  # noqa: TID251 - a test's own
"""The partitions of the stores under test."""
STORE: Final = PARTITIONS.store_keys[0]
QUEUE: Final = PARTITIONS.queue_keys[0]
"""The keys of the first partition; with one partition there are no others."""


def place_of(timer_id: str, key: str | None = None, application: str = DEFAULT_APPLICATION) -> int:
    """The partition of a timer; `key` is its ordering key."""
    return PARTITIONS.place_of(TimerName(application, timer_id), key)


class Everywhere:
    """Reads what all partitions have together under a field of StoreKeys or QueueKeys.

    `member` is what stands behind the prefix of the key, as keys.py says.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def keys(self, field: str, member: str = "") -> list[str]:
        """The key in each partition."""
        families: list[Any] = [PARTITIONS.store_keys, PARTITIONS.queue_keys]
        family = next(family for family in families if hasattr(family[0], field))
        return [getattr(keys, field) + member for keys in family]

    async def zset(self, field: str, member: str = "") -> dict[str, float]:
        """A sorted set, in the order of its scores."""
        found: dict[bytes, float] = {}
        for key in self.keys(field, member):
            found.update(await self._redis.zrange(key, 0, -1, withscores=True))
        return {
            name.decode(): score for name, score in sorted(found.items(), key=lambda each: (each[1], each[0]))
        }

    async def zcard(self, field: str, member: str = "") -> int:
        """The size of a sorted set."""
        return len(await self.zset(field, member))

    async def hash(self, field: str) -> dict[str, int]:
        """A hash of counts, added up."""
        found: dict[str, int] = {}
        for key in self.keys(field):
            for name, count in (await self._redis.hgetall(key)).items():  # type: ignore[misc] # sync or async
                found[name.decode()] = found.get(name.decode(), 0) + int(count)
        return found

    async def delete(self, field: str) -> None:
        """Delete it in all partitions."""
        for key in self.keys(field):
            await self._redis.delete(key)

    async def xlen(self, field: str = "outbox") -> int:
        """The length of a stream."""
        return sum([await self._redis.xlen(key) for key in self.keys(field)])

    async def get(self, timer_id: str, key: str | None = None, application: str = DEFAULT_APPLICATION) -> Any:
        """A timer's record; `key` is its ordering key."""
        partition = place_of(timer_id, key, application)
        return await self._redis.get(f"{self.keys('records')[partition]}{application}:{timer_id}")


def ended(state: State, application: str = DEFAULT_APPLICATION) -> str:
    """The member of the index `ended` of an application's timers that ended in that state and have a record."""
    return f"{state.letter}:{application}"
