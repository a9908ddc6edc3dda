"""What a worker is doing now: its attempts, from `begin` until the store knows how they ended.

An attempt may begin ahead (worker/ahead.py): then its call starts when another call to its host ends.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import structlog

from httpqueue import clock
from httpqueue.errors import UnavailableError
from httpqueue.runtime.outage import Outage
from httpqueue.timers.commands import Finish, Finished, Refused
from httpqueue.worker.ahead import Ahead
from httpqueue.worker.attempts import BEAT_S, Attempts, Running
from httpqueue.worker.permits import Permits, permits_of
from httpqueue.worker.slots import Lines, Slots

MAX_UNFINISHED: Final = 4
"""Unfinished attempts per slot: when there are more, as when the store is away, no attempt begins."""
MAX_BEAT: Final = 500
"""The most attempts in one call of `beat`."""

log = structlog.get_logger()


class Calls:
    """A worker's attempts: whose turn it is to be called, and who is dropped or handed back instead."""

    def __init__(
        self,
        *,
        attempts: Attempts,
        permits: Permits,
        slots: Slots,
        wake: asyncio.Event,
    ) -> None:
        """wake: set when the worker should look what it can begin now."""
        self.running: dict[int, Running] = {}
        """Attempts whose end the store does not know yet. The key is id(running.begun)."""
        self.is_awaited = False
        """Whether something waits for a call to end."""
        self.lines = Lines(slots)
        self.ahead = Ahead(slots)
        self.settled = asyncio.Event()
        """Set when nothing is running any more, and when a permit can be given back."""
        self._attempts = attempts
        self._permits = permits
        self._slots = slots
        self._wake = wake
        self._max_unfinished = slots.free * MAX_UNFINISHED
        self._to_call: deque[Running] = deque()
        self._is_calling = False
        self._late: list[Running] = []
        """Attempts whose lease was too short for their call when its turn came."""
        attempts.finishes.told.listen(self._told)

    @property
    def free(self) -> int:
        """How many attempts may begin. A slot is free again at the answer, before the finish."""
        return max(0, min(self._slots.free, self._max_unfinished - len(self.running)))

    # --- an attempt's way: begun, called, answered, told to the store ---

    async def start(self, answers: Sequence[Running | Refused]) -> None:
        """Call the webhooks of attempts that have begun, those that began ahead when their turn comes."""
        now_s = clock.monotonic_s()
        for running in answers:
            if not isinstance(running, Refused):
                self.running[id(running.begun)] = running
                self._slots.begin(running.begun.wake_up.name.application, running.begun.host)
                if self.ahead.enter(running, now_s):
                    self._to_call.append(running)
        self._call_all()
        late, self._late = self._late, []
        with suppress(UnavailableError):  # if this fails, their leases end
            await self.hand_back(late)

    def _call_all(self) -> None:
        """Call webhooks. A call may end at once, and make room for the next: a loop, lest it nest."""
        if self._is_calling:
            return
        self._is_calling = True
        try:
            while self._to_call:
                running = self._to_call.popleft()
                if self._attempts.has_time(running):
                    self._attempts.start(running, self._answered)
                else:
                    del self.running[id(running.begun)]
                    self._late.append(running)
                    self._leave(running)
        finally:
            self._is_calling = False

    def _answered(self, running: Running) -> None:
        if self.is_awaited:
            self._wake.set()
        self._leave(running)
        self.lines.note_end(running.begun.host, clock.monotonic_s())
        if running.has_bug:
            del self.running[id(running.begun)]
        self._call_all()

    def _leave(self, running: Running) -> None:
        """The attempt's call has ended, or will not be made: the next one has its place."""
        self._free_slot(running)
        following = self.ahead.leave(running.begun.host)
        if following is not None:
            self._to_call.append(following)

    def _free_slot(self, running: Running) -> None:
        self._slots.end(running.begun.wake_up.name.application, running.begun.host)

    def _told(self, told: tuple[Sequence[Finish], Finished]) -> None:
        """The store knows how these attempts ended: forget them."""
        self._permits.note_finished(told[0])
        for finish, is_counted in zip(told[0], told[1].counted, strict=True):
            running = self.running.pop(id(finish.begun), None)
            if running is not None and is_counted:  # else another worker has the timer, and its permit
                self._give_back_permit(running)
        if self.is_awaited:
            self._wake.set()
        if not self.running:
            self.settled.set()

    # --- attempts that are not made to their end ---

    async def beat(self) -> None:
        """Renew the leases of all attempts every BEAT_S, and drop attempts that were lost."""
        outages: defaultdict[int, Outage] = defaultdict(lambda: Outage("worker.beat"))
        pause_s = BEAT_S
        while True:
            await clock.sleep(pause_s)
            pause_s = BEAT_S
            for partition, attempts in self._by_partition().items():
                try:
                    await self._renew(attempts)
                except Exception as error:  # noqa: BLE001 - no part dies of an error
                    await outages[partition].wait(error)
                    pause_s = 0  # as soon as the store is back, nobody takes over for some seconds only
                else:
                    outages[partition].over()

    def _by_partition(self) -> dict[int, list[Running]]:
        groups: dict[int, list[Running]] = {}
        for running in self.running.values():
            groups.setdefault(running.begun.wake_up.partition, []).append(running)
        return groups

    async def _renew(self, attempts: Sequence[Running]) -> None:
        """Renew the leases of attempts of one partition, and of their permits."""
        now_s = clock.monotonic_s()
        for first in range(0, len(attempts), MAX_BEAT):
            part = [each for each in attempts[first : first + MAX_BEAT] if id(each.begun) in self.running]
            self._drop(await self._attempts.beat(part) if part else ())
            await self._permits.renew(permits_of(part))
            await self.hand_back_waiting(now_s - BEAT_S)

    def _drop(self, lost: Sequence[Running]) -> None:
        """Stop making attempts that no longer belong to this worker."""
        for running in lost:
            if self.running.pop(id(running.begun), None) is not None and not running.is_answered:
                log.warning("attempt.lost", attempt=str(running))
                self._attempts.drop(running)
                if self.ahead.remove(running):
                    self._free_slot(running)
                else:
                    self._leave(running)
                self._wake.set()
        self._call_all()
        if not self.running:
            self.settled.set()

    async def hand_back_waiting(self, since_s: float) -> None:
        """Hand back attempts that have waited for their call since before that time: their host is slow."""
        waiting = self.ahead.take_waiting(since_s)
        for running in waiting:
            del self.running[id(running.begun)]
            self._free_slot(running)
        await self.hand_back(waiting)

    def drop_all(self) -> list[Running]:
        """Cancel all calls. Returns the attempts that have no answer, for `hand_back`."""
        in_flight = [running for running in self.running.values() if not running.is_answered]
        for running in in_flight:
            self._attempts.drop(running)
        return in_flight

    async def hand_back(self, attempts: Sequence[Running]) -> None:
        """Hand attempts back, and their permits, unless another worker has timer and permit by now."""
        if attempts:
            for running, is_own in zip(attempts, await self._attempts.hand_back(attempts), strict=True):
                if is_own:
                    self._give_back_permit(running)

    def _give_back_permit(self, running: Running) -> None:
        if running.has_permit:
            self._permits.give_back(running.begun.host, running.begun.wake_up)
            self._wake.set()
            self.settled.set()
