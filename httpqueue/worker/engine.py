"""The worker: its rounds, its start and its end.

claims.py has what is due, begins.py lets it begin, calls.py has what runs.
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
from httpqueue.runtime.outage import Outage, keep_doing, keep_listening
from httpqueue.runtime.part import run_until
from httpqueue.storage.queue import Queue
from httpqueue.worker.attempts import Attempts, Running
from httpqueue.worker.away import Away
from httpqueue.worker.begins import Begins
from httpqueue.worker.calls import Calls
from httpqueue.worker.claims import Claims
from httpqueue.worker.permits import AT_ONCE_MS, Permits
from httpqueue.worker.slots import Slots

ALIVE_S: Final = 5
"""Seconds between two notes that this worker is alive."""
HOSTS_S: Final = 0.5
"""Seconds between two talks about hosts: how calls to them ended, and which rules they have."""
GATHER_S: Final = 0.001
"""Under load, the worker waits this long, so that one claim fills several free slots."""
FLUSH_S: Final = 2.0
"""After the grace time, how long a worker that stops waits for the store to take ended attempts."""

log = structlog.get_logger()


class Worker:
    """Claims, begins and finishes many timers at a time. `slots` says how many calls it may make at once."""

    def __init__(
        self, *, attempts: Attempts, queue: Queue, permits: Permits, slots: Slots, grace_s: float
    ) -> None:
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._finishes = attempts.finishes
        self._queue = queue
        self._permits = permits
        self._slots = slots
        self._away = Away(attempts.finishes.behind, self._wake)
        self._claims = Claims(queue, self._away, self._wake)
        self._calls = Calls(attempts=attempts, permits=permits, slots=slots, wake=self._wake)
        self._begins = Begins(
            attempts=attempts,
            claims=self._claims,
            calls=self._calls,
            permits=permits,
            slots=slots,
            away=self._away,
        )
        self._grace_s = grace_s
        self._outage = Outage("worker.round")
        self._name = uuid4().hex

    async def run(self) -> None:
        """Claim wake-ups and make attempts until stop(). When a server is away, wait for it."""
        self._finishes.hand_unblocked_to(self._claims.hold)
        helpers = [
            asyncio.create_task(each)
            for each in (
                keep_listening(self._queue.listen, self._claims.look_into, "worker.listen"),
                keep_doing(self._say_alive, "worker.alive", lambda: ALIVE_S, self._stopping),
                self._calls.beat(),
                self._talk_about_hosts(),
                self._finishes.run(),
            )
        ]
        for helper in helpers:
            helper.add_done_callback(lambda _: self._wake.set())
        try:
            while not self._stopping.is_set():
                for helper in helpers:
                    if helper.done():
                        await helper  # raises: without it, a worker would go on and tell nobody how calls end
                await self._round()
            await self._wind_down()
        finally:
            await self._give_up_attempts()
            for helper in helpers:
                helper.cancel()

    async def stop(self) -> None:
        """Claim no more, give back wake-ups that were not begun, and give calls the grace time to end."""
        self._stopping.set()
        self._wake.set()

    # --- at work ---

    async def _round(self) -> None:
        """Claim and begin what is due, then sleep until there is more to do."""
        self._wake.clear()
        if self._stopping.is_set():  # stop() may have set _wake just before it was cleared
            return
        try:
            idle_s = await self._begins.work()
        except Exception as error:  # noqa: BLE001 - no part dies of an error
            await run_until(self._stopping, self._outage.wait(error))
            return
        self._outage.over()
        if idle_s:
            await self._sleep(idle_s)
        if self._calls.is_awaited:
            await clock.sleep(GATHER_S)

    async def _sleep(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()

    async def _say_alive(self) -> None:
        await self._queue.note_worker(self._name)

    async def _talk_about_hosts(self) -> None:
        """Tell hosts how calls to them ended, and learn how many each lets this worker make at most.

        What is told while the store is away is lost: it is for people.
        """
        outage = Outage("worker.hosts")
        while True:
            try:
                await self._permits.tell_health()
                self._slots.caps = await self._permits.limits()
            except Exception as error:  # noqa: BLE001 - no part dies of an error
                await outage.wait(error)
            else:
                outage.over()
            await clock.sleep(HOSTS_S)

    # --- winding down ---

    async def _wind_down(self) -> None:
        """Give back wake-ups that were not begun. Wait for attempts in flight, at most the grace time."""
        self._finishes.hand_unblocked_to(None)
        with suppress(UnavailableError):
            await self._calls.hand_back_waiting(clock.monotonic_s())
        left_over = self._begins.give_up_all()
        if left_over:
            with suppress(UnavailableError):
                await self._queue.put([replace(wake_up, due_ms=AT_ONCE_MS) for wake_up in left_over])
        with suppress(TimeoutError):
            async with asyncio.timeout(self._grace_s):
                while self._calls.running:
                    self._calls.settled.clear()
                    if self._permits.ended:  # others may wait for them
                        with suppress(UnavailableError):
                            await self._permits.leave()
                    await self._calls.settled.wait()

    async def _give_up_attempts(self) -> None:
        """Hand back attempts that outlast the grace time, so that another worker makes them at once."""
        in_flight = self._calls.drop_all()
        # The store must hear of answered calls, or their webhooks would be called again.
        await asyncio.wait({asyncio.create_task(self._finishes.drain())}, timeout=FLUSH_S)
        # In a task of its own: this one may have been cancelled.
        await asyncio.create_task(self._hand_back(in_flight))

    async def _hand_back(self, in_flight: Sequence[Running]) -> None:
        with suppress(UnavailableError):
            if in_flight:
                await self._calls.hand_back(in_flight)
                called = sum(running.is_called for running in in_flight)
                log.info("worker.handed_back", count=len(in_flight), called=called)
            await self._permits.leave()
            await self._permits.tell_health()
