"""The whole pipeline in a test's event loop: store, relay and worker on the test's Valkey."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from httpqueue.relay.relay import Relay
from httpqueue.storage.queue import Queue
from httpqueue.storage.timers import Store
from httpqueue.timers.commands import Created, NewTimer
from httpqueue.timers.names import DEFAULT_APPLICATION, TimerName
from httpqueue.timers.retry import RetryPolicy
from httpqueue.timers.schedule import Delay, Schedule
from httpqueue.timers.spec import Spec
from httpqueue.timers.timer import State, Timer
from httpqueue.webhooks.client.factory import SenderKind, create_sender
from httpqueue.webhooks.egress import Egress
from httpqueue.worker.attempts import Attempts
from httpqueue.worker.engine import Worker
from httpqueue.worker.permits import Permits
from httpqueue.worker.plan import AttemptPolicy
from httpqueue.worker.slots import Slots
from tests.support.egress import PRIVATE
from tests.support.frozen import storage_of
from tests.support.keys import Everywhere
from tests.support.receiver import Received

AT_ONCE = Delay(0)
QUICK = AttemptPolicy(retry=RetryPolicy(max_attempts=4, base_ms=20, max_ms=1_000), timeout_ms=5_000)


@dataclass
class Pipeline:
    """Its parts, and what tests do with them again and again."""

    store: Store
    queue: Queue
    relay: Relay
    worker: Worker
    finished: asyncio.Event = field(default_factory=asyncio.Event)

    async def schedule(self, timer_id: str, url: str, schedule: Schedule = AT_ONCE, **spec: Any) -> Created:
        """Store one timer."""
        timer = NewTimer(TimerName(DEFAULT_APPLICATION, timer_id), Spec(url, schedule, **spec))
        [created] = await self.store.create([timer])
        return created

    async def until(self, timer_id: str, *states: State) -> Timer:
        """The timer as soon as it is in one of these states."""
        return await self.until_that(timer_id, lambda timer: timer.state in states)

    async def until_that(
        self,
        timer_id: str,
        condition: Callable[[Timer], bool],
        *,
        application: str = DEFAULT_APPLICATION,
    ) -> Timer:
        """The timer as soon as that holds of it: asked again whenever attempts were finished."""
        async with asyncio.timeout(30):
            while True:
                self.finished.clear()
                found = await self.store.get(TimerName(application, timer_id))
                if found and condition(found.timer):
                    return found.timer
                await self.finished.wait()

    async def until_all_finished(self, *, but: int = 0) -> None:
        """Until nothing is scheduled or running any more but so many."""
        async with asyncio.timeout(60):
            while True:
                self.finished.clear()
                counts = await Everywhere(self.store._redis).hash("counts")
                if sum(counts[key] for key in counts if key.endswith((":s", ":r"))) == but:
                    return
                await self.finished.wait()


def assert_growing(waits_ms: Sequence[int], requests: Sequence[Received]) -> None:
    """Each wait between attempts is longer than the one before, and the receiver was left alone that long.

    The gaps themselves are not compared: they hold what the machine adds, which has no order.
    """
    assert len(waits_ms) == len(requests) - 1
    assert list(waits_ms) == sorted(set(waits_ms))
    for wait_ms, earlier, later in zip(waits_ms, requests, requests[1:], strict=False):
        assert later.arrived_ms - earlier.arrived_ms >= wait_ms - 1  # both are whole ms


@asynccontextmanager
async def running(
    store: Store,
    queue: Queue,
    *,
    policy: AttemptPolicy = QUICK,
    slots: tuple[int, int] = (10_000, 200),
    egress: Egress = PRIVATE,
    grace_s: float = 10,
) -> AsyncIterator[Pipeline]:
    """Relay and worker at work. slots: how many calls it may make at once, and to one host."""
    storage = storage_of(store)
    await storage.check(allow_unsafe=False)
    relay = Relay(storage=storage, queue=queue, horizon_ms=600_000, batch_size=500)
    relaying = asyncio.create_task(relay.run())
    async with working(
        store,
        queue,
        policy=policy,
        slots=slots,
        egress=egress,
        grace_s=grace_s,
    ) as worker:
        finished = asyncio.Event()
        worker._finishes.told.listen(lambda _: finished.set())
        try:
            yield Pipeline(store, queue, relay, worker, finished)
        finally:
            relaying.cancel()
            with suppress(asyncio.CancelledError):
                await relaying


@asynccontextmanager
async def working(
    store: Store,
    queue: Queue,
    *,
    policy: AttemptPolicy = QUICK,
    slots: tuple[int, int] = (10_000, 200),
    egress: Egress = PRIVATE,
    grace_s: float = 10,
) -> AsyncIterator[Worker]:
    """A worker at work. slots: as in running."""
    sender = create_sender(SenderKind.HTTP1, egress.judge)
    attempts = Attempts(store=store, sender=sender, policy=policy)
    worker = Worker(
        attempts=attempts,
        queue=queue,
        permits=Permits(storage_of(store), queue),
        slots=Slots(*slots),
        grace_s=grace_s,
    )
    task = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        await worker.stop()
        await task
        await sender.close()
