"""A worker that is killed, frozen or cut off while its calls hang leaves no permit and no line behind.

The workers are real processes. Leases last 20 s, so this takes a while; all cases run at the same time.
"""

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis.asyncio import Redis

from httpqueue.clock import sleep
from httpqueue.relay.relay import Relay
from httpqueue.storage.connection import connect
from httpqueue.storage.embedded import EmbeddedValkey
from httpqueue.storage.keys import host_index_keys
from httpqueue.storage.queue import open_queue
from httpqueue.storage.storage import Storage
from httpqueue.timers.commands import NewTimer
from httpqueue.timers.names import DEFAULT_APPLICATION, TimerName
from httpqueue.timers.policies import DestinationPolicy
from httpqueue.timers.schedule import Delay
from httpqueue.timers.spec import Spec
from tests.support.cluster import cluster_node
from tests.support.frozen import HOUR_MS
from tests.support.keys import DUE, HELD, PARTITIONS, Everywhere
from tests.support.lines import no_line_is_left
from tests.support.processes import HTTPQUEUE, Process, started
from tests.support.proxy import Proxy
from tests.support.receiver import Receiver, Reply, reply_when
from tests.support.states import counted

TIMERS = 10
"""For each host."""
HOST_CONCURRENCY = 2
POLICIES = {
    "127.0.0.1": DestinationPolicy(concurrency=2),
    "127.0.1.1": DestinationPolicy(rate=1),
    "127.0.1.2": DestinationPolicy(),
}
"""{host: its rules}. The last one has none: only the worker's own room for one host keeps timers waiting."""
END_S = 90
"""All has ended by then, or something is stuck."""
LOOK_S = 0.2


@dataclass
class Scene:
    """A server of its own, a relay, receivers that hang until they are told to answer, and a worker."""

    url: str
    redis: Redis
    storage: Storage
    receivers: dict[str, Receiver]
    proxy: Proxy
    victim: Process
    answer: asyncio.Event

    @property
    def calls(self) -> Counter[str]:
        """{timer: how often it was called}."""
        return Counter(request.path for receiver in self.receivers.values() for request in receiver.requests)

    async def create(self) -> None:
        """Timers to all hosts."""
        for host, receiver in self.receivers.items():
            await self.storage.policies.set_destination(host, POLICIES[host])
            await self.storage.store.create(
                [
                    NewTimer(
                        TimerName(DEFAULT_APPLICATION, f"{host}-{number}"),
                        Spec(f"{receiver.url}/{host}-{number}", Delay(0), timeout_ms=HOUR_MS),
                    )
                    for number in range(TIMERS)
                ]
            )

    async def until_hanging(self) -> None:
        """As many calls hang as the limits allow; under the rate, the second one has just begun."""
        for receiver in self.receivers.values():
            await receiver.wait_for(2)

    async def until_all_are_done(self) -> None:
        """Every timer was delivered."""
        expected = {"d": TIMERS * len(POLICIES)}
        while await counted(self.redis) != expected:
            await sleep(LOOK_S)

    async def until_nothing_is_left(self) -> None:
        """No line, no permit, no mark, no entry in an index."""
        everywhere = Everywhere(self.redis)
        while (
            not await no_line_is_left(self.redis)
            or await self.redis.exists(host_index_keys().lines)
            or await everywhere.exists("running", "waiting", "probes", "queue", DUE, HELD)
        ):
            await sleep(LOOK_S)


@asynccontextmanager
async def staged(directory: Path) -> AsyncIterator[Scene]:
    """A scene in which the victim is at work."""
    answer = asyncio.Event()
    async with AsyncExitStack() as stack:
        url = stack.enter_context(a_server(directory))
        receivers = {host: await stack.enter_async_context(Receiver(address=host)) for host in POLICIES}
        for receiver in receivers.values():
            receiver.answer(reply_when(answer, Reply(200)))
        proxy = await stack.enter_async_context(Proxy(url))
        redis = await stack.enter_async_context(connect(url, Redis))
        storage = Storage(redis, archive_error_rate=1e-6, partitions=PARTITIONS)
        await storage.check(allow_unsafe=False)
        await stack.enter_async_context(relaying(storage, url))
        victim = await stack.enter_async_context(worker(directory, proxy.url))
        scene = Scene(url, redis, storage, receivers, proxy, victim, answer)
        await scene.create()
        yield scene


@contextmanager
def a_server(directory: Path) -> Iterator[str]:
    """The URL of an empty server; with several partitions it is in cluster mode."""
    directory.mkdir()
    if PARTITIONS.count > 1:
        with cluster_node(directory) as url:
            yield url
    else:
        with EmbeddedValkey(directory, persistent=False) as server:
            yield server.url


@asynccontextmanager
async def relaying(storage: Storage, url: str) -> AsyncIterator[None]:
    """A relay at work."""
    async with open_queue(url, partitions=PARTITIONS) as queue:
        relay = Relay(storage=storage, queue=queue, horizon_ms=HOUR_MS, batch_size=500)
        task = asyncio.create_task(relay.run())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


@asynccontextmanager
async def worker(directory: Path, url: str) -> AsyncIterator[Process]:
    """A worker process at work."""
    async with started(
        *HTTPQUEUE,
        "worker",
        cwd=directory,
        redis_url=url,
        partitions=PARTITIONS.count,
        host_concurrency=HOST_CONCURRENCY,
        egress="private",
        shutdown_grace="1s",
    ) as process:
        await process.until_ready()
        yield process


async def kill(scene: Scene) -> None:
    """As the kernel does when memory runs out."""
    scene.victim.send_signal(signal.SIGKILL)
    await scene.victim.wait()


async def freeze(scene: Scene) -> None:
    """As a machine that sleeps."""
    scene.victim.send_signal(signal.SIGSTOP)


async def cut_off(scene: Scene) -> None:
    """From Redis alone: its calls go on."""
    scene.proxy.cut()


async def come_back(scene: Scene) -> None:
    """The victim goes on, or would: what it had is another's by now. Then it is told to stop."""
    scene.proxy.mend()
    if scene.victim.is_running:
        scene.victim.send_signal(signal.SIGCONT)
        assert await scene.victim.end() == 0


async def others_end_everything(directory: Path, strike: str) -> None:
    """The whole story, for one way to go."""
    async with asyncio.timeout(END_S), staged(directory) as scene:
        await scene.until_hanging()
        await STRIKES[strike](scene)
        hanging = set(scene.calls)
        assert set(scene.calls.values()) == {1}
        async with worker(directory, scene.url):
            scene.answer.set()
            await scene.until_all_are_done()
            await come_back(scene)
            await scene.until_nothing_is_left()
        assert {name for name, count in scene.calls.items() if count > 1} == hanging
        assert set(scene.calls.values()) <= {1, 2}
        assert len(scene.calls) == TIMERS * len(POLICIES)


STRIKES = {"kill": kill, "freeze": freeze, "cut off": cut_off}


@pytest.mark.timeout(2 * END_S)
async def test_others_end_everything_and_nothing_is_left(tmp_path: Path) -> None:
    """Those whose calls hung when it happened are called again, all others once."""
    async with asyncio.TaskGroup() as tasks:
        for strike in STRIKES:
            tasks.create_task(others_end_everything(tmp_path / strike.replace(" ", "-"), strike))
