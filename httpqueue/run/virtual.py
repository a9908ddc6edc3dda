"""A clock that stands still until it is advanced: what is due on the way fires as it would in real time."""

import asyncio
from collections.abc import Callable
from typing import Final

from httpqueue import clock
from httpqueue.relay.relay import Relay
from httpqueue.storage.lookup import Lookup, Pulse
from httpqueue.storage.queue import Queue

LOOK_S: Final = 0.002
"""How often it is asked whether all is settled."""


class VirtualClock:
    """Now, for store, queue and API (httpqueue.clock.StoreNow); begins at this machine's time."""

    def __init__(self) -> None:
        self._now_ms = clock.now_ms()
        self._one_at_a_time = asyncio.Lock()

    def __call__(self) -> int:
        """Ms since the epoch."""
        return self._now_ms

    async def advance(
        self, target_of: Callable[[int], int], *, lookup: Lookup, relay: Relay, queue: Queue
    ) -> None:
        """Go from now to target_of(now), and stop wherever something is due on the way until it is settled.

        One after another: two that go on by an hour go on by two hours.
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
        await relay.promote()
        await queue.wake()
        while not (pulse := await lookup.pulse()).is_settled:
            await clock.sleep(LOOK_S)
        return pulse
