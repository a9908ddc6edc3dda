"""A part that ends before it should is opened and run again; so is the HTTP server, on the same port."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext

import pytest
from starlette.applications import Starlette
from structlog.testing import capture_logs

from httpqueue import clock
from httpqueue.errors import StartError, UnavailableError
from httpqueue.run.http_server import HttpServer, listen
from httpqueue.run.revive import Revived
from httpqueue.run.watch import RedisWatch
from httpqueue.runtime.part import Part


class Scripted:
    """A part whose runs end as the test says: with an error, by themselves (None), or when told to."""

    def __init__(self, ends: list[BaseException | None]) -> None:
        self.ends = ends
        self.opened = self.closed = 0
        self.runs = asyncio.Event()
        self._stopping = asyncio.Event()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Part]:
        """It anew."""
        self.opened += 1
        try:
            yield self
        finally:
            self.closed += 1

    async def run(self) -> None:
        """As the script says."""
        if self.ends:
            end = self.ends.pop(0)
            if end is not None:
                raise end
            return
        self.runs.set()
        await self._stopping.wait()

    async def stop(self) -> None:
        """End run()."""
        self._stopping.set()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is waited for."""

    async def sleep(seconds: float) -> None:
        if seconds >= 1:
            await asyncio.Event().wait()

    monkeypatch.setattr(clock, "sleep", sleep)


async def run_and_stop(part: Revived, scripted: Scripted) -> None:
    """Until it runs for good; then it is stopped."""
    running = asyncio.create_task(part.run())
    async with asyncio.timeout(30):
        await scripted.runs.wait()
        await part.stop()
        await running


async def test_a_part_that_ended_is_opened_again() -> None:
    """With an error or without; what it needs is closed each time."""
    scripted = Scripted([KeyError("bug"), None])
    with capture_logs() as logs:
        await run_and_stop(Revived(scripted.open, "worker"), scripted)
    assert [log["event"] for log in logs] == ["run.bug", "run.restart", "run.restart"]
    assert scripted.opened == scripted.closed == 3


async def test_a_part_that_cannot_start_ends_the_process() -> None:
    """Nobody would see why, if it were tried for ever."""
    scripted = Scripted([StartError("no")])
    with pytest.raises(StartError):
        await Revived(scripted.open, "worker").run()


async def test_a_part_that_is_stopped_before_it_runs() -> None:
    """It is not opened."""
    scripted = Scripted([])
    part = Revived(scripted.open, "worker")
    await part.stop()
    await part.run()
    assert scripted.opened == 0


async def test_the_http_server_can_be_run_again() -> None:
    """On the same port."""
    runs = asyncio.Queue[str]()

    with listen("127.0.0.1", 0, setting="PORT") as listener:

        class Breaks(HttpServer):
            async def run(self) -> None:
                await runs.put("run")
                if runs.qsize() == 1:
                    await self.stop()
                await super().run()

        def opened() -> AbstractAsyncContextManager[Part]:
            return nullcontext(Breaks(Starlette(), listener))

        part = Revived(opened, "api")
        running = asyncio.create_task(part.run())
        async with asyncio.timeout(30):
            while runs.qsize() < 2:
                await asyncio.wait([running], timeout=0.01)
            _, writer = await asyncio.open_connection(*listener.getsockname())
            writer.close()
            await part.stop()
            await running


async def test_a_watch_says_that_redis_is_away() -> None:
    """And that it is back, although nobody asked for anything."""
    answers = iter([UnavailableError("gone"), None])
    back = asyncio.Event()

    async def ping() -> None:
        error = next(answers)
        if error is not None:
            raise error
        back.set()

    with capture_logs() as logs:
        watch = RedisWatch(ping)
        running = asyncio.create_task(watch.run())
        async with asyncio.timeout(30):
            await back.wait()
            await watch.stop()
            await running
    assert [(log["event"], log["part"]) for log in logs] == [("redis.away", "watch"), ("redis.back", "watch")]
