"""Every parser of what others sent: any input gives a value or the documented exception (issue 11, "Fuzz").

The JSON body has such tests of its own in test_api_json_body.py and test_api_bad_input.py.
"""

import base64
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import msgpack
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request

from httpqueue.api.auth import _api_key_of
from httpqueue.api.problems import ProblemError
from httpqueue.api.schema.cursor import decode_cursor, encode_cursor
from httpqueue.api.schema.etag import if_match
from httpqueue.api.schema.idempotency import idempotency_key
from httpqueue.api.schema.json_body import check_content_type
from httpqueue.api.schema.query import check_query, read_list_query
from httpqueue.errors import InvalidTimerError
from httpqueue.storage.keys import name_of, parse_wake_up_id, wake_up_id
from httpqueue.storage.outbox import _entry
from httpqueue.storage.record import decode_policy, decode_record, decode_spec, encode_spec, read_pointer
from httpqueue.timers.access import decode_grant
from httpqueue.timers.commands import Position, WakeUp
from httpqueue.timers.cron import check_cron, check_zone, next_run_ms
from httpqueue.timers.names import TimerName, host_of, normal_host
from httpqueue.timers.policies import ApplicationPolicy, DestinationPolicy
from httpqueue.timers.retry import parse_retry_after_ms
from httpqueue.timers.schedule import MAX_DUE_MS, Cron, parse_instant_ms, parse_local
from httpqueue.timers.spec import Spec

NAME: Final = TimerName("default", "a")
PLAIN: Final = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text()
VALUES: Final = st.recursive(
    PLAIN | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
SPEC: Final = encode_spec(Spec("http://a/", Cron("* * * * *")))
HEAD: Final = [1, b"s", 0, 0, 0, 1, 0, b"", b"a", b"nonce", b""]
HEADER: Final = st.text(st.characters(max_codepoint=255), max_size=40).map(
    lambda text: text.encode("latin-1")
)
PARAMETERS: Final = ("status", "label", "due_from", "due_to", "host", "limit", "cursor", "application")
CRON: Final = st.text("0123456789*/,-#L @MONJAdailyhour", max_size=40)
fuzzed = settings(deadline=None, max_examples=25)


@contextmanager
def refused(status: int) -> Iterator[None]:
    """Perhaps with a problem of this status, and nothing else."""
    try:
        yield
    except ProblemError as problem:
        if problem.status != status:
            raise


def packed(values: list[Any]) -> bytes:
    """As records are: one value after another, without the bin type."""
    return b"".join(msgpack.packb(value, use_bin_type=False) for value in values)


def record_with(index: int, value: Any) -> bytes:
    """A record with another value at one place of its head or spec."""
    values: list[Any] = [*HEAD, SPEC]
    values[index] = value
    return packed(values)


@fuzzed
@given(
    st.binary()
    | st.builds(record_with, st.integers(0, len(HEAD)), VALUES)
    | st.lists(VALUES, max_size=14).map(packed)
    | st.integers(0, 60).map(lambda size: packed([*HEAD, SPEC])[:size])
)
def test_records(raw: bytes) -> None:
    """A timer, or InvalidTimerError; a pointer is tried first."""
    with suppress(InvalidTimerError):
        assert decode_record(NAME, raw).name == NAME


@fuzzed
@given(
    st.binary().map(lambda rest: b"\x01\xa1p" + rest)
    | VALUES.map(lambda value: packed([1, b"p", value, b"nonce"]))
    | st.lists(VALUES, max_size=4).map(lambda values: packed([1, b"p", *values]))
)
def test_pointers(raw: bytes) -> None:
    """A partition, or None, or the one exception for damage."""
    with suppress(InvalidTimerError):
        assert isinstance(read_pointer(raw), int | None)


@fuzzed
@given(st.binary() | VALUES.map(lambda value: orjson.dumps(value, default=lambda _: "bytes")))
def test_specs_policies_and_grants(raw: bytes) -> None:
    """InvalidTimerError for a spec; an unreadable policy is the default one, an unreadable grant none."""
    with suppress(InvalidTimerError):
        assert isinstance(decode_spec(raw), Spec)
    assert isinstance(decode_policy(ApplicationPolicy, raw), ApplicationPolicy)
    assert isinstance(decode_policy(DestinationPolicy, raw), DestinationPolicy)
    decode_grant(raw)


@fuzzed
@given(st.text() | st.from_regex(r"\{[0-9]{1,6}\}[a-z:]{0,9}:[a-z]{0,3}:[0-9]{1,18}", fullmatch=True))
def test_wake_up_ids(text: str) -> None:
    """None, or what is written in the same way again."""
    wake_up = parse_wake_up_id(text)
    assert wake_up is None or wake_up_id(wake_up) == text


@fuzzed
@given(st.from_regex(r"[A-Za-z0-9._~-]{1,9}", fullmatch=True), st.integers(0, 10**15), st.integers(0, 1_023))
def test_wake_up_ids_are_read_as_they_were_written(timer_id: str, generation: int, partition: int) -> None:
    """Whatever the timer's name."""
    wake_up = WakeUp(TimerName("shop", timer_id), generation, partition=partition)
    assert parse_wake_up_id(wake_up_id(wake_up)) == wake_up


@fuzzed
@given(st.binary())
def test_members_of_indices(raw: bytes) -> None:
    """A name, or ValueError."""
    with suppress(ValueError):
        assert len(name_of(raw)) == 2


@fuzzed
@given(
    st.dictionaries(
        st.sampled_from([b"timer", b"generation", b"due"]) | st.binary(max_size=4),
        st.binary(max_size=20)
        | st.sampled_from([b"default:a", b"1", b"-1", b"1e400", b"nan", b"1" * 400, b"a:b:c"]),
    )
)
def test_outbox_entries(fields: dict[bytes, bytes]) -> None:
    """An entry that cannot be read has no wake-up."""
    entry = _entry(0, b"1-1", fields)
    assert entry.wake_up is None or entry.wake_up.generation >= 0


@fuzzed
@given(st.text() | st.from_regex(r"[A-Z][a-z]{2}, [0-9]{1,9} [A-Z][a-z]{2} -?[0-9]{1,9} [0-9:+-]{1,16}"))
def test_retry_after(text: str) -> None:
    """Ms from now on, or None: it comes from any receiver of webhooks."""
    ms = parse_retry_after_ms(text, 1_800_000_000_000)
    assert ms is None or ms >= 0


@fuzzed
@given(CRON | st.text() | st.lists(CRON, min_size=5, max_size=5).map(" ".join), st.integers(0, MAX_DUE_MS))
def test_cron_expressions(text: str, now_ms: int) -> None:
    """ValueError, or an expression whose next run can be told at any time."""
    try:
        cron = Cron(check_cron(text), "Europe/Berlin")
    except ValueError:
        return
    run_ms = next_run_ms(cron, now_ms)
    assert run_ms is None or now_ms < run_ms <= MAX_DUE_MS


@fuzzed
@given(st.text() | st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(Z|[+-]..:..)?"))
@pytest.mark.parametrize("parse", [parse_instant_ms, parse_local, check_zone])
def test_instants_and_zones(parse: Any, text: str) -> None:
    """ValueError with a sentence for the client, nothing else."""
    with suppress(ValueError):
        parse(text)


@fuzzed
@given(st.text() | st.text(max_size=30).map("http://{}/".format))
def test_hosts(text: str) -> None:
    """Every text has a host; its normal form is that of itself."""
    host_of(text)
    normal = normal_host(text)
    assert normal_host(normal) == normal


@fuzzed
@given(
    st.text() | VALUES.map(lambda value: base64.urlsafe_b64encode(orjson.dumps(value, default=str)).decode())
)
def test_cursors(text: str) -> None:
    """A position, or 422."""
    with refused(422):
        position = decode_cursor(text)
        assert position is None or decode_cursor(encode_cursor(position)) == position


@fuzzed
@given(st.integers(-(2**53), 2**53), st.text(max_size=5), st.text(max_size=5))
def test_cursors_are_read_as_they_were_written(due_ms: int, application: str, timer_id: str) -> None:
    """Whatever the names are."""
    position = Position(due_ms, TimerName(application, timer_id))
    assert decode_cursor(encode_cursor(position)) == position


@fuzzed
@given(HEADER | st.sampled_from([b'W/"a"', b'"a", "b"', b"*"]))
def test_headers(value: bytes) -> None:
    """A value, or the problem that is documented: 400 or 415."""
    names = (b"if-match", b"idempotency-key", b"x-api-key", b"authorization")
    scope: dict[str, Any] = {"type": "http", "headers": [(name, value) for name in names]}
    for read in (lambda: if_match(Request(scope)), lambda: idempotency_key(scope)):
        with refused(400):
            read()
    with refused(415):
        check_content_type(value.decode("latin-1"), None)
    _api_key_of(scope["headers"])


@fuzzed
@given(
    st.binary(max_size=60)
    | st.lists(
        st.tuples(
            st.sampled_from(PARAMETERS),
            st.text("abc%:,0123456789.+-Ä", max_size=30),
        )
    ).map(lambda pairs: "&".join(f"{name}={value}" for name, value in pairs).encode())
)
def test_queries(query: bytes) -> None:
    """A query, or 422."""
    scope: dict[str, Any] = {"type": "http", "headers": [], "query_string": query}
    with refused(422):
        read_list_query(Request(scope))
    with refused(422):
        check_query(scope, "application")
