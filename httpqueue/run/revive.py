"""Keeps a part of a process running."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import structlog

from httpqueue.errors import StartError
from httpqueue.runtime.outage import Outage
from httpqueue.runtime.part import Part, run_until

log = structlog.get_logger()


class Revived:
    """A Part that runs another one, and opens it anew when it ends before it should."""

    def __init__(self, open_part: Callable[[], AbstractAsyncContextManager[Part]], name: str) -> None:
        """open_part: opens the part, and closes what it needs at the end. name: for the log."""
        self._open = open_part
        self._name = name
        self._part: Part | None = None
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Run the part until stop(). Raises StartError when it cannot start."""
        outage = Outage(self._name)
        while not self._stopping.is_set():
            try:
                async with self._open() as self._part:
                    await self._part.run()
            except StartError:
                raise
            except Exception as error:  # noqa: BLE001 - no part dies of an error
                await run_until(self._stopping, outage.wait(error))
            if not self._stopping.is_set():
                log.error("run.restart", part=self._name)

    async def stop(self) -> None:
        """End the part, and run()."""
        self._stopping.set()
        if self._part is not None:
            await self._part.stop()
