"""The deadlines of many calls, without a timer for each: a call's deadline costs one set entry."""

import asyncio
from collections.abc import Callable
from typing import Final

from httpqueue import clock
from httpqueue.webhooks.client.http1.call import Call

TICKS_PER_S: Final = 40
"""Deadlines are rounded up to the next of these: none comes early, none more than 25 ms late."""


class Deadlines:
    """Buckets of calls by tick; one timer waits for the earliest bucket."""

    def __init__(
        self, expire: Callable[[Call], None], now_s: Callable[[], float] = clock.monotonic_s
    ) -> None:
        self._expire = expire
        self._now_s = now_s
        self._buckets: dict[int, set[Call]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._next_tick = 0

    def add(self, call: Call) -> None:
        """The call is to expire when its timeout is over; it leaves its bucket when it ends earlier."""
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
        """Expire nothing any more."""
        self._buckets.clear()
        if self._timer is not None:
            self._timer.cancel()

    def expire(self) -> None:
        """Expire what is due, and wait for what is due next."""
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
