"""What processes and storage say to each other: the transitions of a timer, as values. Pure."""

from dataclasses import dataclass, field
from enum import StrEnum

from httpqueue.timers.names import TimerName
from httpqueue.timers.policies import ApplicationPolicy
from httpqueue.timers.schedule import Schedule
from httpqueue.timers.spec import Spec
from httpqueue.timers.timer import Attempt, State, Timer


class IfExists(StrEnum):
    """What create does when the id is taken by another timer."""

    CONFLICT = "conflict"
    KEEP = "keep"
    REPLACE = "replace"
    EARLIEST = "earliest"
    LATEST = "latest"


@dataclass(frozen=True, slots=True)
class NewTimer:
    """A timer to be stored."""

    name: TimerName
    spec: Spec
    if_exists: IfExists = IfExists.CONFLICT


class Creation(StrEnum):
    """What create did: stored it, found the same one, kept or replaced another one, or refused."""

    CREATED = "created"
    EXISTS = "exists"
    KEPT = "kept"
    REPLACED = "replaced"
    CONFLICT = "conflict"
    RUNNING = "running"


@dataclass(frozen=True, slots=True)
class Created:
    """The answer to one NewTimer; due_ms is that of the timer which now has the id."""

    creation: Creation
    due_ms: int


@dataclass(frozen=True, slots=True)
class Change:
    """A wish to change a timer that is in one of `states`, and has this version if one is given."""

    name: TimerName
    states: frozenset[State]
    version: str | None = None
    spec: Spec | None = None
    """None keeps it."""
    due: Schedule | None = None
    """None keeps the due time."""


class ChangeResult(StrEnum):
    """What became of a wish to change or cancel a timer."""

    CHANGED = "changed"
    GONE = "gone"
    OTHER_STATE = "state"
    OTHER_VERSION = "version"


@dataclass(frozen=True, slots=True)
class Changed:
    """The answer to a Change or a cancel; state is the timer's own before it (None when it is gone)."""

    result: ChangeResult
    state: State | None = None
    due_ms: int = 0
    version: str = ""
    """Its new version; that before it for a cancelled one."""


@dataclass(frozen=True, slots=True)
class Found:
    """A timer and the store's time at which it was read."""

    timer: Timer
    now_ms: int


@dataclass(frozen=True, slots=True)
class WakeUp:
    """(timer, generation) and when to wake it, in ms since the epoch."""

    name: TimerName
    generation: int
    due_ms: int = 0


@dataclass(frozen=True, slots=True)
class Begun:
    """An attempt that is ours until its lease ends."""

    wake_up: WakeUp
    nonce: str
    """The timer's."""
    holder: str
    """This worker and the begin call; finish, beat and hand_back must name it."""
    lease_ms: int
    """From the moment at which begin was called."""
    attempt: int
    """Its number, from 1."""
    lost: int
    """How many workers were lost in this attempt before."""
    due_ms: int
    started_ms: int
    """By the store's clock."""
    spec: Spec
    host: str
    policy: ApplicationPolicy = field(default_factory=ApplicationPolicy)
    """Of its application."""


class Refusal(StrEnum):
    """Why begin starts no attempt. LATER: the answer is long enough, ask again."""

    GONE = "gone"
    STALE = "stale"
    FINISHED = "finished"
    RUNNING = "running"
    UNREADABLE = "unreadable"
    EARLY = "early"
    BLOCKED = "blocked"
    PAUSED = "paused"
    WAITING = "waiting"
    LATER = "later"


@dataclass(frozen=True, slots=True)
class Refused:
    """A wake-up that starts nothing.

    wait_ms: how much too early an EARLY one is. until_ms: when a WAITING one may start, 0: not known.
    """

    wake_up: WakeUp
    refusal: Refusal
    wait_ms: int = 0
    until_ms: int = 0


@dataclass(frozen=True, slots=True)
class Retry:
    """The timer is tried again after this delay."""

    delay_ms: int


@dataclass(frozen=True, slots=True)
class Recur:
    """The run of a recurring timer ended; the next one is due at this instant."""

    next_due_ms: int
    callback: NewTimer | None = None
    """The timer that tells of the end, stored in the same transaction."""


@dataclass(frozen=True, slots=True)
class End:
    """The timer ended, DONE or FAILED; its record is kept for retention_ms (0: not at all)."""

    state: State
    retention_ms: int
    callback: NewTimer | None = None
    """The timer that tells of the end, stored in the same transaction."""


@dataclass(frozen=True, slots=True)
class Finish:
    """How an attempt ended, and what becomes of its timer."""

    begun: Begun
    attempt: Attempt
    then: Retry | Recur | End
    was_called: bool = True
    """Whether the webhook was called: otherwise the end says nothing about its host."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The answer to some Finishes: which of them counted, and which timers may start now because of them.

    An attempt that no longer belongs to its worker does not count.
    """

    counted: list[bool]
    unblocked: list[WakeUp]


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """An outbox entry; wake_up is None when its fields cannot be read, which are then kept."""

    entry_id: bytes
    wake_up: WakeUp | None
    fields: dict[bytes, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a list of timers: behind this name, due at due_ms."""

    due_ms: int
    name: TimerName


@dataclass(frozen=True, slots=True)
class TimerPage:
    """Some timers in the order of their due times; next is None when there are no more."""

    timers: list[Timer]
    next: Position | None
    now_ms: int
