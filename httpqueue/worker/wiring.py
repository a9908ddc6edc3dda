"""Makes a worker's parts from the settings."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from httpqueue.settings import Settings
from httpqueue.storage.timers import Store
from httpqueue.webhooks.client.factory import create_sender
from httpqueue.webhooks.egress import Egress, IPAddress
from httpqueue.worker.attempts import Attempts
from httpqueue.worker.plan import AttemptPolicy


@asynccontextmanager
async def open_attempts(
    settings: Settings, store: Store, egress: Callable[[], Egress]
) -> AsyncIterator[Attempts]:
    """Create Attempts for this store. At the end the HTTP client is closed.

    egress: gives the rules for each new connection; no attempt may start before it can.
    """

    def judge(host: str, addresses: Sequence[IPAddress]) -> None:
        egress().judge(host, addresses)

    proxy = settings.egress_proxy
    sender = create_sender(
        settings.sender,
        judge,
        proxy_url=None if proxy is None else proxy.get_secret_value(),
        max_connections=settings.concurrency,
    )
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
