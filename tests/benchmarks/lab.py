"""What the rows are measured with: a fresh Valkey, httpqueue's processes, a receiver, a load generator.

Every server runs as httpqueue's own does: append-only file, appendfsync always, reached by a Unix socket.
"""

import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import orjson
from redis.asyncio import Redis

from httpqueue.clock import monotonic_s, sleep
from httpqueue.storage.embedded import EmbeddedValkey
from httpqueue.storage.retention import Retention
from httpqueue.storage.storage import open_storage
from httpqueue.storage.timers import Store
from httpqueue.storage.wake_ups import WINDOW
from httpqueue.timers.commands import Creation, NewTimer
from httpqueue.timers.names import DEFAULT_APPLICATION, TimerName
from httpqueue.timers.schedule import Instant
from httpqueue.timers.spec import Spec
from tests.benchmarks.control import Remote, remote
from tests.benchmarks.figures import LostError
from tests.support.keys import QUEUE, STORE
from tests.support.processes import HTTPQUEUE, Process, started

CREATE_BATCH: Final = 1_000
FILLED: Final = WINDOW // 2
"""Of one application, the relay queues so many at least; it tops the queue up when there are fewer."""
POLL_S: Final = 0.02
PATIENCE_S: Final = 30
"""Nothing happens for that long: what is not there by then is lost."""


@dataclass(frozen=True, slots=True)
class Lab:
    """How much is measured: all of it, or just enough to see that it works."""

    quick: bool

    def count(self, full: int, quick: int) -> int:
        """The one that applies."""
        return quick if self.quick else full


@dataclass(frozen=True, slots=True)
class Server:
    """A Valkey of our own, with a client and a store on it."""

    url: str
    pid: int
    redis: Redis
    store: Store
    retention: Retention

    @property
    def socket(self) -> str:
        """Its Unix socket's path."""
        return self.url.removeprefix("unix://")

    async def pending(self) -> int:
        """How many timers are not finished."""
        counts = await self.redis.hgetall(STORE.counts)  # type: ignore[misc] # redis-py: sync or async
        return sum(int(counts[key]) for key in counts if key.endswith((b":s", b":r")))

    async def used_memory(self) -> int:
        """Bytes that the server holds for its data."""
        return int((await self.redis.info("memory"))["used_memory"])


@asynccontextmanager
async def server() -> AsyncIterator[Server]:
    """An empty one, on a directory that is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="httpqueue-bench-") as directory:
        data_dir = Path(directory)
        with EmbeddedValkey(data_dir) as valkey:
            pid = int((data_dir / "valkey.pid").read_text())
            redis = Redis.from_url(valkey.url)
            async with open_storage(valkey.url, archive_error_rate=1e-6) as storage:
                await storage.check(allow_unsafe=False)
                yield Server(valkey.url, pid, redis, storage.store, storage.retention)
            await redis.aclose()


@asynccontextmanager
async def part(name: str, on: Server, **settings: object) -> AsyncIterator[Process]:
    """`httpqueue <name>` on that server, ready."""
    settings = {"redis_url": on.url, "egress": "private", **settings}
    async with started(*HTTPQUEUE, name, cwd=None, **settings) as process:
        await process.until_ready()
        yield process


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Webhooks in the order in which they came: their index, and when (ms since the epoch)."""

    indexes: Sequence[int]
    times_ms: Sequence[int]

    def check(self, count: int, due_ms: Sequence[int] = ()) -> None:
        """LostError unless each of `count` came once and, when its due time is given, not before it."""
        if sorted(self.indexes) != list(range(count)):
            twice = sum(times - 1 for times in Counter(self.indexes).values())
            raise LostError(f"{len(set(self.indexes))} of {count} webhooks came, {twice} more than once")
        early = sum(lateness < 0 for lateness in self.lateness_ms(due_ms)) if due_ms else 0
        if early:
            raise LostError(f"{early} of {count} webhooks were early")

    def lateness_ms(self, due_ms: Sequence[int]) -> list[int]:
        """Arrival minus due of each webhook, in the order of arrival."""
        return [at - due_ms[index] for index, at in zip(self.indexes, self.times_ms, strict=True)]

    def per_second(self, first: float = 0.0, last: float = 1.0) -> float:
        """Webhooks/s between these shares of them: by default from the first to the last."""
        start, end = int(first * len(self.times_ms)), int(last * (len(self.times_ms) - 1))
        return (end - start) * 1000 / max(self.times_ms[end] - self.times_ms[start], 1)


class Receiver:
    """The receiver's process, listening."""

    def __init__(self, process: Remote, port: int) -> None:
        self.port = port
        self._process = process

    @property
    def url(self) -> str:
        """Where webhooks go; their index follows."""
        return f"http://127.0.0.1:{self.port}/w/"

    async def wait_for(self, count: int) -> Arrivals:
        """The webhooks once so many came; LostError unless each came once."""
        before, came = -1, 0
        while before < came < count:
            before, came = came, await self._process.ask(do="wait", count=count, timeout_s=PATIENCE_S)
        if came < count:
            raise LostError(f"{came} of {count} webhooks came, then none for {PATIENCE_S} s")
        arrivals = await self.arrivals()
        arrivals.check(count)
        return arrivals

    async def arrivals(self) -> Arrivals:
        """What came until now."""
        return Arrivals(*await self._process.ask(do="arrivals"))


@asynccontextmanager
async def receiver(*, delay_s: float = 0.0) -> AsyncIterator[Receiver]:
    """One that answers 200 after delay_s."""
    async with remote("tests.benchmarks.receiver") as process:
        yield Receiver(process, await process.ask(do="listen", delay_s=delay_s))


@dataclass(frozen=True, slots=True)
class Load:
    """What a run of the generator gave."""

    seconds: float
    statuses: dict[str, int]
    bodies: list[str]

    def due_ms(self) -> list[int]:
        """When each timer is due, by the API's answers."""
        answers = (orjson.loads(body) for body in self.bodies)
        return [round(datetime.fromisoformat(answer["due"]).timestamp() * 1000) for answer in answers]


@dataclass(frozen=True, slots=True)
class Shot:
    """What the generator is to send: `count` requests, # in item replaced by an index."""

    item: str
    count: int
    path: str = "/timers"
    connections: int = 64
    rate: float | None = None
    batch: int = 0
    bodies: bool = False


async def shoot(port: int, shot: Shot) -> Load:
    """Run the generator in a process of its own; LostError when the server hangs up."""
    async with remote("tests.benchmarks.generator") as generator:
        fields = {name: getattr(shot, name) for name in Shot.__slots__}
        answer = await generator.ask(port=port, **fields)
    if answer["failure"]:
        raise LostError(answer["failure"])
    return Load(answer["seconds"], answer["statuses"], answer["bodies"])


def timer(url: str, **schedule: Any) -> str:
    """A timer as POST /timers takes it; # in the URL stands for its index."""
    return orjson.dumps({"url": url, **schedule}).decode()


async def create(
    on: Server,
    urls: Iterable[str],
    *,
    due_ms: int,
    prefix: str = "t",
    application: str = DEFAULT_APPLICATION,
) -> None:
    """Store a timer a URL, straight into the store; LostError when one is not created."""
    batch: list[NewTimer] = []

    async def flush() -> None:
        answers = await on.store.create(batch)
        if any(answer.creation is not Creation.CREATED for answer in answers):
            raise LostError("a timer was not created")
        batch.clear()

    for number, url in enumerate(urls):
        name = TimerName(application, f"{prefix}{number}")
        batch.append(NewTimer(name, Spec(url, Instant(due_ms))))
        if len(batch) == CREATE_BATCH:
            await flush()
    if batch:
        await flush()


@asynccontextmanager
async def relaying(on: Server, *, queued: int) -> AsyncIterator[None]:
    """A relay at work that has acted on the whole outbox and queued at least so many wake-ups, or none."""
    async with part("relay", on) as relay:
        before, since_s = (-1, -1), monotonic_s()
        while True:
            state = left, size = await on.redis.xlen(STORE.outbox), await on.redis.zcard(QUEUE.queue)
            if not left and (size >= queued if queued else not size):
                break
            if state != before:
                before, since_s = state, monotonic_s()
            elif monotonic_s() - since_s > PATIENCE_S:
                raise LostError(f"the relay stands still: {state[0]} in the outbox, {state[1]} queued")
            await sleep(POLL_S)
        yield
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
