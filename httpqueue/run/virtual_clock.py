"""A clock that stands still until a user advances it. Timers due on the way fire in order."""

import asyncio
from collections.abc import Callable
from typing import Final

from httpqueue import clock
from httpqueue.relay.relay import Relay
from httpqueue.storage.lookup import Lookup, Pulse
from httpqueue.storage.queue import Queue

LOOK_S: Final = 0.002
"""How often to ask whether all due timers have fired."""


class VirtualClock:
    """The time for store, queue and API (a httpqueue.clock.StoreNow). It begins at this machine's time."""

    def __init__(self) -> None:
        self._now_ms = clock.now_ms()
        self._one_at_a_time = asyncio.Lock()

    def __call__(self) -> int:
        """The virtual time, in ms since the epoch."""
        return self._now_ms

    async def advance(
        self, target_of: Callable[[int], int], *, lookup: Lookup, relay: Relay, queue: Queue
    ) -> None:
        """Move from now to target_of(now), in ms since the epoch. Wait for each timer due on the way to fire.

        Calls queue up: two calls that each advance by an hour advance by two hours in all.
        """
        async with self._one_at_a_time:
            target_ms = target_of(self._now_ms)
            while True:
                next_ms = (await self._settled(lookup, relay, queue)).next_ms
                if next_ms is None or next_ms > target_ms:
                    break
                self._now_ms = next_ms
            self._now_ms = max(self._now_ms, target_ms)
            await relay.forget()

    async def _settled(self, lookup: Lookup, relay: Relay, queue: Queue) -> Pulse:
        while await relay.has_jobs():
            await relay.work()
            await clock.sleep(LOOK_S)
        await relay.promote()
        await queue.wake()
        while not (pulse := await lookup.pulse()).is_settled:
            await clock.sleep(LOOK_S)
        return pulse
