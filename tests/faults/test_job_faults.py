"""Jobs with real processes: a relay that is killed or frozen in the middle of one, and a quota under load."""

import asyncio
import signal
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from httpqueue.relay.jobs import LOOK
from httpqueue.storage.embedded import EmbeddedValkey
from tests.support.processes import HTTPQUEUE, Process, started

TIMERS: Final = 10_000
QUOTA: Final = 1_000
ENDED: Final = {"done", "failed", "cancelled"}


@pytest.fixture
def redis_url(valkey_server: EmbeddedValkey) -> str:
    """Of a real server."""
    return valkey_server.url


class Parts:
    """Processes of one installation, and a client of its API."""

    def __init__(self, stack: AsyncExitStack, cwd: Path, redis_url: str) -> None:
        self._stack = stack
        self._cwd = cwd
        self._redis_url = redis_url

    async def start(self, name: str) -> Process:
        """A part that is ready."""
        part = started(*HTTPQUEUE, name, cwd=self._cwd, redis_url=self._redis_url)
        process = await self._stack.enter_async_context(part)
        await process.until_ready()
        return process

    async def start_api(self) -> httpx.AsyncClient:
        """A client of a new API process."""
        process = await self.start("api")
        return await self._stack.enter_async_context(httpx.AsyncClient(base_url=process.url, timeout=60))


async def store(api: httpx.AsyncClient, count: int) -> None:
    """So many timers, due in an hour."""
    for first in range(0, count, 1_000):
        timers = [
            {"id": f"t{number}", "url": "http://127.0.0.1:1/", "hours": 1}
            for number in range(first, first + 1_000)
        ]
        await api.post("/timers/batch", json={"timers": timers})


async def until(api: httpx.AsyncClient, path: str, *states: str, done: int = 0) -> dict[str, Any]:
    """The job, as soon as it is in one of these states and has done so much."""
    while True:
        job: dict[str, Any] = (await api.get(path)).json()
        if job["state"] in states and job["done"] >= done:
            return job
        assert job["state"] not in ENDED, job


@pytest.mark.usefixtures("redis")
@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_relay_is_lost_in_the_middle_of_a_job(
    tmp_path: Path, redis_url: str, fault: signal.Signals
) -> None:
    """Another one goes on from the last note; one that comes back late changes nothing."""
    async with AsyncExitStack() as stack, asyncio.timeout(100):
        parts = Parts(stack, tmp_path, redis_url)
        api, relay = await parts.start_api(), await parts.start("relay")
        await store(api, TIMERS)
        path = (await api.post("/timers/cancel", json={})).headers["location"]
        begun = await until(api, path, "running", done=1)
        relay.send_signal(fault)
        assert begun["total"] == TIMERS
        await parts.start("relay")
        job = await until(api, path, "done")
        if fault is signal.SIGSTOP:
            relay.send_signal(signal.SIGCONT)
            await relay.end()
        assert (await api.get(path)).json() == job
        assert TIMERS - LOOK <= job["changed"] <= TIMERS
        counts = (await api.get("/applications/default")).json()["counts"]
        assert counts == {"cancelled": TIMERS}


@pytest.mark.usefixtures("redis")
async def test_two_api_processes_keep_to_a_quota(tmp_path: Path, redis_url: str) -> None:
    """Whatever both are sent at once; every other answer is a 201, and each of those is there."""
    async with AsyncExitStack() as stack, asyncio.timeout(100):
        parts = Parts(stack, tmp_path, redis_url)
        apis = [await parts.start_api(), await parts.start_api()]
        await apis[0].put("/applications/default", json={"quota": {"pending": QUOTA}})

        async def post(api: httpx.AsyncClient, first: int) -> list[int]:
            answers = []
            for number in range(first, first + 125):
                timer = {"id": f"p{number}", "url": "http://127.0.0.1:1/", "hours": 1}
                answers.append((await api.post("/timers", json=timer)).status_code)
            return answers

        posts = [post(apis[number % 2], number * 125) for number in range(12)]
        statuses = [status for answers in await asyncio.gather(*posts) for status in answers]
        assert {*statuses} == {201, 403}
        counts = (await apis[0].get("/applications/default")).json()["counts"]
        assert counts == {"scheduled": statuses.count(201)}
        assert statuses.count(201) <= QUOTA
        assert statuses.count(201) > QUOTA * 0.99
