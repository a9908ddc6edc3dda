"""Makes the parts that a process runs, and gives each what it needs."""

import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

from httpqueue.api.app import create_app, create_ops_app
from httpqueue.api.backend import Backend
from httpqueue.api.key_ring import KeyRing
from httpqueue.clock import StoreNow, server_time
from httpqueue.relay.relay import Relay
from httpqueue.run.clock_comparison import ClockComparison
from httpqueue.run.clock_watch import ClockWatch
from httpqueue.run.greeting import greet, tell_egress
from httpqueue.run.http_server import HttpServer, listen
from httpqueue.run.lifecycle import Parts
from httpqueue.run.limits import affordable_calls
from httpqueue.run.start_check import check_start
from httpqueue.run.virtual_clock import VirtualClock
from httpqueue.runtime.part import Part
from httpqueue.settings import Mode, Settings, variable
from httpqueue.storage.partitions import Partitions
from httpqueue.storage.queue import Queue, open_queue
from httpqueue.storage.storage import Storage, open_storage
from httpqueue.worker.egress import EgressChoice
from httpqueue.worker.engine import Worker
from httpqueue.worker.permits import Permits
from httpqueue.worker.slots import Slots
from httpqueue.worker.wiring import open_attempts


@dataclass(frozen=True, slots=True)
class _Shared:
    """What the parts of one process share."""

    settings: Settings
    now: StoreNow
    storage: Storage
    is_one_server: bool
    """Whether the queue is on the store's server."""
    queue: Queue
    api_keys: KeyRing
    egress: EgressChoice
    relay: Relay

    async def ping(self) -> None:
        """Raises UnavailableError when a server is away."""
        await self.storage.ping()
        await self.queue.ping()


@asynccontextmanager
async def open_parts(settings: Settings, store_url: str, *, kept_in: str) -> AsyncIterator[Parts]:
    """Make the parts for the settings' mode. kept_in: where the data is, a text for people."""
    mode = settings.mode
    async with AsyncExitStack() as stack:
        shared = await _open_shared(settings, store_url, stack)
        servers: list[Part] = []
        workers: list[Part] = []
        listener = _listener(settings, "port", stack) if settings.has_api else None
        if listener is not None:
            servers.append(_api_server(shared, listener))
        if settings.metrics_port is not None:
            app = create_ops_app(readiness=shared.ping)
            servers.append(HttpServer(app, _listener(settings, "metrics_port", stack)))
        if mode is not Mode.API and not shared.is_one_server:
            workers.append(ClockComparison(shared.queue, shared.storage.time_ms))
        if not settings.virtual_clock:
            workers.append(ClockWatch(shared.storage.time_ms))
        if mode in {Mode.ALL, Mode.RELAY}:
            workers.append(shared.relay)
        if mode in {Mode.ALL, Mode.WORKER}:
            workers.append(await _open_worker(shared, stack))

        async def check() -> None:
            if listener is not None:
                greet(listener, kept_in)
            await check_start(shared.storage, shared.api_keys, shared.egress, settings)
            if listener is not None:
                tell_egress(shared.egress().mode)

        yield Parts(servers, check, workers)


async def _open_shared(settings: Settings, store_url: str, stack: AsyncExitStack) -> _Shared:
    now = VirtualClock() if settings.virtual_clock else server_time
    queue_url = settings.broker_redis_url or store_url
    partitions = Partitions(settings.partitions)
    storage = await stack.enter_async_context(
        open_storage(
            store_url, archive_error_rate=settings.archive_error_rate, partitions=partitions, now=now
        )
    )
    queue = await stack.enter_async_context(open_queue(queue_url, partitions=partitions, now=now))
    fixed_key = None if settings.api_key is None else settings.api_key.get_secret_value()
    return _Shared(
        settings=settings,
        now=now,
        storage=storage,
        is_one_server=queue_url == store_url,
        queue=queue,
        api_keys=KeyRing(storage.api_keys.load, fixed_key=fixed_key),
        egress=EgressChoice(settings),
        relay=Relay(
            storage=storage,
            queue=queue,
            horizon_ms=settings.horizon_ms,
            batch_size=settings.relay_batch_size,
        ),
    )


def _listener(settings: Settings, field: str, stack: AsyncExitStack) -> socket.socket:
    listener = listen(settings.host, getattr(settings, field), setting=variable(field))
    return stack.enter_context(listener)


def _api_server(shared: _Shared, listener: socket.socket) -> HttpServer:
    app = create_app(_backend(shared), api_keys=shared.api_keys, rate_limit_per_s=shared.settings.rate_limit)
    return HttpServer(app, listener)


def _backend(shared: _Shared) -> Backend:
    backend = Backend(
        store=shared.storage.store,
        lookup=shared.storage.lookup,
        policies=shared.storage.policies,
        readiness=shared.ping,
        worker_silence_ms=shared.queue.worker_silence_ms,
        retention_ms=shared.settings.retention_done_ms,
        egress=shared.egress,
    )
    now = shared.now
    if not isinstance(now, VirtualClock):
        return backend
    advance = partial(now.advance, lookup=backend.lookup, relay=shared.relay, queue=shared.queue)
    return replace(backend, now_ms=now, advance=advance)


async def _open_worker(shared: _Shared, stack: AsyncExitStack) -> Part:
    settings = shared.settings
    settings = settings.model_copy(update={"concurrency": affordable_calls(settings.concurrency)})
    attempts = await stack.enter_async_context(open_attempts(settings, shared.storage.store, shared.egress))
    return Worker(
        attempts=attempts,
        queue=shared.queue,
        permits=Permits(shared.storage, shared.queue),
        slots=Slots(settings.concurrency, settings.host_concurrency),
        grace_s=settings.shutdown_grace_ms / 1000,
    )
