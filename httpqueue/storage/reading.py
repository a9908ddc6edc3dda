"""Reads timers by name, and asks whether there was one."""

from redis.asyncio import Redis

from httpqueue.clock import StoreNow, server_time
from httpqueue.errors import InvalidTimerError
from httpqueue.storage.archive import Archive
from httpqueue.storage.connection import redis_errors, time_ms
from httpqueue.storage.keys import member_of
from httpqueue.storage.partitions import Partitions
from httpqueue.storage.pointers import POINTER_BYTES, Elsewhere, Pointers
from httpqueue.storage.record import decode_record, read_pointer
from httpqueue.timers.commands import Found
from httpqueue.timers.names import TimerName
from httpqueue.timers.timer import Timer


class Reader:
    """Reads one timer at a time. Methods raise UnavailableError when the server is away."""

    def __init__(
        self,
        redis: Redis,
        *,
        archive: Archive,
        partitions: Partitions,
        pointers: Pointers,
        now: StoreNow = server_time,
    ) -> None:
        self._redis = redis
        self._archive = archive
        self._partitions = partitions
        self._pointers = pointers
        self._now = now

    async def get(self, name: TimerName) -> Found | None:
        """Read a timer. None when it has no record, or its retention is over: then ask is_archived.

        Raises InvalidTimerError when its record is damaged.
        """
        found = await self._get_in(self._partitions.home_of(name), name)
        if isinstance(found, Elsewhere):
            found = await self._get_in(found.partition, name)
        if isinstance(found, Elsewhere):
            raise InvalidTimerError("unreadable pointer: it points to another one")
        return found

    async def _get_in(self, partition: int, name: TimerName) -> Found | Elsewhere | None:
        member, keys = member_of(name), self._partitions.store_keys[partition]
        with redis_errors():
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.get(keys.records + member)
            pipeline.zscore(keys.retention, member)
            pipeline.time()
            record, kept_until_ms, time = await pipeline.execute()
        now_ms = time_ms(time, self._now)
        if record is None or (kept_until_ms is not None and kept_until_ms <= now_ms):
            return None
        return self._pointers.elsewhere(read_pointer(record)) or Found(decode_record(name, record), now_ms)

    async def timer_in(self, partition: int, name: TimerName) -> Timer | None:
        """A timer; None when it has no readable record (yet)."""
        try:
            found = await self._get_in(partition, name)
        except InvalidTimerError:
            return None
        return found.timer if isinstance(found, Found) else None

    async def is_archived(self, name: TimerName) -> bool:
        """Whether a timer of this name has ended and its retention is over.

        A record whose retention is over counts, too: the archive gets its id a little later. In rare cases
        the archive wrongly says yes (see Archive.contains).
        """
        home, member = self._partitions.home_of(name), member_of(name)
        moved_to = await self.is_over(home, member)
        if isinstance(moved_to, Elsewhere):
            moved_to = await self.is_over(moved_to.partition, member)
        return moved_to is True or await self._archive.contains(home, member)

    async def is_over(self, partition: int, member: str) -> bool | Elsewhere:
        """Whether there is a record whose retention is over."""
        keys = self._partitions.store_keys[partition]
        with redis_errors():
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.zscore(keys.retention, member)
            pipeline.getrange(keys.records + member, 0, POINTER_BYTES)
            pipeline.time()
            kept_until_ms, record, time = await pipeline.execute()
        elsewhere = self._pointers.elsewhere(read_pointer(record))
        if elsewhere is not None:
            return elsewhere
        return kept_until_ms is not None and kept_until_ms <= time_ms(time, self._now)
