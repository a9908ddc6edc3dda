"""API keys, grants, and the rate limit."""

import re
from itertools import pairwise

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from httpqueue.timers import access
from httpqueue.timers.access import (
    Grant,
    RateLimit,
    Scope,
    decode_grant,
    encode_grant,
    hash_key,
    new_id,
    new_key,
    permits,
)

grants = st.builds(
    Grant, st.text(), st.none() | st.text(), st.sampled_from(Scope), st.none() | st.integers(0, 2**53)
)


def test_keys_are_long_and_never_the_same() -> None:
    """hq_ and at least 32 URL-safe characters; ids are for people."""
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(re.fullmatch(r"hq_[A-Za-z0-9_-]{32,}", key) for key in keys)
    assert re.fullmatch(r"[0-9a-f]{8}", new_id())
    assert new_id() != new_id()


def test_a_key_is_kept_as_its_sha256() -> None:
    """Known answer of FIPS 180-4; any text has one."""
    assert hash_key("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert len(hash_key("\xff ü")) == 64


@given(grants, st.integers(0, 2**53))
def test_grants_survive_being_stored(grant: Grant, created_ms: int) -> None:
    """What is encoded is decoded, as the documented JSON object."""
    stored = encode_grant(grant, created_ms)
    assert orjson.loads(stored).keys() == {"id", "application", "scope", "expires_ms", "created_ms"}
    assert decode_grant(stored) == (grant, created_ms)


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"garbage",
        b"[]",
        b'{"id": "a", "application": "b", "scope": "owner", "created_ms": 1}',
        b'{"id": "a", "application": "b", "scope": [], "created_ms": 1}',
        b'{"id": "a", "application": 7, "scope": "read", "created_ms": 1}',
        b'{"id": "a", "scope": "admin", "created_ms": 1}',
        b'{"id": "a", "application": null, "scope": "admin"}',
        b'{"id": "a", "application": null, "scope": "admin", "expires_ms": "never", "created_ms": 1}',
    ],
)
def test_what_cannot_be_read_permits_nothing(stored: bytes) -> None:
    """Damage, or a scope of a later version: None, and above all not every application."""
    assert decode_grant(stored) is None


def test_a_grant_of_an_older_version_never_ends() -> None:
    """It was stored without an end."""
    stored = b'{"id": "a", "application": null, "scope": "read", "created_ms": 1}'
    assert decode_grant(stored) == (Grant("a", None, Scope.READ), 1)


def test_when_a_key_ends() -> None:
    """At the instant itself it has ended."""
    grant = Grant("a", None, Scope.READ, expires_ms=5)
    assert [grant.has_expired(now_ms) for now_ms in (4, 5, 6)] == [False, True, True]
    assert not Grant("a", None, Scope.READ).has_expired(2**53)


def test_each_scope_includes_those_before() -> None:
    """That is read < write < admin."""
    included = {(scope.value, other.value) for scope in Scope for other in Scope if scope.includes(other)}
    assert included == {
        ("read", "read"),
        ("write", "read"),
        ("write", "write"),
        ("admin", "read"),
        ("admin", "write"),
        ("admin", "admin"),
    }


@pytest.mark.parametrize(
    ("own", "asked", "permitted"),
    [
        ("shop", "shop", True),
        ("shop", "blog", False),
        ("shop", None, False),
        (None, "shop", True),
        (None, None, True),
    ],
)
def test_a_key_reaches_its_own_application(own: str | None, asked: str | None, permitted: bool) -> None:  # noqa: FBT001 - a table's column
    """Only a key of all applications reaches others, and what concerns all of them."""
    assert permits(Grant("id", own, Scope.WRITE), Scope.WRITE, asked) is permitted
    assert not permits(Grant("id", own, Scope.READ), Scope.WRITE, asked)


# --- rate limit ---


def test_a_burst_then_the_rate() -> None:
    """Two at once, then one each half second; a refusal says how long to wait and takes nothing."""
    limit = RateLimit(2, 2)
    assert [limit.decide("a", 10) for _ in range(4)] == [0, 0, 0.5, 0.5]
    assert limit.decide("a", 10.25) == 0.25
    assert limit.decide("a", 10.5) == 0
    assert limit.decide("a", 10.5) == 0.5
    assert [limit.decide("a", 100) for _ in range(3)] == [0, 0, 0.5]


def test_slower_than_one_a_second() -> None:
    """A rate below 1 lets one through, then nothing for 1/rate seconds."""
    limit = RateLimit(0.1, 1)
    assert [limit.decide("a", 0), limit.decide("a", 0), limit.decide("a", 10)] == [0, 10, 0]


def test_clients_have_buckets_of_their_own() -> None:
    """One that asks too much takes nothing from others."""
    limit = RateLimit(1, 1)
    assert [limit.decide(client, 0) for client in ("a", "a", "b", "b")] == [0, 1, 0, 1]


@given(
    st.sampled_from([0.1, 1, 3, 7.5, 1_000]),
    st.lists(st.floats(0, 3), min_size=1, max_size=60),
    st.floats(0, 1e7),
)
def test_never_more_than_burst_and_rate(rate: float, steps: list[float], start_s: float) -> None:
    """In any span of time at most burst + rate * span pass; who waits as told passes."""
    burst = max(1, rate)
    limit, now_s, passed = RateLimit(rate, burst), start_s, list[float]()
    for step in steps:
        now_s += step
        wait_s = limit.decide("a", now_s)
        if wait_s:
            assert 0 < wait_s <= 1 / rate + 1e-6
            assert RateLimit(rate, burst).decide("a", now_s) == 0
            now_s += wait_s
            assert limit.decide("a", now_s) == 0
        passed.append(now_s)
    for index, first in enumerate(passed):
        for count, last in enumerate(passed[index:], start=1):
            assert count <= burst + rate * (last - first) + 1e-3
    assert all(earlier <= later for earlier, later in pairwise(passed))


def test_full_buckets_are_forgotten() -> None:
    """Only the clients of the last burst/rate seconds are remembered."""
    limit = RateLimit(10, 10)
    for n in range(1_000):
        limit.decide(str(n), n / 1_000)
    assert len(limit) <= 110
    limit.decide("later", 60)
    assert len(limit) == 1


def test_memory_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many clients at once: the one that was idle longest starts afresh."""
    monkeypatch.setattr(access, "_MAX_CLIENTS", 3)
    limit = RateLimit(0.001, 2)
    for client in ("a", "b", "a", "c", "d"):
        assert limit.decide(client, 0) == 0
    assert len(limit) == 3
    assert limit.decide("a", 0) > 0
    assert [limit.decide("b", 0) for _ in range(2)] == [0, 0]
