"""How a process starts its parts and stops them again."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from httpqueue.errors import SettingsError, StartError
from httpqueue.run import lifecycle
from httpqueue.run.lifecycle import Parts, run_parts, run_until_signal


class FakePart:
    """Works until it is stopped, or fails when it is told to; notes what happens to it."""

    def __init__(self, name: str, told: list[str]) -> None:
        self.name = name
        self.failure: Exception | None = None
        self._told = told
        self._end = asyncio.Event()

    async def run(self) -> None:
        """See Part."""
        self._told.append(f"{self.name} runs")
        try:
            await self._end.wait()
        except asyncio.CancelledError:
            self._told.append(f"{self.name} is cancelled")
            raise
        if self.failure:
            raise self.failure
        self._told.append(f"{self.name} winds down")

    async def stop(self) -> None:
        """See Part."""
        self._end.set()

    def fail(self, failure: Exception) -> None:
        """End run() with this error."""
        self.failure = failure
        self._end.set()


@pytest.fixture
def told() -> list[str]:
    """What happened, in its order."""
    return []


@pytest.fixture
def api(told: list[str]) -> FakePart:
    """A part that starts before the check."""
    return FakePart("api", told)


@pytest.fixture
def relay(told: list[str]) -> FakePart:
    """A part that starts after the check."""
    return FakePart("relay", told)


@pytest.fixture
def stop(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """A signal sets it."""
    event = asyncio.Event()
    monkeypatch.setattr(lifecycle, "stop_on_signals", lambda: event)
    return event


async def passes() -> None:
    """Redis is there."""


async def hangs() -> None:
    """Redis does not come."""
    await asyncio.Event().wait()


async def refuses() -> None:
    """Redis must not keep timers."""
    raise StartError("evicts")


async def test_parts_start_around_the_check_and_wind_down_together(
    api: FakePart, relay: FakePart, stop: asyncio.Event, told: list[str]
) -> None:
    """The process is ready when all run, and ends when all have wound down."""
    await run_parts(Parts([api], passes, [relay]), stop, on_ready=stop.set)
    assert told == ["api runs", "relay runs", "api winds down", "relay winds down"]


async def test_a_stop_while_redis_is_away(
    api: FakePart, relay: FakePart, stop: asyncio.Event, told: list[str]
) -> None:
    """What waits for Redis never starts."""
    running = asyncio.create_task(
        run_parts(Parts([api], hangs, [relay]), stop, on_ready=lambda: told.append("ready"))
    )
    stop.set()
    async with asyncio.timeout(30):
        await running
    assert told == ["api runs", "api winds down"]


async def test_a_part_that_fails_ends_the_others(
    api: FakePart, relay: FakePart, stop: asyncio.Event, told: list[str]
) -> None:
    """They are cancelled, and the error is raised."""
    parts = Parts([api], passes, [relay])
    with pytest.raises(ExceptionGroup) as caught:
        await run_parts(parts, stop, on_ready=lambda: relay.fail(KeyError("bug")))
    assert caught.group_contains(KeyError, match="bug")
    assert told == ["api runs", "relay runs", "api is cancelled"]


@pytest.mark.usefixtures("stop")
async def test_a_refused_start_is_one_error(api: FakePart, relay: FakePart) -> None:
    """Neither a group nor a chain: its message is all that the user sees."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Parts]:
        yield Parts([api], refuses, [relay])

    with pytest.raises(StartError, match="evicts") as caught:
        await run_until_signal(opened(), mode="all")
    assert caught.value.__suppress_context__


@pytest.mark.usefixtures("stop")
async def test_a_setting_that_opens_nothing_is_one_error(api: FakePart) -> None:
    """It is raised before any part runs."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Parts]:
        raise SettingsError("port in use")
        yield Parts([api], passes, [])

    with pytest.raises(SettingsError, match="port in use"):
        await run_until_signal(opened(), mode="all")


@pytest.mark.usefixtures("stop")
async def test_another_failure_stays_what_it_is(api: FakePart) -> None:
    """A bug is shown with its traceback."""
    api.fail(KeyError("bug"))

    @asynccontextmanager
    async def opened() -> AsyncIterator[Parts]:
        yield Parts([api], hangs, [])

    with pytest.raises(ExceptionGroup) as caught:
        await run_until_signal(opened(), mode="all")
    assert caught.group_contains(KeyError, match="bug")
