"""Decides which calls a worker may start, so that hosts that hang leave others enough slots. Pure.

The rule is that of switches whose ports share a buffer: nested dynamic thresholds (Choudhury and Hahne,
"Dynamic Queue Length Thresholds for Shared-Memory Packet Switches", 1998). A call may start while

    calls of all applications to its host  <  the host's cap
    calls of its application to its host   <  the host's cap * 5/4 * left / (4 * all slots)
    where left = 4 * free slots - calls of its application, and so above 0

A call that has begun ahead (worker/ahead.py) counts as one; the host's cap is higher by as many as may do so.

So while slots are plenty nobody notices the rule. As they become scarce, the hosts of an application get
equal shares, and so do applications with equally many hosts. A host's share is a small part of what is left,
because calls that hang do not give back what they took in times of plenty. With the factor 4 for hosts too,
two or three newcomers would take all that is left, and the next host would get nothing until the first calls
time out.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from httpqueue.timers.room import FACTOR, Room, is_below

PART: Final = 8
"""Who has no more than 1 / PART of its threshold is in no Room."""
HOLD_S: Final = 0.2
"""A line that is likely to be empty within this time passes: claims wait for it."""
PAUSE_S: Final = 10.0
"""So long no new line passes after one turned out to stand: hosts may hang one after the other."""
REST_S: Final = 0.02
"""A host that gave no permit is left alone for so long, unless a call to it ends."""
FIRST_CLAIM: Final = 64
"""How many wake-ups to claim at first, when nobody knows how many of them may begin."""
GROWTH: Final = 128
"""A claim grows by 1 / GROWTH, 2 / GROWTH, ... of itself while nothing is refused."""


class Slots:
    """A worker's calls in flight: at most `total`, and `host_slots` to a host that `caps` does not name."""

    def __init__(self, total: int, host_slots: int) -> None:
        self.free = total
        self.caps: dict[str, int] = {}
        """{host: the most calls to it}, at least 1, from destinations' rules. Every Room has all of them."""
        self.ahead: dict[str, int] = {}
        """{host: how many more attempts may begin, and wait for a call to end}, see worker/ahead.py."""
        self._total = total
        self._host_slots = host_slots = min(host_slots, FACTOR * total)
        self._few_to_host = (host_slots - 1) // PART
        self._hosts: dict[str, int] = {}
        self._busy_hosts: dict[str, int] = {}  # those of _hosts with more than a few calls
        self._pairs: dict[str, dict[str, int]] = {}
        self._applications: dict[str, int] = {}

    def begin(self, application: str, host: str) -> None:
        """A call has started."""
        self._count(application, host, 1)

    def end(self, application: str, host: str) -> None:
        """A call that has begun has ended. Raises KeyError if none has begun."""
        if host not in self._pairs.get(application, ()):
            raise KeyError(application, host)
        self._count(application, host, -1)

    def calls_at_once(self, host: str) -> int:
        """How many calls to the host may be in flight."""
        return self.caps.get(host, self._host_slots)

    def _cap_of(self, host: str) -> int:
        return self.calls_at_once(host) + self.ahead.get(host, 0)

    def _count(self, application: str, host: str, by: int) -> None:
        self.free -= by
        _add(self._applications, application, by)
        to_host = _add(self._hosts, host, by)
        pairs = self._pairs.setdefault(application, {})
        _add(pairs, host, by)
        if not pairs:
            del self._pairs[application]
        if to_host > self._few_to_host:
            self._busy_hosts[host] = to_host
        else:
            self._busy_hosts.pop(host, None)

    def may_start(self, application: str, host: str) -> bool:
        """Whether a call may start now."""
        return is_below(
            FACTOR * self.free - self._applications.get(application, 0),
            self._hosts.get(host, 0),
            self._pairs.get(application, {}).get(host, 0),
            cap=self._cap_of(host),
            total=self._total,
        )

    def room_of(self, hosts: Collection[str]) -> int:
        """How many calls a Room lets these hosts take together. Of no hosts: as many as there are slots."""
        if not hosts:
            return self.free
        return sum(
            max(0, self._cap_of(host) - max(self._few_to_host, self._hosts.get(host, 0))) for host in hosts
        )

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

    def room(self) -> Room:
        """What the next call of `begin` may start. Costs as much as the busy applications have hosts."""
        caps = self.caps | {host: self._cap_of(host) for host in self.ahead}
        room = Room(
            total=self._total,
            free=self.free,
            host_slots=self._host_slots,
            caps=caps,
            few=self._few(FACTOR * self.free),
            few_to_host=self._few_to_host,
            hosts=dict(self._busy_hosts),
        )
        for host in caps.keys() & self._hosts.keys():
            room.hosts[host] = self._hosts[host]
        for application, calls in self._applications.items():
            left, few = FACTOR * self.free - calls, room.few
            if calls > few:
                few = self._few(left)
                room.applications[application] = calls, few
            elif not caps:
                continue
            if left > 0:  # or none of its hosts may start a call
                pairs = self._pairs[application].items()
                busy = {host: count for host, count in pairs if count > few or host in caps}
                if busy:
                    room.pairs[application] = busy
        return room

    def _few(self, left: int) -> int:
        """An eighth of the threshold of a host without a rule, rounded down."""
        return max(left, 0) * (FACTOR + 1) * self._host_slots // (FACTOR * FACTOR * self._total * PART)


def _add(counts: dict[str, int], name: str, by: int) -> int:
    count = counts.get(name, 0) + by
    if count:
        counts[name] = count
    else:
        counts.pop(name)
    return count


@dataclass(slots=True)
class _Line:
    waiting: int
    application: str
    new_until_s: float
    """Until then nobody knows how fast its host is."""
    counted_since_s: float
    ended: int = 0
    """Calls of the host that have ended since counted_since_s."""
    ended_before: int = 0
    """Those that ended in the HOLD_S / 2 before."""
    rests_until_s: float = 0.0
    """Until then it is not served, because its host has just given no permit."""

    def note_end(self, now_s: float) -> None:
        """A call of the host has ended."""
        self._count_until(now_s)
        self.ended += 1
        self.rests_until_s = 0.0

    def is_passing(self, now_s: float) -> bool:
        """Whether no more wait than have ended in about the last HOLD_S, or it is too new to tell."""
        self._count_until(now_s)
        return now_s < self.new_until_s or self.waiting <= self.ended + self.ended_before

    def _count_until(self, now_s: float) -> None:
        halves = int((now_s - self.counted_since_s) / (HOLD_S / 2))
        if halves:
            self.ended, self.ended_before = 0, self.ended if halves == 1 else 0
            self.counted_since_s = now_s


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
            new_until_s = now_s + HOLD_S if now_s >= self._paused_until_s else 0
            self._lines[host] = _Line(waiting, application, new_until_s, now_s)
        else:
            line.waiting, line.application = waiting, application

    def note_end(self, host: str, now_s: float) -> None:
        """A call to the host has ended."""
        line = self._lines.get(host)
        if line is not None:
            line.note_end(now_s)

    def note_served(self, host: str, granted: int, now_s: float) -> None:
        """The host was asked, and gave so many permits."""
        line = self._lines.get(host)
        if line is not None:
            line.rests_until_s = 0.0 if granted else now_s + REST_S

    @property
    def is_any_waiting(self) -> bool:
        """Whether any timer waits in a line that this worker knows."""
        return bool(self._lines)

    def to_serve(self, limit: int, now_s: float) -> list[tuple[str, int]]:
        """[(host, how many of its first timers to begin)], in turns, at most `limit` timers.

        A host that has no room now keeps its place, so that it is first when it has. Those who are served go
        to the end, and their timers no longer count as waiting; tell `note_line` what the store says.
        """
        wants: dict[str, int] = {}
        turn = [(host, line) for host, line in self._lines.items() if line.rests_until_s <= now_s]
        while turn and limit > 0:
            served = []
            for host, line in turn:
                if limit > 0 and line.waiting > 0 and self._slots.may_start(line.application, host):
                    self._slots.begin(line.application, host)  # for the moment: it counts for the others
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
        return line is not None and line.is_passing(now_s)

    def passing(self, now_s: float) -> int:
        """How many timers wait in lines that are likely to be empty in a moment."""
        for line in self._lines.values():
            if 0 < line.new_until_s <= now_s:
                line.new_until_s = 0
                if not line.is_passing(now_s):
                    self._paused_until_s = now_s + PAUSE_S
        return sum(line.waiting for line in self._lines.values() if line.is_passing(now_s))


class ClaimLimit:
    """How many wake-ups to claim, so that few are refused and yet nobody waits behind those that must be.

    A refused wake-up whose line is empty again in a moment was claimed too early: the next batch is smaller.
    One whose line stands has to be got out of the way of others, however many there are: it does not count.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._size = float(min(most, FIRST_CLAIM))
        self._growth = 0
        self._is_starting = True

    def size(self, passing: int) -> int:
        """How many to claim while so many timers wait in passing lines. 0: until a call ends, or HOLD_S."""
        return max(int(self._size) - passing, 0)

    def note_begun(self, accepted: int, refused: int) -> None:
        """How a batch with claimed wake-ups went. refused: those that joined a passing line."""
        if refused:
            self._is_starting = False
            self._growth = 0
            self._size = max(accepted, self._size / 2, 1)
        elif self._is_starting:  # as TCP's slow start
            self._size *= 2
        else:
            self._growth += 1
            self._size *= 1 + self._growth / GROWTH
        self._size = min(self._size, self._most)
