"""What processes and store say to each other: the transitions of a timer, as values. Pure."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from httpqueue import keys
from httpqueue.outcome import Outcome
from httpqueue.timer import Attempt, Spec, Timer

MAX_INT: Final = 2**53
"""Lua counts in doubles: what is greater is not exact there, and was not written by us."""


@dataclass(frozen=True, slots=True)
class NewTimer:
    """A timer to be stored."""

    application: str
    id: str
    spec: Spec


class Creation(StrEnum):
    """What create did: stored it, found the same one, or found another one under its id."""

    CREATED = "created"
    EXISTS = "exists"
    CONFLICT = "conflict"


@dataclass(frozen=True, slots=True)
class Created:
    """The answer to one NewTimer; due_ms is that of the timer which now has the id."""

    creation: Creation
    due_ms: int


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
    """As stored: timer.decode_spec reads it."""


class Refusal(StrEnum):
    """Why begin starts no attempt."""

    GONE = "gone"
    STALE = "stale"
    FINISHED = "finished"
    RUNNING = "running"
    UNREADABLE = "unreadable"
    EARLY = "early"


@dataclass(frozen=True, slots=True)
class Refused:
    """A wake-up that starts nothing; wait_ms says how much too early an EARLY one is."""

    wake_up: WakeUp
    refusal: Refusal
    wait_ms: int = 0


@dataclass(frozen=True, slots=True)
class Finish:
    """How an attempt ended. ms: delay to the next attempt for RETRY, else retention of the record."""

    wake_up: WakeUp
    attempt: int
    outcome: Outcome
    ms: int
    last_attempt: Attempt


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
    """Part of the due index, in its order; next is None when the end was reached at now_ms."""

    wake_ups: list[WakeUp]
    next: Cursor | None
    now_ms: int
