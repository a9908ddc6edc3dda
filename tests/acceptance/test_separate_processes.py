"""api, relay and two workers as processes of their own on one Redis URL, as production runs them."""

import asyncio
import random
import signal
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from itertools import count
from pathlib import Path

import httpx
import pytest
from redis import Redis

from httpqueue.storage.embedded import EmbeddedValkey
from httpqueue.timers.schedule import parse_instant_ms
from tests.support.cluster import own_server
from tests.support.keys import PARTITIONS, place_of
from tests.support.processes import HTTPQUEUE, REPOSITORY, Process, started
from tests.support.proxy import Proxy
from tests.support.receiver import Receiver

TIMERS = 1_000
CONNECTIONS = 50
ARQ = str(Path(sys.executable).with_name("arq"))
WORKER_SETTINGS = "httpqueue.worker.arq_compat.WorkerSettings"
PARTS = ("api", "relay", "worker", "worker")
RESETS = 200
RESET_CHANCE = 0.03
"""That a piece of data between a process and Redis resets all connections instead of passing through."""


@asynccontextmanager
async def deployment(cwd: Path, **settings: object) -> AsyncIterator[list[Process]]:
    """The four processes, ready; ended by SIGTERM, which each of them takes as a clean end."""
    async with AsyncExitStack() as stack:
        processes = [
            await stack.enter_async_context(
                started(sys.executable, str(REPOSITORY / "cmd" / f"{part}.py"), cwd=cwd, **settings)
            )
            for part in PARTS
        ]
        await asyncio.gather(*(process.until_ready() for process in processes))
        yield processes
        assert await asyncio.gather(*(process.end() for process in processes)) == [0] * len(PARTS)
        for process in processes:
            assert not any("Traceback" in line for line in process.stderr), process.stderr


async def test_a_thousand_timers_each_once_none_early(tmp_path: Path, valkey_server: EmbeddedValkey) -> None:
    """Random delays, posted over 50 connections: all arrive, none early, none twice."""
    due_ms: dict[str, int] = {}
    numbers = iter(range(TIMERS))
    limits = httpx.Limits(max_connections=CONNECTIONS)

    async with Receiver() as receiver, deployment(tmp_path, redis_url=valkey_server.url) as processes:
        async with httpx.AsyncClient(base_url=processes[0].url, limits=limits) as client:

            async def post() -> None:
                for number in numbers:
                    timer = {"url": f"{receiver.url}/{number}", "seconds": random.random() * 3}
                    response = await client.post("/timers", json=timer)
                    assert response.status_code == 201
                    due_ms[f"/{number}"] = parse_instant_ms(response.json()["due"])

            await asyncio.gather(*(post() for _ in range(CONNECTIONS)))
        requests = await receiver.wait_for(TIMERS)
    assert len(receiver.requests) == len({request.path for request in requests}) == TIMERS
    # the webhook may overtake the answer to its POST, so compare when both are there
    assert all(request.arrived_ms >= due_ms[request.path] for request in requests)


async def test_parts_by_their_other_names(tmp_path: Path, valkey_server: EmbeddedValkey) -> None:
    """`httpqueue api`, the ancestor's APP_MODE=relay and =workers."""
    shared = {"redis_url": valkey_server.url}
    async with (
        Receiver() as receiver,
        started(*HTTPQUEUE, "api", cwd=tmp_path, **shared) as api,
        started("env", "APP_MODE=relay", *HTTPQUEUE, cwd=tmp_path, **shared),
        started("env", "APP_MODE=workers", *HTTPQUEUE, cwd=tmp_path, **shared),
    ):
        await api.until_ready()
        async with httpx.AsyncClient(base_url=api.url) as client:
            await client.post("/timers", json={"url": receiver.url, "seconds": 0})
        await receiver.wait_for(1)


async def test_stock_arq_workers(tmp_path: Path, valkey_server: EmbeddedValkey) -> None:
    """One for each partition; their queue is on a server that is no cluster."""
    with EmbeddedValkey(tmp_path / "queue", persistent=False) as queue:
        shared = {"redis_url": valkey_server.url, "broker_redis_url": queue.url}
        async with Receiver() as receiver, AsyncExitStack() as stack:
            api = await stack.enter_async_context(started(*HTTPQUEUE, "api", cwd=tmp_path, **shared))
            await stack.enter_async_context(started(*HTTPQUEUE, "relay", cwd=tmp_path, **shared))
            for partition in PARTITIONS.all:
                worker = started(ARQ, WORKER_SETTINGS, cwd=tmp_path, arq_partition=partition, **shared)
                await stack.enter_async_context(worker)
            await api.until_ready()
            async with httpx.AsyncClient(base_url=api.url) as client:
                for partition in PARTITIONS.all:
                    name = next(name for name in map(str, count()) if place_of(name) == partition)
                    await client.post("/timers", json={"id": name, "url": receiver.url, "seconds": 0})
            await receiver.wait_for(PARTITIONS.count)


async def test_two_servers(tmp_path: Path) -> None:
    """Store and queue on servers of their own; the queue's keys are on its server alone."""
    with own_server(tmp_path / "store") as store, own_server(tmp_path / "queue") as queue:
        settings = {"redis_url": store.url, "broker_redis_url": queue.url}
        async with Receiver() as receiver, deployment(tmp_path, **settings) as processes:
            async with httpx.AsyncClient(base_url=processes[0].url) as client:
                await client.post("/timers", json={"url": receiver.url, "seconds": 0})
                await client.post("/timers", json={"url": receiver.url, "seconds": 60})
            await receiver.wait_for(1)
            with closing(Redis.from_url(queue.url)) as its:
                while not its.keys("arq:queue:*"):
                    pass
                assert not its.keys("hq:{*}[a-z]*")
            with closing(Redis.from_url(store.url)) as its:
                assert its.keys("hq:{*}[a-z]*")
                assert not its.keys("arq:*")


async def test_redis_away_and_back(tmp_path: Path) -> None:
    """503 with Retry-Delay within 6 s, every process lives on, and afterwards all timers fire."""
    server = own_server(tmp_path / "data")
    server.start()
    try:
        async with Receiver() as receiver, deployment(tmp_path, redis_url=server.url) as processes:
            async with httpx.AsyncClient(base_url=processes[0].url, timeout=30) as client:
                timer = {"url": receiver.url, "seconds": 1}
                assert (await client.post("/timers", json=timer)).status_code == 201
                server.stop()
                for method, path in (("POST", "/timers"), ("GET", "/timers/a"), ("GET", "/readyz")):
                    async with asyncio.timeout(6):
                        response = await client.request(method, path, json=timer)
                    assert response.status_code == 503
                    assert response.headers["retry-after"]
                    assert response.headers["content-type"] == "application/problem+json"
                assert (await client.get("/healthz")).status_code == 200
                server.start()
                await receiver.wait_for(1)
                async with asyncio.timeout(30):
                    while (await client.post("/timers", json=timer)).status_code != 201:
                        pass
            await receiver.wait_for(2)
            for process in processes[1:]:
                away = [event for event in process.events() if event["event"] == "redis.away"]
                parts = [event["part"] for event in away]
                assert len(parts) == len(set(parts)), "said once a part"
    finally:
        server.stop()


async def test_connections_to_redis_are_reset_under_load(
    tmp_path: Path, valkey_server: EmbeddedValkey
) -> None:
    """No process ends, no answer is a 500, and afterwards all is as before."""
    statuses: Counter[int] = Counter()
    dice = random.Random(8)
    async with (
        Receiver() as receiver,
        Proxy(valkey_server.url) as proxy,
        deployment(tmp_path, redis_url=proxy.url) as processes,
        httpx.AsyncClient(base_url=processes[0].url, timeout=30) as client,
    ):

        def maybe_reset() -> None:
            if dice.random() < RESET_CHANCE:
                proxy.reset()

        async def post_and_get() -> None:
            while proxy.resets < RESETS:
                timer = {"url": f"{receiver.url}/some", "seconds": 0}
                statuses[(await client.post("/timers", json=timer)).status_code] += 1
                statuses[(await client.get("/timers/unknown")).status_code] += 1

        proxy.on_data = maybe_reset
        await asyncio.gather(*(post_and_get() for _ in range(CONNECTIONS)))
        proxy.on_data = lambda: None
        async with asyncio.timeout(30):
            while (await client.get("/readyz")).status_code != 200:
                pass
        response = await client.post("/timers", json={"url": f"{receiver.url}/last", "seconds": 0})
        assert response.status_code == 201
        await receiver.wait_for(1, path="/last")
    assert statuses.keys() <= {201, 404, 503}


async def test_the_api_starts_before_redis(tmp_path: Path) -> None:
    """It answers 503 until Redis comes, then it works: the order of starts does not matter."""
    server = own_server(tmp_path / "data")
    server.start()
    url = server.url
    server.stop()
    async with started(*HTTPQUEUE, "api", cwd=tmp_path, redis_url=url) as api:
        await api.until_event("redis.away")
        async with httpx.AsyncClient(base_url=api.url) as client:
            assert (await client.get("/readyz")).status_code == 503
            server.start()
            try:
                await api.until_ready()
                assert (await client.get("/readyz")).status_code == 200
            finally:
                server.stop()
        assert await api.end() == 0


async def test_an_evicting_redis_is_refused(tmp_path: Path, valkey_server: EmbeddedValkey) -> None:
    """One line, exit code 2; allowed when the setting says so."""
    with Redis.from_url(valkey_server.url) as redis:
        redis.config_set("maxmemory-policy", "allkeys-lru")
        try:
            async with started(*HTTPQUEUE, cwd=tmp_path, redis_url=valkey_server.url) as process:
                assert await process.wait() == 2
                assert "noeviction" in process.stderr[-1]
            async with started(
                *HTTPQUEUE, cwd=tmp_path, redis_url=valkey_server.url, allow_unsafe_redis="true"
            ) as process:
                await process.until_ready()
                assert await process.end(signal.SIGINT) == 0
        finally:
            redis.config_set("maxmemory-policy", "noeviction")


async def test_the_metrics_port_of_a_relay(tmp_path: Path, valkey_server: EmbeddedValkey) -> None:
    """HTTP_METRICS_PORT serves /metrics, /healthz and /readyz, and nothing else.

    On loopback, whatever HTTPQUEUE_HOST says (issue 11, defect 11): on one of its addresses alone.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with started(
        *HTTPQUEUE, "relay", cwd=tmp_path, redis_url=valkey_server.url, metrics_port=port, host="0.0.0.0"
    ) as relay:
        await relay.until_ready()
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            assert "httpqueue_wake_ups_put_total" in (await client.get("/metrics")).text
            assert (await client.get("/healthz")).status_code == 200
            assert (await client.get("/readyz")).status_code == 200
            assert (await client.get("/timers/a")).status_code == 404
            with pytest.raises(httpx.ConnectError):
                await client.get(f"http://127.0.0.2:{port}/metrics")
