"""The worker: claims due wake-ups in batches and runs their attempts.

arq starts it and keeps its health record; the claim, run and finish path is ours.
A wake-up that is lost between claim and begin is put again by the relay's heal pass.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from typing import Any, Final
from uuid import uuid4

import orjson
import structlog
from arq.connections import RedisSettings
from arq.worker import Worker, func
from redis.exceptions import RedisError

from httpqueue import clock
from httpqueue.errors import SettingsError, UnavailableError
from httpqueue.runtime.outage import Outage
from httpqueue.settings import Settings, load
from httpqueue.storage import keys
from httpqueue.storage.connection import redis_errors
from httpqueue.storage.queue import JOB_FUNCTION, Queue, read_job
from httpqueue.storage.timers import LEASE_MARGIN_MS, Store, open_store
from httpqueue.timers.commands import Begun, Refusal, WakeUp
from httpqueue.webhooks.client.factory import create_sender
from httpqueue.worker.attempts import AttemptPolicy, Attempts
from httpqueue.worker.calls import SLOW_S, Calls

IDLE_S: Final = 1.0
"""The longest sleep: a wake message that got lost costs no more than this."""
HEALTH_S: Final = 5
MAX_CLAIM: Final = 500
STOCK_POLL_S: Final = 0.05
GATHER_S: Final = 0.003
"""Under load: how long freed slots are gathered for one claim."""
AT_ONCE_MS: Final = 1
MAX_UNFINISHED: Final = 4
"""Attempts a slot that may wait for their finish, as they do when the store is away."""
AHEAD: Final = 2
"""Wake-ups a slot that are claimed ahead of free slots, while the queue has more and all calls are quick."""

log = structlog.get_logger()


async def deliver(ctx: dict[str, Any], wake_up_id: str | None = None) -> None:
    """The arq job function: one attempt for one wake-up, named by the job's id or by the argument.

    BatchWorker does the same for many at a time; a stock arq worker calls this.
    """
    wake_up = read_job((wake_up_id or ctx["job_id"]).encode(), b"")
    if wake_up is None:
        log.error("worker.unreadable", job=ctx["job_id"])
        return
    attempts: Attempts = ctx["attempts"]
    [answer] = await attempts.begin([wake_up])
    if isinstance(answer, Begun):
        await attempts.run(answer)


JOB: Final = func(deliver, name=JOB_FUNCTION)


class BatchWorker(Worker):
    """An arq worker whose jobs are claimed, begun and finished many at a time."""

    def __init__(self, *, attempts: Attempts, queue: Queue, concurrency: int, grace_s: float) -> None:
        super().__init__(
            [JOB],
            queue_name=keys.QUEUE,
            redis_pool=queue.redis,
            handle_signals=False,
            max_jobs=concurrency,
            poll_delay=0,
            keep_result=0,
            health_check_interval=HEALTH_S,
            health_check_key=f"{keys.QUEUE}:health-check:{uuid4().hex}",
            ctx={"attempts": attempts},
        )
        self._attempts = attempts
        self._queue = queue
        self._grace_s = grace_s
        self._outage = Outage("worker.claim")
        self._wake = asyncio.Event()
        self._held: list[WakeUp] = []
        self._is_full = False  # at the last look
        self._ahead = 0
        self._round = asyncio.Lock()
        self._name = uuid4().hex
        self._noted_s = 0.0
        self._calls = Calls(concurrency)

    async def main(self) -> None:
        """Claim and run until stopped; servers that go away are waited for."""
        self._attempts.on_woken(self._hold)
        listener = asyncio.create_task(self._listen())
        try:
            while True:
                try:
                    await super().main()
                except (RedisError, OSError) as error:  # arq's own commands at its start
                    await self._outage.wait(UnavailableError(str(error)))
        finally:
            listener.cancel()

    async def stop(self) -> None:
        """Claim no more, give back what was not begun, let attempts in flight end within the grace time."""
        self.allow_pick_jobs = False
        self._attempts.on_woken(None)
        async with self._round:
            left_over, self._held = self._held, []
        if left_over:
            with suppress(UnavailableError):
                await self._queue.put([replace(wake_up, due_ms=AT_ONCE_MS) for wake_up in left_over])
        if self.tasks:
            await asyncio.wait(self.tasks.values(), timeout=self._grace_s)
        left = list(self.tasks.values())
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        if self.main_task:
            self.main_task.cancel()
            await asyncio.wait({self.main_task})
        with suppress(UnavailableError), redis_errors():
            await self.close()

    async def _poll_iteration(self) -> None:
        """One round: claim what is due, begin it, sleep until there is more to do."""
        self._wake.clear()
        free = self._free()
        self._is_full = not free
        try:
            async with self._round:
                # a host that turns slow gives slots free without any call ending: look again soon
                idle_s = await self._claim(free) if free and self.allow_pick_jobs else SLOW_S
            with redis_errors():
                await self.heart_beat()
            await self._note_worker()
        except UnavailableError as error:
            await self._outage.wait(error)
            return
        self._outage.over()
        if idle_s:
            await self._sleep(idle_s)
        if self._free() < self.max_jobs // 2:
            await clock.sleep(GATHER_S)

    def _free(self) -> int:
        """How many attempts may start: a slot is taken until the answer is there, not until the finish."""
        slots: int = self.max_jobs
        return max(0, min(self._calls.free(), slots * MAX_UNFINISHED - len(self.tasks), MAX_CLAIM))

    async def _claim(self, free: int) -> float:
        """Start up to that many attempts; returns how long there is nothing more to do, in seconds."""
        idle_s = 0.0
        if len(self._held) < free:
            claim = await self._queue.claim(free - len(self._held) + self._ahead)
            for job in claim.unreadable:
                log.error("worker.unreadable", job=job)
            self._held += claim.wake_ups
            self._ahead = self.max_jobs * AHEAD if claim.wait_ms == 0 and self._calls.are_quick() else 0
            idle_s = IDLE_S if claim.wait_ms is None else min(claim.wait_ms / 1000, IDLE_S)
        wake_ups, self._held = self._held[:free], self._held[free:]
        await self._begin(wake_ups)
        return 0 if self._held else idle_s

    async def _begin(self, wake_ups: Sequence[WakeUp]) -> None:
        if not wake_ups:
            return
        try:
            answers = await self._attempts.begin(wake_ups, self._calls.room())
        except UnavailableError:
            self._held.extend(wake_ups)  # they are no longer in the queue
            raise
        later = []
        for answer in answers:
            if isinstance(answer, Begun):
                self._start(answer)
            elif answer.refusal is Refusal.EARLY:
                # the queue's server is ahead of the store's: what counts is the store's clock
                self.loop.call_later(answer.wait_ms / 1000, self._hold, answer.wake_up)
            elif answer.until_ms:
                later.append(replace(answer.wake_up, due_ms=answer.until_ms))
        if later:
            await self._queue.put(later)

    def _start(self, begun: Begun) -> None:
        name = f"{begun.wake_up.id}:{begun.attempt}"
        self._calls.begin(begun.host, name)
        task = self.tasks[name] = self.loop.create_task(
            self._attempts.run(begun, lambda: self._answered(begun.host, name))
        )
        task.add_done_callback(lambda task: self._ended(name, task))

    def _answered(self, host: bytes, name: str) -> None:
        if self._is_full:
            self._wake.set()
        self._calls.end(host, name)

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        if self._is_full:
            self._wake.set()
        del self.tasks[name]
        if not task.cancelled() and (error := task.exception()):
            log.error("worker.bug", job=name, exc_info=error)

    def _hold(self, wake_up: WakeUp) -> None:
        self._held.append(wake_up)
        self._wake.set()

    async def _note_worker(self) -> None:
        now_s = clock.monotonic_s()
        if now_s - self._noted_s >= HEALTH_S or not self._noted_s:
            await self._queue.note_worker(self._name)
            self._noted_s = now_s

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _listen(self) -> None:
        outage = Outage("worker.listen")
        while True:
            try:
                await self._queue.listen(self._wake.set)
            except UnavailableError as error:
                await outage.wait(error)


@asynccontextmanager
async def open_attempts(settings: Settings, store: Store) -> AsyncIterator[Attempts]:
    """Attempts on that store, as the settings want them."""
    sender = create_sender(settings.sender)
    policy = AttemptPolicy(
        retry=settings.retry_policy,
        timeout_ms=settings.attempt_timeout_ms,
        retention_done_ms=settings.retention_done_ms,
        retention_failed_ms=settings.retention_failed_ms,
        append_timer_id=settings.append_timer_id,
        callback_timeout_ms=settings.callback_timeout_ms,
        callback_delays_ms=settings.callback_delays_ms,
    )
    try:
        yield Attempts(store=store, sender=sender, policy=policy)
    finally:
        await sender.close()


def worker_settings(settings: Settings) -> dict[str, Any]:
    """What a stock arq worker needs to drain the queue, one wake-up at a time."""
    if settings.redis_url is None:
        raise SettingsError("setting HTTPQUEUE_REDIS_URL: arq needs the Redis that all parts share")
    store_url, queue_url = settings.redis_url, settings.broker_redis_url or settings.redis_url
    resources = AsyncExitStack()

    async def on_startup(ctx: dict[str, Any]) -> None:
        store = await resources.enter_async_context(
            open_store(store_url, archive_error_rate=settings.archive_error_rate)
        )
        await store.check(allow_unsafe=settings.allow_unsafe_redis)
        ctx["attempts"] = await resources.enter_async_context(open_attempts(settings, store))

    async def on_shutdown(_: dict[str, Any]) -> None:
        await resources.aclose()

    return {
        "functions": [JOB],
        "queue_name": keys.QUEUE,
        "redis_settings": RedisSettings.from_dsn(queue_url),
        "on_startup": on_startup,
        "on_shutdown": on_shutdown,
        "job_serializer": orjson.dumps,
        "job_deserializer": orjson.loads,
        "max_jobs": settings.concurrency,
        "job_timeout": settings.attempt_timeout_ms / 1000 + LEASE_MARGIN_MS / 1000,
        "poll_delay": STOCK_POLL_S,
        "keep_result": 0,
        "max_tries": sys.maxsize,  # attempts are counted in the store
    }


def __getattr__(name: str) -> Any:
    """WorkerSettings, for `arq httpqueue.worker.WorkerSettings`: made when asked, as it reads settings."""
    if name == "WorkerSettings":
        return worker_settings(load())
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
