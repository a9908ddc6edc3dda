"""Encodes and decodes what is stored: records, specs, attempts and policies."""

from typing import Final, Literal, TypeVar

import msgpack
import msgspec
import structlog
from msgspec.structs import replace

from httpqueue.errors import InvalidTimerError, NewerFormatError
from httpqueue.timers.names import TimerName
from httpqueue.timers.policies import ApplicationPolicy, DestinationPolicy
from httpqueue.timers.schedule import Delay, check_instant
from httpqueue.timers.spec import Callback, Spec
from httpqueue.timers.timer import Attempt, State, Timer

STATE_OF_LETTER: Final = {state.letter.encode(): state for state in State if state is not State.ARCHIVED}

PolicyT = TypeVar("PolicyT", ApplicationPolicy, DestinationPolicy)

log = structlog.get_logger()

_JSON: Final = msgspec.json.Encoder()
_SPEC: Final = msgspec.json.Decoder(Spec)
_ATTEMPT: Final = msgspec.json.Decoder(Attempt)
_HEAD_FIELDS: Final = 11
FORMAT: Final = 1
"""The format version of records. One of the next version is left to newer processes: see docs/adr/0024."""
_POINTER: Final = b"\x01\xa1p"  # how a pointer begins: format version 1, then the letter p
_PLAIN: Final = Spec("", Delay(0))
_CALLBACK: Final = Callback("")


class _Head(msgspec.Struct, frozen=True, array_like=True):
    """The head of a record: its fields in the order that lua/common.lua documents."""

    format: Literal[1]
    state: bytes
    generation: int
    attempts: int
    lost: int
    due_ms: int
    timeout_ms: int
    lane: bytes
    host: bytes
    nonce: bytes
    holder: bytes


def encode_spec(spec: Spec) -> bytes:
    """Spec -> JSON object without defaults. Equal specs give equal bytes: lua/create.lua compares them."""
    return _JSON.encode(_with_own_defaults(spec))


def decode_spec(raw: bytes) -> Spec:
    """The inverse of encode_spec. Raises InvalidTimerError when the bytes are no spec."""
    try:
        return _SPEC.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidTimerError(f"unreadable spec: {type(error).__name__}") from error


def head_of(spec: Spec) -> tuple[int, str, str]:
    """The parts of a spec that the record's head has, too: timeout in ms (0: none), ordering key, host."""
    return spec.timeout_ms or 0, spec.ordering_key or "", spec.host


def encode_attempt(attempt: Attempt) -> bytes:
    """Attempt -> JSON array of its fields, in their order."""
    return _JSON.encode(attempt)


def decode_record(name: TimerName, record: bytes) -> Timer:
    """Read a record, whose format lua/common.lua documents. Raises InvalidTimerError when it is damaged.

    NewerFormatError when it has the next format.
    """
    try:
        # The buffer is limited to the record's size: a damaged length must not allocate gigabytes.
        unpacker = msgpack.Unpacker(raw=True, max_buffer_size=len(record))
        unpacker.feed(record)
        values = list(unpacker)
        if unpacker.tell() != len(record):
            raise InvalidTimerError("unreadable record: its end is missing")
        if values[:1] == [FORMAT + 1]:
            raise NewerFormatError
        head = msgspec.convert(values[:_HEAD_FIELDS], _Head)
        spec, *log = values[_HEAD_FIELDS:]
        for text in (head.lane, head.host):
            text.decode()
        timer = Timer(
            name=name,
            nonce=head.nonce.decode(),
            state=STATE_OF_LETTER[head.state],
            generation=head.generation,
            attempts=head.attempts,
            due_ms=head.due_ms,
            spec=decode_spec(spec),
            log=tuple(map(_ATTEMPT.decode, log)),
        )
        for ms in (timer.due_ms, *(ms for each in timer.log for ms in (each.started_ms, each.due_ms))):
            check_instant(ms)
        return timer  # noqa: TRY300 - what cannot be shown is as damaged as what cannot be decoded
    except (ValueError, TypeError, KeyError, RecursionError, msgspec.MsgspecError) as error:
        raise InvalidTimerError(f"unreadable record: {type(error).__name__}") from error


def read_pointer(record: bytes) -> int | None:
    """The partition that a pointer names (see lua/common.lua). None when this is no pointer, or damaged."""
    if not record.startswith(_POINTER):
        return None
    unpacker = msgpack.Unpacker(raw=True, max_buffer_size=len(record))
    unpacker.feed(record)
    try:
        _, _, partition, nonce = unpacker
    except (ValueError, msgpack.UnpackException):
        return None
    return partition if type(partition) is int and isinstance(nonce, bytes) and partition >= 0 else None


def _with_own_defaults(spec: Spec) -> Spec:
    """Replace values that equal a default by the default itself: msgspec omits only the same object."""
    callback = spec.callback
    if callback is not None and callback.on == _CALLBACK.on:
        callback = replace(callback, on=_CALLBACK.on)
    return replace(
        spec,
        method=_PLAIN.method if spec.method == _PLAIN.method else spec.method,
        past_due=_PLAIN.past_due if spec.past_due == _PLAIN.past_due else spec.past_due,
        callback=callback,
    )


def encode_policy(policy: ApplicationPolicy | DestinationPolicy) -> bytes:
    """Policy -> JSON object without defaults."""
    return _JSON.encode(policy)


def decode_policy(kind: type[PolicyT], raw: bytes | None) -> PolicyT:
    """The inverse of encode_policy. None, empty and unreadable bytes give the default policy."""
    if not raw:
        return kind()
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.MsgspecError:
        log.warning("policy.unreadable", kind=kind.__name__)
        return kind()
