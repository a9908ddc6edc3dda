"""What processes and store say to each other: the transitions of a timer, as values. Pure."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from httpqueue.storage import keys
from httpqueue.timers.spec import Spec
from httpqueue.timers.timer import Attempt, State, Timer
from httpqueue.webhooks.outcome import Outcome

MAX_INT: Final = 2**53
"""Lua counts in doubles: what is greater is not exact there, and was not written by us."""


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

    application: str
    id: str
    spec: Spec
    if_exists: IfExists = IfExists.CONFLICT
    first_due_ms: int | None = None
    """Of a wall-clock or recurring timer; the schedules of others say it themselves."""

    @property
    def member(self) -> str:
        """Its name in the store."""
        return keys.member(self.application, self.id)


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

    application: str
    id: str
    states: frozenset[State]
    version: str | None = None
    spec: Spec | None = None
    """None keeps it."""
    due_ms: int | None = None
    """None keeps it."""
    from_now: bool = False

    @property
    def member(self) -> str:
        """Its name in the store."""
        return keys.member(self.application, self.id)


class Answer(StrEnum):
    """What became of a wish to change or cancel a timer."""

    CHANGED = "changed"
    GONE = "gone"
    OTHER_STATE = "state"
    OTHER_VERSION = "version"


@dataclass(frozen=True, slots=True)
class Changed:
    """The answer to a Change or a cancel; state is the timer's own before it (None when it is gone)."""

    answer: Answer
    state: State | None = None
    due_ms: int = 0
    generation: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """A timer and the store's time at which it was read."""

    timer: Timer
    now_ms: int


@dataclass(frozen=True, slots=True)
class WakeUp:
    """(timer, generation) and when to wake it; member is app:id."""

    member: str
    generation: int
    due_ms: int = 0

    @property
    def id(self) -> str:
        """The queue's name for it."""
        return keys.wake_up_id(self.member, self.generation)

    @property
    def is_possible(self) -> bool:
        """Whether its figures can be ours; others would break the batch they are in."""
        return 0 <= self.generation <= MAX_INT and abs(self.due_ms) <= MAX_INT


@dataclass(frozen=True, slots=True)
class Begun:
    """An attempt that is ours until the lease ends."""

    wake_up: WakeUp
    attempt: int
    due_ms: int
    started_ms: int
    spec: bytes
    """As stored: spec.decode_spec reads it."""
    host: bytes = b""
    """Of the URL, in small letters."""
    application: bytes = b""
    """The application's settings as stored, empty when it has none."""


class Refusal(StrEnum):
    """Why begin starts no attempt."""

    GONE = "gone"
    STALE = "stale"
    FINISHED = "finished"
    RUNNING = "running"
    UNREADABLE = "unreadable"
    EARLY = "early"
    BLOCKED = "blocked"
    PAUSED = "paused"
    WAITING = "waiting"


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
class Finish:
    """How an attempt ended. ms: delay to the next attempt for RETRY, else retention of the record."""

    wake_up: WakeUp
    attempt: int
    outcome: Outcome
    ms: int
    last_attempt: Attempt
    next_due_ms: int | None = None
    """When a recurring timer runs again; it then goes on instead of ending."""
    callback: NewTimer | None = None
    """Stored together with the end."""
    was_called: bool = True
    """Whether its host was: otherwise the end says nothing of the host."""


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """An outbox entry; wake_up is None when its fields cannot be read, which are then kept."""

    entry_id: bytes
    wake_up: WakeUp | None
    fields: dict[bytes, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in the due index: after this member, due at from_ms."""

    from_ms: int = 0
    after: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """Part of the due index, in its order; next is None when the end was reached at now_ms.

    waiting: who waited for host or application and may try again.
    """

    wake_ups: list[WakeUp]
    next: Cursor | None
    now_ms: int
    waiting: list[WakeUp] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the list of all timers: after this member, due at due_ms."""

    due_ms: int
    member: str


@dataclass(frozen=True, slots=True)
class Listed:
    """Some timers in the order of their due times; next is None when there are no more."""

    timers: list[Timer]
    next: Place | None
    now_ms: int
