"""A test's own time and the timers it moves: nothing here waits."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import Redis

from httpqueue.storage.outbox import Outbox
from httpqueue.storage.storage import Storage
from httpqueue.storage.timers import Store
from httpqueue.timers.commands import Begun, End, Finish, NewTimer, Retry, WakeUp
from httpqueue.timers.names import DEFAULT_APPLICATION, TimerName
from httpqueue.timers.schedule import Delay
from httpqueue.timers.spec import Spec
from httpqueue.timers.timer import Attempt, State
from httpqueue.webhooks.outcome import Outcome

T0_MS: Final = 1_800_000_000_000
"""Where frozen time begins: round, so that a number written as 1.8e+12 anywhere would be noticed."""
LEASE_MS: Final = 30_000
HOUR_MS: Final = 3_600_000


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


def wake_up(timer_id: str, generation: int = 0) -> WakeUp:
    """The wake-up of such a timer."""
    return WakeUp(TimerName(DEFAULT_APPLICATION, timer_id), generation)


async def begin_one(store: Store, timer_id: str, generation: int = 0) -> Begun:
    """Start an attempt that must not be refused."""
    [begun] = await store.begin([wake_up(timer_id, generation)], lease_ms=LEASE_MS)
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
        return Finish(begun.wake_up, attempt, Retry(ms))
    return Finish(
        begun.wake_up, attempt, End(State.DONE if outcome is Outcome.DELIVERED else State.FAILED, ms)
    )


def storage_of(store: Store) -> Storage:
    """All that is kept on the server of this store, which is a part of it."""
    storage = Storage(store._redis, archive_error_rate=1e-6, now=store._now)
    storage.store, storage._archive = store, store._archive
    return storage


def outbox_of(store: Store) -> Outbox:
    """The outbox that this store fills."""
    return storage_of(store).outbox


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
