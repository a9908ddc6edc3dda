"""A model of one worker, its queue and the lines of hosts, which the fairness rule steers. No clock, no I/O.

All times are seconds of the simulation. The costs are those of a claim and a begin on one core.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count

from httpqueue.timers.room import Room
from httpqueue.worker.slots import ClaimLimit, Lines, Slots

MAX_BATCH = 500
ROUND_S = 0.0015
"""What a claim and a begin cost without any wake-up, gathering included."""
ACCEPTED_S = 0.000_09
REFUSED_S = 0.000_015
NEVER_S = float("inf")


@dataclass(order=True)
class Timer:
    """A timer in the queue or in a line, in due order."""

    due_s: float
    number: int
    application: str = field(compare=False)
    host: str = field(compare=False)


class Simulation:
    """One worker. `duration_s(host)`: how long a call takes; `retry_s(host)`: when it is made again."""

    def __init__(
        self,
        slots: Slots,
        duration_s: Callable[[str], float],
        retry_s: Callable[[str], float | None] = lambda _: None,
    ) -> None:
        self.slots = slots
        self.known = Lines(slots)
        self.limit = ClaimLimit(MAX_BATCH)
        self.now_s = 0.0
        self.lateness_s: dict[str, list[tuple[float, float]]] = defaultdict(list)
        """{host: [(due, lateness)]}"""
        self.refused: dict[str, int] = defaultdict(int)
        self.in_flight: dict[tuple[str, str], int] = defaultdict(int)
        self.biggest_room = 0
        self._duration_s, self._retry_s = duration_s, retry_s
        self._numbers = count()
        self._queue: list[Timer] = []
        self._lines: dict[str, list[Timer]] = defaultdict(list)
        self._ends: list[tuple[float, int, Timer]] = []

    def post(self, application: str, host: str, due_s: float) -> None:
        """One more timer."""
        heappush(self._queue, Timer(due_s, next(self._numbers), application, host))

    def waiting(self) -> list[Timer]:
        """Due timers that have not started."""
        due = [timer for timer in self._queue if timer.due_s <= self.now_s]
        return due + [timer for line in self._lines.values() for timer in line]

    def run(self, until_s: float = NEVER_S) -> None:
        """Until then, or until nothing is left to do."""
        while self.now_s < until_s:
            self._end_calls()
            if not self._round():
                events = [self._ends[0][0]] if self._ends else []
                if self._queue:  # due, or held back by lines that pass: look again soon
                    events.append(max(self._queue[0].due_s, self.now_s + 0.01))
                if not events:
                    return
                self.now_s = min(events)

    def _end_calls(self) -> None:
        while self._ends and self._ends[0][0] <= self.now_s:
            ended_s, _, timer = heappop(self._ends)
            self.slots.end(timer.application, timer.host)
            self.known.note_end(timer.host, ended_s)
            self.in_flight[timer.application, timer.host] -= 1
            retry_s = self._retry_s(timer.host)
            if retry_s is not None:
                self.post(timer.application, timer.host, ended_s + retry_s)

    def _round(self) -> bool:
        """Serve lines, then claim; begin both in one batch. Whether there was anything to do."""
        served = [
            heappop(self._lines[host])
            for host, want in self.known.to_serve(MAX_BATCH // 2, self.now_s)
            for _ in range(want)
        ]
        claimed: list[Timer] = []
        if self.slots.free:
            size = self.limit.size(len(served) + self.known.passing(self.now_s))
            while len(claimed) < size and self._queue and self._queue[0].due_s <= self.now_s:
                claimed.append(heappop(self._queue))
        batch = served + claimed
        if not batch:
            return False
        room = self.slots.room()
        self.biggest_room = max(
            self.biggest_room,
            len(room.applications) + len(room.hosts) + sum(map(len, room.pairs.values())),
        )
        started = [timer for timer in batch if self._begin(timer, room)]
        for host in {timer.host for timer in batch}:
            line = self._lines[host]
            self.known.note_line(host, len(line), line[0].application if line else "", self.now_s)
        refused = [timer for timer in batch if timer.number not in {each.number for each in started}]
        if claimed:
            too_early = sum(self.known.is_passing(timer.host, self.now_s) for timer in refused)
            self.limit.note_begun(len(started), too_early)
        self.now_s += ROUND_S + ACCEPTED_S * len(started) + REFUSED_S * len(refused)
        for timer in started:
            self.lateness_s[timer.host].append((timer.due_s, self.now_s - timer.due_s))
            heappush(self._ends, (self.now_s + self._duration_s(timer.host), timer.number, timer))
        return True

    def _begin(self, timer: Timer, room: Room) -> bool:
        may_start = room.take(timer.application, timer.host)
        if may_start:
            assert self.slots.may_start(timer.application, timer.host)  # Room never passes a threshold
            self.slots.begin(timer.application, timer.host)
            self.in_flight[timer.application, timer.host] += 1
        else:
            self.refused[timer.host] += 1
            heappush(self._lines[timer.host], timer)
        return may_start
