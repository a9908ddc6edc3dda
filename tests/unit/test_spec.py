"""How a client's wish is kept: as JSON, what is as by default left out."""

from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from httpqueue.errors import InvalidTimerError
from httpqueue.storage.record import decode_spec, encode_spec
from httpqueue.timers.retry import RetryOptions
from httpqueue.timers.schedule import Cron, Delay, Instant, Local
from httpqueue.timers.spec import FIRE, SKIP, SKIP_GRACE_MS, Callback, Retention, Spec

MS = st.integers(-(2**53), 2**53)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
TEXTS = st.dictionaries(TEXT, TEXT)
NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=10,
)
SOME_MS = st.none() | MS
RETRIES = st.builds(
    RetryOptions,
    max_attempts=SOME_MS,
    base_ms=SOME_MS,
    max_ms=SOME_MS,
    jitter=st.none() | st.booleans(),
    delays_ms=st.none() | st.lists(MS).map(tuple),
)
SPECS = st.builds(
    Spec,
    url=TEXT,
    schedule=st.builds(Delay, MS)
    | st.builds(Instant, MS)
    | st.builds(Local, TEXT, TEXT)
    | st.builds(Cron, TEXT, TEXT),
    method=TEXT,
    headers=TEXTS,
    body=JSON,
    timeout_ms=SOME_MS,
    retry=st.none() | RETRIES,
    callback=st.none() | st.builds(Callback, TEXT, TEXTS, st.lists(TEXT, min_size=1).map(tuple)),
    ordering_key=st.none() | TEXT,
    labels=TEXTS,
    past_due=st.sampled_from([FIRE, SKIP]) | MS,
    retention=st.none() | st.builds(Retention, SOME_MS, SOME_MS),
)
SPEC = Spec("http://receiver/", Delay(2_000))
FULL = Spec(
    "http://receiver/",
    Cron("@daily", "Europe/Berlin"),
    "PUT",
    {"x-a": "1"},
    {"k": [1]},
    5_000,
    RetryOptions(delays_ms=(1, 2)),
    Callback("http://told/", {"x-b": "2"}, ("failed",)),
    "lane",
    {"team": "blue"},
    SKIP,
    Retention(1, 2),
)


@given(SPECS)
def test_round_trip(spec: Spec) -> None:
    """Whatever a client may ask for is read as it was written, byte for byte when written again."""
    raw = encode_spec(spec)
    assert decode_spec(raw) == spec
    assert encode_spec(decode_spec(raw)) == raw


def test_what_is_as_by_default_takes_no_room() -> None:
    """A schedule is an array that begins with its kind."""
    assert encode_spec(SPEC) == b'{"u":"http://receiver/","d":[0,2000]}'
    assert encode_spec(replace(SPEC, schedule=Instant(5))) == b'{"u":"http://receiver/","d":[1,5]}'
    local = Local("2030-01-01T09:00:00", "UTC")
    assert encode_spec(replace(SPEC, schedule=local)).endswith(b'"d":[2,"2030-01-01T09:00:00","UTC"]}')
    assert encode_spec(FULL).startswith(b'{"u":"http://receiver/","d":[3,"@daily","Europe/Berlin"],')


def test_equal_specs_are_equal_bytes() -> None:
    """Whether a default was given or left out: a POST that is repeated in other words is the same."""
    callback = Callback("http://told/", {}, ("done", "failed"))
    given = replace(
        SPEC, method="post".upper(), past_due="FIRE".lower(), headers={}, labels={}, callback=callback
    )
    assert encode_spec(given) == encode_spec(replace(SPEC, callback=Callback("http://told/")))


@pytest.mark.parametrize("body", ["", 0, False, [], {}])
def test_empty_body_is_a_body(body: Any) -> None:
    """An empty JSON value is not the absence of one."""
    assert decode_spec(encode_spec(replace(SPEC, body=body))).body == body


@pytest.mark.parametrize(("past_due", "most_ms"), [(FIRE, None), (SKIP, SKIP_GRACE_MS), (0, 0), (70, 70)])
def test_how_late_it_may_be_fired(past_due: Literal["fire", "skip"] | int, most_ms: int | None) -> None:
    """However late, hardly late, or so late at most."""
    spec = decode_spec(encode_spec(replace(SPEC, past_due=past_due)))
    assert spec.most_lateness_ms == most_ms


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
        b'{"u":"u"}',
        b'{"d":[0,1]}',
        b'{"u":"u","schedule":[0,1]}',
        b'{"u":"u","d":null}',
        b'{"u":"u","d":{}}',
        b'{"u":"u","d":[]}',
        b'{"u":"u","d":[1]}',
        b'{"u":"u","d":[0]}',
        b'{"u":"u","d":[9,1]}',
        b'{"u":"u","d":[0,"1"]}',
        b'{"u":"u","d":[0,1.5]}',
        b'{"u":"u","d":[0,true]}',
        b'{"u":"u","d":[1,null]}',
        b'{"u":"u","d":[0,1,1]}',
        b'{"u":"u","d":[0,1],"unknown":1}',
        b'{"u":7,"d":[0,1]}',
        b'{"u":"u","d":[0,1],"method":null}',
        b'{"u":"u","d":[0,1],"headers":[]}',
        b'{"u":"u","d":[0,1],"headers":{"a":1}}',
        b'{"u":"u","d":[0,1],"labels":["a"]}',
        b'{"u":"u","d":[0,1],"labels":{"a":1}}',
        b'{"u":"u","d":[3]}',
        b'{"u":"u","d":[2,"l"]}',
        b'{"u":"u","d":[3,1,"UTC"]}',
        b'{"u":"u","d":[2,"l",null]}',
        b'{"u":"u","d":[2,"l","c","UTC"]}',
        b'{"u":"u","d":[0,1],"retry":[]}',
        b'{"u":"u","d":[0,1],"retry":{"delays_ms":1}}',
        b'{"u":"u","d":[0,1],"retry":{"unknown":1}}',
        b'{"u":"u","d":[0,1],"callback":"u"}',
        b'{"u":"u","d":[0,1],"callback":{}}',
        b'{"u":"u","d":[0,1],"callback":{"url":7}}',
        b'{"u":"u","d":[0,1],"callback":{"url":"u","headers":{"a":1}}}',
        b'{"u":"u","d":[0,1],"callback":{"url":"u","on":[1]}}',
        b'{"u":"u","d":[0,1],"callback":{"url":"u","unknown":1}}',
        b'{"u":"u","d":[0,1],"past_due":null}',
        b'{"u":"u","d":[0,1],"past_due":"whenever"}',
        b'{"u":"u","d":[0,1],"past_due":1.5}',
        b'{"u":"u","d":[0,1],"timeout_ms":"1"}',
        b'{"u":"u","d":[0,1],"ordering_key":1}',
        b'{"u":"u","d":[0,1],"retention":7}',
        b'{"u":"u","d":[0,1],"retention":{"unknown":7}}',
        b"[" * 2_000,
        b'{"u":"u","d":[0,1],"body":' + b"[" * 100_000,
    ],
)
def test_damaged(raw: bytes) -> None:
    """What encode_spec cannot have written is refused, by one exception."""
    with pytest.raises(InvalidTimerError, match="unreadable spec"):
        decode_spec(raw)


@given(st.binary(max_size=200) | st.text().map(str.encode))
def test_any_bytes(raw: bytes) -> None:
    """Are no spec, and that is said by the same exception."""
    with pytest.raises(InvalidTimerError):
        decode_spec(raw)


@given(st.data())
def test_any_flaw(data: st.DataObject) -> None:
    """A good spec with one wrong byte is a spec or an InvalidTimerError, never anything else."""
    raw = bytearray(encode_spec(FULL))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        spec = decode_spec(bytes(raw))
    except InvalidTimerError:
        return
    encode_spec(spec)  # what was read can be used
