"""What applications may store, when there are several partitions. With one, `create` knows enough by itself.

Who creates timers of an application with limits says so in the application's home first, then counts what
all partitions have, then creates. So what several processes create at the same time never exceeds a limit.
Near it they may be refused too early, because what is stored and still noted counts twice.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from secrets import token_hex
from typing import Final

from redis.asyncio import Redis

from httpqueue.clock import StoreNow, server_time
from httpqueue.errors import UnavailableError
from httpqueue.storage.connection import redis_errors
from httpqueue.storage.partitions import Partitions
from httpqueue.storage.scripts import Script, pack

NOTED_MS: Final = 10_000
"""How long a note holds whose process has died."""
OK: Final = "ok"
PENDING: Final = "pending"
BYTES: Final = "bytes"


@dataclass(frozen=True, slots=True)
class Admission:
    """What `create` is told of a timer: OK, or the limit that keeps it from being stored.

    wait_ms: it comes so much too early for the rate, and is not to be created at all.
    """

    word: str = ""
    wait_ms: int = 0


class Quotas:
    """Admits timers. Methods raise UnavailableError when the server is away."""

    def __init__(
        self,
        redis: Redis,
        *,
        partitions: Partitions,
        now: StoreNow = server_time,
        max_pending: int | None = None,
    ) -> None:
        """max_pending: how many timers there may be that have not ended; each partition has an equal part."""
        self.pending_of_partition = None if max_pending is None else -(-max_pending // partitions.count)
        self._redis = redis
        self._partitions = partitions
        self._now = now
        self._quota = Script(redis, "quota", partitions.store_keys)

    async def admit(self, application: str, sizes: Sequence[int]) -> tuple[list[Admission], str | None]:
        """Takes about how many bytes each timer has. Returns an Admission for each, and the note's token.

        The token is None, and all is OK, when the application has no limits.
        """
        home, token, now_ms = self._partitions.home_of_application(application), token_hex(8), self._now()
        limits = await self._quota(
            home, "" if now_ms is None else now_ms, application, token, NOTED_MS, pack(list(sizes))
        )
        if not limits:
            return [Admission(OK)] * len(sizes), None
        most_timers, most_bytes, timers, size, waits = limits
        stored_timers, stored_bytes = await self._stored(application)
        free = most_timers - timers - stored_timers if most_timers >= 0 else len(sizes)
        free_bytes = most_bytes - size - stored_bytes if most_bytes >= 0 else sum(sizes)
        admissions = []
        for wait_ms, bytes_of in zip(waits, sizes, strict=True):
            if wait_ms:
                admissions.append(Admission(wait_ms=wait_ms))
            elif free < 1 or free_bytes < bytes_of:
                admissions.append(Admission(PENDING if free < 1 else BYTES))
            else:
                admissions.append(Admission(OK))
                free, free_bytes = free - 1, free_bytes - bytes_of
        return admissions, token

    async def settle(self, application: str, token: str) -> None:
        """The timers are created: counts have them."""
        key = self._partitions.store_keys[self._partitions.home_of_application(application)].reserved
        with suppress(UnavailableError), redis_errors():  # the note ends by itself
            await self._redis.hdel(key + application, token)  # type: ignore[misc] # redis-py: sync or async

    async def _stored(self, application: str) -> tuple[int, int]:
        """(timers that have not ended, bytes of all records) in all partitions."""
        with redis_errors():
            pipeline = self._redis.pipeline(transaction=False)
            for keys in self._partitions.store_keys:
                pipeline.hmget(keys.counts, [f"{application}:{what}" for what in "srb"])
            rows = await pipeline.execute()
        scheduled, running, size = (sum(int(row[column] or 0) for row in rows) for column in range(3))
        return scheduled + running, size
