"""Looks after Redis in a process whose parts only ask for something when clients do."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from httpqueue.runtime.outage import keep_doing

WATCH_S: Final = 1.0
"""Seconds between two looks."""


class RedisWatch:
    """A Part that says, in log and metrics, when a server is away and when it is back."""

    def __init__(self, ping: Callable[[], Awaitable[None]]) -> None:
        self._ping = ping
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Watch until stop()."""
        await keep_doing(self._ping, "watch", lambda: WATCH_S, self._stopping)

    async def stop(self) -> None:
        """End run()."""
        self._stopping.set()
