"""The worker: claims due wake-ups in batches and makes their attempts.

When a worker dies between claim and begin, its wake-ups are lost; the relay's heal pass puts them again.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final
from uuid import uuid4

import structlog

from httpqueue import clock
from httpqueue.errors import UnavailableError
from httpqueue.runtime.outage import Outage
from httpqueue.storage.queue import Queue
from httpqueue.timers.commands import Finish, Finished, Refusal, Refused, WakeUp
from httpqueue.worker.attempts import BEAT_S, Attempts, BeginCall, Running
from httpqueue.worker.calls import SLOW_S, Calls

IDLE_S: Final = 1.0
"""The longest sleep in s. A lost wake message delays a timer by no more than this."""
ALIVE_S: Final = 5
"""Seconds between two notes that this worker is alive."""
MAX_CLAIM: Final = 500
GATHER_S: Final = 0.001
"""Under load, the worker waits this long, so that one claim fills several free slots."""
AT_ONCE_MS: Final = 1
MAX_UNFINISHED: Final = 4
"""Unfinished attempts per slot: when there are more, as when the store is away, no attempt begins."""
FLUSH_S: Final = 2.0
"""After the grace time, how long a worker that stops waits for the store to take ended attempts."""
MAX_BEAT: Final = 500
"""The most attempts in one call of `beat`."""
AHEAD: Final = 2
"""Wake-ups per slot claimed beyond the free slots, while the queue has more and all calls are quick."""

log = structlog.get_logger()


class Worker:
    """Claims, begins and finishes many timers at a time. `concurrency` is its number of slots."""

    def __init__(self, *, attempts: Attempts, queue: Queue, concurrency: int, grace_s: float) -> None:
        self._attempts = attempts
        self._finishes = attempts.finishes
        self._queue = queue
        self._concurrency = concurrency
        self._grace_s = grace_s
        self._outage = Outage("worker.claim")
        self._stopping = asyncio.Event()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._held: list[WakeUp] = []
        self._is_full = False  # whether no slot was free in the last round
        self._ahead = 0
        self._name = uuid4().hex
        self._noted_s = 0.0
        self._calls = Calls(concurrency)
        self._running: dict[int, Running] = {}
        """Attempts whose end the store does not know yet. The key is id(running.begun)."""
        self._repeat: BeginCall | None = None

    async def run(self) -> None:
        """Claim wake-ups and make attempts until stop(). When a server is away, wait for it."""
        self._finishes.hand_unblocked_to(self._hold)
        self._finishes.told.listen(self._told)
        helpers = [asyncio.create_task(each) for each in (self._listen(), self._beat(), self._finishes.run())]
        try:
            while not self._stopping.is_set():
                await self._round()
                for helper in helpers:
                    if helper.done():
                        await helper  # raises: without it, a worker would go on and tell nobody how calls end
            await self._wind_down()
        finally:
            await self._give_up_attempts()
            for helper in helpers:
                helper.cancel()

    async def stop(self) -> None:
        """Claim no more, give back wake-ups that were not begun, and give calls the grace time to end."""
        self._stopping.set()
        self._wake.set()

    async def _wind_down(self) -> None:
        """Give back wake-ups that were not begun. Wait for attempts in flight, at most the grace time."""
        self._finishes.hand_unblocked_to(None)
        left_over, self._held = self._held, []
        if self._repeat is not None:  # perhaps they were begun: then their leases end, and heal wakes them
            left_over += self._repeat.wake_ups
        if left_over:
            with suppress(UnavailableError):
                await self._queue.put([replace(wake_up, due_ms=AT_ONCE_MS) for wake_up in left_over])
        with suppress(TimeoutError):
            async with asyncio.timeout(self._grace_s):
                while self._running:
                    self._idle.clear()
                    await self._idle.wait()

    async def _give_up_attempts(self) -> None:
        """Hand back attempts that outlast the grace time, so that another worker makes them at once."""
        in_flight = [running for running in self._running.values() if not running.is_answered]
        for running in in_flight:
            self._attempts.drop(running)
        # The store must hear of answered calls, or their webhooks would be called again.
        await asyncio.wait({asyncio.create_task(self._finishes.drain())}, timeout=FLUSH_S)
        if in_flight:
            # In a task of its own: this one may have been cancelled.
            await asyncio.create_task(self._hand_back(in_flight))

    async def _hand_back(self, in_flight: Sequence[Running]) -> None:
        with suppress(UnavailableError):
            await self._attempts.hand_back(in_flight)
            called = sum(running.is_called for running in in_flight)
            log.info("worker.handed_back", count=len(in_flight), called=called)

    async def _round(self) -> None:
        """Claim and begin what is due, then sleep until there is more to do."""
        self._wake.clear()
        if self._stopping.is_set():  # stop() may have set _wake just before it was cleared
            return
        free = self._free()
        self._is_full = not free
        try:
            # When a host turns slow, slots become free although no call ends: look again soon.
            idle_s = await self._claim(free) if free else SLOW_S
            await self._say_alive()
        except UnavailableError as error:
            await self._wait_out(error)
            return
        self._outage.over()
        if idle_s:
            await self._sleep(idle_s)
        if self._free() < self._concurrency // 2:
            await clock.sleep(GATHER_S)

    def _free(self) -> int:
        """How many attempts may start. A slot is free again at the answer, before the finish."""
        if self._finishes.is_behind:  # ended attempts first
            return 0
        unfinished = self._concurrency * MAX_UNFINISHED - len(self._running)
        return max(0, min(self._calls.free(), unfinished, MAX_CLAIM))

    async def _claim(self, free: int) -> float:
        """Start at most `free` attempts. Returns for how many seconds there is nothing more to do."""
        idle_s = 0.0
        if self._repeat is not None:
            await self._begin(self._repeat)
            return 0
        if len(self._held) < free:
            claim = await self._queue.claim(free - len(self._held) + self._ahead)
            for job in claim.unreadable:
                log.error("worker.unreadable", job=job)
            self._held += claim.wake_ups
            self._ahead = self._concurrency * AHEAD if claim.wait_ms == 0 and self._calls.are_quick() else 0
            idle_s = IDLE_S if claim.wait_ms is None else min(claim.wait_ms / 1000, IDLE_S)
        wake_ups, self._held = self._held[:free], self._held[free:]
        if wake_ups:
            await self._begin(self._attempts.begin_call(wake_ups, self._calls.room()))
        return 0 if self._held else idle_s

    async def _begin(self, call: BeginCall) -> None:
        """Begin and start attempts. When the answer is lost, the next round repeats the call."""
        self._repeat = call
        answers = await self._attempts.begin(call)
        self._repeat = None
        later, started = [], []
        for answer in answers:
            if not isinstance(answer, Refused):
                started.append(answer)
            elif answer.refusal is Refusal.LATER:
                self._hold(answer.wake_up)
            elif answer.refusal is Refusal.EARLY:
                # The queue's clock is ahead of the store's, which decides: begin again when it is due.
                loop = asyncio.get_running_loop()
                loop.call_later(answer.wait_ms / 1000, self._hold, answer.wake_up)
            elif answer.until_ms:
                later.append(replace(answer.wake_up, due_ms=answer.until_ms))
        await self._start(started)
        if later:
            await self._queue.put(later)

    async def _start(self, started: Sequence[Running]) -> None:
        """Call the webhooks of attempts that have begun, and hand back those whose lease is too short."""
        dropped = []
        for running in started:
            if not self._attempts.has_time(running):
                dropped.append(running)
                continue
            self._running[id(running.begun)] = running
            self._calls.begin(running.begun.host, str(running))
            self._attempts.start(running, self._answered)
        if dropped:
            with suppress(UnavailableError):  # if this fails, their leases end
                await self._attempts.hand_back(dropped)

    def _answered(self, running: Running) -> None:
        if self._is_full:
            self._wake.set()
        self._calls.end(running.begun.host, str(running))
        if running.has_bug:
            del self._running[id(running.begun)]

    def _told(self, told: tuple[Sequence[Finish], Finished]) -> None:
        """The store knows how these attempts ended: forget them."""
        for finish in told[0]:
            self._running.pop(id(finish.begun), None)
        if self._is_full:
            self._wake.set()
        if not self._running:
            self._idle.set()

    async def _beat(self) -> None:
        """Renew the leases of all attempts every BEAT_S, and drop attempts that were lost."""
        outage = Outage("worker.beat")
        while True:
            await clock.sleep(BEAT_S)
            everyone = list(self._running.values())
            for first in range(0, len(everyone), MAX_BEAT):
                part = [
                    each for each in everyone[first : first + MAX_BEAT] if id(each.begun) in self._running
                ]
                try:
                    self._drop(await self._attempts.beat(part) if part else ())
                except UnavailableError as error:
                    await outage.wait(error)
                else:
                    outage.over()

    def _drop(self, lost: Sequence[Running]) -> None:
        """Stop making attempts that no longer belong to this worker."""
        for running in lost:
            if self._running.pop(id(running.begun), None) is not None and not running.is_answered:
                log.warning("attempt.lost", attempt=str(running))
                self._attempts.drop(running)
                self._calls.end(running.begun.host, str(running))
                self._wake.set()
        if not self._running:
            self._idle.set()

    def _hold(self, wake_up: WakeUp) -> None:
        self._held.append(wake_up)
        self._wake.set()

    async def _say_alive(self) -> None:
        now_s = clock.monotonic_s()
        if now_s - self._noted_s >= ALIVE_S or not self._noted_s:
            await self._queue.note_worker(self._name)
            self._noted_s = now_s

    async def _sleep(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()

    async def _wait_out(self, error: UnavailableError) -> None:
        """Wait for a server that is away, or until the worker is told to stop."""
        waiting = asyncio.create_task(self._outage.wait(error))
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({waiting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        for task in (waiting, stopping):
            task.cancel()

    async def _listen(self) -> None:
        outage = Outage("worker.listen")
        while True:
            try:
                await self._queue.listen(self._wake.set)
            except UnavailableError as error:
                await outage.wait(error)
