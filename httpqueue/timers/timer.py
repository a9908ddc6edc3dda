"""A timer, its states and its attempts. Pure. storage/record.py encodes them."""

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
        """The state in records and scripts."""
        return self.value[0]


TRANSITIONS: Final = frozenset(
    {
        (State.SCHEDULED, State.RUNNING),  # begin
        (State.RUNNING, State.RUNNING),  # begin again: its worker was lost
        (State.RUNNING, State.SCHEDULED),  # finish: retry, or the next run of a recurring timer
        (State.RUNNING, State.DONE),  # finish: delivered
        (State.RUNNING, State.FAILED),  # finish: failed
        (State.RUNNING, State.CANCELLED),  # a recurring timer that was cancelled while it ran
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
"""All changes of state. A test compares them with the diagram in docs/architecture.md."""

FINISHED: Final = frozenset({State.DONE, State.FAILED, State.CANCELLED})


class Attempt(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """How an attempt went. Stored as a JSON array. Times are ms; started_ms is since the epoch."""

    started_ms: int
    lateness_ms: int
    status: int | None = None
    error: str | None = None
    """What went wrong, for people. None: delivered."""
    duration_ms: int = 0
    response: str = ""
    """The first KiB of the response's body."""
    number: int = 1
    generation: int = 0

    @property
    def due_ms(self) -> int:
        """When the attempt should have started, in ms since the epoch."""
        return self.started_ms - self.lateness_ms


@dataclass(frozen=True, slots=True)
class Timer:
    """A timer as the store has it. due_ms: when its next (or last) attempt should start, since the epoch."""

    name: TimerName
    nonce: str
    """Drawn when the timer is created. It tells the timer from an earlier one with the same name."""
    state: State
    generation: int
    attempts: int
    """How many attempts this generation has had."""
    due_ms: int
    spec: Spec
    log: tuple[Attempt, ...] = ()
    """The last ten attempts, also of earlier generations, the oldest first."""

    @property
    def last_attempt(self) -> Attempt | None:
        """The latest attempt in the log, or None."""
        return self.log[-1] if self.log else None

    @property
    def version(self) -> str:
        """nonce.generation.attempts.state: an ETag (RFC 9110 section 8.8.3) without its quotes."""
        return f"{self.nonce}.{self.generation}.{self.attempts}.{self.state.letter}"
