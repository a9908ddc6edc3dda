"""The outbox: a Redis stream of changes that the relays have still to act on, one in each partition.

The relays are one consumer group. What a relay has read and not acknowledged when it dies, another adopts.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from httpqueue.clock import server_time
from httpqueue.storage.connection import listen, redis_errors, time_ms
from httpqueue.storage.keys import OUTBOX_CHANNEL, OUTBOX_GROUP, name_of
from httpqueue.storage.partitions import Partitions
from httpqueue.storage.scripts import PipelinedScript
from httpqueue.timers.commands import OutboxEntry, WakeUp

MAX_DEAD: Final = 100
"""The most entries of a stream outbox:dead that are shown."""
MAX_INT: Final = 2**53
"""Lua numbers are doubles, exact up to this. A greater number was not written by httpqueue."""


@dataclass(frozen=True, slots=True)
class OutboxState:
    """How many entries an outbox has, how old the oldest is (ms), and the first of those set aside."""

    length: int
    age_ms: int
    dead: list[str]


class Outbox:
    """Reads and acknowledges outbox entries. Methods raise UnavailableError when the server is away."""

    def __init__(self, redis: Redis, *, partitions: Partitions) -> None:
        self._redis = redis
        self._partitions = partitions.all
        self._keys = [keys.outbox for keys in partitions.store_keys]
        self._store_keys = partitions.store_keys
        self._forget_relays = PipelinedScript(redis, "forget_relays")
        self._dead_keys = [keys.outbox_dead for keys in partitions.store_keys]

    async def read(
        self, partition: int, consumer: str, *, limit: int, again: bool = False
    ) -> list[OutboxEntry]:
        """Read at most `limit` new entries for this consumer.

        again: read those that it has read, but not acknowledged: the answer to an earlier call was lost.
        """
        with redis_errors():
            try:
                streams = await self._redis.xreadgroup(
                    OUTBOX_GROUP, consumer, {self._keys[partition]: "0" if again else ">"}, count=limit
                )
            except ResponseError as error:
                if "NOGROUP" not in str(error):
                    raise
                await self._create_group(partition)
                return await self.read(partition, consumer, limit=limit, again=again)
        return _entries(partition, (raw for _, raws in streams for raw in raws))

    async def adopt(self, partition: int, consumer: str, *, idle_ms: int, limit: int) -> list[OutboxEntry]:
        """Take over at most `limit` entries that another consumer has left unacknowledged for idle_ms."""
        with redis_errors():
            await self._create_group(partition)
            _, raws, *_ = await self._redis.xautoclaim(
                self._keys[partition], OUTBOX_GROUP, consumer, idle_ms, count=limit
            )
        # Redis 6.2 returns (None, None) for a deleted entry; later versions leave it out
        return _entries(partition, (raw for raw in raws if raw[0] is not None))

    async def acknowledge(self, partition: int, entries: Iterable[OutboxEntry]) -> None:
        """Take entries out of the outbox. Unreadable ones move to the stream outbox:dead."""
        entries = list(entries)
        entry_ids = [entry.entry_id for entry in entries]
        with redis_errors():
            pipeline = self._redis.pipeline(transaction=True)
            for entry in entries:
                if entry.wake_up is None:
                    pipeline.xadd(self._dead_keys[partition], dict(entry.fields.items()))
            pipeline.xack(self._keys[partition], OUTBOX_GROUP, *entry_ids)
            pipeline.xdel(self._keys[partition], *entry_ids)
            await pipeline.execute()

    async def states(self) -> list[OutboxState]:
        """How each partition's outbox is."""
        with redis_errors():
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.time()
            for key, dead_key in zip(self._keys, self._dead_keys, strict=True):
                pipeline.xlen(key)
                pipeline.xrange(key, count=1)
                pipeline.xrange(dead_key, count=MAX_DEAD)
            time, *answers = await pipeline.execute()
        now_ms = time_ms(
            time, server_time
        )  # entries have the server's own time, whatever a test's clock says
        return [
            OutboxState(
                length,
                now_ms - int(oldest[0][0].partition(b"-")[0]) if oldest else 0,
                [f"{entry_id.decode()} {fields!r}" for entry_id, fields in dead],
            )
            for length, oldest, dead in zip(answers[::3], answers[1::3], answers[2::3], strict=True)
        ]

    async def leave(self, partition: int, consumer: str) -> None:
        """Delete a consumer, unless it has unacknowledged entries: another relay adopts those."""
        with redis_errors():
            pending = await self._redis.xpending_range(
                self._keys[partition], OUTBOX_GROUP, "-", "+", 1, consumername=consumer
            )
            if not pending:  # otherwise XGROUP DELCONSUMER would drop them
                await self._redis.xgroup_delconsumer(self._keys[partition], OUTBOX_GROUP, consumer)

    async def forget_relays(self, *, silent_ms: int) -> None:
        """Drop consumers that have read nothing for so long, and have nothing left to acknowledge."""
        await self._forget_relays([(keys, (OUTBOX_GROUP, silent_ms)) for keys in self._store_keys])

    async def listen(self, on_entry: Callable[[int], None]) -> None:
        """Call on_entry(partition) when an empty outbox got an entry.

        It may call it for other partitions, too. Runs until cancelled or until an error.
        """
        await listen(self._redis, OUTBOX_CHANNEL, self._partitions, on_entry)

    async def _create_group(self, partition: int) -> None:
        try:
            await self._redis.xgroup_create(self._keys[partition], OUTBOX_GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise


def _is_newer(fields: dict[bytes, bytes]) -> bool:
    """Whether an entry has another format than the first, which has no number. See docs/adr/0024."""
    return b"format" in fields


def _entries(partition: int, raws: Iterable[tuple[bytes, dict[bytes, bytes]]]) -> list[OutboxEntry]:
    """Those that this version knows. The others stay unacknowledged, for a newer relay to adopt."""
    return [_entry(partition, *raw) for raw in raws if not _is_newer(raw[1])]


def _entry(partition: int, entry_id: bytes, fields: dict[bytes, bytes]) -> OutboxEntry:
    try:
        generation, due_ms = int(fields[b"generation"]), int(fields[b"due"])
        wake_up = WakeUp(name_of(fields[b"timer"]), generation, due_ms, partition)
    except (KeyError, ValueError):
        return OutboxEntry(entry_id, None, fields)
    if not (0 <= wake_up.generation <= MAX_INT and abs(wake_up.due_ms) <= MAX_INT):
        return OutboxEntry(entry_id, None, fields)  # it would break its whole batch
    return OutboxEntry(entry_id, wake_up)
