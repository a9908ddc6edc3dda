"""How a timer is kept: the client's wish as JSON, the record as MessagePack."""

import tracemalloc
from dataclasses import replace
from typing import Any

import msgpack
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from httpqueue.errors import InvalidTimerError
from httpqueue.schedule import After, At
from httpqueue.timer import (
    TRANSITIONS,
    Attempt,
    Spec,
    State,
    Timer,
    decode_record,
    decode_spec,
    encode_attempt,
    encode_spec,
)

MS = st.integers(-(2**53), 2**53)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=10,
)
SPECS = st.builds(
    Spec,
    url=TEXT,
    schedule=st.builds(After, MS) | st.builds(At, MS),
    method=TEXT,
    headers=st.dictionaries(TEXT, TEXT),
    body=JSON,
)
ATTEMPTS = st.builds(Attempt, MS, MS, st.none() | st.integers(100, 599), st.none() | TEXT)

SPEC = Spec("http://receiver/", After(2_000))
TIMER = Timer("default", "id", State.SCHEDULED, 1, 0, 5_000, SPEC, None)
FIELDS: list[Any] = [b"s", 1, 0, 5_000, encode_spec(SPEC), b""]


def record(*fields: object) -> bytes:
    """What the scripts write: one MessagePack value after the other."""
    return b"".join(msgpack.packb(field, use_bin_type=False) for field in fields)


@given(SPECS)
def test_spec_round_trip(spec: Spec) -> None:
    """Whatever a client may ask for is read as it was written, byte for byte when written again."""
    raw = encode_spec(spec)
    assert decode_spec(raw) == spec
    assert encode_spec(decode_spec(raw)) == raw


def test_spec_is_small() -> None:
    """What is as by default takes no room."""
    assert encode_spec(SPEC) == b'{"url":"http://receiver/","delay_ms":2000}'
    assert encode_spec(replace(SPEC, schedule=At(5))) == b'{"url":"http://receiver/","fire_at_ms":5}'


@pytest.mark.parametrize("body", ["", 0, False, [], {}])
def test_empty_body_is_a_body(body: Any) -> None:
    """An empty JSON value is not the absence of one."""
    assert decode_spec(encode_spec(replace(SPEC, body=body))).body == body


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"[1]",
        b'"text"',
        b"7",
        b"{}",
        b"\xff",
        b'{"url":"u"}',
        b'{"delay_ms":1}',
        b'{"url":"u","delay_ms":"1"}',
        b'{"url":"u","delay_ms":1.5}',
        b'{"url":"u","delay_ms":true}',
        b'{"url":"u","fire_at_ms":null}',
        b'{"url":"u","delay_ms":1,"fire_at_ms":1}',
        b'{"url":"u","delay_ms":1,"unknown":1}',
        b'{"url":7,"delay_ms":1}',
        b'{"url":"u","delay_ms":1,"method":null}',
        b'{"url":"u","delay_ms":1,"headers":[]}',
        b'{"url":"u","delay_ms":1,"headers":{"a":1}}',
        b"[" * 2_000,
    ],
)
def test_damaged_spec(raw: bytes) -> None:
    """What encode_spec cannot have written is refused, by one exception."""
    with pytest.raises(InvalidTimerError, match="unreadable spec"):
        decode_spec(raw)


@given(SPECS, st.sampled_from("srdf"), *[st.integers(0, 2**53)] * 3, st.none() | ATTEMPTS)
def test_record(
    spec: Spec, letter: str, generation: int, attempts: int, due_ms: int, attempt: Attempt | None
) -> None:
    """A record holds state letter, generation, attempts, due, spec and last attempt."""
    raw_attempt = encode_attempt(attempt) if attempt else b""
    raw = record(letter, generation, attempts, due_ms, encode_spec(spec), raw_attempt)
    state = {"s": State.SCHEDULED, "r": State.RUNNING, "d": State.DONE, "f": State.FAILED}[letter]
    assert decode_record("app", "id", raw) == Timer(
        "app", "id", state, generation, attempts, due_ms, spec, attempt
    )


def test_record_as_fixture() -> None:
    """The undamaged record that the tests below damage."""
    assert decode_record("default", "id", record(*FIELDS)) == TIMER


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (0, b"x"),
        (0, b""),
        (0, None),
        (0, []),  # cannot even be looked up
        (1, None),
        (1, "1"),
        (2, 1.5),
        (2, True),
        (3, []),
        (4, b""),
        (4, None),
        (4, 7),
        (4, b"{}"),
        (5, None),
        (5, 0),
        (5, []),
        (5, b"{"),
        (5, b"null"),
        (5, b"[]"),
        (5, b"[1,2]"),
        (5, b"[1,2,200,null,5]"),
        (5, b'["1",2,200,null]'),
        (5, b'[1,2,"200",null]'),
        (5, b"[1,2,200,7]"),
        (5, b'{"1":1,"2":2,"3":3,"4":4}'),
        (5, b'"1234"'),
    ],
)
def test_damaged_field(place: int, value: Any) -> None:
    """A field of another type or meaning makes the whole record unreadable."""
    with pytest.raises(InvalidTimerError, match="unreadable"):
        decode_record("default", "id", record(*FIELDS[:place], value, *FIELDS[place + 1 :]))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        record(*FIELDS[:5]),
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
        decode_record("default", "id", raw)


def test_damaged_length() -> None:
    """A record that claims to hold millions of values sets no memory aside for them."""
    tracemalloc.start()
    try:
        with pytest.raises(InvalidTimerError):
            decode_record("default", "id", b"\xdd\x00\xff\xff\xff")
        assert tracemalloc.get_traced_memory()[1] < 500_000
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=200))
def test_any_bytes(raw: bytes) -> None:
    """Any bytes are a timer or an InvalidTimerError, never anything else."""
    try:
        decode_record("default", "id", raw)
    except InvalidTimerError:
        return


@given(st.data())
def test_any_flaw(data: st.DataObject) -> None:
    """A good record with one wrong byte is a timer or an InvalidTimerError, never anything else."""
    raw = bytearray(record(*FIELDS[:5], encode_attempt(Attempt(1, 2, 200))))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        timer = decode_record("default", "id", bytes(raw))
    except InvalidTimerError:
        return
    orjson.dumps(timer.spec.body)  # what was read can be used


@given(st.lists(st.none() | st.booleans() | NUMBERS | TEXT | st.binary() | st.lists(NUMBERS), max_size=7))
def test_any_values(values: list[Any]) -> None:
    """Any MessagePack values are a timer or an InvalidTimerError, never anything else."""
    with pytest.raises(InvalidTimerError):
        decode_record("default", "id", record(*values))


def test_unfinished_states_have_a_way_out() -> None:
    """A timer leaves every state but the last one, and the finished ones only for the archive."""
    ways = {state: {to for origin, to in TRANSITIONS if origin is state} for state in State}
    assert {state for state in State if not ways[state]} == {State.ARCHIVED}
    assert all(ways[state] == {State.ARCHIVED} for state in {State.DONE, State.FAILED})
