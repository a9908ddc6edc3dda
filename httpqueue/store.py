"""The store, the truth about every timer: one typed method a transition, many timers a call.

A call is one Redis script, so after a crash each of its timers is either through or untouched.
"""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgpack
import structlog
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from httpqueue import keys
from httpqueue.archive import Archive
from httpqueue.clock import StoreNow, server_time
from httpqueue.connection import Script, connect, redis_errors
from httpqueue.errors import StartError
from httpqueue.outcome import Outcome
from httpqueue.schedule import After
from httpqueue.timer import decode_record, encode_attempt, encode_spec
from httpqueue.transitions import (
    Begun,
    Created,
    Creation,
    Cursor,
    Finish,
    Found,
    NewTimer,
    OutboxEntry,
    Page,
    Refusal,
    Refused,
    WakeUp,
)

log = structlog.get_logger()


class Store:
    """Every method raises UnavailableError when the server is away; it then did all of a call or nothing."""

    def __init__(self, redis: Redis, *, archive: Archive, now: StoreNow = server_time) -> None:
        self._redis = redis
        self._archive = archive
        self._now = now
        self._create, self._begin, self._finish, self._upcoming = (
            Script(redis, name) for name in ("create", "begin", "finish", "upcoming")
        )

    async def create(self, timers: Sequence[NewTimer]) -> list[Created]:
        """Store new timers; the answers stand in their order."""
        batch = []
        for timer in timers:
            schedule = timer.spec.schedule
            after = isinstance(schedule, After)
            ms = schedule.delay_ms if isinstance(schedule, After) else schedule.fire_at_ms
            batch.append((keys.member(timer.application, timer.id), encode_spec(timer.spec), ms, after))
        answers = await self._create(
            (keys.RECORD_PREFIX, keys.DUE, keys.OUTBOX), self._script_now(), _pack(batch)
        )
        return [Created(Creation(creation.decode()), due_ms) for creation, due_ms in answers]

    async def begin(self, wake_ups: Sequence[WakeUp], *, lease_ms: int) -> list[Begun | Refused]:
        """Start an attempt for each wake-up whose timer is due; the answers stand in their order."""
        answers = await self._begin(
            (keys.RECORD_PREFIX, keys.DUE, keys.SET_ASIDE),
            self._script_now(),
            lease_ms,
            _pack([(wake_up.member, wake_up.generation) for wake_up in wake_ups]),
        )
        return [_begun(wake_up, answer) for wake_up, answer in zip(wake_ups, answers, strict=True)]

    async def finish(self, attempts: Sequence[Finish]) -> list[bool]:
        """Say how attempts ended; False for one that was no longer the timer's own."""
        layer = self._archive.current()
        batch = [
            (
                finish.wake_up.member,
                finish.wake_up.generation,
                finish.attempt,
                finish.outcome.value,
                finish.ms,
                encode_attempt(finish.last_attempt),
                [] if finish.outcome is Outcome.RETRY else layer.positions(finish.wake_up.member),
            )
            for finish in attempts
        ]
        answers, count = await self._finish(
            (keys.RECORD_PREFIX, keys.DUE, keys.OUTBOX, layer.key, keys.ARCHIVE_COUNTS),
            self._script_now(),
            layer.number,
            _pack(batch),
        )
        self._archive.note_count(layer.number, count)
        return [bool(answer) for answer in answers]

    async def get(self, application: str, timer_id: str) -> Found | None:
        """The timer, or None when there is no record of it (then ask is_archived)."""
        with redis_errors():
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.get(keys.RECORD_PREFIX + keys.member(application, timer_id))
            pipeline.time()
            record, time = await pipeline.execute()
        if record is None:
            return None
        return Found(decode_record(application, timer_id, record), self._now_ms(time))

    async def is_archived(self, application: str, timer_id: str) -> bool:
        """Whether a timer of that name finished once."""
        return await self._archive.contains(keys.member(application, timer_id))

    async def upcoming(self, cursor: Cursor, *, ahead_ms: int, limit: int) -> Page:
        """The wake-ups of timers due up to ahead_ms from now, at most limit of them."""
        now_ms, member, due_ms, found = await self._upcoming(
            (keys.RECORD_PREFIX, keys.DUE),
            self._script_now(),
            cursor.from_ms,
            ahead_ms,
            cursor.after,
            limit,
        )
        triples = zip(found[::3], found[1::3], found[2::3], strict=True)
        wake_ups = [WakeUp(name.decode(), generation, due) for name, generation, due in triples]
        return Page(wake_ups, Cursor(due_ms, member.decode()) if member else None, now_ms)

    async def read_outbox(self, consumer: str, *, limit: int, block_ms: int) -> tuple[list[OutboxEntry], int]:
        """New entries for this consumer and the store's time; waits up to block_ms for the first one."""
        with redis_errors():
            pipeline = self._redis.pipeline(transaction=False)
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
            pipeline = self._redis.pipeline(transaction=False)
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
            pipeline = self._redis.pipeline(transaction=True)
            for entry in entries:
                if entry.wake_up is None:
                    pipeline.xadd(keys.OUTBOX_DEAD, dict(entry.fields.items()))
            pipeline.xack(keys.OUTBOX, keys.OUTBOX_GROUP, *entry_ids)
            pipeline.xdel(keys.OUTBOX, *entry_ids)
            await pipeline.execute()

    async def leave_outbox(self, consumer: str) -> None:
        """A consumer goes; what it read and did not acknowledge stays for the others to adopt."""
        with redis_errors():
            pending = await self._redis.xpending_range(
                keys.OUTBOX, keys.OUTBOX_GROUP, "-", "+", 1, consumername=consumer
            )
            if not pending:  # XGROUP DELCONSUMER would drop them
                await self._redis.xgroup_delconsumer(keys.OUTBOX, keys.OUTBOX_GROUP, consumer)

    async def check(self, *, allow_unsafe: bool) -> None:
        """Whether this server may keep timers; raises StartError when not, and logs what is doubtful."""
        with redis_errors():
            memory = await self._redis.info("memory")
            persistence = await self._redis.info("persistence")
            snapshots = await self._snapshots()
        policy = memory.get("maxmemory_policy", "noeviction")
        if policy != "noeviction" and not allow_unsafe:
            raise StartError(
                f"Redis may evict timers (maxmemory-policy {policy}): set it to noeviction, "
                "or HTTPQUEUE_ALLOW_UNSAFE_REDIS=true"
            )
        if not persistence.get("aof_enabled") and not snapshots:
            log.warning("store.not_persistent", remedy="set appendonly yes in Redis")
        await self._archive.open()

    async def ping(self) -> None:
        """Raises UnavailableError with the reason."""
        with redis_errors():
            await self._redis.ping()

    def _script_now(self) -> int | str:
        now_ms = self._now()
        return "" if now_ms is None else now_ms

    def _now_ms(self, time: tuple[int, int]) -> int:
        now_ms = self._now()
        seconds, microseconds = time
        return seconds * 1000 + microseconds // 1000 if now_ms is None else now_ms

    async def _snapshots(self) -> bool:
        """Whether the server saves snapshots; one whose CONFIG is forbidden is believed to."""
        try:
            return bool((await self._redis.config_get("save")).get("save", "?"))
        except ResponseError:
            return True

    async def _create_group(self) -> None:
        try:
            await self._redis.xgroup_create(keys.OUTBOX, keys.OUTBOX_GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise


def _pack(batch: Sequence[Any]) -> bytes:
    """For cmsgpack, which knows no bin type."""
    packed: bytes = msgpack.packb(batch, use_bin_type=False)
    return packed


def _begun(wake_up: WakeUp, answer: list[Any]) -> Begun | Refused:
    match answer:
        case [b"begun", attempt, due_ms, now_ms, spec]:
            return Begun(wake_up, attempt, due_ms, now_ms, spec)
        case [b"early", due_ms, now_ms]:
            return Refused(wake_up, Refusal.EARLY, due_ms - now_ms)
        case [refusal]:
            return Refused(wake_up, Refusal(refusal.decode()))
    raise TypeError(f"begin.lua answered {answer!r}")


def _entry(entry_id: bytes, fields: dict[bytes, bytes]) -> OutboxEntry:
    try:
        wake_up = WakeUp(fields[b"timer"].decode(), int(fields[b"generation"]), int(fields[b"due"]))
    except (KeyError, ValueError):
        return OutboxEntry(entry_id, None, fields)
    if not wake_up.is_possible:
        return OutboxEntry(entry_id, None, fields)
    return OutboxEntry(entry_id, wake_up)


@asynccontextmanager
async def open_store(url: str, *, archive_error_rate: float) -> AsyncIterator[Store]:
    """A store on that server, which is not asked anything yet."""
    redis = connect(url, Redis)
    try:
        yield Store(redis, archive=Archive(redis, error_rate=archive_error_rate))
    finally:
        await redis.aclose()
