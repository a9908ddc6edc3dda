"""Which partitions a worker leaves alone for the moment, so that the others do not wait for them."""

import asyncio
from collections.abc import Set as AbstractSet

from httpqueue.runtime.outage import Outage


class Away:
    """The partitions in which nothing is claimed and nothing begins for now."""

    def __init__(self, behind: AbstractSet[int], wake: asyncio.Event) -> None:
        """behind: Finishes.behind; ended attempts go first. wake: set when a pause is over."""
        self._behind = behind
        self._paused: set[int] = set()
        self._outages: dict[tuple[str, int], Outage] = {}
        self._wake = wake

    @property
    def partitions(self) -> AbstractSet[int]:
        """Their numbers."""
        return self._paused | self._behind if self._behind else self._paused

    def note(self, part: str, partition: int, error: Exception) -> None:
        """A call of this part of the process failed: pause in the partition, as long as Outage says."""
        outage = self._outages.setdefault((part, partition), Outage(part))
        self._paused.add(partition)
        asyncio.get_running_loop().call_later(outage.pause_s(error), self._end_pause, partition)

    def over(self, part: str, partition: int) -> None:
        """A call of this part succeeded."""
        if self._outages:
            outage = self._outages.pop((part, partition), None)
            if outage is not None:
                outage.over()

    def _end_pause(self, partition: int) -> None:
        self._paused.discard(partition)
        self._wake.set()
