"""Start the parts of a process, and stop all of them on a signal.

If one part fails, the others are cancelled and the process ends with that error.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import structlog

from httpqueue.errors import StartError
from httpqueue.run.signals import stop_on_signals
from httpqueue.runtime.part import Part, run_until

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Parts:
    """What a process runs, in the order of its start."""

    servers: Sequence[Part]
    """These start first, so that they can say that Redis is away."""
    check: Callable[[], Coroutine[Any, Any, None]]
    """Waits for Redis. Raises StartError when this Redis must not keep timers."""
    workers: Sequence[Part]
    """These start after the check."""


async def run_until_signal(opened: AbstractAsyncContextManager[Parts], *, mode: str) -> None:
    """Run the parts until SIGINT or SIGTERM. Raises StartError, or a group with what ended a part."""
    stop = stop_on_signals()
    try:
        async with opened as parts:
            await run_parts(parts, stop, on_ready=lambda: log.info("run.ready", mode=mode))
    except BaseExceptionGroup as group:
        raise _start_error(group) or group from None


async def run_parts(parts: Parts, stop: asyncio.Event, *, on_ready: Callable[[], None]) -> None:
    """Run the parts until stop is set and all have wound down. Raises a group with what ended a part."""
    async with asyncio.TaskGroup() as tasks:
        running = list(parts.servers)
        for part in parts.servers:
            tasks.create_task(part.run())
        await run_until(stop, parts.check())
        if not stop.is_set():
            running += parts.workers
            for part in parts.workers:
                tasks.create_task(part.run())
            on_ready()
        await stop.wait()
        for part in running:
            tasks.create_task(part.stop())


def _start_error(group: BaseExceptionGroup[BaseException]) -> BaseException | None:
    """The StartError in the group, or None.

    `except*` would be shorter, but Python before 3.11.3 wraps what is raised inside it in a new group.
    """
    found: BaseException | None = group.subgroup(StartError)
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found
