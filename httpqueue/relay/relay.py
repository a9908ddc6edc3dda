"""The relay: fills the queue from the store. Any number of them may run; all they do is idempotent.

drain   moves outbox entries that are due within the horizon
promote moves what comes into the horizon, by the due index
heal    puts wake-ups again whose timers are overdue: a lost worker, a lost wake-up
forget  drops the records of finished timers whose retention is over

After a crash the entries that a relay had read are adopted by another one.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final
from uuid import uuid4

import structlog

from httpqueue import clock
from httpqueue.errors import UnavailableError
from httpqueue.runtime.metrics import OUTBOX_UNREADABLE, WAKE_UPS_PUT
from httpqueue.runtime.outage import Outage
from httpqueue.storage.outbox import Outbox
from httpqueue.storage.queue import Queue
from httpqueue.storage.timers import Store
from httpqueue.timers.commands import OutboxEntry, Position, WakeUp

SWEEP_S: Final = 2.0
"""Pause between two rounds of promote and heal."""
GRACE_MS: Final = 10_000
"""Overdue by this much: its wake-up may be lost."""
ADOPT_AFTER_MS: Final = 30_000
"""An outbox entry that was read this long ago and is still there was read by a dead relay."""
BLOCK_MS: Final = 2_000

log = structlog.get_logger()


class Relay:
    """One relay; its passes (drain, adopt, promote, heal) can be called singly."""

    def __init__(
        self, *, store: Store, outbox: Outbox, queue: Queue, horizon_ms: int, batch_size: int
    ) -> None:
        self._store = store
        self._outbox = outbox
        self._queue = queue
        self._horizon_ms = horizon_ms
        self._batch_size = batch_size
        self._consumer = uuid4().hex
        self._unfinished: tuple[list[OutboxEntry], int] = [], 0
        self._epoch = ""
        self._promoted = Position()
        self._healed = Position()
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Drain and sweep until stop(). When Redis goes away, wait for it."""
        if self._stopping.is_set():
            return
        try:
            async with asyncio.TaskGroup() as tasks:
                passes = [
                    tasks.create_task(_for_ever(self.drain, "relay.drain")),
                    tasks.create_task(_for_ever(self.sweep, "relay.sweep", pause_s=SWEEP_S)),
                ]
                await self._stopping.wait()
                for one in passes:
                    one.cancel()
        finally:
            # In a task of its own: before Python 3.11.3, asyncio.timeout fails in a task that was cancelled.
            await asyncio.create_task(self._leave())

    async def stop(self) -> None:
        """End run(). It cancels the pass in flight; the next relay does what that pass did not finish."""
        self._stopping.set()

    async def _leave(self) -> None:
        with suppress(UnavailableError):
            await self._outbox.leave(self._consumer)

    async def drain(self, *, block_ms: int = BLOCK_MS) -> int:
        """Act on new outbox entries; returns how many. What fails is done again by the next call."""
        if not self._unfinished[0]:
            self._unfinished = await self._outbox.read(
                self._consumer, limit=self._batch_size, block_ms=block_ms
            )
        count = await self._act_on(*self._unfinished)
        self._unfinished = [], 0
        return count

    async def sweep(self) -> None:
        """One round of everything that is not new: left by the dead, come near, overdue, old."""
        await self.adopt()
        await self.promote()
        await self.heal()
        await self.forget()

    async def adopt(self) -> int:
        """Act on outbox entries that a dead relay left; returns how many there were."""
        return await self._act_on(
            *await self._outbox.adopt(self._consumer, idle_ms=ADOPT_AFTER_MS, limit=self._batch_size)
        )

    async def promote(self) -> int:
        """Put what came into the horizon since the last call; returns how many wake-ups that were.

        At first, and when the queue has lost its data, that is all there is in the horizon.
        """
        epoch = await self._queue.epoch()
        if epoch != self._epoch:
            log.info("relay.refill", epoch=epoch)
            self._epoch, self._promoted = epoch, Position()
        count = 0
        while True:
            page = await self._store.upcoming(
                self._promoted, ahead_ms=self._horizon_ms, limit=self._batch_size
            )
            await self._put(page.wake_ups + page.waiting, by="promote")
            count += len(page.wake_ups)
            if page.next is None:
                self._promoted = Position(due_ms=page.now_ms + self._horizon_ms)
                return count
            self._promoted = page.next

    async def heal(self) -> int:
        """Put a page of the overdue again, the next page each call; returns how many had no wake-up."""
        page = await self._store.upcoming(self._healed, ahead_ms=-GRACE_MS, limit=self._batch_size)
        self._healed = page.next or Position()
        healed = await self._put(page.wake_ups, by="heal")
        await self._put(page.waiting, by="wait")
        if healed:
            log.warning("relay.heal", count=healed)
        return healed

    async def forget(self) -> int:
        """Drop the records whose retention is over; returns how many."""
        count = 0
        while dropped := await self._store.forget(limit=self._batch_size):
            count += dropped
        return count

    async def _act_on(self, entries: Sequence[OutboxEntry], now_ms: int) -> int:
        if not entries:
            return 0
        horizon_ms = now_ms + self._horizon_ms
        near = [entry.wake_up for entry in entries if entry.wake_up and entry.wake_up.due_ms <= horizon_ms]
        await self._put(near, by="drain")
        unreadable = sum(entry.wake_up is None for entry in entries)
        if unreadable:
            OUTBOX_UNREADABLE.inc(unreadable)
            log.error("relay.unreadable", count=unreadable)
        await self._outbox.acknowledge(entries)
        return len(entries)

    async def _put(self, wake_ups: Sequence[WakeUp], *, by: str) -> int:
        if not wake_ups:
            return 0
        added = await self._queue.put(wake_ups)
        WAKE_UPS_PUT.labels(by).inc(added)
        return added


async def _for_ever(one_pass: Callable[[], Awaitable[object]], part: str, *, pause_s: float = 0) -> None:
    outage = Outage(part)
    while True:
        try:
            await one_pass()
        except UnavailableError as error:
            await outage.wait(error)
        else:
            outage.over()
            await clock.sleep(pause_s)
