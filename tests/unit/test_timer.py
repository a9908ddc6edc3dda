"""How a timer is kept: its record as MessagePack, its attempts as JSON."""

import tracemalloc
from dataclasses import replace
from typing import Any

import msgpack
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from httpqueue.errors import InvalidTimerError, NewerFormatError
from httpqueue.storage.record import FORMAT, STATE_OF_LETTER, decode_record, encode_attempt, encode_spec
from httpqueue.timers.names import TimerName
from httpqueue.timers.schedule import MAX_DUE_MS, MIN_DUE_MS, Delay
from httpqueue.timers.spec import Spec
from httpqueue.timers.timer import FINISHED, TRANSITIONS, Attempt, State, Timer

MS = st.integers(-(2**40), MAX_DUE_MS // 2)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
COUNTS = st.integers(0, 2**53)
ATTEMPTS = st.builds(
    Attempt,
    started_ms=MS,
    lateness_ms=st.integers(-(2**40), 2**40),
    status=st.none() | st.integers(100, 599),
    error=st.none() | TEXT,
    duration_ms=COUNTS,
    response=TEXT,
    number=COUNTS,
    generation=COUNTS,
)

NAME = TimerName("app", "id")
SPEC = Spec("http://receiver/", Delay(2_000))
ATTEMPT = Attempt(1, 2, 200, None, 3, "ok", 1, 0)
TIMER = Timer(NAME, "nonce", State.SCHEDULED, 1, 0, 5_000, SPEC, (ATTEMPT,))
HEAD: list[Any] = [FORMAT, b"s", 1, 0, 0, 5_000, 0, b"", b"receiver", b"nonce", b"worker.1"]
FIELDS: list[Any] = [*HEAD, encode_spec(SPEC), encode_attempt(ATTEMPT)]
SPEC_PLACE = 11
LOG = 12


def record(*fields: object) -> bytes:
    """What the scripts write: one MessagePack value after the other."""
    return b"".join(msgpack.packb(field, use_bin_type=False) for field in fields)


@given(
    st.sampled_from(sorted(STATE_OF_LETTER)),
    st.lists(COUNTS, min_size=5, max_size=5),
    st.lists(TEXT, min_size=4, max_size=4),
    st.lists(ATTEMPTS),
)
def test_record(letter: bytes, numbers: list[int], texts: list[str], log: list[Attempt]) -> None:
    """Format, state, five numbers, with lost workers and timeout, four texts, spec and the last attempts."""
    numbers[3] %= MAX_DUE_MS
    raw = record(FORMAT, letter, *numbers, *texts, encode_spec(SPEC), *map(encode_attempt, log))
    generation, attempts, _, due_ms, _ = numbers
    _, _, nonce, _ = texts
    state = STATE_OF_LETTER[letter]
    timer = decode_record(NAME, raw)
    assert timer == Timer(NAME, nonce, state, generation, attempts, due_ms, SPEC, tuple(log))
    assert timer.last_attempt == (log[-1] if log else None)


def test_each_state_has_its_own_letter() -> None:
    """But for the archived ones, which have no record."""
    assert {state: state.letter.encode() for state in STATE_OF_LETTER.values()} == {
        state: letter for letter, state in STATE_OF_LETTER.items()
    }
    assert set(STATE_OF_LETTER.values()) == set(State) - {State.ARCHIVED}


def test_a_version_differs_when_the_timer_does() -> None:
    """After each transition it is another one, and so is that of a later timer of the same name."""
    timers = [
        TIMER,
        replace(TIMER, state=State.RUNNING, attempts=1),
        replace(TIMER, state=State.SCHEDULED, attempts=1),
        replace(TIMER, state=State.RUNNING, attempts=2),
        replace(TIMER, state=State.FAILED, attempts=2),
        replace(TIMER, generation=2),
        replace(TIMER, nonce="other"),
    ]
    assert len({timer.version for timer in timers}) == len(timers)


def test_an_attempt_knows_its_due_time() -> None:
    """Start without lateness."""
    assert Attempt(started_ms=5_000, lateness_ms=400).due_ms == 4_600


def test_record_as_fixture() -> None:
    """The undamaged record that the tests below damage."""
    assert decode_record(NAME, record(*FIELDS)) == TIMER


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (0, FORMAT + 2),
        (0, b"1"),
        (0, None),
        (1, b"x"),
        (1, b""),
        (1, None),
        (1, []),  # cannot even be looked up
        (2, None),
        (2, "1"),
        (3, 1.5),
        (3, True),
        (4, None),
        (4, 1.5),
        (5, []),
        (6, None),
        (6, 1.5),
        (7, None),
        (7, 7),
        (8, None),
        (8, 7),
        (9, None),
        (9, 7),
        (9, b"\xff"),
        (10, None),
        (10, 7),
        (SPEC_PLACE, b""),
        (SPEC_PLACE, None),
        (SPEC_PLACE, 7),
        (SPEC_PLACE, b"{}"),
        (5, MAX_DUE_MS + 1),
        (5, MIN_DUE_MS - 1),
        (7, b"\xff"),
        (8, b"\xff"),
        (LOG, None),
        (LOG, 0),
        (LOG, []),
        (LOG, b""),
        (LOG, b"{"),
        (LOG, b"null"),
        (LOG, b"[]"),
        (LOG, b"[1]"),
        (LOG, b'[1,2,200,null,3,"",1,0,5]'),
        (LOG, b'["1",2,200,null,3,"",1,0]'),
        (LOG, b'[1,2,"200",null,3,"",1,0]'),
        (LOG, b'[1,2,200,7,3,"",1,0]'),
        (LOG, b'[1,2,200,null,null,"",1,0]'),
        (LOG, b"[1,2,200,null,3,null,1,0]"),
        (LOG, b'{"1":1,"2":2,"3":3,"4":4}'),
        (LOG, b'"12345678"'),
    ],
)
def test_damaged_field(place: int, value: Any) -> None:
    """A field of another type or meaning makes the whole record unreadable."""
    with pytest.raises(InvalidTimerError, match="unreadable"):
        decode_record(NAME, record(*FIELDS[:place], value, *FIELDS[place + 1 :]))


def test_the_next_format() -> None:
    """Its record is not damaged: a newer version wrote it."""
    with pytest.raises(NewerFormatError):
        decode_record(NAME, record(FORMAT + 1, *FIELDS[1:]))


def test_an_attempt_of_an_earlier_version() -> None:
    """Which knew only its first fields; the others are as by default."""
    assert decode_record(NAME, record(*FIELDS[:LOG], b"[1,2,200,null]")).log == (Attempt(1, 2, 200),)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        record(*FIELDS[:SPEC_PLACE]),
        record(*FIELDS, 1),
        record(*FIELDS)[:-1],
        record(FIELDS),
        b"\xdd\x7f\xff\xff\xff",  # an array of 2**31 - 1 elements, says its first byte
        b"\xdf\x7f\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\x91" * 5_000,  # deeper than any stack
        b"\xc1",
        b"\xd6\xff" + b"\xff" * 4,
    ],
)
def test_damaged_record(raw: bytes) -> None:
    """A record that is cut, too long or something else is refused."""
    with pytest.raises(InvalidTimerError):
        decode_record(NAME, raw)


def test_damaged_length() -> None:
    """A record that claims to hold millions of values sets no memory aside for them."""
    tracemalloc.start()
    try:
        with pytest.raises(InvalidTimerError):
            decode_record(NAME, b"\xdd\x00\xff\xff\xff")
        assert tracemalloc.get_traced_memory()[1] < 500_000
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=200))
def test_any_bytes(raw: bytes) -> None:
    """Any bytes are a timer or an InvalidTimerError, never anything else."""
    try:
        decode_record(NAME, raw)
    except InvalidTimerError:
        return


@given(st.data())
def test_any_flaw(data: st.DataObject) -> None:
    """A good record with one wrong byte is a timer or an InvalidTimerError, never anything else."""
    raw = bytearray(record(*FIELDS))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        timer = decode_record(NAME, bytes(raw))
    except InvalidTimerError:
        return
    orjson.dumps(timer.spec.body)  # what was read can be used


@given(st.lists(st.none() | st.booleans() | NUMBERS | TEXT | st.binary() | st.lists(NUMBERS), max_size=9))
def test_any_values(values: list[Any]) -> None:
    """Any MessagePack values are a timer or an InvalidTimerError, never anything else."""
    with pytest.raises(InvalidTimerError):
        decode_record(NAME, record(*values))


def test_states_have_a_way_out() -> None:
    """A timer leaves every state but the last; finished ones for the archive, or as a client wishes."""
    ways = {state: {to for origin, to in TRANSITIONS if origin is state} for state in State}
    assert {state for state in State if not ways[state]} == {State.ARCHIVED}
    assert {state for state in State if State.ARCHIVED in ways[state]} == FINISHED
    assert all(ways[state] <= {State.ARCHIVED, State.SCHEDULED} for state in FINISHED)
