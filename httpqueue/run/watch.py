"""Looks after Redis: says when it is away, and starts the embedded server again when it has died."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from httpqueue.runtime.outage import keep_doing
from httpqueue.storage.embedded import EmbeddedValkey

WATCH_S: Final = 1.0
"""Seconds between two looks."""


LOOK_S: Final = 0.2
"""Seconds between two looks at the embedded server."""
AGAIN_S: Final = 1.0
"""Seconds until the next look after it was started again: it may die again at once."""

log = structlog.get_logger()


class RedisWatch:
    """A Part that says, in log and metrics, when a server is away and when it is back.

    It is for processes whose parts ask Redis only when clients ask them.
    """

    def __init__(self, ping: Callable[[], Awaitable[None]]) -> None:
        self._ping = ping
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Watch until stop()."""
        await keep_doing(self._ping, "watch", lambda: WATCH_S, self._stopping)

    async def stop(self) -> None:
        """End run()."""
        self._stopping.set()


class EmbeddedWatch:
    """A Part that starts the embedded server again when it has died. No timer is lost by that."""

    def __init__(self, server: EmbeddedValkey) -> None:
        self._server = server
        self._pause_s = LOOK_S
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Watch until stop(). It must run in the main thread: on Linux the server dies with its thread."""
        await keep_doing(self._look, "embedded", lambda: self._pause_s, self._stopping)

    async def stop(self) -> None:
        """End run()."""
        self._stopping.set()

    async def _look(self) -> None:
        self._pause_s = LOOK_S
        exit_code = self._server.exit_code
        if exit_code is not None:
            log.error("embedded.died", exit_code=exit_code)
            self._pause_s = AGAIN_S
            self._server.revive()
