"""Makes the parts that a process runs, and gives each what it needs."""

import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

from httpqueue.api.app import create_app, create_ops_app
from httpqueue.api.audit_trail import AuditTrail
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
from httpqueue.run.revive import Revived
from httpqueue.run.start_check import check_start
from httpqueue.run.virtual_clock import VirtualClock
from httpqueue.run.watch import EmbeddedWatch, RedisWatch
from httpqueue.runtime.part import Part
from httpqueue.settings import Mode, Settings, variable
from httpqueue.storage.embedded import EmbeddedValkey
from httpqueue.storage.partitions import Partitions, at_once
from httpqueue.storage.queue import Queue, open_queue
from httpqueue.storage.secret_box import SecretBox
from httpqueue.storage.storage import Storage, open_storage
from httpqueue.worker.egress import EgressChoice
from httpqueue.worker.engine import Worker
from httpqueue.worker.permits import Permits
from httpqueue.worker.slots import Slots
from httpqueue.worker.wiring import open_attempts


@dataclass(frozen=True, slots=True)
class Source:
    """The store's server: its URL, where it keeps its data (a text for people), itself if it is embedded."""

    url: str
    kept_in: str
    embedded: EmbeddedValkey | None = None


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
        await at_once([self.storage.ping(), self.queue.ping()])


@asynccontextmanager
async def open_parts(
    settings: Settings, source: Source, *, secrets: SecretBox | None = None
) -> AsyncIterator[Parts]:
    """Make the parts for the settings' mode. secrets: as in Storage."""
    async with AsyncExitStack() as stack:
        shared = await _open_shared(settings, source.url, secrets, stack)
        listener = _listener(settings, "port", stack) if settings.has_api else None
        servers = _servers(shared, source, listener, stack)
        workers = _workers(shared)

        async def check() -> None:
            if listener is not None:
                greet(listener, source.kept_in)
            await check_start(shared.storage, shared.api_keys, shared.egress, settings)
            if listener is not None:
                tell_egress(shared.egress().mode)

        yield Parts(servers, check, workers)


def _servers(
    shared: _Shared, source: Source, listener: socket.socket | None, stack: AsyncExitStack
) -> list[Part]:
    servers: list[Part] = []
    if source.embedded is not None:
        servers.append(EmbeddedWatch(source.embedded))
    if listener is not None:
        servers.append(Revived(lambda: nullcontext(_api_server(shared, listener)), "api"))
    if shared.settings.metrics_port is not None:
        app, port = create_ops_app(readiness=shared.ping), _listener(shared.settings, "metrics_port", stack)
        servers.append(Revived(lambda: nullcontext(HttpServer(app, port)), "metrics"))
    return servers


def _workers(shared: _Shared) -> list[Part]:
    mode, workers = shared.settings.mode, list[Part]()
    if mode is Mode.API:
        workers.append(RedisWatch(shared.ping))
    elif not shared.is_one_server:
        workers.append(ClockComparison(shared.queue, shared.storage.time_ms))
    if not shared.settings.virtual_clock:
        workers.append(ClockWatch(shared.storage.time_ms))
    if mode in {Mode.ALL, Mode.RELAY}:
        workers.append(Revived(lambda: nullcontext(shared.relay), "relay"))
    if mode in {Mode.ALL, Mode.WORKER}:
        workers.append(Revived(partial(_open_worker, shared), "worker"))
    return workers


async def _open_shared(
    settings: Settings, store_url: str, secrets: SecretBox | None, stack: AsyncExitStack
) -> _Shared:
    now = VirtualClock() if settings.virtual_clock else server_time
    queue_url = settings.broker_redis_url or store_url
    partitions = Partitions(settings.partitions)
    storage = await stack.enter_async_context(
        open_storage(
            store_url,
            archive_error_rate=settings.archive_error_rate,
            partitions=partitions,
            now=now,
            max_pending=settings.max_pending,
            secrets=secrets,
            wait_replicas=settings.wait_replicas,
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
        api_keys=KeyRing(storage.api_keys.load, fixed_key=fixed_key, is_required=settings.needs_key),
        egress=EgressChoice(settings),
        relay=Relay(
            storage=storage,
            queue=queue,
            horizon_ms=settings.horizon_ms,
            batch_size=settings.relay_batch_size,
        ),
    )


def _listener(settings: Settings, field: str, stack: AsyncExitStack) -> socket.socket:
    host = settings.metrics_host if field == "metrics_port" else settings.host
    listener = listen(host, getattr(settings, field), setting=variable(field))
    return stack.enter_context(listener)


def _api_server(shared: _Shared, listener: socket.socket) -> HttpServer:
    trail = AuditTrail(shared.storage.audit.append)
    app = create_app(
        _backend(shared),
        api_keys=shared.api_keys,
        rate_limit_per_s=shared.settings.rate_limit,
        allowed_hosts=shared.settings.allowed_hosts or (),
        trail=trail,
    )
    return HttpServer(app, listener, at_end=trail.close)


def _backend(shared: _Shared) -> Backend:
    backend = Backend(
        store=shared.storage.store,
        lookup=shared.storage.lookup,
        policies=shared.storage.policies,
        jobs=shared.storage.jobs,
        readiness=shared.ping,
        worker_silence_ms=shared.queue.worker_silence_ms,
        retention_ms=shared.settings.retention_done_ms,
        egress=shared.egress,
        audit=shared.storage.audit,
    )
    now = shared.now
    if not isinstance(now, VirtualClock):
        return backend
    advance = partial(now.advance, lookup=backend.lookup, relay=shared.relay, queue=shared.queue)
    return replace(backend, now_ms=now, advance=advance)


@asynccontextmanager
async def _open_worker(shared: _Shared) -> AsyncIterator[Part]:
    settings = shared.settings
    settings = settings.model_copy(update={"concurrency": affordable_calls(settings.concurrency)})
    async with open_attempts(settings, shared.storage.store, shared.egress) as attempts:
        yield Worker(
            attempts=attempts,
            queue=shared.queue,
            permits=Permits(shared.storage, shared.queue),
            slots=Slots(settings.concurrency, settings.host_concurrency),
            grace_s=settings.shutdown_grace_ms / 1000,
        )
