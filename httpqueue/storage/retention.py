"""Ended timers are forgotten when their retention is over: the archive learns their ids, then their records go.

A crash in between loses nothing: the next pass sets the same bits again and drops the records.
"""

from redis.asyncio import Redis

from httpqueue.clock import StoreNow, server_time
from httpqueue.storage.archive import Archive
from httpqueue.storage.keys import StoreKeys, store_keys
from httpqueue.storage.scripts import Script, pack


class Retention:
    """Every method raises UnavailableError when the server is away."""

    def __init__(
        self, redis: Redis, *, archive: Archive, now: StoreNow = server_time, keys: StoreKeys | None = None
    ) -> None:
        self._archive = archive
        self._now = now
        self._expired, self._drop = (
            Script(redis, name, keys or store_keys()) for name in ("expired", "drop")
        )

    async def forget(self, *, limit: int) -> int:
        """Forget at most limit timers whose retention is over; returns how many there were."""
        now_ms = self._now()
        now = "" if now_ms is None else now_ms
        found = await self._expired(now, limit)
        if not found:
            return 0
        members = found[::3]
        await self._archive.add([member.decode() for member in members])
        await self._drop(now, pack(list(zip(members, found[1::3], found[2::3], strict=True))))
        return len(members)
