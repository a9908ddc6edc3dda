"""Parts that are stopped and started under load, as when a new version is rolled out; and SIGTERM twice."""

import asyncio
import signal
from collections import Counter
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Final

import httpx
import pytest
from redis.asyncio import Redis

from httpqueue import clock
from httpqueue.storage.embedded import EmbeddedValkey
from httpqueue.timers.schedule import parse_instant_ms
from tests.support.processes import HTTPQUEUE, Process, started
from tests.support.receiver import Received, Receiver, Reply, Writer, hang

PARTS: Final = ("api", "relay", "worker")
TIMERS_PER_S: Final = 75
LATEST_MS: Final = 1_000
"""On a machine that has time: what this process stalls, five others may stall, too."""


class Rollout:
    """Two processes of each part, of which one at a time is replaced."""

    def __init__(self, cwd: Path, redis_url: str, stack: AsyncExitStack) -> None:
        self._cwd = cwd
        self._redis_url = redis_url
        self._stack = stack
        self.pairs: dict[str, list[Process]] = {}
        self.ended: list[int] = []

    async def start(self) -> None:
        """All of them."""
        for part in PARTS:
            self.pairs[part] = [await self._one(part), await self._one(part)]

    async def replace_all(self) -> None:
        """Each process, one after the other: its successor is ready first."""
        for part, pair in self.pairs.items():
            for place, old in enumerate(tuple(pair)):
                pair[place] = await self._one(part)
                self.ended.append(await old.end())

    def api(self, number: int) -> str:
        """One of the two APIs."""
        return self.pairs["api"][number % 2].url

    async def _one(self, part: str) -> Process:
        process = await self._stack.enter_async_context(
            started(*HTTPQUEUE, part, cwd=self._cwd, redis_url=self._redis_url, log_format="json")
        )
        await process.until_ready()
        return process


async def slowly(_request: Received, writer: Writer) -> None:
    """Answer after a moment, so that calls are in flight when workers are stopped."""
    await clock.sleep(0.1)
    writer.write(Reply(200).encode())


@pytest.mark.timeout(180)
async def test_a_rolling_restart_under_load(
    tmp_path: Path, valkey_server: EmbeddedValkey, redis: Redis
) -> None:
    """No POST fails that a retry does not cure; no webhook is late by a second, or comes twice."""
    del redis  # asked for because it empties the server
    due_ms: dict[str, int] = {}
    statuses: Counter[int] = Counter()
    async with Receiver() as receiver, AsyncExitStack() as stack, httpx.AsyncClient(timeout=30) as client:
        receiver.answer(slowly)
        rollout = Rollout(tmp_path, valkey_server.url, stack)
        await rollout.start()

        async def post(number: int) -> None:
            timer = {"id": str(number), "url": f"{receiver.url}/{number}", "seconds": 1}
            for attempt in range(10):
                with suppress(httpx.TransportError):  # that API is being replaced
                    answer = await client.post(f"{rollout.api(number + attempt)}/timers", json=timer)
                    statuses[answer.status_code] += 1
                    due_ms[f"/{number}"] = parse_instant_ms(answer.json()["due"])
                    return
            raise AssertionError("retries did not cure it")

        restarting = asyncio.create_task(rollout.replace_all())
        posts: list[asyncio.Task[None]] = []
        stalls_s = [0.0]
        while not restarting.done():
            posts.append(asyncio.create_task(post(len(posts))))
            begin_s = clock.monotonic_s()
            await clock.sleep(1 / TIMERS_PER_S)
            stalls_s.append(clock.monotonic_s() - begin_s)
        await asyncio.gather(restarting, *posts)
        requests = await receiver.wait_for(len(posts))
        assert rollout.ended == [0] * 2 * len(PARTS)
    assert statuses.keys() <= {200, 201}
    assert len({request.path for request in requests}) == len(receiver.requests) == len(posts)
    lateness_ms = [request.arrived_ms - due_ms[request.path] for request in requests]
    assert min(lateness_ms) >= 0
    assert max(lateness_ms) < LATEST_MS + 5_000 * max(stalls_s)


async def test_sigterm_twice(tmp_path: Path, valkey_server: EmbeddedValkey, redis: Redis) -> None:
    """The second one ends the process at once, although a call hangs. Another process makes it again."""
    del redis  # asked for because it empties the server
    settings = {"redis_url": valkey_server.url, "attempt_timeout": "5s"}
    async with Receiver() as receiver, httpx.AsyncClient() as client:
        receiver.answer(hang, Reply(200))
        async with started(*HTTPQUEUE, cwd=tmp_path, log_format="json", **settings) as first:
            await first.until_ready()
            for seconds in (0, 3600):
                timer = {"id": f"in-{seconds}", "url": f"{receiver.url}/{seconds}", "seconds": seconds}
                assert (await client.post(f"{first.url}/timers", json=timer)).status_code == 201
            await receiver.wait_for(1)
            first.send_signal(signal.SIGTERM)
            await first.until_event("run.stop")
            begin_s = clock.monotonic_s()
            first.send_signal(signal.SIGTERM)
            assert await first.wait() == -signal.SIGTERM
            assert clock.monotonic_s() - begin_s < 2
        async with started(*HTTPQUEUE, cwd=tmp_path, log_format="json", **settings) as second:
            await second.until_ready()
            await receiver.wait_for(2, path="/0", timeout_s=60)
            pending = (await client.get(f"{second.url}/timers/in-3600")).json()
            assert pending["status"] == "scheduled"
