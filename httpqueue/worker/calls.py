"""Counts a worker's calls in flight by host, and decides how many more may start. Reads the clock only."""

from typing import Final

from httpqueue import clock

QUICK_S: Final = 0.05
"""Calls are quick while none has been in flight for longer than this."""
SLOW_S: Final = 0.25
"""A host is slow when it has many calls in flight (slots / MAX_SHARES) and the oldest is older than this."""
MAX_SHARES: Final = 4
"""The most calls in flight of all hosts together, in multiples of the slots."""


class Calls:
    """A worker's calls in flight. Slow hosts cannot block fast ones.

    All fast hosts share `slots`, first come, first served. Each slow host has a pool of its own, also of
    `slots` calls, so that its calls take no slots from others.
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
        """A call that has begun has ended."""
        calls = self._by_host[host]
        del calls[name]
        self._count -= 1
        if not calls:
            del self._by_host[host]

    def free(self) -> int:
        """How many calls may start now. `room` limits them further for slow hosts."""
        slow = sum(len(self._by_host[host]) for host in self._slow_hosts())
        return min(self._slots - (self._count - slow), self._slots * MAX_SHARES - self._count)

    def are_quick(self) -> bool:
        """Whether no call has been in flight for longer than QUICK_S."""
        since_s = clock.monotonic_s() - QUICK_S
        return all(next(iter(calls.values())) > since_s for calls in self._by_host.values())

    def room(self) -> dict[str, int]:
        """{host: how many calls it may still get}, for the slow hosts alone."""
        return {host: self._slots - len(self._by_host[host]) for host in self._slow_hosts()}

    def _slow_hosts(self) -> list[str]:
        since_s = clock.monotonic_s() - SLOW_S
        return [
            host
            for host, calls in self._by_host.items()
            if len(calls) * MAX_SHARES >= self._slots and next(iter(calls.values())) < since_s
        ]
