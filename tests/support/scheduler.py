"""A `httpqueue --virtual-clock` and a receiver that many tests share, each with an application of its own."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

import httpx

from httpqueue.storage.embedded import EmbeddedValkey
from tests.support.processes import HTTPQUEUE, started
from tests.support.receiver import Receiver

NEW_YEAR_S: Final = 1_893_456_000
API_KEY: Final = "0123456789abcdef"

_NEW_YEAR: Final = "2030-01-01T00:00:00.000Z"
_TIMER: Final = re.compile(r"/timers/(?!replay$|cancel$|batch$)")
_numbers = count()


@dataclass
class Scheduler:
    """A running httpqueue, an application in it, and a receiver with a path that nobody else uses."""

    client: httpx.AsyncClient
    receiver: Receiver
    application: str
    path: str

    @property
    def url(self) -> str:
        """Of the receiver."""
        return f"{self.receiver.url}{self.path}"

    async def call(self, method: str, path: str, *, status: int = 200, **members: Any) -> dict[str, Any]:
        """A request (about a timer: of this application) -> its answer, which must have that status."""
        params = {"application": self.application} if _TIMER.match(path) else None
        response = await self.client.request(method, path, params=params, json=members or None)
        assert response.status_code == status, response.text
        answer: dict[str, Any] = response.json()
        return answer

    async def post(self, timer_id: str, *, status: int = 201, **members: Any) -> dict[str, Any]:
        """POST /timers, to the receiver unless said otherwise -> its answer."""
        members = {"id": timer_id, "application": self.application, "url": self.url, **members}
        response = await self.client.post("/timers", json=members)
        assert response.status_code == status, response.text
        answer: dict[str, Any] = response.json()
        return answer

    async def get(self, timer_id: str) -> dict[str, Any]:
        """GET /timers/{id}."""
        return await self.call("GET", f"/timers/{timer_id}")

    async def advance(self, seconds: float = 0) -> None:
        """Let time pass, and everything that is due then happen."""
        await self.call("POST", "/clock/advance", seconds=seconds)

    async def ids(self, query: str) -> list[str]:
        """GET /timers with that query -> the ids of this application's timers."""
        response = await self.client.get(f"/timers?application={self.application}&{query}")
        return [timer["id"] for timer in response.json()["timers"]]

    def calls(self) -> int:
        """How often the receiver was called."""
        return sum(request.path == self.path for request in self.receiver.requests)

    async def until_called(self, times: int = 1) -> None:
        """As soon as the receiver was called that often."""
        await self.receiver.wait_for(times, path=self.path)


@asynccontextmanager
async def started_scheduler(cwd: Path, *environment: str) -> AsyncIterator[Scheduler]:
    """`httpqueue --virtual-clock` at New Year 2030."""
    headers = {"X-API-Key": API_KEY}  # asked for by one of them alone
    async with (
        Receiver() as receiver,
        started("env", *environment, *HTTPQUEUE, "--virtual-clock", cwd=cwd) as process,
    ):
        await process.until_ready()
        async with httpx.AsyncClient(base_url=process.url, headers=headers, timeout=60) as client:
            await client.post("/clock/advance", json={"to": _NEW_YEAR})
            yield Scheduler(client, receiver, "default", "/")


def own(running: Scheduler) -> Scheduler:
    """The same process with an application and a path for one test."""
    name = f"test-{next(_numbers)}"
    return Scheduler(running.client, running.receiver, name, f"/{name}")


@asynccontextmanager
async def parts(names: str, cwd: Path, server: EmbeddedValkey) -> AsyncIterator[list[httpx.AsyncClient]]:
    """Processes of their own on one server, and a client of each API."""
    async with AsyncExitStack() as stack:
        processes = [
            await stack.enter_async_context(started(*HTTPQUEUE, name, cwd=cwd, redis_url=server.url))
            for name in names.split()
        ]
        await asyncio.gather(*(process.until_ready() for process in processes))
        yield [
            await stack.enter_async_context(httpx.AsyncClient(base_url=process.url, timeout=60))
            for process, name in zip(processes, names.split(), strict=True)
            if name == "api"
        ]
