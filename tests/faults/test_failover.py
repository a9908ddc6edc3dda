"""A primary that is demoted or dies, with Sentinels and without. Defect 5."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import httpx
import pytest
from redis.asyncio import Redis

from httpqueue import clock
from httpqueue.storage.embedded import EmbeddedValkey
from tests.support.keys import PARTITIONS
from tests.support.processes import HTTPQUEUE, Process, started
from tests.support.proxy import Proxy
from tests.support.receiver import Receiver
from tests.support.sentinel import info, sentinel_trio, until

PARTS: Final = ("api", "relay", "worker")
BATCH: Final = 50
pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(PARTITIONS.count > 1, reason="these servers are not in cluster mode"),
]


@asynccontextmanager
async def deployed(cwd: Path, **settings: object) -> AsyncIterator[list[Process]]:
    """API, relay and worker, ready; all of them end well."""
    async with AsyncExitStack() as stack:
        processes = [
            await stack.enter_async_context(started(*HTTPQUEUE, part, cwd=cwd, log_format="json", **settings))
            for part in PARTS
        ]
        await asyncio.gather(*(process.until_ready() for process in processes))
        yield processes
        assert [await process.end() for process in processes] == [0] * len(PARTS)
        assert not [
            event
            for process in processes
            for event in process.events()
            if event["event"] in {"run.bug", "api.error"}
        ]


class Client:
    """Posts timers, and notes which of them were acknowledged."""

    def __init__(self, api: httpx.AsyncClient, receiver: Receiver) -> None:
        self._api = api
        self._receiver = receiver
        self.acknowledged: list[str] = []

    async def post(self, name: str, *, seconds: float = 0) -> int:
        """Once."""
        timer = {"id": name, "url": f"{self._receiver.url}/{name}", "seconds": seconds}
        status = (await self._api.post("/timers", json=timer)).status_code
        if status in {200, 201}:
            self.acknowledged.append(f"/{name}")
        return status

    async def until_taken(self, name: str) -> None:
        """Until it is acknowledged."""
        async with asyncio.timeout(60):
            while await self.post(name) not in {200, 201}:
                await clock.sleep(0.05)

    async def until_all_fired(self) -> None:
        """Each acknowledged timer, at least once."""
        for path in self.acknowledged:
            await self._receiver.wait_for(1, path=path, timeout_s=60)


@asynccontextmanager
async def client_of(process: Process, receiver: Receiver) -> AsyncIterator[Client]:
    """A client of this API."""
    async with httpx.AsyncClient(base_url=process.url, timeout=30) as api:
        yield Client(api, receiver)


async def test_a_server_that_was_demoted_is_left(tmp_path: Path) -> None:
    """Its connections stay open, and its name has the address of another server now: READONLY is enough."""
    async with AsyncExitStack() as stack:
        old, new = (
            stack.enter_context(EmbeddedValkey(tmp_path / name, persistent=False)) for name in ("a", "b")
        )
        proxy = await stack.enter_async_context(Proxy(old.url))
        receiver = await stack.enter_async_context(Receiver())
        [api, *_] = await stack.enter_async_context(deployed(tmp_path, redis_url=proxy.url))
        client = await stack.enter_async_context(client_of(api, receiver))
        await client.until_taken("before")
        await client.until_all_fired()
        way_back = await stack.enter_async_context(Proxy(new.url))
        port = int(way_back.url.rpartition(":")[2])
        async with Redis.from_url(old.url) as its:
            await its.replicaof("127.0.0.1", port)
        proxy.point_to(new.url)
        begin_s = clock.monotonic_s()
        await client.until_taken("after")
        await client.until_all_fired()
        assert clock.monotonic_s() - begin_s < 5


@pytest.mark.parametrize("kind", ["ordered", "killed", "frozen"])
async def test_a_failover_by_sentinels(tmp_path: Path, kind: str) -> None:
    """The parts find the new primary by themselves. The old one, when it is back, is left alone."""
    with sentinel_trio(tmp_path) as trio:
        async with (
            Receiver() as receiver,
            deployed(tmp_path, redis_url=trio.url) as [api, *_],
            client_of(api, receiver) as client,
        ):
            await client.until_taken("before")
            await client.until_all_fired()
            old, new = trio.servers
            act = {"ordered": lambda _: trio.failover(), "killed": trio.kill, "frozen": trio.freeze}[kind]
            act(old)
            await asyncio.to_thread(trio.until_primary, new)
            begin_s = clock.monotonic_s()
            await client.until_taken("after")
            await receiver.wait_for(1, path="/after")
            assert clock.monotonic_s() - begin_s < 5
            if kind == "frozen":
                trio.thaw(old)
                await client.until_taken("again")
            await client.until_all_fired()


async def post_for_ever(client: Client) -> None:
    """Timers that are due in a moment, until cancelled."""
    number = 0
    while True:
        await asyncio.gather(*(client.post(f"{number + each}", seconds=5) for each in range(BATCH)))
        number += BATCH


async def test_no_acknowledged_timer_is_lost_with_the_primary(tmp_path: Path) -> None:
    """HTTPQUEUE_WAIT_REPLICAS=1, one replica, min-replicas-to-write 1: kill -9 while timers are posted."""
    with sentinel_trio(tmp_path, needs_replica=True) as trio:
        async with (
            Receiver() as receiver,
            deployed(tmp_path, redis_url=trio.url, wait_replicas=1) as [api, *_],
            client_of(api, receiver) as client,
        ):
            posting = asyncio.create_task(post_for_ever(client))
            while len(client.acknowledged) < 10 * BATCH:
                await clock.sleep(0.01)
            old, new = trio.servers
            trio.kill(old)
            posting.cancel()
            await asyncio.wait([posting])
            await asyncio.to_thread(trio.until_primary, new)
            assert await client.post("alone") == 503, "the new primary has no replica yet"
            trio.restart(old)
            await client.until_taken("after")
            await client.until_all_fired()


async def test_too_few_replicas_are_a_503(tmp_path: Path) -> None:
    """The timer may be stored all the same: posted again, it is the same timer."""
    with sentinel_trio(tmp_path) as trio:
        async with (
            Receiver() as receiver,
            deployed(tmp_path, redis_url=trio.url, wait_replicas=1) as [api, *_],
            client_of(api, receiver) as client,
        ):
            await client.until_taken("before")
            primary, replica = trio.servers
            trio.freeze(replica)
            assert await client.post("a") == 503
            assert await client.post("a") == 503, "what is there already is not confirmed either"
            trio.thaw(replica)
            await asyncio.to_thread(until, lambda: info(primary)["connected_slaves"] == 1)
            await client.until_taken("a")
            await client.until_all_fired()
        assert [request.path for request in receiver.requests] == ["/before", "/a"]
