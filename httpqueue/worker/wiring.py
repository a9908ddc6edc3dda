"""Makes a worker's parts from the settings."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from httpqueue.settings import Settings
from httpqueue.storage.timers import Store
from httpqueue.webhooks.client.factory import create_sender
from httpqueue.worker.attempts import Attempts
from httpqueue.worker.plan import AttemptPolicy


@asynccontextmanager
async def open_attempts(settings: Settings, store: Store) -> AsyncIterator[Attempts]:
    """Create Attempts for this store. At the end the HTTP client is closed."""
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
