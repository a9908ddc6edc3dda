"""Compares the clocks of queue and store when they are two servers, so that the queue follows the store's.

Wake-ups are put and claimed by the time of the queue's server, but the store decides whether a timer is due.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from httpqueue import clock
from httpqueue.runtime.outage import Outage
from httpqueue.runtime.part import run_until
from httpqueue.storage.queue import Queue

COMPARE_S: Final = 60.0
"""Seconds between two comparisons. Clocks drift slowly."""
TOLERATED_MS: Final = 500
"""A larger difference is logged."""

log = structlog.get_logger()


class ClockComparison:
    """A Part that has the queue measure its clock against the store's: at the start, then every minute."""

    def __init__(self, queue: Queue, store_time_ms: Callable[[], Awaitable[int]]) -> None:
        self._queue = queue
        self._store_time_ms = store_time_ms
        self._outage = Outage("clocks.compare")
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Compare until stop(). When a server is away, wait for it."""
        await run_until(self._stopping, self._compare_for_ever())

    async def stop(self) -> None:
        """End run()."""
        self._stopping.set()

    async def _compare_for_ever(self) -> None:
        while True:
            try:
                ahead_ms = await self._queue.compare_clocks(self._store_time_ms)
            except Exception as error:  # noqa: BLE001 - no part dies of an error
                await self._outage.wait(error)
                continue
            self._outage.over()
            if abs(ahead_ms) > TOLERATED_MS:
                log.warning("clocks.differ", ahead_ms=ahead_ms)
            await clock.sleep(COMPARE_S)
