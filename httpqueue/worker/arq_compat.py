"""A stock arq worker can drain the queue: `arq httpqueue.worker.arq_compat.WorkerSettings`.

It is slow, because it makes a round trip for each wake-up. It is for those who want to use arq's own workers,
tools and monitoring.
"""

import asyncio
import sys
from contextlib import AsyncExitStack, suppress
from typing import Any, Final

import orjson
import structlog
from arq.connections import RedisSettings
from arq.worker import func

from httpqueue import clock
from httpqueue.errors import SettingsError, UnavailableError
from httpqueue.settings import Settings, load
from httpqueue.storage.leases import LEASE_MARGIN_MS
from httpqueue.storage.partitions import Partitions
from httpqueue.storage.queue import JOB_FUNCTION, Queue, open_queue
from httpqueue.storage.secret_box import SecretBox
from httpqueue.storage.sentinel import parse_sentinel_url
from httpqueue.storage.storage import open_storage
from httpqueue.timers.commands import Refusal, Refused
from httpqueue.worker.attempts import BEAT_S, Attempts, Running
from httpqueue.worker.egress import EgressChoice
from httpqueue.worker.permits import Permits, permits_of
from httpqueue.worker.wiring import open_attempts

POLL_S: Final = 0.05
MAX_JOBS: Final = 200
"""A stock worker reads five times as many wake-ups in each poll."""

log = structlog.get_logger()


async def deliver(ctx: dict[str, Any], wake_up_id: str | None = None) -> None:
    """The arq job function: make one attempt. The argument, or else the job's id, is the wake-up's id."""
    queue: Queue = ctx["queue"]
    wake_up = queue.wake_up_of((wake_up_id or ctx["job_id"]).encode())
    if wake_up is None:
        log.error("worker.unreadable", job=ctx["job_id"])
        return
    attempts: Attempts = ctx["attempts"]
    permits: Permits = ctx["permits"]
    [answer] = await attempts.begin(attempts.begin_call([wake_up]))
    if isinstance(answer, Refused) and answer.refusal is Refusal.NEEDS_PERMIT:
        answer = await _begin_first_of_line(attempts, permits, answer) or answer
    if not isinstance(answer, Refused):
        await _make(attempts, permits, answer)
    await permits.leave()


async def _begin_first_of_line(
    attempts: Attempts, permits: Permits, refused: Refused
) -> Running | Refused | None:
    """Let the wake-up join its host's line, and begin the first of the line. None: nobody may start now."""
    [served] = await permits.ask({refused.host: ([refused.wake_up], 1)})
    await permits.mark()
    if not served.granted:
        return None
    [first] = served.granted
    [answer] = await attempts.begin(attempts.begin_call([first], {first: refused.host}))
    if isinstance(answer, Refused):
        permits.give_back(refused.host, first)
    return answer


async def _make(attempts: Attempts, permits: Permits, running: Running) -> None:
    beating = asyncio.create_task(_beat(attempts, permits, running))
    try:
        await attempts.make(running)
    finally:
        beating.cancel()
        if running.has_permit:
            permits.give_back(running.begun.host, running.begun.wake_up)
    await permits.tell_health()


async def _beat(attempts: Attempts, permits: Permits, running: Running) -> None:
    """Renew the lease until cancelled. If it is lost all the same, the store refuses the finish."""
    while True:
        await clock.sleep(BEAT_S)
        with suppress(UnavailableError):
            await attempts.beat([running])
            await permits.renew(permits_of([running]))


JOB: Final = func(deliver, name=JOB_FUNCTION)


def worker_settings(settings: Settings) -> dict[str, Any]:
    """The settings of a stock arq worker, by name. Raises SettingsError when no Redis is set."""
    if settings.redis_url is None:
        raise SettingsError("setting HTTPQUEUE_REDIS_URL: arq needs the Redis that all parts share")
    store_url, queue_url = settings.redis_url, settings.broker_redis_url or settings.redis_url
    partitions = Partitions(settings.partitions)
    if settings.arq_partition >= partitions.count:
        raise SettingsError(
            f"setting HTTPQUEUE_ARQ_PARTITION: must be below {partitions.count}, HTTPQUEUE_PARTITIONS"
        )
    resources = AsyncExitStack()

    async def on_startup(ctx: dict[str, Any]) -> None:
        storage = await resources.enter_async_context(
            open_storage(
                store_url,
                archive_error_rate=settings.archive_error_rate,
                partitions=partitions,
                secrets=SecretBox(settings.secret_keys),
            )
        )
        queue = await resources.enter_async_context(open_queue(queue_url, partitions=partitions))
        await storage.check(allow_unsafe=settings.allow_unsafe_redis)
        await storage.policies.check_secrets(reseals=False)
        egress = EgressChoice(settings)
        await egress.choose(storage.first_use, has_api=False)
        attempts = await resources.enter_async_context(open_attempts(settings, storage.store, egress))
        finishing = asyncio.create_task(attempts.finishes.run())
        resources.callback(finishing.cancel)
        ctx["attempts"], ctx["permits"], ctx["queue"] = attempts, Permits(storage, queue), queue
        attempts.finishes.told.listen(lambda told: ctx["permits"].note_finished(told[0]))

    async def on_shutdown(_: dict[str, Any]) -> None:
        await resources.aclose()

    return {
        "functions": [JOB],
        "queue_name": partitions.queue_keys[settings.arq_partition].queue,
        "redis_settings": _redis_settings(queue_url),
        "on_startup": on_startup,
        "on_shutdown": on_shutdown,
        "job_serializer": orjson.dumps,
        "job_deserializer": orjson.loads,
        "max_jobs": min(settings.concurrency, MAX_JOBS),
        "job_timeout": settings.attempt_timeout_ms / 1000 + LEASE_MARGIN_MS / 1000,
        "poll_delay": POLL_S,
        "keep_result": 0,
        "max_tries": sys.maxsize,  # attempts are counted in the store
    }


def _redis_settings(url: str) -> RedisSettings:
    sentinel = parse_sentinel_url(url)
    if sentinel is None:
        return RedisSettings.from_dsn(url)
    return RedisSettings(
        host=list(sentinel.sentinels),
        database=sentinel.db,
        username=sentinel.user,
        password=sentinel.password,
        sentinel=True,
        sentinel_master=sentinel.name,
    )


def __getattr__(name: str) -> Any:
    """Make WorkerSettings when arq asks for it, so that importing this module reads no settings."""
    if name == "WorkerSettings":
        return worker_settings(load())
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
