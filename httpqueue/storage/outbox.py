"""The outbox: a Redis stream of changes that the relays have still to act on.

The relays are one consumer group. What a relay has read and not acknowledged when it dies, another adopts.
"""

from collections.abc import Iterable
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from httpqueue.storage.connection import redis_errors
from httpqueue.storage.keys import OUTBOX_GROUP, name_of, store_keys
from httpqueue.timers.commands import OutboxEntry, WakeUp

MAX_INT: Final = 2**53
"""Lua numbers are doubles, exact up to this. A greater number was not written by httpqueue."""


class Outbox:
    """Reads and acknowledges outbox entries. Methods raise UnavailableError when the server is away."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._keys = store_keys()

    async def read(self, consumer: str, *, limit: int, block_ms: int) -> list[OutboxEntry]:
        """Read at most `limit` new entries for this consumer. Waits up to block_ms for the first one."""
        with redis_errors():
            try:
                streams = await self._redis.xreadgroup(
                    OUTBOX_GROUP, consumer, {self._keys.outbox: ">"}, count=limit, block=block_ms
                )
            except ResponseError as error:
                if "NOGROUP" not in str(error):
                    raise
                await self._create_group()
                return await self.read(consumer, limit=limit, block_ms=block_ms)
        return [_entry(*raw) for _, raws in streams for raw in raws]

    async def adopt(self, consumer: str, *, idle_ms: int, limit: int) -> list[OutboxEntry]:
        """Take over at most `limit` entries that another consumer has left unacknowledged for idle_ms."""
        with redis_errors():
            await self._create_group()
            _, raws, *_ = await self._redis.xautoclaim(
                self._keys.outbox, OUTBOX_GROUP, consumer, idle_ms, count=limit
            )
        # Redis 6.2 returns (None, None) for a deleted entry; later versions leave it out
        return [_entry(*raw) for raw in raws if raw[0] is not None]

    async def acknowledge(self, entries: Iterable[OutboxEntry]) -> None:
        """Take entries out of the outbox. Unreadable ones move to the stream outbox:dead."""
        entries = list(entries)
        entry_ids = [entry.entry_id for entry in entries]
        with redis_errors():
            pipeline = self._redis.pipeline(transaction=True)
            for entry in entries:
                if entry.wake_up is None:
                    pipeline.xadd(self._keys.outbox_dead, dict(entry.fields.items()))
            pipeline.xack(self._keys.outbox, OUTBOX_GROUP, *entry_ids)
            pipeline.xdel(self._keys.outbox, *entry_ids)
            await pipeline.execute()

    async def leave(self, consumer: str) -> None:
        """Delete a consumer, unless it has unacknowledged entries: another relay adopts those."""
        with redis_errors():
            pending = await self._redis.xpending_range(
                self._keys.outbox, OUTBOX_GROUP, "-", "+", 1, consumername=consumer
            )
            if not pending:  # otherwise XGROUP DELCONSUMER would drop them
                await self._redis.xgroup_delconsumer(self._keys.outbox, OUTBOX_GROUP, consumer)

    async def _create_group(self) -> None:
        try:
            await self._redis.xgroup_create(self._keys.outbox, OUTBOX_GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise


def _entry(entry_id: bytes, fields: dict[bytes, bytes]) -> OutboxEntry:
    try:
        wake_up = WakeUp(name_of(fields[b"timer"]), int(fields[b"generation"]), int(fields[b"due"]))
    except (KeyError, ValueError):
        return OutboxEntry(entry_id, None, fields)
    if not (0 <= wake_up.generation <= MAX_INT and abs(wake_up.due_ms) <= MAX_INT):
        return OutboxEntry(entry_id, None, fields)  # it would break its whole batch
    return OutboxEntry(entry_id, wake_up)
