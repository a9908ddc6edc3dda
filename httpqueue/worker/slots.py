"""Decides which calls a worker may start, so that hosts that hang leave others enough slots. Pure.

The rule is that of switches whose ports share a buffer: nested dynamic thresholds (Choudhury and Hahne, "Dynamic
Queue Length Thresholds for Shared-Memory Packet Switches", 1998). A call may start while

    calls of its application              < 4 * free slots
    calls of its application to its host  < its host's cap * 5/4 * what is left for the application, as a share
    calls of all applications to its host < its host's cap

So while slots are plenty nobody notices the rule. As they become scarce, applications get equal shares, and so do
the hosts of one, in proportion to what is left: calls that hang do not give back what they took when there was
plenty, so each host must leave nearly all that is left to those who come after it. A fifth of the slots stays free
for who comes next.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Final

from httpqueue.timers.room import Room

FACTOR: Final = 4
"""How many times the free slots one application may have."""
PART: Final = 8
"""Who has no more than 1 / PART of its threshold has few calls."""
HOLD_S: Final = 0.15
"""For so long a new line may hold back claims. When it is not empty by then, it stands (as in CoDel, RFC 8289)."""
PAUSE_S: Final = 10.0
"""After a line turned out to stand, no line holds back claims for so long: hosts may hang one after the other."""
GROWTH: Final = 16
"""A claim grows by 1 / GROWTH, 2 / GROWTH, ... of itself while nothing is refused."""


class Slots:
    """A worker's calls in flight: at most `total`, and `host_slots` to a host that `caps` does not name."""

    def __init__(self, total: int, host_slots: int) -> None:
        self.free = total
        self.caps: dict[str, int] = {}
        """{host: the most calls to it}, from destinations' policies."""
        self._total = total
        self._host_slots = host_slots
        self._pairs: dict[str, dict[str, int]] = {}
        self._applications: dict[str, int] = {}
        self._hosts: dict[str, int] = {}

    def begin(self, application: str, host: str) -> None:
        """A call has started."""
        self.free -= 1
        _add(self._applications, application, 1)
        _add(self._hosts, host, 1)
        _add(self._pairs.setdefault(application, {}), host, 1)

    def end(self, application: str, host: str) -> None:
        """A call that has begun has ended. Raises KeyError if none has begun."""
        pairs = self._pairs[application]
        _add(pairs, host, -1)
        if not pairs:
            del self._pairs[application]
        _add(self._applications, application, -1)
        _add(self._hosts, host, -1)
        self.free += 1

    def may_start(self, application: str, host: str) -> bool:
        """The rule itself."""
        return min(self._room_of(application), self._room_to(application, host)) > 0

    def share(self, wanted: Sequence[tuple[str, str, int]]) -> list[int]:
        """How many of so many calls each may start, for (host, application, calls)."""
        wants = []
        for host, application, calls in wanted:
            want = 0
            while want < calls and self.may_start(application, host):
                self.begin(application, host)  # for the moment: it counts for those who follow
                want += 1
            wants.append(want)
        for (host, application, _), want in zip(wanted, wants, strict=True):
            for _ in range(want):
                self.end(application, host)
        return wants

    def room(self, limit: int) -> Room:
        """What the next call of `begin` may start, for at most `limit` wake-ups.

        The thresholds are those of now, although each call that starts lowers them a little. To keep it small, a
        host with few calls is not in it, and counts as if it had a few.
        """
        few = self._host_slots // PART
        room = Room(self._host_slots - few)
        for host, calls in self._hosts.items():
            if calls > few:
                room.hosts[host] = self._host_room(host)
        for host in self.caps:
            room.hosts[host] = self._host_room(host)
        for application, pairs in self._pairs.items():
            threshold = self._threshold(application, self._host_slots)
            if threshold < self._host_slots:
                few = threshold // PART
                room.other_hosts[application] = threshold - few
                room.pairs[application] = {
                    host: self._room_to(application, host)
                    for host, calls in pairs.items()
                    if calls > few or host in self.caps
                }
            of_application = self._room_of(application)
            if of_application < limit:
                room.applications[application] = of_application
        return room

    def _room_of(self, application: str) -> int:
        """How many calls of an application may start until it has FACTOR times what is free."""
        return (FACTOR * self.free - self._applications.get(application, 0)) // (FACTOR + 1)

    def _room_to(self, application: str, host: str) -> int:
        calls = self._pairs.get(application, {}).get(host, 0)
        threshold = self._threshold(application, self.caps.get(host, self._host_slots))
        return min(threshold - calls, self._host_room(host))

    def _host_room(self, host: str) -> int:
        return self.caps.get(host, self._host_slots) - self._hosts.get(host, 0)

    def _threshold(self, application: str, cap: int) -> int:
        """How many calls an application may have to a host with this cap."""
        left = (FACTOR * self.free - self._applications.get(application, 0)) / (FACTOR * self._total)
        return min(cap, ceil(cap * (1 + 1 / FACTOR) * left))


def _add(counts: dict[str, int], name: str, change: int) -> None:
    count = counts.get(name, 0) + change
    if count < 0:
        raise KeyError(name)
    if count:
        counts[name] = count
    else:
        counts.pop(name, None)


@dataclass(slots=True)
class _Line:
    waiting: int
    application: str
    holds_until_s: float
    """0: it stands."""


class Lines:
    """The lines that this worker knows: hosts for which refused timers wait, in the order of their turns.

    The timers themselves wait in the store, in due order. A host may be refused without a call of its own in
    flight, so every call that ends may be some line's turn: ask `to_serve` before each claim.
    """

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._lines: dict[str, _Line] = {}
        self._paused_until_s = 0.0

    def note_line(self, host: str, waiting: int, application: str, now_s: float) -> None:
        """The store said how many timers wait for the host, and of which application the first one is."""
        line = self._lines.get(host)
        if not waiting:
            self._lines.pop(host, None)
        elif line is None:
            self._lines[host] = _Line(waiting, application, now_s + HOLD_S if self._may_hold(now_s) else 0)
        else:
            line.waiting, line.application = waiting, application

    @property
    def is_any_waiting(self) -> bool:
        """Whether any timer waits in a line that this worker knows."""
        return bool(self._lines)

    def to_serve(self, limit: int) -> list[tuple[str, int]]:
        """[(host, how many of its first timers to begin)], in turns, at most `limit` timers.

        A host that has no room now keeps its place, so that it is first when it has. Those who are served go to the
        end, and their timers no longer count as waiting; tell `note_line` what the store says.
        """
        wants: dict[str, int] = {}
        turn = list(self._lines.items())
        while turn and limit > 0:
            served = []
            for host, line in turn:
                if limit > 0 and line.waiting > 0 and self._slots.may_start(line.application, host):
                    self._slots.begin(line.application, host)  # for the moment: it counts for those who follow
                    line.waiting -= 1
                    limit -= 1
                    wants[host] = wants.get(host, 0) + 1
                    served.append((host, line))
            turn = served
        for host, want in wants.items():
            line = self._lines.pop(host)
            for _ in range(want):
                self._slots.end(line.application, host)
            self._lines[host] = line
        return list(wants.items())

    def is_passing(self, host: str, now_s: float) -> bool:
        """Whether the host has a line that is likely to be empty in a moment."""
        line = self._lines.get(host)
        return line is not None and line.holds_until_s > now_s and self._may_hold(now_s)

    def passing(self, now_s: float) -> int:
        """How many timers wait in lines that are likely to be empty in a moment."""
        for line in self._lines.values():
            if 0 < line.holds_until_s <= now_s:
                line.holds_until_s = 0
                self._paused_until_s = now_s + PAUSE_S
        if not self._may_hold(now_s):
            return 0
        return sum(line.waiting for line in self._lines.values() if line.holds_until_s)

    def _may_hold(self, now_s: float) -> bool:
        return now_s >= self._paused_until_s


class ClaimLimit:
    """How many wake-ups to claim, so that few are refused and yet nobody waits behind those that must be.

    A refused wake-up whose line is empty again in a moment was claimed too early: the next batch is smaller. One
    whose line stands has to be got out of the way of others, however many there are: it does not count as refused.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._size = float(most)
        self._growth = 0

    def size(self, passing: int) -> int:
        """How many to claim while so many timers wait in lines that do not stand. 0: wait until a call ends."""
        return max(int(self._size) - passing, 0)

    def note_begun(self, accepted: int, refused: int) -> None:
        """How a batch with claimed wake-ups went. Those that joined a line that stands are in neither number."""
        if refused:
            self._growth = 0
            self._size = max(accepted, self._size / 2, 1)
        else:
            self._growth += 1
            self._size *= 1 + self._growth / GROWTH
        self._size = min(self._size, self._most)
