"""When a worker looks into which partition's queue. Pure."""

from collections.abc import Collection, Iterable
from math import inf

from httpqueue.timers.commands import WakeUp


class Agenda:
    """Knows when the next wake-up of each partition is due, on a clock of seconds that never jumps."""

    def __init__(self, partitions: Iterable[int]) -> None:
        self._look_at_s = dict.fromkeys(partitions, 0.0)

    def take(self, now_s: float, away: Collection[int] = ()) -> int | None:
        """A partition to look into now; tell `note` what was found. None: there is nothing to look at.

        away: partitions that are left alone for now.
        """
        for partition, at_s in self._look_at_s.items():
            if at_s <= now_s and partition not in away:
                del self._look_at_s[partition]
                self._look_at_s[partition] = inf  # the last, so that others have their turn
                return partition
        return None

    def note(self, partition: int, at_s: float) -> None:
        """The next look into the partition is at at_s, unless it was woken since `take`."""
        self._look_at_s[partition] = min(self._look_at_s[partition], at_s)

    def wake(self, partition: int) -> None:
        """The partition may have an earlier wake-up than was known: look into it at once."""
        if partition in self._look_at_s:
            self._look_at_s[partition] = 0.0

    def idle_s(self, now_s: float, away: Collection[int] = ()) -> float:
        """For how many seconds no partition has to be looked into but those that are away."""
        looks_s = (at_s for partition, at_s in self._look_at_s.items() if partition not in away)
        return max(0.0, min(looks_s, default=inf) - now_s)


def by_partition(wake_ups: Iterable[WakeUp]) -> dict[int, list[WakeUp]]:
    """Group wake-ups by their partitions."""
    groups: dict[int, list[WakeUp]] = {}
    for wake_up in wake_ups:
        groups.setdefault(wake_up.partition, []).append(wake_up)
    return groups
