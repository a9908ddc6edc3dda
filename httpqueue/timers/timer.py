"""What a timer is: its states and its attempts. Pure; storage/record.py has its stored form."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from msgspec import Struct

from httpqueue.timers.names import TimerName
from httpqueue.timers.spec import Spec


class State(StrEnum):
    """The states of a timer; ARCHIVED is what is left when the retention time is over."""

    SCHEDULED = "scheduled"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    ARCHIVED = "archived"

    @property
    def letter(self) -> str:
        """How records and scripts write it."""
        return self.value[0]


TRANSITIONS: Final = frozenset(
    {
        (State.SCHEDULED, State.RUNNING),  # begin
        (State.RUNNING, State.RUNNING),  # begin again: its worker was lost
        (State.RUNNING, State.SCHEDULED),  # finish: retry, or the next run of a recurring timer
        (State.RUNNING, State.DONE),  # finish: delivered
        (State.RUNNING, State.FAILED),  # finish: failed
        (State.SCHEDULED, State.SCHEDULED),  # change
        (State.SCHEDULED, State.CANCELLED),  # cancel
        (State.FAILED, State.SCHEDULED),  # change: replay
        (State.DONE, State.SCHEDULED),  # create: replaced
        (State.FAILED, State.ARCHIVED),  # retention over, or deleted
        (State.DONE, State.ARCHIVED),  # retention over
        (State.CANCELLED, State.ARCHIVED),  # retention over
        (State.CANCELLED, State.SCHEDULED),  # create: replaced
    }
)
"""Every change of state there is; docs/architecture.md draws it and a test compares the two."""

FINISHED: Final = frozenset({State.DONE, State.FAILED, State.CANCELLED})


class Attempt(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """How an attempt went: when it started, how late that was, what came back. Stored as a JSON array."""

    started_ms: int
    lateness_ms: int
    status: int | None = None
    error: str | None = None
    """None: delivered."""
    duration_ms: int = 0
    response: str = ""
    """The first KiB of the answer's body."""
    number: int = 1
    generation: int = 0

    @property
    def due_ms(self) -> int:
        """When it should have started."""
        return self.started_ms - self.lateness_ms


@dataclass(frozen=True, slots=True)
class Timer:
    """A timer as the store knows it; due_ms is when its next (or last) attempt should start."""

    name: TimerName
    nonce: str
    """Drawn when it was created: tells it from another timer that had its name before."""
    state: State
    generation: int
    attempts: int
    """Of this generation."""
    due_ms: int
    spec: Spec
    log: tuple[Attempt, ...] = ()
    """The last attempts, of earlier generations, too; the oldest first."""

    @property
    def last_attempt(self) -> Attempt | None:
        """The youngest of the log."""
        return self.log[-1] if self.log else None

    @property
    def version(self) -> str:
        """Differs whenever the timer does: an entity tag (RFC 9110 section 8.8.3) without its quotes."""
        return f"{self.nonce}.{self.generation}.{self.attempts}.{self.state.letter}"
