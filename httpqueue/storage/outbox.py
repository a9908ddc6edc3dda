"""The outbox: a stream of changes that the relays, a consumer group, have still to act on."""

from collections.abc import Iterable

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from httpqueue.clock import StoreNow
from httpqueue.storage import keys
from httpqueue.storage.connection import redis_errors
from httpqueue.timers.commands import OutboxEntry, WakeUp


class Outbox:
    """The store's part that relays read; every method raises UnavailableError when the server is away."""

    def __init__(self, redis: Redis, *, now: StoreNow) -> None:
        self.redis = redis
        self.now = now

    async def read_outbox(self, consumer: str, *, limit: int, block_ms: int) -> tuple[list[OutboxEntry], int]:
        """New entries for this consumer and the store's time; waits up to block_ms for the first one."""
        with redis_errors():
            pipeline = self.redis.pipeline(transaction=False)
            pipeline.xreadgroup(keys.OUTBOX_GROUP, consumer, {keys.OUTBOX: ">"}, count=limit, block=block_ms)
            pipeline.time()
            try:
                streams, time = await pipeline.execute()
            except ResponseError as error:
                if "NOGROUP" not in str(error):
                    raise
                await self._create_group()
                return await self.read_outbox(consumer, limit=limit, block_ms=block_ms)
        return [_entry(*raw) for _, raws in streams for raw in raws], self._now_ms(time)

    async def adopt_outbox(self, consumer: str, *, idle_ms: int, limit: int) -> tuple[list[OutboxEntry], int]:
        """Entries that another consumer read but left for idle_ms, now this one's, and the store's time."""
        with redis_errors():
            await self._create_group()
            pipeline = self.redis.pipeline(transaction=False)
            pipeline.xautoclaim(keys.OUTBOX, keys.OUTBOX_GROUP, consumer, idle_ms, count=limit)
            pipeline.time()
            (_, raws, *_), time = await pipeline.execute()
        # Redis 6.2 names an entry that somebody deleted (None, None), later ones leave it out
        return [_entry(*raw) for raw in raws if raw[0] is not None], self._now_ms(time)

    async def acknowledge(self, entries: Iterable[OutboxEntry]) -> None:
        """Take entries out of the outbox; unreadable ones are kept in the dead stream."""
        entries = list(entries)
        entry_ids = [entry.entry_id for entry in entries]
        with redis_errors():
            pipeline = self.redis.pipeline(transaction=True)
            for entry in entries:
                if entry.wake_up is None:
                    pipeline.xadd(keys.OUTBOX_DEAD, dict(entry.fields.items()))
            pipeline.xack(keys.OUTBOX, keys.OUTBOX_GROUP, *entry_ids)
            pipeline.xdel(keys.OUTBOX, *entry_ids)
            await pipeline.execute()

    async def leave_outbox(self, consumer: str) -> None:
        """A consumer goes; what it read and did not acknowledge stays for the others to adopt."""
        with redis_errors():
            pending = await self.redis.xpending_range(
                keys.OUTBOX, keys.OUTBOX_GROUP, "-", "+", 1, consumername=consumer
            )
            if not pending:  # XGROUP DELCONSUMER would drop them
                await self.redis.xgroup_delconsumer(keys.OUTBOX, keys.OUTBOX_GROUP, consumer)

    def _now_ms(self, time: tuple[int, int]) -> int:
        now_ms = self.now()
        seconds, microseconds = time
        return seconds * 1000 + microseconds // 1000 if now_ms is None else now_ms

    async def _create_group(self) -> None:
        try:
            await self.redis.xgroup_create(keys.OUTBOX, keys.OUTBOX_GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise


def _entry(entry_id: bytes, fields: dict[bytes, bytes]) -> OutboxEntry:
    try:
        wake_up = WakeUp(fields[b"timer"].decode(), int(fields[b"generation"]), int(fields[b"due"]))
    except (KeyError, ValueError):
        return OutboxEntry(entry_id, None, fields)
    if not wake_up.is_possible:
        return OutboxEntry(entry_id, None, fields)
    return OutboxEntry(entry_id, wake_up)
