"""What a timer is: its states, its attempts, and how the store keeps it. Pure."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import msgpack
import orjson

from httpqueue.errors import InvalidTimerError
from httpqueue.timers.spec import Spec, decode_spec, require

DEFAULT_APPLICATION: Final = "default"


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
STATE_OF_LETTER: Final = {state.letter.encode(): state for state in State if state is not State.ARCHIVED}


@dataclass(frozen=True, slots=True)
class Attempt:
    """How an attempt went: when it started, how late that was, what came back."""

    started_ms: int
    lateness_ms: int
    status: int | None = None
    error: str | None = None
    duration_ms: int = 0
    response: str = ""
    """The first KiB of the answer's body."""
    number: int = 1
    generation: int = 0

    @property
    def due_ms(self) -> int:
        """When it should have started."""
        return self.started_ms - self.lateness_ms


def encode_attempt(attempt: Attempt) -> bytes:
    """Attempt -> JSON array in the order of the fields."""
    return orjson.dumps(
        [
            attempt.started_ms,
            attempt.lateness_ms,
            attempt.status,
            attempt.error,
            attempt.duration_ms,
            attempt.response,
            attempt.number,
            attempt.generation,
        ]
    )


def _decode_attempt(raw: bytes) -> Attempt:
    fields = orjson.loads(raw)
    match fields:
        case [int(), int(), int() | None, str() | None, int(), str(), int(), int()]:
            return Attempt(*fields)
    raise TypeError


@dataclass(frozen=True, slots=True)
class Timer:
    """A timer as the store knows it; due_ms is when its next (or last) attempt should start."""

    application: str
    id: str
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
        return f"{self.generation}.{self.attempts}.{self.state.letter}"


def decode_record(application: str, timer_id: str, record: bytes) -> Timer:
    """Read a record as lua/common.lua lays it out; raises InvalidTimerError when it is damaged."""
    try:
        # no more than the record's size: a damaged length must not allocate gigabytes
        unpacker = msgpack.Unpacker(raw=True, max_buffer_size=len(record))
        unpacker.feed(record)
        letter, generation, attempts, due_ms, timeout_ms, lane, spec, *log = unpacker
        require(bool, unpacker.tell() == len(record) or None)  # or its end is missing
        require(int, generation, attempts, due_ms, timeout_ms)
        require(bytes, lane)
        return Timer(
            application=application,
            id=timer_id,
            state=STATE_OF_LETTER[letter],
            generation=generation,
            attempts=attempts,
            due_ms=due_ms,
            spec=decode_spec(spec),
            log=tuple(map(_decode_attempt, log)),
        )
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidTimerError(f"unreadable record: {type(error).__name__}") from error
