"""The lifecycle that all long-running parts of a process share: API server, relay, worker."""

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from typing import Protocol


class Part(Protocol):
    """A part runs once. Cancelling run() also ends it, but does not wait for work in flight."""

    async def run(self) -> None:
        """Work until stop(), then wind down and return. Raises the error that ended the part."""

    async def stop(self) -> None:
        """Ask the part to wind down. It is safe to call this twice, or before run()."""


async def run_until(stop: asyncio.Event, work: Awaitable[None]) -> None:
    """Wait for the work, or cancel it as soon as stop is set. Raises the work's error."""
    task, stopping = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        task.cancel()
    with suppress(asyncio.CancelledError):
        await task
