"""Attempts that begin before a call to their host has ended, so that no call waits for the store. Pure.

A worker makes only so many calls to a host at once. When one ends, the next attempt should be there already:
claim and begin take two trips to Redis, and a fast host would idle meanwhile. So some more attempts begin
than calls may start, as many as are likely to start before the next ones are there.
"""

from collections import defaultdict, deque
from typing import Final

from httpqueue.worker.attempts import Running
from httpqueue.worker.slots import Slots

PER_ENDED: Final = 2
"""How many attempts begin ahead for each call of their host that ends during a claim and begin.

More than 1, so that a host that was kept waiting shows how much faster it is.
"""
MOST: Final = 500
"""The most attempts that begin ahead for one host."""


class Ahead:
    """Lets calls start in the order in which their attempts began, at most so many to a host as it takes."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._calls: dict[str, int] = {}
        self._trip_s = self._counted_since_s = 0.0
        self._ended: dict[str, int] = {}
        self._waiting: defaultdict[str, deque[tuple[Running, float]]] = defaultdict(deque)

    def begin_trip(self, now_s: float) -> None:
        """The worker asks for wake-ups to begin."""
        self._trip_s = now_s

    def end_trip(self, now_s: float) -> None:
        """They have begun. The next ones will take as long to come."""
        share = PER_ENDED * (now_s - self._trip_s) / max(now_s - self._counted_since_s, 0.001)
        ahead = {}
        for host in self._ended.keys() | self._slots.ahead.keys():
            wanted, before = share * self._ended.get(host, 0), self._slots.ahead.get(host, 0)
            size = int(before + (wanted - before) / (2 if wanted > before else 8))
            if size > 0 and host not in self._slots.caps:  # such a host gives permits for calls
                ahead[host] = min(size, MOST)
        self._slots.ahead = ahead
        self._ended.clear()
        self._counted_since_s = now_s

    def enter(self, running: Running, now_s: float) -> bool:
        """An attempt has begun. Whether its call may start now; otherwise some `leave` returns it."""
        host = running.begun.host
        calls = self._calls.get(host, 0)
        if calls >= self._slots.calls_at_once(host):
            self._waiting[host].append((running, now_s))
            return False
        self._calls[host] = calls + 1
        return True

    def leave(self, host: str) -> Running | None:
        """A call to the host has ended. Returns the attempt whose call starts instead."""
        self._ended[host] = self._ended.get(host, 0) + 1
        calls = self._calls[host] - 1
        waiting = self._waiting.get(host)
        if waiting and calls < self._slots.calls_at_once(host):
            return waiting.popleft()[0]
        if calls:
            self._calls[host] = calls
        else:
            del self._calls[host]
        return None

    def take_waiting(self, entered_s: float) -> list[Running]:
        """Remove the attempts that have waited since that time or longer. They will not be made."""
        taken = []
        for host, waiting in list(self._waiting.items()):
            while waiting and waiting[0][1] <= entered_s:
                taken.append(waiting.popleft()[0])
            if not waiting:
                del self._waiting[host]
        return taken

    def remove(self, running: Running) -> bool:
        """Remove an attempt that will not be made. False: it was not waiting."""
        waiting = self._waiting[running.begun.host]
        for each in waiting:
            if each[0] is running:
                waiting.remove(each)
                return True
        return False
