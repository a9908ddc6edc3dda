"""A network that is half-open: what is sent is lost, and nobody is told. It recovers within 5 s."""

import asyncio
from pathlib import Path
from typing import Final

import httpx
import pytest
from redis.asyncio import Redis

from httpqueue import clock
from httpqueue.storage.embedded import EmbeddedValkey
from tests.support.deployments import behind_proxies
from tests.support.receiver import Receiver

RECOVERY_S: Final = 5.0
BURST: Final = 40
"""Requests at once, so that the API has as many connections that die."""


@pytest.mark.parametrize("away_s", [0.5, 8])
async def test_recovery_from_a_half_open_network(
    tmp_path: Path, valkey_server: EmbeddedValkey, redis: Redis, away_s: float
) -> None:
    """Within 5 s of its return timers are taken and fire, however many connections have died."""
    del redis  # asked for because it empties the server
    parts = ("api", "relay", "worker")
    async with Receiver() as receiver, behind_proxies(tmp_path, valkey_server.url, *parts) as pairs:
        api = pairs[0][0]
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=api.url, timeout=30, limits=limits) as client:

            async def post(name: str) -> int:
                timer = {"id": name, "url": f"{receiver.url}/{name}", "seconds": 0}
                return (await client.post("/timers", json=timer)).status_code

            async def get() -> int:
                return (await client.get("/timers/before")).status_code

            assert await post("before") == 201
            assert await asyncio.gather(*(get() for _ in range(BURST))) == [200] * BURST
            await receiver.wait_for(1)
            for _, proxy in pairs:
                proxy.freeze()
            begin_s = clock.monotonic_s()
            meanwhile = await asyncio.gather(post("meanwhile"), *(get() for _ in range(BURST)))
            assert set(meanwhile) == {503}
            assert clock.monotonic_s() - begin_s < 6
            await clock.sleep(away_s)
            for _, proxy in pairs:
                proxy.mend()
            begin_s = clock.monotonic_s()
            while (await client.get("/readyz")).status_code != 200:
                pass
            while await post("after") not in {200, 201}:
                pass
            await receiver.wait_for(1, path="/after")
            assert clock.monotonic_s() - begin_s < RECOVERY_S
            async with asyncio.timeout(30):  # a part that looks seldom may be the last to notice
                while "httpqueue_redis_away 0.0" not in (await client.get("/metrics")).text:
                    await clock.sleep(0.05)
        for process, _ in pairs:
            assert [event["event"] for event in process.events()].count("redis.away") == 1
            await process.until_event("redis.back")
            assert await process.end() == 0
