"""What `httpqueue doctor` thinks of what it sees. Pure: storage/inspection.py looks, run/doctor.py tells."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from httpqueue.timers.names import TimerName
from httpqueue.timers.timer import FINISHED, State

OVERDUE_MS: Final = 60_000
"""By how much a timer must be overdue, or have lost its worker, until nobody seems to see to it."""
CLOCK_MS: Final = 500
"""A larger difference of clocks is told."""
FULL: Final = 0.9
"""Share of its maxmemory from which a server counts as nearly full."""
OLDEST_VERSION: Final = (6, 2)
EXAMPLES: Final = 10
"""The most examples of a finding."""


class Fault(StrEnum):
    """What may be wrong; the values are stable, for programs that read `--json`."""

    UNSAFE_SERVER = "unsafe_server"
    CLOCKS = "clocks"
    SETTINGS = "settings"
    FORMAT = "format"
    EPOCH = "epoch"
    RELAY = "relay"
    DAMAGED = "damaged"
    DEAD_ENTRIES = "dead_entries"
    NEWER = "newer"
    MISPLACED = "misplaced"
    DANGLING = "dangling"
    OVERDUE = "overdue"
    UNFINDABLE = "unfindable"
    POINTERS = "pointers"
    COUNTS = "counts"
    POLICIES = "policies"
    HOSTS = "hosts"
    PARTITIONS = "partitions"
    QUEUE = "queue"


WHAT: Final[Mapping[Fault, tuple[str, str]]] = {
    Fault.UNSAFE_SERVER: ("what may lose timers about the servers", ""),
    Fault.CLOCKS: ("clocks that differ", ""),
    Fault.SETTINGS: ("settings that do not fit this store", ""),
    Fault.FORMAT: (
        "another version wrote this store; nothing else was looked at",
        "give it this version's format; first stop all processes of the older one",
    ),
    Fault.EPOCH: ("partitions whose queue was lost and is not filled again: start a relay", ""),
    Fault.RELAY: ("changes that wait for a relay for more than a minute: start one", ""),
    Fault.DAMAGED: (
        "records that nobody can read; their timers will not fire",
        "set them aside, so that they are tried no more; docs/operations.md says what to do with them then",
    ),
    Fault.DEAD_ENTRIES: (
        "outbox entries that nobody could read; see docs/operations.md",
        "",
    ),
    Fault.NEWER: ("records that a newer httpqueue wrote; this one leaves them alone", ""),
    Fault.MISPLACED: (
        "timers that are not where their state says, and may never fire or never be forgotten",
        "put them there",
    ),
    Fault.DANGLING: ("index entries that lead to no record", "drop them"),
    Fault.OVERDUE: (
        "timers that are late by more than a minute and not in the queue: is there a relay?",
        "put their wake-ups into the queue",
    ),
    Fault.UNFINDABLE: ("timers that are not found by their names", "write their pointers again"),
    Fault.POINTERS: ("pointers that lead to no record and keep their names taken", "drop them"),
    Fault.COUNTS: ("applications whose counts, or whose first due times, are wrong", "count again"),
    Fault.POLICIES: ("policies that not all partitions know", "copy them"),
    Fault.HOSTS: ("hosts with old rules, or with a line that nobody looks at", "tell them, look at it"),
    Fault.PARTITIONS: (
        "keys where nobody looks for them: another number of partitions wrote them",
        "",
    ),
    Fault.QUEUE: ("queue entries that nobody can read; a worker will drop them", ""),
}
"""What a fault means, and what --repair does about it ('': nothing; a person must)."""


class Kind(StrEnum):
    """What is under a timer's key."""

    TIMER = "timer"
    POINTER = "pointer"
    NEWER = "newer"
    DAMAGED = "damaged"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Seen:
    """Where a timer stands, all at one instant. Scores are None where it is not in such an index."""

    partition: int
    member: bytes
    kind: Kind
    state: State | None
    generation: int
    due_ms: int
    lane: str
    """Its ordering key; '' for none."""
    host: str
    points_to: int
    """The partition that a pointer names; -1: it is none."""
    nonce: str
    now_ms: int
    due: float | None
    held: float | None
    running: float | None
    """When its lease ends."""
    retention: float | None
    """When its record is dropped."""
    in_lane: float | None
    in_line: float | None
    waiting: float | None
    checked: float | None
    """When a pointer is checked."""
    set_aside: float | None
    ended: frozenset[State]
    """The ended indices that it is in."""
    is_first: bool
    """It is the first of its lane."""

    @property
    def is_in_index(self) -> bool:
        """Whether anything but its own record says that there is such a timer."""
        scores = (self.due, self.held, self.running, self.retention, self.in_line, self.waiting)
        return bool(self.ended) or any(score is not None for score in scores)


def judge_timer(seen: Seen) -> Fault | None:
    """What is wrong with a timer by itself. OVERDUE: only if the queue does not have its wake-up either."""
    match seen.kind:
        case Kind.NONE:
            return Fault.DANGLING if seen.is_in_index or seen.set_aside is not None else None
        case Kind.POINTER:
            return Fault.DANGLING if seen.is_in_index else None
        case Kind.NEWER:
            return Fault.NEWER
        case Kind.DAMAGED:
            return Fault.DAMAGED
    if not _is_placed(seen):
        return Fault.MISPLACED
    return Fault.OVERDUE if _is_overdue(seen) else None


def is_repairable(seen: Seen, fault: Fault) -> bool:
    """Whether --repair can do anything about this one."""
    if fault is Fault.DAMAGED:
        return seen.set_aside is None or seen.is_in_index
    return bool(WHAT[fault][1])


def _is_placed(seen: Seen) -> bool:
    if seen.set_aside is not None:
        return False
    if seen.state in FINISHED:
        unfinished = (seen.due, seen.held, seen.running, seen.in_lane, seen.in_line, seen.waiting)
        is_left = all(score is None for score in unfinished)
        return is_left and seen.ended == {seen.state} and seen.retention is not None
    if seen.ended or seen.retention is not None or (seen.lane and seen.in_lane is None):
        return False
    if seen.state is State.RUNNING:
        return seen.held is not None and seen.due is None and seen.running is not None
    return seen.running is None and _is_scheduled(seen)


def _is_scheduled(seen: Seen) -> bool:
    """Whether time, or who holds it, wakes it."""
    if seen.due is not None:
        return seen.held is None and seen.due == seen.due_ms
    is_blocked = seen.in_lane is not None and not seen.is_first
    is_held_by = is_blocked or seen.in_line is not None or seen.waiting is not None
    return seen.held is not None and is_held_by


def _is_overdue(seen: Seen) -> bool:
    since_ms = seen.running if seen.state is State.RUNNING else seen.due
    return since_ms is not None and since_ms < seen.now_ms - OVERDUE_MS


def judge_place(seen: Seen, *, home: int, own: int, pointer: int | None) -> Fault | None:
    """What is wrong with a timer's partition.

    home: that of its name. own: that of its ordering key, or its home. pointer: the partition that a pointer
    at its home names.
    A callback has no ordering key, but may be in the partition of its timer's.
    """
    if seen.kind is not Kind.TIMER or seen.partition == home == own:
        return None
    if seen.lane and seen.partition != own:
        return Fault.PARTITIONS
    return None if seen.partition in {home, pointer} else Fault.UNFINDABLE


@dataclass(frozen=True, slots=True)
class Server:
    """What a server says of itself. What it does not tell is None."""

    role: str
    """store or queue."""
    product: str
    version: str
    used_bytes: int
    max_bytes: int
    """0: no limit."""
    eviction: str
    persistence: str
    """How it writes to disk, for people; '' when it does not."""
    write_error: str
    """What was last not written to disk; '' when all was."""
    is_replica: bool
    ahead_ms: int
    """How far its clock is ahead of this machine's."""
    round_trip_ms: int
    """How long the question took: the error of ahead_ms."""


def judge_server(server: Server, *, needs_disk: bool) -> list[str]:
    """What is wrong with a server, for people."""
    numbers = tuple(int(part) for part in server.version.split(".")[:2] if part.isdigit())
    found = [
        (numbers and numbers < OLDEST_VERSION, f"{server.version} is older than 6.2: upgrade it"),
        (server.eviction != "noeviction", f"maxmemory-policy is {server.eviction}: set noeviction"),
        (needs_disk and not server.persistence, "nothing is written to disk: set appendonly yes"),
        (bool(server.write_error), f"it cannot write to disk ({server.write_error}): see its log"),
        (server.is_replica, "it is a replica, which refuses writes: name the primary in the URL"),
        (
            server.max_bytes and server.used_bytes > FULL * server.max_bytes,
            f"{server.used_bytes / max(1, server.max_bytes):.0%} of its maxmemory is used: raise it",
        ),
    ]
    return [f"{server.role}: {text}" for is_wrong, text in found if is_wrong]


def judge_clocks(servers: Iterable[Server]) -> list[str]:
    """Which clocks differ. The store's decides when a timer is due."""
    found = []
    ahead = {server.role: server for server in servers}
    for role, server in ahead.items():
        if abs(server.ahead_ms) > CLOCK_MS + server.round_trip_ms:
            found.append(f"{role}: {server.ahead_ms:+} ms from this machine's clock")
    if len(ahead) > 1:
        store, queue = ahead["store"], ahead["queue"]
        apart_ms = queue.ahead_ms - store.ahead_ms
        if abs(apart_ms) > CLOCK_MS + store.round_trip_ms + queue.round_trip_ms:
            found.append(f"queue: {apart_ms:+} ms from the store's clock")
    return found


@dataclass(slots=True)
class Finding:
    """Something that is wrong, how often, and the first few examples."""

    fault: Fault
    count: int = 0
    examples: list[str] = field(default_factory=list)
    repaired: int = 0

    def add(self, example: str) -> None:
        """Note one more."""
        self.count += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(example)

    @property
    def text(self) -> str:
        """What it is, for people."""
        return WHAT[self.fault][0]

    @property
    def repair(self) -> str:
        """What --repair does about it; '' when a person must."""
        return WHAT[self.fault][1]

    @property
    def is_left(self) -> bool:
        """Whether something of it is not repaired."""
        return self.repaired < self.count

    def as_json(self) -> dict[str, Any]:
        """The members of a finding in the output of `--json`."""
        return {
            "code": self.fault.value,
            "count": self.count,
            "text": self.text,
            "examples": self.examples,
            "repair": self.repair or None,
            "repaired": self.repaired,
        }


class Findings:
    """What was found, by fault."""

    def __init__(self) -> None:
        self._by_fault: dict[Fault, Finding] = {}

    def add(self, fault: Fault, example: str) -> None:
        """Note one more."""
        self._by_fault.setdefault(fault, Finding(fault)).add(example)

    def add_all(self, fault: Fault, examples: Iterable[str]) -> None:
        """Note some more."""
        for example in examples:
            self.add(fault, example)

    def note_repaired(self, fault: Fault, count: int = 1) -> None:
        """Note that so many of them are repaired."""
        self._by_fault[fault].repaired += count

    def all(self) -> list[Finding]:
        """In the order of Fault."""
        return [self._by_fault[fault] for fault in Fault if fault in self._by_fault]


def label(member: bytes) -> str:
    """A member of an index, for people."""
    application, _, timer_id = member.decode(errors="backslashreplace").partition(":")
    return str(TimerName(application, timer_id)) if timer_id else repr(member)
