"""The keys of all partitions, for tests that look into Redis.

HTTPQUEUE_TEST_PARTITIONS=4 runs the tests with four partitions, on a server in cluster mode.
"""

import os
from itertools import chain, count
from typing import Any, Final

from redis.asyncio import Redis

from httpqueue.storage.partitions import Partitions
from httpqueue.storage.secret_box import SecretBox
from httpqueue.timers.names import DEFAULT_APPLICATION, TimerName
from httpqueue.timers.timer import State

PARTITIONS: Final = Partitions(int(os.environ.get("HTTPQUEUE_TEST_PARTITIONS", "1")))  # noqa: TID251 - a test's own
"""The partitions of the stores under test."""
SECRETS: Final = SecretBox([bytes(range(32))])
"""What encrypts the signing secrets of the stores under test."""
STORE: Final = PARTITIONS.store_keys[0]
QUEUE: Final = PARTITIONS.queue_keys[0]
"""The keys of the first partition; with one partition there are no others."""
DUE: Final = ("due", DEFAULT_APPLICATION)
HELD: Final = ("held", DEFAULT_APPLICATION)
"""The indices of the default application: field and member, as Everywhere takes them."""


def place_of(timer_id: str, key: str | None = None, application: str = DEFAULT_APPLICATION) -> int:
    """The partition of a timer; `key` is its ordering key."""
    return PARTITIONS.place_of(TimerName(application, timer_id), key)


def here(name: str, partition: int = 0, application: str = DEFAULT_APPLICATION) -> str:
    """A timer id that has its home in this partition: `name`, or the first of `name-0`, `name-1`, … that has.

    Such ids of names of equal length are in the same order as the names.
    """
    ids = chain([name], (f"{name}-{number}" for number in count()))
    return next(timer_id for timer_id in ids if place_of(timer_id, application=application) == partition)


def record_key(timer_id: str, key: str | None = None, application: str = DEFAULT_APPLICATION) -> str:
    """The key of a timer's record; `key` is its ordering key."""
    partition = place_of(timer_id, key, application)
    return f"{PARTITIONS.store_keys[partition].records}{application}:{timer_id}"


class Everywhere:
    """Reads what all partitions have together under a field of StoreKeys or QueueKeys.

    `member` is what stands behind the prefix of the key, as keys.py says.
    """

    def __init__(self, redis: Redis, partitions: Partitions = PARTITIONS) -> None:
        self._redis = redis
        self._partitions = partitions

    def keys(self, field: str, member: str = "") -> list[str]:
        """The key in each partition."""
        families: list[Any] = [self._partitions.store_keys, self._partitions.queue_keys]
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
            for name, value in (await self._redis.hgetall(key)).items():  # type: ignore[misc] # sync or async
                found[name.decode()] = found.get(name.decode(), 0) + int(value)
        return found

    async def exists(self, *fields: str | tuple[str, str]) -> bool:
        """Whether any of them is in any partition. Each is a field, or a field and a member."""
        pairs = [(each, "") if isinstance(each, str) else each for each in fields]
        return any([await self._redis.exists(key) for pair in pairs for key in self.keys(*pair)])

    async def delete(self, field: str) -> None:
        """Delete it in all partitions."""
        for key in self.keys(field):
            await self._redis.delete(key)

    async def stream(self, field: str = "outbox") -> list[dict[bytes, bytes]]:
        """The entries of a stream; those of one partition are in their order."""
        return [entry for key in self.keys(field) for _, entry in await self._redis.xrange(key)]

    async def xlen(self, field: str = "outbox") -> int:
        """The length of a stream."""
        return sum([await self._redis.xlen(key) for key in self.keys(field)])

    async def get(self, timer_id: str, key: str | None = None, application: str = DEFAULT_APPLICATION) -> Any:
        """A timer's record; `key` is its ordering key."""
        partition = self._partitions.place_of(TimerName(application, timer_id), key)
        return await self._redis.get(f"{self.keys('records')[partition]}{application}:{timer_id}")


def ended(state: State, application: str = DEFAULT_APPLICATION) -> str:
    """The member of the index `ended` of an application's timers that ended in that state."""
    return f"{state.letter}:{application}"
