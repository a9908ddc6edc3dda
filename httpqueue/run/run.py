"""Compose and run processes: the only place that wires parts together, and the one that hears signals.

A part is a coroutine that runs until `stop` is set and then ends by itself; one that fails ends the process.
"""

import asyncio
import gc
import resource
import signal
import socket
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import structlog
import uvicorn
import uvloop
from starlette.types import ASGIApp

from httpqueue import __version__
from httpqueue.api.app import create_app, create_ops_app
from httpqueue.api.backend import Backend, Readiness
from httpqueue.api.key_ring import KeyRing
from httpqueue.clock import server_time
from httpqueue.errors import SettingsError, StartError, UnavailableError
from httpqueue.relay.relay import Relay
from httpqueue.run.virtual import VirtualClock
from httpqueue.runtime import logs
from httpqueue.runtime.outage import Outage
from httpqueue.settings import Mode, Settings, variable
from httpqueue.storage.api_keys import open_api_keys
from httpqueue.storage.embedded import EmbeddedValkey
from httpqueue.storage.queue import Queue, open_queue
from httpqueue.storage.registry import Registry
from httpqueue.storage.survey import Survey
from httpqueue.storage.timers import Store, open_store
from httpqueue.worker.worker import BatchWorker, open_attempts

BACKLOG: Final = 2_048
MAX_FILES: Final = 65_536
CLOSE_S: Final = 5
"""How long the API waits for requests in flight when it stops."""

log = structlog.get_logger()


def run(settings: Settings) -> None:
    """Run the settings' mode until SIGINT or SIGTERM; raises StartError when it cannot start."""
    logs.configure(settings.log_format, settings.log_level)
    _allow_many_connections()
    _collect_garbage_less_often()
    if settings.redis_url is not None:
        uvloop.run(_run(settings, settings.redis_url, kept_in="Redis at HTTPQUEUE_REDIS_URL"))
    elif settings.mode is Mode.ALL:
        with _embedded(settings) as (url, kept_in):
            uvloop.run(_run(settings, url, kept_in=kept_in))
    else:
        raise SettingsError(
            f"setting HTTPQUEUE_REDIS_URL: `httpqueue {settings.mode}` needs the Redis that all parts share"
        )


@contextmanager
def _embedded(settings: Settings) -> Iterator[tuple[str, str]]:
    """(URL, where it keeps its data) of a started server."""
    if settings.in_memory:
        with (
            TemporaryDirectory(prefix="httpqueue-") as directory,  # for its socket and its log
            EmbeddedValkey(Path(directory), persistent=False) as server,
        ):
            yield server.url, "in memory, gone when this ends"
    else:
        with EmbeddedValkey(settings.data_dir) as server:
            yield server.url, str(settings.data_dir.absolute())


async def _run(settings: Settings, store_url: str, *, kept_in: str) -> None:
    stop = _stop_on_signals()
    mode, queue_url = settings.mode, settings.broker_redis_url or store_url
    try:
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as parts:
            now = VirtualClock() if settings.virtual_clock else server_time
            store = await stack.enter_async_context(
                open_store(store_url, archive_error_rate=settings.archive_error_rate, now=now)
            )
            queue = await stack.enter_async_context(open_queue(queue_url, now=now))
            api_keys = await stack.enter_async_context(open_api_keys(store_url))
            keys = KeyRing(api_keys.load, fixed_key=_secret(settings))

            relay = Relay(
                store=store, queue=queue, horizon_ms=settings.horizon_ms, batch_size=settings.relay_batch_size
            )

            async def readiness() -> None:
                await store.ping()
                await queue.ping()

            if mode in {Mode.ALL, Mode.API}:
                listener = stack.enter_context(_listener(settings, "port"))
                backend = _backend(store, queue, settings, readiness)
                if isinstance(now, VirtualClock):
                    backend = _with_clock(backend, now, relay, queue)
                app = create_app(backend, api_keys=keys, rate_limit_per_s=settings.rate_limit)
                parts.create_task(_http(app, listener, stop, lambda: _greet(listener, kept_in)))
            if settings.metrics_port is not None:
                listener = stack.enter_context(_listener(settings, "metrics_port"))
                parts.create_task(_http(create_ops_app(readiness=readiness), listener, stop))
            await _run_until(stop, _check(store, keys, settings))
            if stop.is_set():
                return
            if mode in {Mode.ALL, Mode.RELAY}:
                parts.create_task(_run_until(stop, relay.run()))
            if mode in {Mode.ALL, Mode.WORKER}:
                parts.create_task(_worker(store, open_queue(queue_url, now=now), settings, stop))
            log.info("run.ready", mode=mode.value)
    except* StartError as errors:
        raise errors.exceptions[0] from None


async def _check(store: Store, keys: KeyRing, settings: Settings) -> None:
    """Ask the store's server whether it may keep timers, and who may make some, as soon as it is there."""
    outage = Outage("start")
    while True:
        try:
            await store.check(allow_unsafe=settings.allow_unsafe_redis)
            await _warn_if_open_to_all(keys, settings)
        except UnavailableError as error:
            await outage.wait(error)
        else:
            outage.over()
            return


async def _warn_if_open_to_all(keys: KeyRing, settings: Settings) -> None:
    serves = settings.mode in {Mode.ALL, Mode.API}
    if serves and not _is_loopback(settings.host) and not await keys.exist():
        remedy = "httpqueue keys create, or set HTTPQUEUE_API_KEY"
        log.warning("run.open_to_all", host=settings.host, remedy=remedy)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _secret(settings: Settings) -> str | None:
    return None if settings.api_key is None else settings.api_key.get_secret_value()


async def _http(
    app: ASGIApp, listener: socket.socket, stop: asyncio.Event, on_start: Callable[[], None] = lambda: None
) -> None:
    config = uvicorn.Config(
        app,
        http="httptools",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=CLOSE_S,
    )
    server = _Server(config, on_start)
    await _run_until(stop, server.serve(sockets=[listener]), server.stop)


def _backend(store: Store, queue: Queue, settings: Settings, readiness: Readiness) -> Backend:
    return Backend(
        store=store,
        survey=Survey(store.redis, now=store.now),
        registry=Registry(store.redis),
        readiness=readiness,
        worker_silence_ms=queue.worker_silence_ms,
        retention_ms=settings.retention_done_ms,
    )


def _with_clock(backend: Backend, now: VirtualClock, relay: Relay, queue: Queue) -> Backend:
    advance = partial(now.advance, survey=backend.survey, relay=relay, queue=queue)
    return replace(backend, now_ms=now, advance=advance)


async def _worker(
    store: Store, own_queue: AbstractAsyncContextManager[Queue], settings: Settings, stop: asyncio.Event
) -> None:
    async with open_attempts(settings, store) as attempts, own_queue as queue:
        worker = BatchWorker(
            attempts=attempts,
            queue=queue,
            concurrency=settings.concurrency,
            grace_s=settings.shutdown_grace_ms / 1000,
        )
        await _run_until(stop, worker.async_run(), worker.stop)


async def _run_until(
    stop: asyncio.Event,
    work: Coroutine[Any, Any, None],
    wind_down: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Run work until stop is set, then wind it down (or cancel it); its own failure is raised."""
    task, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if wind_down and not task.done():
            await wind_down()
            await asyncio.wait({task})
    finally:
        stopping.cancel()
        task.cancel()
    with suppress(asyncio.CancelledError):
        await task


class _Server(uvicorn.Server):
    """uvicorn, which leaves signals to this module and says when it listens."""

    def __init__(self, config: uvicorn.Config, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_start = on_start

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._on_start()

    async def stop(self) -> None:
        self.should_exit = True


def _allow_many_connections() -> None:
    """A call in flight is a file descriptor, and systems allow few (256 on macOS) unless asked."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if most == resource.RLIM_INFINITY else min(MAX_FILES, most)
    with suppress(ValueError, OSError):  # the system's own limit is lower yet
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def _collect_garbage_less_often() -> None:
    """A timer makes many objects and no cycle: looking for some every 700 objects is in vain."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def _listener(settings: Settings, field: str) -> socket.socket:
    host, port = settings.host, getattr(settings, field)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)  # here, so that a port in use is told as one; clients may wait from now on
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"setting {variable(field)}: cannot listen on {host}:{port} ({error.strerror})"
        ) from error
    return listener


def _stop_on_signals() -> asyncio.Event:
    """Set by the first SIGINT or SIGTERM; the second one ends the process at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
        log.info("run.stop")
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    return stop


def _greet(listener: socket.socket, kept_in: str) -> None:
    host, port = listener.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    timer = f'{{"url": "{url}/healthz", "method": "GET", "seconds": 2}}'
    print(  # noqa: T201 - the first thing its user reads
        f"""httpqueue {__version__}
  API         {url}/timers
  Swagger UI  {url}/docs
  Data        {kept_in}
Try it:
  curl -i {url}/timers -H 'content-type: application/json' -d '{timer}'
""",
        flush=True,
    )
