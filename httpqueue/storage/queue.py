"""The queue: a list of wake-ups in arq's format in each partition.

It can be rebuilt from the store at any time. A stock arq worker that knows the job function can drain it.
What stock arq enqueues is claimed, too.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

import orjson
from arq.connections import ArqRedis
from arq.jobs import DeserializationError, deserialize_job_raw, serialize_job

from httpqueue.clock import StoreNow, server_time
from httpqueue.storage.connection import connect, listen, redis_errors, time_ms
from httpqueue.storage.inspection import PAGE, server_of
from httpqueue.storage.keys import ARQ_JOB_PREFIX, WAKE_CHANNEL, WORKERS, parse_wake_up_id, wake_up_id
from httpqueue.storage.partitions import Partitions, by_partition
from httpqueue.storage.scripts import Script, pack, script_now
from httpqueue.timers.checkup import Server
from httpqueue.timers.commands import WakeUp

JOB_FUNCTION: Final = "deliver"
JOB_DEFINITION: Final = serialize_job(JOB_FUNCTION, (), {}, None, 0, serializer=orjson.dumps)
"""The arq job of every wake-up. They are all the same, because the job's id says everything."""

FORGET_WORKER_MS: Final = 7 * 24 * 3_600_000


@dataclass(frozen=True, slots=True)
class Claim:
    """Due wake-ups that were popped, and in how many ms the next one is due (None: the queue is empty).

    `unreadable` has the job ids that could not be read, as text for logs.
    """

    wake_ups: list[WakeUp]
    unreadable: list[str]
    wait_ms: int | None


class Queue:
    """Puts and claims wake-ups. Methods raise UnavailableError when the server is away."""

    def __init__(self, redis: ArqRedis, *, partitions: Partitions, now: StoreNow = server_time) -> None:
        self.redis = redis
        self._now = now
        self._keys = partitions.queue_keys
        self.partitions = partitions.all
        self._put, self._claim, self._missing = (
            Script(redis, name, partitions.queue_keys) for name in ("put", "claim", "missing")
        )
        self._ahead_ms = 0

    async def put(self, wake_ups: Sequence[WakeUp]) -> int:
        """Put wake-ups into the queue. Returns how many were not there yet.

        A wake-up that is there already moves only to an earlier time. One that is past due joins the end of
        those that are due.
        """

        async def put_in(partition: int, part: Sequence[WakeUp]) -> list[bool]:
            answers = await self._put(
                partition,
                script_now(self._now),
                self._ahead_ms,
                JOB_DEFINITION,
                pack([(wake_up_id(wake_up), wake_up.due_ms) for wake_up in part]),
            )
            return [True] * answers + [False] * (len(part) - answers)

        return sum(await by_partition(wake_ups, lambda each: each.partition, put_in))

    async def claim(self, partition: int, limit: int) -> Claim:
        """Pop at most `limit` due wake-ups of a partition, the earliest first."""
        wait_ms, ids = await self._claim(partition, script_now(self._now), self._ahead_ms, limit)
        wake_ups, unreadable, foreign = [], [], []
        for job_id in ids:
            wake_up = self.wake_up_of(job_id)
            if wake_up is None:
                foreign.append(job_id)
            else:
                wake_ups.append(wake_up)
        for job_id, wake_up in zip(foreign, await self._read_foreign(foreign), strict=True):
            if wake_up is None:
                unreadable.append(repr(job_id))
            else:
                wake_ups.append(wake_up)
        return Claim(wake_ups, unreadable, None if wait_ms < 0 else wait_ms)

    async def _read_foreign(self, job_ids: Sequence[bytes]) -> list[WakeUp | None]:
        """The wake-ups that jobs of stock arq name as their argument."""
        if not job_ids:
            return []
        with redis_errors():
            pipeline = self.redis.pipeline(transaction=False)
            for job_id in job_ids:
                pipeline.getdel(ARQ_JOB_PREFIX.encode() + job_id)
            definitions = await pipeline.execute()
        return [self.wake_up_of(_argument_of(definition)) for definition in definitions]

    def wake_up_of(self, wake_up_id: bytes) -> WakeUp | None:
        """The wake-up that an id in the queue names. None when it names none of a partition that there is."""
        try:
            wake_up = parse_wake_up_id(wake_up_id.decode())
        except UnicodeDecodeError:
            return None
        return wake_up if wake_up is not None and wake_up.partition in self.partitions else None

    async def missing(self, wake_ups: Sequence[WakeUp]) -> list[WakeUp]:
        """Those of these wake-ups that are not in the queue, in the same order."""

        async def missing_in(partition: int, part: Sequence[WakeUp]) -> list[int]:
            answers: list[int] = await self._missing(partition, pack([wake_up_id(each) for each in part]))
            return answers

        answers = await by_partition(wake_ups, lambda each: each.partition, missing_in)
        return [wake_up for wake_up, is_missing in zip(wake_ups, answers, strict=True) if is_missing]

    async def compare_clocks(self, store_time_ms: Callable[[], Awaitable[int]]) -> int:
        """Measure and return how many ms the queue's clock is ahead of the store's.

        From then on, put and claim correct for it.
        """
        if self._now() is not None:
            return 0  # with a test's clock or the virtual clock, both servers have the same time
        before_ms = await self._time_ms()
        store_ms = await store_time_ms()
        after_ms = await self._time_ms()
        self._ahead_ms = (before_ms + after_ms) // 2 - store_ms
        if abs(self._ahead_ms) <= after_ms - before_ms:
            self._ahead_ms = 0  # not more than the error of measurement: the round trip
        return self._ahead_ms

    async def _time_ms(self) -> int:
        with redis_errors():
            return time_ms(await self.redis.time(), self._now)

    async def epochs(self) -> list[str]:
        """The identity of each partition's queue, a random text. When it changes, the queue lost its data."""
        with redis_errors():
            pipeline = self.redis.pipeline(transaction=False)
            for keys in self._keys:
                pipeline.set(keys.epoch, uuid4().hex, nx=True)
                pipeline.get(keys.epoch)
            answers = await pipeline.execute()
        return [epoch.decode() if epoch else "" for epoch in answers[1::2]]

    async def known_epochs(self) -> list[str | None]:
        """As epochs(), without giving a queue one that has none."""
        with redis_errors():
            pipeline = self.redis.pipeline(transaction=False)
            for keys in self._keys:
                pipeline.get(keys.epoch)
            answers = await pipeline.execute()
        return [epoch.decode(errors="replace") if epoch else None for epoch in answers]

    async def server(self) -> Server:
        """What the queue's server says of itself."""
        return await server_of(self.redis, "queue", self._now)

    async def unreadable(self, partition: int) -> list[str]:
        """The entries of a partition's queue that name no wake-up and have no job, as text for people."""
        found: list[str] = []
        start = 0
        while True:
            with redis_errors():
                ids = await self.redis.zrange(self._keys[partition].queue, start, start + PAGE - 1)
                foreign = [each for each in ids if self.wake_up_of(each) is None]
                pipeline = self.redis.pipeline(transaction=False)
                for each in foreign:
                    pipeline.exists(ARQ_JOB_PREFIX.encode() + each)
                have_jobs = await pipeline.execute() if foreign else []
            found += [repr(each) for each, has_job in zip(foreign, have_jobs, strict=True) if not has_job]
            if len(ids) < PAGE:
                return found
            start += PAGE

    async def wake(self) -> None:
        """Tell all workers to look for due wake-ups now."""
        with redis_errors():
            for partition in self.partitions:
                await self.redis.publish(WAKE_CHANNEL, str(partition))

    async def note_worker(self, name: str) -> None:
        """Note that the worker of this name is alive."""
        with redis_errors():
            seconds, microseconds = await self.redis.time()
            now_ms = seconds * 1000 + microseconds // 1000
            pipeline = self.redis.pipeline(transaction=False)
            pipeline.zadd(WORKERS, {name: now_ms})
            pipeline.zremrangebyscore(WORKERS, "-inf", now_ms - FORGET_WORKER_MS)
            await pipeline.execute()

    async def worker_silence_ms(self) -> int | None:
        """How many ms ago any worker was alive. None: not in the last seven days."""
        with redis_errors():
            pipeline = self.redis.pipeline(transaction=False)
            pipeline.zrange(WORKERS, -1, -1, withscores=True)
            pipeline.time()
            last, (seconds, microseconds) = await pipeline.execute()
        return max(0, seconds * 1000 + microseconds // 1000 - round(last[0][1])) if last else None

    async def listen(self, on_wake: Callable[[int], None]) -> None:
        """Call on_wake(partition) whenever a wake-up became the earliest of its partition.

        It may call it for other partitions, too. Runs until cancelled or until an error.
        """
        await listen(self.redis, WAKE_CHANNEL, self.partitions, on_wake)

    async def ping(self) -> None:
        """Raises UnavailableError when the server does not answer."""
        with redis_errors():
            await self.redis.ping()


def _argument_of(definition: bytes | None) -> bytes:
    """The only argument of an arq job of ours. Empty when it has none that is a text."""
    try:
        function, args, _, _, _ = deserialize_job_raw(definition or b"", deserializer=orjson.loads)
    except DeserializationError:
        return b""
    is_ours = function == JOB_FUNCTION and len(args) == 1 and isinstance(args[0], str)
    return args[0].encode() if is_ours else b""


@asynccontextmanager
async def open_queue(
    url: str, *, partitions: Partitions, now: StoreNow = server_time
) -> AsyncIterator[Queue]:
    """Open the queue at this URL. It connects when it is first used. Jobs are JSON, never pickle."""
    redis = connect(url, ArqRedis)
    redis.job_serializer = orjson.dumps
    redis.job_deserializer = orjson.loads
    redis.default_queue_name = partitions.queue_keys[0].queue
    try:
        yield Queue(redis, partitions=partitions, now=now)
    finally:
        await redis.aclose()
