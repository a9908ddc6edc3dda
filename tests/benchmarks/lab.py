"""What the rows are measured with: a fresh Valkey and httpqueue's processes.

Unless a row says otherwise, every server runs as httpqueue's own does: append-only file, appendfsync always,
reached by a Unix socket.
"""

import socket
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import httpx
from prometheus_client.parser import text_string_to_metric_families
from redis.asyncio import Redis

from httpqueue.clock import monotonic_s, sleep
from httpqueue.settings import PREFIX, Settings
from httpqueue.storage.embedded import EmbeddedValkey
from httpqueue.storage.keys import QueueKeys, StoreKeys, queue_keys, store_keys
from httpqueue.storage.storage import Storage, open_storage
from httpqueue.storage.wake_ups import WINDOW
from httpqueue.timers.timer import State as TimerState
from tests.benchmarks.figures import LostError, MissingError
from tests.support.processes import HTTPQUEUE, Process, started

FILLED: Final = WINDOW // 2
"""Of one application, the relay queues so many at least; it tops the queue up when there are fewer."""
POLL_S: Final = 0.02
PATIENCE_S: Final = 30
"""Nothing happens for that long: what is not there by then is lost."""
MANY_SLOTS: Final = 10_000

State = TypeVar("State")


@dataclass(frozen=True, slots=True)
class Lab:
    """How much is measured: all of it, or just enough to see that it works."""

    quick: bool

    def count(self, full: int, quick: int) -> int:
        """The one that applies."""
        return quick if self.quick else full


@dataclass(frozen=True, slots=True)
class Server:
    """A Valkey of our own, with a client on it."""

    url: str
    pid: int
    redis: Redis
    partitions: int

    @property
    def socket(self) -> str:
        """Its Unix socket's path."""
        return self.url.removeprefix("unix://")

    @property
    def store_keys(self) -> list[StoreKeys]:
        """Of each partition."""
        return [store_keys(number) for number in range(self.partitions)]

    @property
    def queue_keys(self) -> list[QueueKeys]:
        """Of each partition."""
        return [queue_keys(number) for number in range(self.partitions)]

    async def records(self) -> int:
        """How many timers there are that are not archived, in all states."""
        counts = await self._counts()
        return sum(counts[state.letter] for state in TimerState)

    async def pending(self) -> int:
        """How many timers are not finished."""
        counts = await self._counts()
        return counts["s"] + counts["r"]

    async def _counts(self) -> Counter[str]:
        """State letter -> number of timers; and what else `counts` has in keys.py."""
        sums: Counter[str] = Counter()
        for keys in self.store_keys:
            counts = await self.redis.hgetall(keys.counts)  # type: ignore[misc] # redis-py: sync or async
            for field, count in counts.items():
                sums[field.decode()[-1]] += int(count)
        return sums

    async def used_memory(self) -> int:
        """Bytes that the server holds for its data."""
        return int((await self.redis.info("memory"))["used_memory"])


@asynccontextmanager
async def server(*, partitions: int = 1, persistent: bool = True) -> AsyncIterator[Server]:
    """An empty one, on a directory that is removed at the end; for a store of so many partitions.

    persistent: with the append-only file, as httpqueue runs it.
    """
    with tempfile.TemporaryDirectory(prefix="httpqueue-bench-") as directory:
        data_dir = Path(directory)
        with EmbeddedValkey(data_dir, persistent=persistent) as valkey:
            pid = int((data_dir / "valkey.pid").read_text())
            redis = Redis.from_url(valkey.url)
            yield Server(valkey.url, pid, redis, partitions)
            await redis.aclose()


@asynccontextmanager
async def storage_of(on: Server) -> AsyncIterator[Storage]:
    """The store of a server with one partition, in this process."""
    async with open_storage(on.url, archive_error_rate=1e-6) as storage:
        await storage.check(allow_unsafe=False)
        yield storage


def has_setting(name: str) -> bool:
    """Whether this httpqueue knows the setting."""
    return name in Settings.model_fields


def need_setting(name: str) -> None:
    """MissingError when this httpqueue does not know the setting."""
    if not has_setting(name):
        raise MissingError(f"this httpqueue has no setting {PREFIX}{name.upper()} yet")


def calls_to_one_host(count: int) -> dict[str, int]:
    """The settings of a worker that may make so many calls to one host at once."""
    if has_setting("host_concurrency"):
        return {"concurrency": MANY_SLOTS, "host_concurrency": count}
    return {"concurrency": count}


@asynccontextmanager
async def starting(
    name: str, on: Server, *, environment: Sequence[str] = (), **settings: object
) -> AsyncIterator[Process]:
    """`httpqueue <name>` on that server, perhaps not ready yet. environment: more NAME=value.

    It may call this machine, where all receivers are.
    """
    if on.partitions > 1:
        settings["partitions"] = on.partitions
    command = "env", *environment, *HTTPQUEUE, name
    async with started(*command, cwd=None, redis_url=on.url, egress="private", **settings) as process:
        yield process


@asynccontextmanager
async def part(
    name: str, on: Server, *, environment: Sequence[str] = (), **settings: object
) -> AsyncIterator[Process]:
    """The same, ready."""
    async with starting(name, on, environment=environment, **settings) as process:
        await process.until_ready()
        yield process


async def until(state: Callable[[], Awaitable[State]], is_done: Callable[[State], bool]) -> None:
    """Wait until the state is so. LostError when it does not change for PATIENCE_S."""
    before, since_s = None, monotonic_s()
    while not is_done(now := await state()):
        if now != before:
            before, since_s = now, monotonic_s()
        elif monotonic_s() - since_s > PATIENCE_S:
            raise LostError(f"nothing changes for {PATIENCE_S} s: {before}")
        await sleep(POLL_S)


@asynccontextmanager
async def relaying(on: Server, *, queued: int) -> AsyncIterator[Process]:
    """A relay at work that has acted on the whole outbox and queued at least so many wake-ups, or none."""

    async def state() -> tuple[int, int]:
        in_outbox = sum([await on.redis.xlen(keys.outbox) for keys in on.store_keys])
        return in_outbox, sum([await on.redis.zcard(keys.queue) for keys in on.queue_keys])

    def is_filled(state: tuple[int, int]) -> bool:
        in_outbox, in_queue = state
        return not in_outbox and (in_queue >= queued if queued else not in_queue)

    async with part("relay", on) as relay:
        await until(state, is_filled)
        yield relay
        await relay.end()


async def relay_all(on: Server, *, queued: int) -> None:
    """Run a relay until it has acted on the whole outbox, then stop it."""
    async with relaying(on, queued=queued):
        pass


async def settle(on: Server) -> None:
    """Wait until the server does nothing in the background: its append-only file is not being rewritten."""
    while (await on.redis.info("persistence"))["aof_rewrite_in_progress"]:
        await sleep(POLL_S)


async def port_of(api: Process) -> int:
    """Where an API process listens."""
    while not any(line.startswith("  API") for line in api.stdout):
        await sleep(POLL_S)
    return int(api.url.rpartition(":")[2])


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


async def metric(port: int, name: str, label: str) -> dict[str, float]:
    """A counter of the process whose metrics are at this port: value of the label -> count."""
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"http://127.0.0.1:{port}/metrics")
    families = text_string_to_metric_families(answer.raise_for_status().text)
    return {
        sample.labels[label]: sample.value
        for family in families
        for sample in family.samples
        if sample.name == name
    }
