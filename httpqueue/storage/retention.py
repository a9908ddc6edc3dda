"""Forgets timers whose retention is over: puts their ids into the archive and drops their records.

Both happen in one transaction, so a crash loses nothing.
"""

from collections.abc import Sequence

from redis.asyncio import Redis

from httpqueue.clock import StoreNow, server_time
from httpqueue.storage.archive import Archive
from httpqueue.storage.keys import StoreKeys, store_keys
from httpqueue.storage.scripts import Script, pack


class Retention:
    """Forgets timers. Methods raise UnavailableError when the server is away."""

    def __init__(
        self, redis: Redis, *, archive: Archive, now: StoreNow = server_time, keys: StoreKeys | None = None
    ) -> None:
        self._archive = archive
        self._now = now
        self._expired, self._forget = (
            Script(redis, name, keys or store_keys()) for name in ("expired", "forget")
        )

    async def forget(self, *, limit: int) -> int:
        """Forget at most `limit` timers whose retention is over. Returns how many were found."""
        members = await self._expired(self._script_now(), limit)
        if members:
            await self.forget_these(members)
        return len(members)

    async def forget_these(self, members: Sequence[bytes]) -> int:
        """Forget these members, except timers created anew meanwhile. Returns how many were forgotten."""
        layer = self._archive.current()
        batch = [(member, layer.positions(member.decode())) for member in members]
        forgotten, count = await self._forget(self._script_now(), layer.number, pack(batch))
        await self._archive.note_count(layer.number, count)
        return int(forgotten)

    def _script_now(self) -> int | str:
        now_ms = self._now()
        return "" if now_ms is None else now_ms
