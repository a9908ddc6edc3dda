"""The deadlines of many calls. All share one event-loop timer, so each costs only a set entry."""

import asyncio
from collections.abc import Callable
from typing import Final

from httpqueue import clock
from httpqueue.webhooks.client.http1.call import Call

TICKS_PER_S: Final = 40
"""Deadlines are rounded up to the next tick: none comes early, none more than 25 ms late."""


class Deadlines:
    """A set of calls for each tick, and one event-loop timer for the earliest."""

    def __init__(
        self, expire: Callable[[Call], None], now_s: Callable[[], float] = clock.monotonic_s
    ) -> None:
        self._expire = expire
        self._now_s = now_s
        self._buckets: dict[int, set[Call]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._next_tick = 0

    def add(self, call: Call) -> None:
        """Let the call expire after call.timeout_s. A call that ends earlier takes itself out."""
        tick = int((self._now_s() + call.timeout_s) * TICKS_PER_S) + 1
        bucket = self._buckets.get(tick)
        if bucket is None:
            bucket = self._buckets[tick] = set()
            if self._timer is None or tick < self._next_tick:
                self._arm(tick)
        bucket.add(call)
        call.bucket = bucket

    def pending(self) -> list[Call]:
        """All calls that have not ended."""
        return [call for bucket in self._buckets.values() for call in bucket]

    def close(self) -> None:
        """Drop all deadlines: no call expires any more."""
        self._buckets.clear()
        if self._timer is not None:
            self._timer.cancel()

    def expire(self) -> None:
        """Expire calls whose deadline has passed, and set the timer for the next."""
        self._timer = None
        this_tick = self._now_s() * TICKS_PER_S
        for tick in sorted(tick for tick in self._buckets if tick <= this_tick):
            bucket = self._buckets.pop(tick)
            while bucket:
                self._expire(bucket.pop())
        if self._buckets:
            self._arm(min(self._buckets))

    def _arm(self, tick: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next_tick = tick
        delay_s = tick / TICKS_PER_S - self._now_s()
        self._timer = asyncio.get_running_loop().call_later(max(delay_s, 0), self.expire)
