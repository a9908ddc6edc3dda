"""A test's own time and the timers it moves: nothing here waits."""

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

from redis.asyncio import Redis

from httpqueue.storage.queue import Queue
from httpqueue.storage.scripts import pack
from httpqueue.storage.storage import Storage
from httpqueue.storage.timers import Store
from httpqueue.timers.commands import Begun, End, Finish, NewTimer, OutboxEntry, Refused, Retry, WakeUp
from httpqueue.timers.names import DEFAULT_APPLICATION, TimerName
from httpqueue.timers.room import Room
from httpqueue.timers.schedule import Delay
from httpqueue.timers.spec import Spec
from httpqueue.timers.timer import Attempt, State
from httpqueue.webhooks.outcome import Outcome
from tests.support.keys import PARTITIONS

T0_MS: Final = 1_800_000_000_000
"""Where frozen time begins: round, so that a number written as 1.8e+12 anywhere would be noticed."""
TIMEOUT_MS: Final = 20_000
"""Of the workers that tests play."""
LEASE_MS: Final = 20_000
"""What an attempt gets that has such a timeout."""
HOUR_MS: Final = 3_600_000

_STEP_MS: Final = 4_000
"""The store is asked so often while it is up; 5 s of silence look like an outage to it."""
_holders = count(1)


@dataclass
class FrozenTime:
    """Now, for store and queue; stands still until the test moves it."""

    now_ms: int = T0_MS

    def __call__(self) -> int:
        """Ms since the epoch, as httpqueue.clock.StoreNow."""
        return self.now_ms

    def advance(self, ms: int) -> None:
        """Let that much time pass."""
        self.now_ms += ms


def new_timer(timer_id: str, delay_ms: int = 0, **spec: Any) -> NewTimer:
    """A timer of the default application, due after delay_ms."""
    return NewTimer(
        TimerName(DEFAULT_APPLICATION, timer_id), Spec("http://receiver/", Delay(delay_ms), **spec)
    )


def wake_up(
    timer_id: str, generation: int = 0, *, key: str | None = None, application: str = DEFAULT_APPLICATION
) -> WakeUp:
    """The wake-up of such a timer; `key` is its ordering key."""
    name = TimerName(application, timer_id)
    return WakeUp(name, generation, partition=PARTITIONS.place_of(name, key))


def new_holder() -> str:
    """A begin call of its own: one that is no other one repeated."""
    return f"worker.{next(_holders)}"


async def begin(
    store: Store,
    wake_ups: Sequence[WakeUp],
    *,
    holder: str | None = None,
    timeout_ms: int = TIMEOUT_MS,
    room: Room | None = None,
    permits: Sequence[WakeUp] = (),
) -> list[Begun | Refused]:
    """A begin call of its own, unless holder says which one it repeats."""
    return await store.begin(
        wake_ups, holder=holder or new_holder(), timeout_ms=timeout_ms, room=room, permits=permits
    )


async def pass_time(store: Store, time: FrozenTime, ms: int) -> None:
    """Let that much time pass while the store is up: it is asked something all the while."""
    while ms > 0:
        time.advance(min(ms, _STEP_MS))
        ms -= _STEP_MS
        for partition in PARTITIONS.all:
            await store._leases._beat(partition, time.now_ms, pack([]))


async def lose_leases(store: Store, time: FrozenTime) -> None:
    """Let the leases of all that runs end, while the store is up."""
    await pass_time(store, time, LEASE_MS + 1)


async def begin_one(store: Store, timer_id: str, generation: int = 0, *, key: str | None = None) -> Begun:
    """Start an attempt that must not be refused; `key` is the timer's ordering key."""
    [begun] = await begin(store, [wake_up(timer_id, generation, key=key)])
    assert isinstance(begun, Begun)
    return begun


def finish_of(begun: Begun, outcome: Outcome, ms: int = HOUR_MS) -> Finish:
    """The end of that attempt, answered with 200, 503 or 404."""
    status = {Outcome.DELIVERED: 200, Outcome.RETRY: 503, Outcome.FAILED: 404}[outcome]
    error = None if outcome is Outcome.DELIVERED else f"HTTP {status}"
    attempt = Attempt(
        begun.started_ms, 0, status, error, number=begun.attempt, generation=begun.wake_up.generation
    )
    if outcome is Outcome.RETRY:
        return Finish(begun, attempt, Retry(ms))
    return Finish(begun, attempt, End(State.DONE if outcome is Outcome.DELIVERED else State.FAILED, ms))


def storage_of(store: Store) -> Storage:
    """All that is kept on the server of this store, which is a part of it."""
    storage = Storage(
        store._redis,
        archive_error_rate=1e-6,
        partitions=store._partitions,
        secrets=store._leases._secrets,
        now=store._now,
    )
    storage.store, storage._archive, storage.retention = store, store._retention.archive, store._retention
    return storage


async def read_outbox(store: Store, *, limit: int = 5_000, consumer: str = "relay") -> list[OutboxEntry]:
    """New entries of the outboxes of all partitions; they stay unacknowledged."""
    outbox = storage_of(store).outbox
    return [
        entry for partition in PARTITIONS.all for entry in await outbox.read(partition, consumer, limit=limit)
    ]


async def acknowledge(store: Store, entries: Sequence[OutboxEntry]) -> None:
    """Take readable entries out of their outboxes."""
    parts: dict[int, list[OutboxEntry]] = {}
    for entry in entries:
        assert entry.wake_up is not None
        parts.setdefault(entry.wake_up.partition, []).append(entry)
    for partition, part in parts.items():
        await storage_of(store).outbox.acknowledge(partition, part)


async def forget(store: Store) -> int:
    """Forget all timers whose retention is over, as a relay does; returns how many there were."""
    counts = [await store._retention.forget(partition, limit=1_000) for partition in PARTITIONS.all]
    return sum(counts)


async def heal(store: Store, *, limit: int = 9) -> list[WakeUp]:
    """Find timers that nobody else would wake, as a relay does; returns those that lost their worker."""
    wake_ups = storage_of(store).wake_ups
    found = [await wake_ups.heal(partition, limit=limit) for partition in PARTITIONS.all]
    return [wake_up for lost in found for wake_up in lost.workers]


async def claim(queue: Queue, limit: int = 1_000) -> list[WakeUp]:
    """Pop at most `limit` due wake-ups from the queue of each partition."""
    return [
        wake_up for partition in PARTITIONS.all for wake_up in (await queue.claim(partition, limit)).wake_ups
    ]


async def snapshot(redis: Redis) -> dict[bytes, bytes | None]:
    """Everything on the server, to be compared."""
    return {key: await redis.dump(key) for key in await redis.keys()}


@contextmanager
def closed_port() -> Iterator[int]:
    """A port that nobody listens on, kept from others meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        yield port
