"""The relay: fills the queue from the store. Any number of relays may run, because all they do is idempotent.

forget  drops timers whose retention is over; it is the first, because it frees memory
drain   reads outbox entries, and puts wake-ups that are due soon into the queue
adopt   does the same for entries that a dead relay had read
promote puts wake-ups that have come near into the queue, application by application
heal    puts lost wake-ups again, and wakes timers that nothing else wakes

The passes run independently: one that fails does not stop the others.
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
from httpqueue.storage.queue import Queue
from httpqueue.storage.storage import Storage
from httpqueue.storage.wake_ups import Place
from httpqueue.timers.commands import OutboxEntry, WakeUp

SWEEP_S: Final = 2.0
"""The pause between two runs of a pass, in s."""
TOP_UP_S: Final = 0.05
"""The shortest pause of promote, in s: an application has more due than the queue may hold of it."""
GRACE_MS: Final = 10_000
"""When a timer is overdue by this much, its wake-up may be lost."""
ADOPT_AFTER_MS: Final = 30_000
"""When an outbox entry was read this long ago and not acknowledged, its relay is taken for dead."""
BLOCK_MS: Final = 2_000

log = structlog.get_logger()


class Relay:
    """One relay. Each pass can also be called by itself; all passes raise UnavailableError."""

    def __init__(self, *, storage: Storage, queue: Queue, horizon_ms: int, batch_size: int) -> None:
        self._wake_ups = storage.wake_ups
        self._outbox = storage.outbox
        self._retention = storage.retention
        self._queue = queue
        self._horizon_ms = horizon_ms
        self._batch_size = batch_size
        self._consumer = uuid4().hex
        self._unfinished: list[OutboxEntry] = []
        self._handed_out: list[WakeUp] = []
        self._promote_pause_s = SWEEP_S
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Run all passes until stop(). When Redis is away, wait for it."""
        if self._stopping.is_set():
            return
        try:
            async with asyncio.TaskGroup() as tasks:
                passes = [
                    tasks.create_task(_for_ever(self.forget, "relay.forget", lambda: SWEEP_S)),
                    tasks.create_task(_for_ever(self.drain, "relay.drain", lambda: 0)),
                    tasks.create_task(_for_ever(self.adopt, "relay.adopt", lambda: SWEEP_S)),
                    tasks.create_task(
                        _for_ever(self.promote, "relay.promote", lambda: self._promote_pause_s)
                    ),
                    tasks.create_task(_for_ever(self.heal, "relay.heal", lambda: SWEEP_S)),
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
        """Act on new outbox entries. Returns how many. After an error, the next call acts on them again."""
        if not self._unfinished:
            self._unfinished = await self._outbox.read(
                self._consumer, limit=self._batch_size, block_ms=block_ms
            )
        count = await self._act_on(self._unfinished)
        self._unfinished = []
        return count

    async def adopt(self) -> int:
        """Act on outbox entries that a dead relay left. Returns how many."""
        return await self._act_on(
            await self._outbox.adopt(self._consumer, idle_ms=ADOPT_AFTER_MS, limit=self._batch_size)
        )

    async def promote(self) -> int:
        """Put the wake-ups that the queue should have next. Returns how many it did not have yet.

        When the queue has lost its data, it is filled again from the beginning.
        """
        epoch = await self._queue.epoch()
        if await self._wake_ups.start_over_for(epoch):
            log.info("relay.refill", epoch=epoch)
        count = await self._put_handed_out()
        start, complete_for_ms = 0, None
        while True:
            top_up = await self._wake_ups.top_up(start, horizon_ms=self._horizon_ms, limit=self._batch_size)
            self._handed_out = top_up.wake_ups
            count += await self._put_handed_out()
            if top_up.complete_for_ms is not None:
                known_ms = top_up.complete_for_ms if complete_for_ms is None else complete_for_ms
                complete_for_ms = min(top_up.complete_for_ms, known_ms)
            if top_up.next is None:
                break
            start = top_up.next
        self._promote_pause_s = (
            SWEEP_S if complete_for_ms is None else min(SWEEP_S, max(TOP_UP_S, complete_for_ms / 2_000))
        )
        return count

    async def heal(self) -> int:
        """Put lost wake-ups again. Returns how many."""
        healed = 0
        place: Place | None = Place()
        while place is not None:
            overdue, place = await self._wake_ups.overdue(place, by_ms=GRACE_MS, limit=self._batch_size)
            healed += await self._put_missing(overdue)
        # This comes second: the timers it wakes have no wake-up yet, and would look like lost ones.
        seen, is_all = 0, False
        while not is_all:  # all of them: the first ones may be of an application that is paused
            lost = await self._wake_ups.heal(late_ms=GRACE_MS, limit=self._batch_size, skip=seen)
            healed += await self._put_missing(lost)
            seen += len(lost)
            is_all = len(lost) < self._batch_size
        if healed:
            log.warning("relay.heal", count=healed)
        return healed

    async def forget(self) -> int:
        """Forget timers whose retention is over. Returns how many."""
        count = 0
        while forgotten := await self._retention.forget(limit=self._batch_size):
            count += forgotten
        return count

    async def _act_on(self, entries: Sequence[OutboxEntry]) -> int:
        if not entries:
            return 0
        wake_ups = [entry.wake_up for entry in entries if entry.wake_up]
        if wake_ups:
            await self._put(await self._wake_ups.admit(wake_ups, horizon_ms=self._horizon_ms), by="drain")
        unreadable = len(entries) - len(wake_ups)
        if unreadable:
            OUTBOX_UNREADABLE.inc(unreadable)
            log.error("relay.unreadable", count=unreadable)
        await self._outbox.acknowledge(entries)
        return len(entries)

    async def _put_handed_out(self) -> int:
        """Put what top_up handed out. It does that once, so it is kept until the queue has taken it."""
        added = await self._put(self._handed_out, by="promote")
        self._handed_out = []
        return added

    async def _put_missing(self, wake_ups: Sequence[WakeUp]) -> int:
        missing = await self._queue.missing(wake_ups) if wake_ups else []
        return await self._put(missing, by="heal")

    async def _put(self, wake_ups: Sequence[WakeUp], *, by: str) -> int:
        if not wake_ups:
            return 0
        added = await self._queue.put(wake_ups)
        WAKE_UPS_PUT.labels(by).inc(added)
        return added


async def _for_ever(
    one_pass: Callable[[], Awaitable[object]], part: str, pause_s: Callable[[], float]
) -> None:
    outage = Outage(part)
    while True:
        try:
            await one_pass()
        except UnavailableError as error:
            await outage.wait(error)
        else:
            outage.over()
            await clock.sleep(pause_s())
