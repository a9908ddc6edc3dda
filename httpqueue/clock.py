"""The only clock of the project; tests and the virtual clock replace what is here.

Whether a timer is due is decided by the store server's TIME, never by this machine's clock.
"""

import asyncio
import time
from collections.abc import Callable

_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # macOS has no other

StoreNow = Callable[[], int | None]
"""What a store script takes for now, in ms since the epoch; None leaves it to the server's TIME."""


def server_time() -> int | None:
    """Leave "now" to the server: every process then shares one clock."""
    return None


def now_ms() -> int:
    """This machine's time in ms since the epoch: for answers and stamps, never to decide what is due."""
    return time.time_ns() // 1_000_000


def monotonic_s() -> float:
    """Seconds on a clock that never jumps."""
    return time.monotonic()


def boottime_s() -> float:
    """Seconds on a clock that never jumps and goes on while the machine is suspended: for leases."""
    return time.clock_gettime(_BOOTTIME)


async def sleep(seconds: float) -> None:
    """Wait that long."""
    await asyncio.sleep(seconds)


def pause(seconds: float) -> None:
    """Block this thread that long (start-up code only)."""
    time.sleep(seconds)
