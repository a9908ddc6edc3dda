"""Bad input: a problem that names every faulty field, and nothing stored."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from httpqueue import clock
from httpqueue.api.request_body import MAX_DRAINED_BYTES
from httpqueue.api.schema.json_body import MAX_BODY_BYTES
from httpqueue.timers.schedule import MAX_DUE_MS
from tests.support.api_fakes import VALID, FakeStore, api, fields_of

URL = VALID["url"]
SCHEDULE_FIELDS = ["hours", "minutes", "seconds", "fire_at", "cron"]
FAULTS: list[tuple[dict[str, Any], list[str]]] = [
    ({"seconds": 1}, ["url"]),
    ({"url": None, "seconds": 1}, ["url"]),
    ({"url": 7, "seconds": 1}, ["url"]),
    ({"url": "ftp://example.com", "seconds": 1}, ["url"]),
    ({"url": "http://user:pw@example.com", "seconds": 1}, ["url"]),
    ({"url": "http://example.com:0", "seconds": 1}, ["url"]),
    ({"url": "http://example.com/\r\nX: y", "seconds": 1}, ["url"]),
    ({"url": "http:///nowhere", "seconds": 1}, ["url"]),
    ({"url": "http://example.com/" + "a" * 2048, "seconds": 1}, ["url"]),
    ({"url": URL}, SCHEDULE_FIELDS),
    ({"url": URL, "seconds": None, "fire_at": None}, SCHEDULE_FIELDS),
    ({"url": URL, "seconds": 0, "fire_at": 0}, ["seconds", "fire_at"]),
    ({"url": URL, "hours": 1, "minutes": 1, "fire_at": 1}, ["hours", "minutes", "fire_at"]),
    *(({"url": URL, unit: "1"}, [unit]) for unit in ("hours", "minutes", "seconds")),
    ({"url": URL, "seconds": True}, ["seconds"]),
    ({"url": URL, "seconds": [1]}, ["seconds"]),
    ({"url": URL, "seconds": -1}, ["seconds"]),
    ({"url": URL, "hours": 1, "minutes": -1e-9}, ["minutes"]),
    ({"url": URL, "hours": 1e308, "seconds": 0}, ["hours"]),
    ({"url": URL, "hours": 1e308, "minutes": 1e308}, ["hours", "minutes"]),
    ({"url": URL, "seconds": MAX_DUE_MS / 1000}, ["seconds"]),
    ({"url": URL, "hours": 2**64 - 1}, ["hours"]),
    ({"url": URL, "fire_at": "tomorrow"}, ["fire_at"]),
    ({"url": URL, "fire_at": "2030-01-01T00:00:00"}, ["fire_at"]),
    ({"url": URL, "fire_at": "2030-02-30T00:00:00Z"}, ["fire_at"]),
    ({"url": URL, "fire_at": "9999-12-31T23:59:59.999-00:01"}, ["fire_at"]),
    ({"url": URL, "fire_at": 1893456000000}, ["fire_at"]),
    ({"url": URL, "fire_at": 1.7e308}, ["fire_at"]),
    ({"url": URL, "fire_at": 253402300800}, ["fire_at"]),
    ({"url": URL, "fire_at": False}, ["fire_at"]),
    ({"url": URL, "fire_at": {}}, ["fire_at"]),
    ({**VALID, "method": "CONNECT"}, ["method"]),
    ({**VALID, "method": 1}, ["method"]),
    ({**VALID, "headers": []}, ["headers"]),
    ({**VALID, "headers": {"X-A": 1, "X-B": None, "X-C": "ok"}}, ["headers.X-A", "headers.X-B"]),
    ({**VALID, "headers": {"a b": "x", "X": "a\r\nb"}}, ["headers.a b", "headers.X"]),
    ({**VALID, "headers": {"Host": "x", "content-length": "1"}}, ["headers.Host", "headers.content-length"]),
    ({**VALID, "headers": {"Connection": "close", "TE": "x"}}, ["headers.Connection", "headers.TE"]),
    ({**VALID, "headers": {"Webhook-Id": "x"}}, ["headers.Webhook-Id"]),
    ({**VALID, "headers": {"X-A": "1", "x-a": "1"}}, ["headers"]),
    ({**VALID, "headers": {f"X-{n}": "1" for n in range(101)}}, ["headers"]),
    ({**VALID, "id": "a/b"}, ["id"]),
    ({**VALID, "id": ".."}, ["id"]),
    ({**VALID, "id": ""}, ["id"]),
    ({**VALID, "id": "a" * 129}, ["id"]),
    ({**VALID, "id": 4711}, ["id"]),
    ({**VALID, "delay": 1, "URL": "x"}, ["delay", "URL"]),
    (
        {"url": "x", "secs": 1, "method": "x", "headers": {"Host": "x"}, "id": "/"},
        ["url", "method", "headers.Host", "id", "secs", *SCHEDULE_FIELDS],
    ),
]


@pytest.mark.parametrize(("members", "fields"), FAULTS)
async def test_every_faulty_field_is_named_and_nothing_is_stored(
    members: dict[str, Any], fields: list[str]
) -> None:
    """422 with one entry a fault, not only the first."""
    store = FakeStore()
    response = await api(store).post("/timers", content=orjson.dumps(members))
    assert response.status_code == 422
    assert fields_of(response) == fields
    assert not store.batches


@pytest.mark.parametrize(
    ("raw", "fields"),
    [
        (b"", []),
        (b"nonsense", []),
        (b"[]", []),
        (b'{"url": "http://a", "seconds": NaN}', []),
        (b'{"url": "http://a\xff", "seconds": 1}', []),
        (b'{"url": "http://a", "seconds": 1, "seconds": 2}', ["seconds"]),
        (b'{"url": "http://a", "seconds": 1, "body": 18446744073709551616}', ["body"]),
        (b'{"url": "http://a", "seconds": 1, "body": ' + b"[" * 64 + b"]" * 64 + b"}", ["body"]),
    ],
)
async def test_a_body_that_is_no_unambiguous_object_is_a_bad_request(raw: bytes, fields: list[str]) -> None:
    """400, and nothing is stored."""
    store = FakeStore()
    response = await api(store).post("/timers", content=raw)
    assert response.status_code == 400
    assert fields_of(response) == fields
    assert not store.batches


async def test_other_content_types_are_refused() -> None:
    """415, and nothing is stored."""
    store = FakeStore()
    response = await api(store).post(
        "/timers", content=orjson.dumps(VALID), headers={"content-type": "text/plain"}
    )
    assert response.status_code == 415
    assert fields_of(response) == []
    assert not store.batches


def padded(size: int) -> bytes:
    """A valid request of that many bytes."""
    return orjson.dumps(VALID).ljust(size)


async def test_a_body_of_one_mib_is_accepted_and_one_byte_more_refused() -> None:
    """413 by the length that is declared."""
    store = FakeStore()
    assert (await api(store).post("/timers", content=padded(MAX_BODY_BYTES))).status_code == 201
    response = await api(store).post("/timers", content=padded(MAX_BODY_BYTES + 1))
    assert response.status_code == 413
    assert fields_of(response) == []
    assert len(store.batches) == 1


async def test_a_body_of_undeclared_length_is_read_up_to_one_mib() -> None:
    """413 as soon as it is too much; of an endless body only a part is read after the answer."""
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield b" " * 65536

    store = FakeStore()
    async with asyncio.timeout(30):
        response = await api(store).post("/timers", content=endless())
    assert response.status_code == 413
    assert response.headers["connection"] == "close"
    assert sent == (MAX_BODY_BYTES + MAX_DRAINED_BYTES) // 65536 + 2
    assert not store.batches


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        *(("PUT", "/timers", {"GET", "HEAD", "POST"}), ("DELETE", "/timers/a/callback", {"PUT"})),
        ("POST", "/timers/a", {"GET", "HEAD", "PUT", "PATCH", "DELETE"}),
        *(("POST", "/healthz", {"GET", "HEAD"}), ("PUT", "/docs", {"GET", "HEAD"})),
    ],
)
async def test_a_wrong_method_is_answered_with_the_right_ones(
    method: str, path: str, allow: set[str]
) -> None:
    """405 with Allow (RFC 9110 section 15.5.6)."""
    response = await api(FakeStore()).request(method, path)
    assert response.status_code == 405
    assert set(response.headers["allow"].split(", ")) == allow
    assert fields_of(response) == []


@pytest.mark.parametrize("path", ["/nowhere", "/timers/", "/timers/a/b", "/docs/nowhere", "/docs/%00"])
async def test_an_unknown_path_is_not_found(path: str) -> None:
    """404, as a problem too."""
    response = await api(FakeStore()).get(path)
    assert response.status_code == 404
    assert fields_of(response) == []


async def test_an_answer_stays_small_whatever_was_wrong() -> None:
    """Faults beyond the hundredth are not listed, long names are cut."""
    store = FakeStore()
    members = {**VALID, **{f"{n}" * 100: 1 for n in range(1_000, 3_000)}}
    response = await api(store).post("/timers", content=orjson.dumps(members))
    assert response.status_code == 422
    fields = fields_of(response)
    assert len(fields) == 100
    assert {len(field) for field in fields} == {201}
    assert len(response.content) < 50_000
    assert len(response.json()["detail"]) < 1_200


NAMES = (
    st.sampled_from([*VALID, "hours", "minutes", "fire_at", "method", "headers", "body", "id"]) | st.text()
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=8,
)


@given(JSON | st.dictionaries(NAMES, JSON) | st.dictionaries(NAMES, JSON).map(VALID.__or__))
async def test_any_json_is_either_stored_or_refused_with_a_reason(value: Any) -> None:
    """Never a 500, and stored exactly when the answer says so."""
    store = FakeStore()
    response = await api(store).post("/timers", content=orjson.dumps(value))
    assert response.status_code in {201, 400, 422}
    assert bool(store.timers) == (response.status_code == 201)
    if response.status_code == 201:
        assert store.now_ms - 60_000 <= store.only().due_ms or "fire_at" in value
        assert store.only().due_ms <= MAX_DUE_MS + clock.now_ms() - store.now_ms
    else:
        fields_of(response)


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=20), max_size=3))
async def test_headers_that_are_stored_can_be_sent(headers: dict[str, str]) -> None:
    """What passes is accepted by an HTTP library as well."""
    store = FakeStore()
    response = await api(store).post("/timers", content=orjson.dumps({**VALID, "headers": headers}))
    if response.status_code == 201:
        httpx.Request("POST", URL, headers=store.only().spec.headers)
        assert store.only().spec.headers == headers
    else:
        assert all(field.startswith("headers") for field in fields_of(response))
