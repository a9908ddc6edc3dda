"""Wake-ups that a worker has claimed and not begun yet, and which queue to claim from next.

When a worker dies between claim and begin, its wake-ups are lost; the relay's heal pass puts them again.
"""

import asyncio
from typing import Final

import structlog

from httpqueue import clock
from httpqueue.runtime.metrics import WAKE_UPS_UNREADABLE
from httpqueue.storage.queue import Queue
from httpqueue.timers.commands import WakeUp
from httpqueue.worker.agenda import Agenda
from httpqueue.worker.away import Away

IDLE_S: Final = 2.0
"""The longest sleep in s. A lost wake message delays a timer by no more than this."""

log = structlog.get_logger()


class Claims:
    """Claims due wake-ups from the queues of all partitions, in turns."""

    def __init__(self, queue: Queue, away: Away, wake: asyncio.Event) -> None:
        """wake: set when there may be something to take."""
        self._queue = queue
        self._away = away
        self._wake = wake
        self._agenda = Agenda(queue.partitions)
        self._held: list[WakeUp] = []

    def look_into(self, partition: int) -> None:
        """A partition's queue may have an earlier wake-up than was known."""
        self._agenda.wake(partition)
        self._wake.set()

    def hold(self, wake_up: WakeUp) -> None:
        """Take a wake-up that came in another way than through a queue, or that has to begin later."""
        self._held.append(wake_up)
        self._wake.set()

    async def take(self, size: int) -> tuple[list[WakeUp], float]:
        """At most so many wake-ups to begin, and in how many seconds there may be more."""
        idle_s = await self._claim(size)
        taken, self._held = self._held[:size], self._held[size:]
        return taken, 0 if self._held else idle_s

    async def _claim(self, size: int) -> float:
        """Hold so many wake-ups, if so many are due. Returns in how many seconds there may be more."""
        while len(self._held) < size:
            now_s = clock.monotonic_s()
            away = self._away.partitions
            partition = self._agenda.take(now_s, away)
            if partition is None:
                return min(self._agenda.idle_s(now_s, away), IDLE_S)
            try:
                claim = await self._queue.claim(partition, size - len(self._held))
            except Exception as error:  # noqa: BLE001 - whatever it is, the other partitions go on
                self._agenda.note(partition, now_s)
                self._away.note("worker.claim", partition, error)
                return 0  # what was claimed elsewhere need not wait until the next one fails, too
            self._away.over("worker.claim", partition)
            wait_s = IDLE_S if claim.wait_ms is None else min(claim.wait_ms / 1000, IDLE_S)
            self._agenda.note(partition, now_s + wait_s)
            for job in claim.unreadable:
                WAKE_UPS_UNREADABLE.inc()
                log.error("worker.unreadable", job=job)
            self._held += claim.wake_ups
        return 0

    def take_all(self) -> list[WakeUp]:
        """All that are held, because the worker stops."""
        left_over, self._held = self._held, []
        return left_over
