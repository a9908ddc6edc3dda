"""Says when the store's clock differs from this process's, and when it jumps.

The store's clock alone decides what is due. So a wrong clock of a process changes nothing, and a jump of the
store's clock moves all timers. Nobody can tell here which clock is right: this is for people.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import structlog

from httpqueue import clock
from httpqueue.errors import UnavailableError
from httpqueue.runtime.outage import Outage
from httpqueue.runtime.part import run_until

LOOK_S: Final = 10.0
"""Seconds between two looks at the clocks."""
TOLERATED_MS: Final = 500
"""A larger difference or jump is logged."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Look:
    """What the clocks showed at one moment, which is known up to `error_ms`: the round trip."""

    store_ms: int
    own_ms: int
    steady_ms: float
    """On a clock that never jumps."""
    error_ms: float

    def ahead_ms(self) -> int:
        """How far the store's clock is ahead of this process's. 0 when it may as well be the round trip."""
        ahead_ms = self.store_ms - self.own_ms
        return ahead_ms if abs(ahead_ms) > TOLERATED_MS + self.error_ms else 0

    def jump_ms(self, last: "Look") -> int:
        """How far the store's clock jumped since the last look. 0 when it may as well be the round trips."""
        jump_ms = round(self.store_ms - last.store_ms - (self.steady_ms - last.steady_ms))
        return jump_ms if abs(jump_ms) > TOLERATED_MS + self.error_ms + last.error_ms else 0


class ClockWatch:
    """A Part that looks at the clocks every LOOK_S. It logs a difference once, and every jump."""

    def __init__(self, store_time_ms: Callable[[], Awaitable[int]]) -> None:
        self._store_time_ms = store_time_ms
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Look until stop(). When the store is away, wait for it."""
        await run_until(self._stopping, self._look_for_ever())

    async def stop(self) -> None:
        """End run()."""
        self._stopping.set()

    async def _look_for_ever(self) -> None:
        outage = Outage("clocks.watch")
        last, told_ms = None, 0
        while True:
            try:
                look = await self._look()
            except UnavailableError as error:
                await outage.wait(error)
                continue
            outage.over()
            jump_ms = look.jump_ms(last) if last else 0
            if jump_ms:
                log.warning("clocks.jumped", by_ms=jump_ms)
            ahead_ms = look.ahead_ms()
            if ahead_ms and abs(ahead_ms - told_ms) > TOLERATED_MS:
                log.warning("clocks.process_differs", ahead_ms=ahead_ms)
            last, told_ms = look, ahead_ms
            await clock.sleep(LOOK_S)

    async def _look(self) -> Look:
        before_ms, own_before_ms = clock.boottime_s() * 1_000, clock.now_ms()
        store_ms = await self._store_time_ms()
        after_ms, own_after_ms = clock.boottime_s() * 1_000, clock.now_ms()
        return Look(
            store_ms, (own_before_ms + own_after_ms) // 2, (before_ms + after_ms) / 2, after_ms - before_ms
        )
