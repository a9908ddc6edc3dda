"""What a timer is: its states, what the client asked for, and how the store keeps it. Pure."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import msgpack
import orjson

from httpqueue.errors import InvalidTimerError
from httpqueue.schedule import After, At, Schedule

DEFAULT_APPLICATION: Final = "default"


class State(StrEnum):
    """The states of a timer; ARCHIVED is what is left when the retention time is over."""

    SCHEDULED = "scheduled"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    ARCHIVED = "archived"


TRANSITIONS: Final = frozenset(
    {
        (State.SCHEDULED, State.RUNNING),  # begin
        (State.RUNNING, State.RUNNING),  # begin again: its worker was lost
        (State.RUNNING, State.SCHEDULED),  # finish: retry
        (State.RUNNING, State.DONE),  # finish: delivered
        (State.RUNNING, State.FAILED),  # finish: failed
        (State.DONE, State.ARCHIVED),  # retention over
        (State.FAILED, State.ARCHIVED),  # retention over
    }
)
"""Every change of state there is; docs/architecture.md draws it and a test compares the two."""

_STATE_OF_LETTER: Final = {state.value[0].encode(): state for state in State}


@dataclass(frozen=True, slots=True)
class Spec:
    """What the client asked for, as it was given: two posts are the same when their specs are."""

    url: str
    schedule: Schedule
    method: str = "POST"
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None
    """A string is sent as it is, None as an empty body, any other JSON value as JSON."""


def encode_spec(spec: Spec) -> bytes:
    """Spec -> JSON, defaults left out."""
    fields: dict[str, Any] = {"url": spec.url}
    match spec.schedule:
        case After(delay_ms):
            fields["delay_ms"] = delay_ms
        case At(fire_at_ms):
            fields["fire_at_ms"] = fire_at_ms
    if spec.method != "POST":
        fields["method"] = spec.method
    if spec.headers:
        fields["headers"] = spec.headers
    if spec.body is not None:
        fields["body"] = spec.body
    return orjson.dumps(fields)


def decode_spec(raw: bytes) -> Spec:
    """The inverse of encode_spec; raises InvalidTimerError on anything else."""
    try:
        fields = orjson.loads(raw)
        delay_ms = fields.pop("delay_ms", None)
        ms = fields.pop("fire_at_ms") if delay_ms is None else delay_ms
        spec = Spec(schedule=At(ms) if delay_ms is None else After(ms), **fields)
        _require(int, ms)
        _require(str, spec.url, spec.method, *spec.headers.values())
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InvalidTimerError(f"unreadable spec: {type(error).__name__}") from error
    return spec


@dataclass(frozen=True, slots=True)
class Attempt:
    """How an attempt went: when it started, how late that was, what came back."""

    started_ms: int
    lateness_ms: int
    status: int | None = None
    error: str | None = None


def encode_attempt(attempt: Attempt) -> bytes:
    """Attempt -> JSON array in the order of the fields."""
    return orjson.dumps([attempt.started_ms, attempt.lateness_ms, attempt.status, attempt.error])


def _decode_attempt(raw: bytes) -> Attempt | None:
    if raw == b"":
        return None
    match orjson.loads(raw):
        case [int(started_ms), int(lateness_ms), int() | None as status, str() | None as error]:
            return Attempt(started_ms, lateness_ms, status, error)
    raise TypeError


@dataclass(frozen=True, slots=True)
class Timer:
    """A timer as the store knows it; due_ms is when its next (or last) attempt should start."""

    application: str
    id: str
    state: State
    generation: int
    attempts: int
    due_ms: int
    spec: Spec
    last_attempt: Attempt | None


def decode_record(application: str, timer_id: str, record: bytes) -> Timer:
    """Read a record as lua/common.lua lays it out; raises InvalidTimerError when it is damaged."""
    try:
        # no more than the record's size: a damaged length must not allocate gigabytes
        unpacker = msgpack.Unpacker(raw=True, max_buffer_size=len(record))
        unpacker.feed(record)
        letter, generation, attempts, due_ms, spec, attempt = unpacker
        _require(int, generation, attempts, due_ms)
        return Timer(
            application=application,
            id=timer_id,
            state=_STATE_OF_LETTER[letter],
            generation=generation,
            attempts=attempts,
            due_ms=due_ms,
            spec=decode_spec(spec),
            last_attempt=_decode_attempt(attempt),
        )
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidTimerError(f"unreadable record: {type(error).__name__}") from error


def _require(kind: type, *values: object) -> None:
    if {kind} != set(map(type, values)):
        raise TypeError
