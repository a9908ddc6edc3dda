"""Tells the store how attempts ended, in batches. While the store is away, they are kept in memory.

A crash loses them: then the leases end, and the attempts are made again.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import structlog

from httpqueue import clock
from httpqueue.errors import UnavailableError
from httpqueue.runtime.metrics import ATTEMPTS, ATTEMPTS_REFUSED
from httpqueue.runtime.outage import Outage
from httpqueue.runtime.signal import Signal
from httpqueue.storage.timers import Store
from httpqueue.timers.commands import End, Finish, Finished, Retry, WakeUp
from httpqueue.timers.schedule import Cron
from httpqueue.webhooks.outcome import Outcome

MAX_ITEMS: Final = 500
MAX_BYTES: Final = 4_000_000
"""The most bytes of callbacks in one finish. A larger one would block Redis for too long."""
GATHER_S: Final = 0.003
"""How long ended attempts are gathered for one finish. No webhook waits for it."""

_COUNT: Final = {outcome: ATTEMPTS.labels(outcome.value) for outcome in Outcome}

log = structlog.get_logger()


class Finishes:
    """A worker's ended attempts that the store does not know of yet."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._parts: dict[int, _Part] = {}
        self._new_parts: asyncio.Queue[_Part] = asyncio.Queue()
        self._take_unblocked: Callable[[WakeUp], None] | None = None
        self.behind: set[int] = set()
        """The partitions whose ended attempts wait for a store that is away."""
        self.told: Signal[tuple[Sequence[Finish], Finished]] = Signal()
        """Emitted after each `finish`, with the batch and the store's answer."""

    def add(self, finish: Finish) -> None:
        """Note that an attempt has ended. `run` tells the store."""
        partition = finish.begun.wake_up.partition
        part = self._parts.get(partition)
        if part is None:
            part = self._parts[partition] = _Part(partition)
            self._new_parts.put_nowait(part)
        part.waiting.append(finish)
        part.added.set()
        _log(finish)

    def hand_unblocked_to(self, take: Callable[[WakeUp], None] | None) -> None:
        """Set who starts the timers that `finish` unblocks. None: they go through relay and queue."""
        self._take_unblocked = take

    async def run(self) -> None:
        """Send batches to the store until cancelled. Each partition has batches of its own."""
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    tasks.create_task(self._send(await self._new_parts.get()))
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None

    async def _send(self, part: "_Part") -> None:
        while True:
            await part.added.wait()
            if len(part.waiting) < MAX_ITEMS:
                await clock.sleep(GATHER_S)
            await self._flush(part, part.take())
            if not part.waiting:
                part.added.clear()
                part.flushed.set()

    async def drain(self) -> None:
        """Wait until the store knows of all attempts that have ended."""
        for part in list(self._parts.values()):
            while part.waiting or part.is_flushing:
                part.flushed.clear()
                await part.flushed.wait()

    async def _flush(self, part: "_Part", batch: Sequence[Finish]) -> None:
        """Tell the store of these attempts, and then everybody who listens."""
        take = self._take_unblocked
        part.is_flushing = True
        finished = await self._finish(part, batch, take_unblocked=take is not None)
        self.behind.discard(part.partition)
        part.is_flushing = False
        if take is not None:
            for wake_up in finished.unblocked:
                take(wake_up)
        try:
            self.told.emit((batch, finished))
        except Exception as error:  # noqa: BLE001 - no part dies of an error
            Outage("worker.finish").note(error)

    async def _finish(self, part: "_Part", batch: Sequence[Finish], *, take_unblocked: bool) -> Finished:
        outage = Outage("worker.finish")
        while True:
            try:
                finished = await self._store.finish(batch, take_unblocked=take_unblocked)
            except UnavailableError as error:
                self.behind.add(part.partition)
                await outage.wait(error)
            except Exception as error:  # noqa: BLE001 - no part dies of an error
                outage.note(error)
                if len(batch) == 1:
                    return Finished([False], [], [False])  # its lease ends, and the attempt is made again
                answers = [await self._finish(part, [one], take_unblocked=take_unblocked) for one in batch]
                return Finished(
                    [answer.counted[0] for answer in answers],
                    [each for answer in answers for each in answer.unblocked],
                    [answer.known[0] for answer in answers],
                )
            else:
                outage.over()
                counted = [one or other for one, other in zip(finished.counted, finished.known, strict=True)]
                finished = replace(finished, counted=counted)
                _log_late(batch, finished)
                return finished


class _Part:
    """The ended attempts of one partition."""

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.waiting: deque[Finish] = deque()
        self.added = asyncio.Event()
        self.flushed = asyncio.Event()
        self.is_flushing = False

    def take(self) -> list[Finish]:
        """The next batch."""
        batch: list[Finish] = []
        size = 0
        while self.waiting and len(batch) < MAX_ITEMS:
            size += _size_of(self.waiting[0])
            if batch and size > MAX_BYTES:
                break
            batch.append(self.waiting.popleft())
        return batch


def _size_of(finish: Finish) -> int:
    """About how many bytes a finish has. Only a callback is large: it repeats the timer's body."""
    then = finish.then
    if isinstance(then, Retry) or then.callback is None:
        return 0
    body = finish.begun.spec.body
    return len(body) if isinstance(body, str) else len(str(body))


def _log_late(batch: Sequence[Finish], finished: Finished) -> None:
    for finish, counted in zip(batch, finished.counted, strict=True):
        if not counted:
            ATTEMPTS_REFUSED.inc()
            name, number = str(finish.begun.wake_up.name), finish.attempt.number
            log.warning("attempt.late", timer=name, attempt=number)


def _log(finish: Finish) -> None:
    """Count every attempt in the metrics, and log those that were not delivered."""
    begun, then, error = finish.begun, finish.then, finish.attempt.error
    timer = str(begun.wake_up.name)
    if isinstance(begun.spec.schedule, Cron) and isinstance(then, End):
        log.error("attempt.no_next_run", timer=timer, zone=begun.spec.schedule.zone)
    if isinstance(then, Retry):
        _COUNT[Outcome.RETRY].inc()
        log.info("attempt.retry", timer=timer, attempt=begun.attempt, error=error, retry_in_ms=then.delay_ms)
    elif error is None:
        _COUNT[Outcome.DELIVERED].inc()
    else:
        _COUNT[Outcome.FAILED].inc()
        log.warning("attempt.failed", timer=timer, attempt=begun.attempt, error=error)
