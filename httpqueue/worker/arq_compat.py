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
from httpqueue.storage.keys import queue_keys
from httpqueue.storage.queue import JOB_FUNCTION, read_job
from httpqueue.storage.storage import open_storage
from httpqueue.storage.timers import LEASE_MARGIN_MS
from httpqueue.timers.commands import Refused
from httpqueue.worker.attempts import BEAT_S, Attempts, Running
from httpqueue.worker.egress import EgressChoice
from httpqueue.worker.wiring import open_attempts

POLL_S: Final = 0.05

log = structlog.get_logger()


async def deliver(ctx: dict[str, Any], wake_up_id: str | None = None) -> None:
    """The arq job function: make one attempt. The argument, or else the job's id, is the wake-up's id."""
    wake_up = read_job((wake_up_id or ctx["job_id"]).encode(), b"")
    if wake_up is None:
        log.error("worker.unreadable", job=ctx["job_id"])
        return
    attempts: Attempts = ctx["attempts"]
    [answer] = await attempts.begin(attempts.begin_call([wake_up]))
    if isinstance(answer, Refused):
        return
    beating = asyncio.create_task(_beat(attempts, answer))
    try:
        await attempts.make(answer)
    finally:
        beating.cancel()


async def _beat(attempts: Attempts, running: Running) -> None:
    """Renew the lease until cancelled. If it is lost all the same, the store refuses the finish."""
    while True:
        await clock.sleep(BEAT_S)
        with suppress(UnavailableError):
            await attempts.beat([running])


JOB: Final = func(deliver, name=JOB_FUNCTION)


def worker_settings(settings: Settings) -> dict[str, Any]:
    """The settings of a stock arq worker, by name. Raises SettingsError when no Redis is set."""
    if settings.redis_url is None:
        raise SettingsError("setting HTTPQUEUE_REDIS_URL: arq needs the Redis that all parts share")
    store_url, queue_url = settings.redis_url, settings.broker_redis_url or settings.redis_url
    resources = AsyncExitStack()

    async def on_startup(ctx: dict[str, Any]) -> None:
        storage = await resources.enter_async_context(
            open_storage(store_url, archive_error_rate=settings.archive_error_rate)
        )
        await storage.check(allow_unsafe=settings.allow_unsafe_redis)
        egress = EgressChoice(settings)
        await egress.choose(storage.first_use, has_api=False)
        attempts = await resources.enter_async_context(open_attempts(settings, storage.store, egress))
        finishing = asyncio.create_task(attempts.finishes.run())
        resources.callback(finishing.cancel)
        ctx["attempts"] = attempts

    async def on_shutdown(_: dict[str, Any]) -> None:
        await resources.aclose()

    return {
        "functions": [JOB],
        "queue_name": queue_keys().queue,
        "redis_settings": RedisSettings.from_dsn(queue_url),
        "on_startup": on_startup,
        "on_shutdown": on_shutdown,
        "job_serializer": orjson.dumps,
        "job_deserializer": orjson.loads,
        "max_jobs": settings.concurrency,
        "job_timeout": settings.attempt_timeout_ms / 1000 + LEASE_MARGIN_MS / 1000,
        "poll_delay": POLL_S,
        "keep_result": 0,
        "max_tries": sys.maxsize,  # attempts are counted in the store
    }


def __getattr__(name: str) -> Any:
    """Make WorkerSettings when arq asks for it, so that importing this module reads no settings."""
    if name == "WorkerSettings":
        return worker_settings(load())
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
