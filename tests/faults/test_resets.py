"""Connections to Redis that are reset at random, under load, for three quarters of a minute. Defect 0."""

import asyncio
import random
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import httpx
import pytest
from redis.asyncio import Redis

from httpqueue import clock
from httpqueue.storage.embedded import EmbeddedValkey
from tests.support.deployments import behind_proxies
from tests.support.processes import Process
from tests.support.proxy import Proxy
from tests.support.receiver import Received, Receiver, Reply, Writer

RUN_S: Final = 45
TIMERS_PER_S: Final = 75
MEAN_GAP_S: Final = 0.05
"""Between two resets that come at any time. Others hit pieces of data on their way."""
RESET_CHANCE: Final = 0.02
"""That a piece of data resets its process's connections instead of passing through."""
PARTS: Final = ("api", "api", "relay", "relay", "worker", "worker")
FEWEST_RESETS: Final = 500
FEWEST_TIMERS: Final = 500
"""On a machine that is very busy."""

Pairs = list[tuple[Process, Proxy]]


async def slowly(_request: Received, writer: Writer) -> None:
    """Answer after a moment, so that calls are in flight when connections break."""
    await clock.sleep(0.05)
    writer.write(Reply(200).encode())


async def break_connections(pairs: Pairs, dice: random.Random) -> None:
    """Reset connections until cancelled: at any time, and in the middle of what is sent."""

    def may_reset(proxy: Proxy) -> None:
        if dice.random() < RESET_CHANCE:
            proxy.reset()

    for _, proxy in pairs:
        proxy.on_data = partial(may_reset, proxy)
    try:
        while True:
            await clock.sleep(dice.expovariate(1 / MEAN_GAP_S))
            dice.choice(pairs)[1].reset()
    finally:
        for _, proxy in pairs:
            proxy.on_data = lambda: None


async def post_and_get(client: httpx.AsyncClient, url: str, number: int, delay_s: float) -> list[int]:
    """Post a timer until it is taken, then look at it. Returns the statuses of the answers."""
    statuses = [0]
    timer = {"id": str(number), "url": f"{url}/{number}", "seconds": delay_s}
    while statuses[-1] not in {200, 201}:
        with suppress(httpx.TransportError):  # a connection that the API closed because it was idle
            statuses.append((await client.post("/timers", json=timer)).status_code)
    with suppress(httpx.TransportError):
        statuses.append((await client.get(f"/timers/{number}")).status_code)
    return statuses[1:]


@pytest.mark.timeout(180)
async def test_random_resets(tmp_path: Path, valkey_server: EmbeddedValkey, redis: Redis) -> None:
    """No process dies, no answer is a 500, and each webhook is sent once."""
    del redis  # asked for because it empties the server
    dice = random.Random(11)
    async with Receiver() as receiver, behind_proxies(tmp_path, valkey_server.url, *PARTS) as pairs:
        receiver.answer(slowly)
        breaking = asyncio.create_task(break_connections(pairs, dice))
        async with (
            httpx.AsyncClient(base_url=pairs[0][0].url, timeout=30) as one,
            httpx.AsyncClient(base_url=pairs[1][0].url, timeout=30) as other,
        ):
            begin_s = clock.monotonic_s()
            posts: list[asyncio.Task[list[int]]] = []
            while (passed_s := clock.monotonic_s() - begin_s) < RUN_S:
                await clock.sleep(max(0.0, len(posts) / TIMERS_PER_S - passed_s))
                client, delay_s = dice.choice((one, other)), dice.random() * 3
                posts.append(asyncio.create_task(post_and_get(client, receiver.url, len(posts), delay_s)))
            statuses = Counter(status for each in await asyncio.gather(*posts) for status in each)
            breaking.cancel()
            await receiver.wait_for(len(posts))
        assert [process.is_running for process, _ in pairs] == [True] * len(PARTS)
        assert await asyncio.gather(*(process.end() for process, _ in pairs)) == [0] * len(PARTS)
    assert sum(proxy.resets for _, proxy in pairs) > FEWEST_RESETS
    assert statuses.keys() <= {200, 201, 503}
    times = Counter(request.path for request in receiver.requests)
    assert len(times) == len(posts) > FEWEST_TIMERS
    assert [path for path, count in times.items() if count > 1] == []
    events = Counter(event["event"] for process, _ in pairs for event in process.events())
    assert events.keys().isdisjoint({"run.bug", "run.restart", "worker.bug", "api.error"}), events
