"""Forgets timers whose retention is over: puts their ids into the archive and drops their records.

Both happen in one transaction, so a crash loses nothing. A timer that is not at its home has its id in the
archive there first, then its record goes, then the pointer to it. The pointer must have the nonce of that
record: otherwise somebody creates the next timer of the name. Such a pointer is checked a minute later.
"""

from collections.abc import Sequence
from typing import Final

import structlog
from redis.asyncio import Redis

from httpqueue.clock import StoreNow, server_time
from httpqueue.storage.archive import Archive
from httpqueue.storage.connection import redis_errors
from httpqueue.storage.keys import is_member, name_of
from httpqueue.storage.partitions import Partitions, by_partition
from httpqueue.storage.scripts import Script, pack, script_now

MAX_POINTERS: Final = 1_000
"""The most pointers that are checked together."""


log = structlog.get_logger()


class Retention:
    """Forgets timers. Methods raise UnavailableError when the server is away."""

    def __init__(
        self, redis: Redis, *, archive: Archive, partitions: Partitions, now: StoreNow = server_time
    ) -> None:
        self._redis = redis
        self.archive = archive
        self._partitions = partitions
        self._now = now
        self._expired, self._bury, self._forget, self._pointers, self._settle_pointers = (
            Script(redis, name, partitions.store_keys)
            for name in ("expired", "bury", "forget", "pointers", "settle_pointers")
        )

    async def forget(self, partition: int, *, limit: int) -> int:
        """Forget at most `limit` timers whose retention is over. Returns how many were found."""
        found = await self._expired(partition, script_now(self._now), limit)
        members = await self._readable(self._partitions.store_keys[partition].retention, found)
        if members:
            await self.forget_these(partition, members)
        return len(found)

    async def _readable(self, index: str, members: Sequence[bytes]) -> list[bytes]:
        """Those of them that are names of timers. The others leave the index: they would stop it for ever."""
        unreadable = [member for member in members if not is_member(member)]
        if unreadable:
            log.warning("index.unreadable", index=index, members=[repr(each) for each in unreadable])
            with redis_errors():
                await self._redis.zrem(index, *unreadable)
        return [member for member in members if is_member(member)]

    async def forget_these(self, partition: int, members: Sequence[bytes]) -> int:
        """Forget these members, except timers created anew meanwhile. Returns how many were forgotten."""
        away = [member for member in members if self._home_of(member) != partition]
        await by_partition(away, self._home_of, self._bury_at)
        is_away = frozenset(away)
        layer = self.archive.current(partition)
        batch = [
            (member, [] if member in is_away else layer.positions(member.decode())) for member in members
        ]
        forgotten, count, nonces = await self._forget(
            partition, script_now(self._now), layer.number, pack(batch)
        )
        await self.archive.note_count(partition, layer.number, count)
        await self._settle([(member, partition, nonce) for member, nonce in zip(away, nonces, strict=True)])
        return int(forgotten)

    async def _bury_at(self, home: int, members: Sequence[bytes]) -> Sequence[bytes]:
        """Put ids into the archive. Returns them."""
        layer = self.archive.current(home)
        batch = [(member, layer.positions(member.decode())) for member in members]
        count = await self._bury(home, script_now(self._now), layer.number, pack(batch))
        await self.archive.note_count(home, layer.number, count)
        return members

    async def check_pointers(self, home: int) -> int:
        """Drop pointers that have pointed nowhere for some time. Returns how many were looked at."""
        count = 0
        while True:
            found = await self._pointers(home, script_now(self._now), MAX_POINTERS)
            pointers = list(zip(found[::3], found[1::3], found[2::3], strict=True))
            index = self._partitions.store_keys[home].pointers
            readable = {*await self._readable(index, found[::3])}
            await self._settle([each for each in pointers if each[0] in readable])
            count += len(pointers)
            if len(pointers) < MAX_POINTERS:
                return count

    async def drop_pointer(self, home: int, member: bytes, nonce: str) -> None:
        """Drop a pointer with this nonce that points to no record and that nobody checks."""
        await self._settle_pointers(home, script_now(self._now), pack([(member, nonce, False)]))

    async def _settle(self, pointers: Sequence[tuple[bytes, int, bytes]]) -> None:
        """Takes (member, partition that the pointer names or -1, its nonce). Drops those without a record."""
        if not pointers:
            return
        exist = await self._have_records([(member, partition) for member, partition, _ in pointers])
        items = [
            (member, nonce, is_there) for (member, _, nonce), is_there in zip(pointers, exist, strict=True)
        ]
        await by_partition(items, lambda item: self._home_of(item[0]), self._settle_at)

    async def _have_records(self, places: Sequence[tuple[bytes, int]]) -> list[bool]:
        """Whether each member has a record in its partition. There is none where there is no partition."""
        known = [partition in self._partitions.all for _, partition in places]
        with redis_errors():
            pipeline = self._redis.pipeline(transaction=False)
            for (member, partition), is_known in zip(places, known, strict=True):
                keys = self._partitions.store_keys[partition if is_known else 0]
                pipeline.exists(keys.records.encode() + member)
            answers = await pipeline.execute()
        return [is_known and bool(answer) for is_known, answer in zip(known, answers, strict=True)]

    async def _settle_at(
        self, home: int, items: Sequence[tuple[bytes, bytes, bool]]
    ) -> Sequence[tuple[bytes, bytes, bool]]:
        await self._settle_pointers(home, script_now(self._now), pack(items))
        return items

    def _home_of(self, member: bytes) -> int:
        return self._partitions.home_of(name_of(member))
