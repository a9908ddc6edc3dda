"""The calls that a worker has in flight, by host: how many more may start. Pure but for the clock."""

from typing import Final

from httpqueue import clock

QUICK_S: Final = 0.05
"""Calls that last no longer soon give their slots back."""
SLOW_S: Final = 0.25
"""A host that keeps many slots for longer than this gets no more than its share of them."""
MAX_SHARES: Final = 4
"""Slow hosts leave others their slots until so many times the concurrency is in flight."""


class Calls:
    """The calls in flight by host: how many more may start, so that slow hosts leave others their slots.

    Whoever comes first takes a slot, which is fair as long as slots are soon free again. A slow host has a
    pool of slots of its own, so that its calls take none from the others.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._by_host: dict[str, dict[str, float]] = {}
        self._count = 0

    def begin(self, host: str, name: str) -> None:
        """A call to that host has started."""
        self._by_host.setdefault(host, {})[name] = clock.monotonic_s()
        self._count += 1

    def end(self, host: str, name: str) -> None:
        """It has ended."""
        calls = self._by_host[host]
        del calls[name]
        self._count -= 1
        if not calls:
            del self._by_host[host]

    def free(self) -> int:
        """How many calls may start, to hosts that have room."""
        slow = sum(len(self._by_host[host]) for host in self._slow_hosts())
        return min(self._slots - (self._count - slow), self._slots * MAX_SHARES - self._count)

    def are_quick(self) -> bool:
        """Whether no call has been in flight for long: slots are soon free again."""
        since_s = clock.monotonic_s() - QUICK_S
        return all(next(iter(calls.values())) > since_s for calls in self._by_host.values())

    def room(self) -> dict[str, int]:
        """How many calls each slow host may still get."""
        return {host: self._slots - len(self._by_host[host]) for host in self._slow_hosts()}

    def _slow_hosts(self) -> list[str]:
        since_s = clock.monotonic_s() - SLOW_S
        return [
            host
            for host, calls in self._by_host.items()
            if len(calls) * MAX_SHARES >= self._slots and next(iter(calls.values())) < since_s
        ]
