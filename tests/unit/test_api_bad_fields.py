"""Bad input, field by field: 422 naming each faulty one, and nothing is stored."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import orjson
import pytest

from httpqueue.api.app import create_app
from tests.support.api_fakes import VALID, FakeStore, api, backend, client_of, fields_of

URL = VALID["url"]
CALLBACK = {"url": "https://example.com/done"}
BERLIN = {"url": URL, "timezone": "Europe/Berlin"}
NO_PAST_DUE: list[Any] = [
    *("never", True, 5, [], {}, {"fire_within": -1}, {"fire_within": "1"}, {"fire_within": None}),
    *({"fire_within": False}, {"fire_within": 1, "skip": 1}, {"fire_within": 1e12}, {"within": 1}),
]
NO_IF_EXISTS: list[Any] = ["overwrite", "", True, 1, [], {}]
TIMER_FAULTS: list[tuple[dict[str, Any], list[str], str]] = [
    # cron and zones
    ({"url": URL, "cron": "0 9 * * *", "timezone": "Europe/Nowhere"}, ["timezone"], "IANA"),
    ({"url": URL, "cron": "0 9 * * *", "timezone": ""}, ["timezone"], "IANA"),
    ({"url": URL, "cron": "0 9 * * *", "timezone": 1}, ["timezone"], "string"),
    ({"url": URL, "cron": "0 0 31 2 *"}, ["cron"], "day that exists"),
    ({"url": URL, "cron": "* * * * * *"}, ["cron"], "seconds are not supported"),
    ({"url": URL, "cron": "* * * *"}, ["cron"], "five fields"),
    ({"url": URL, "cron": "60 * * * *"}, ["cron"], "minute"),
    ({"url": URL, "cron": "@reboot"}, ["cron"], "@reboot"),
    ({"url": URL, "cron": ""}, ["cron"], "five fields"),
    ({"url": URL, "cron": 5}, ["cron"], "string"),
    ({"url": URL, "cron": "@daily", "seconds": 1}, ["seconds", "cron"], "only one"),
    ({"url": URL, "cron": "@daily", "fire_at": 1}, ["fire_at", "cron"], "only one"),
    ({"url": URL, "fire_at": "2030-01-01T09:00:00"}, ["fire_at"], "timezone"),
    ({**BERLIN, "fire_at": "2030-02-30T09:00:00"}, ["fire_at"], "calendar"),
    ({**BERLIN, "fire_at": "9 o'clock"}, ["fire_at"], "local date and time"),
    ({**BERLIN, "fire_at": "2030-01-01T09:00:00Z"}, ["timezone"], "without an offset"),
    ({**BERLIN, "fire_at": 1893456000}, ["timezone"], "without an offset"),
    ({**BERLIN, "seconds": 1}, ["timezone"], "remove it"),
    # callbacks
    ({**VALID, "callback": {"url": URL}}, ["callback.url"], "another one"),
    ({**VALID, "callback": {}}, ["callback.url"], "required"),
    ({**VALID, "callback": {"url": "ftp://x"}}, ["callback.url"], "http"),
    ({**VALID, "callback": CALLBACK | {"on": []}}, ["callback.on"], "at least 1"),
    ({**VALID, "callback": CALLBACK | {"on": ["cancelled"]}}, ["callback.on.0"], "'done' or 'failed'"),
    ({**VALID, "callback": CALLBACK | {"headers": {"Host": "x"}}}, ["callback.headers.Host"], "remove"),
    ({**VALID, "callback": CALLBACK | {"callback": CALLBACK}}, ["callback.callback"], "remove"),
    ({**VALID, "callback": CALLBACK | {"body": 1}}, ["callback.body"], "remove"),
    ({**VALID, "callback": "https://example.com"}, ["callback"], "object"),
    # retries and timeouts
    ({**VALID, "retry": {"max_attempts": 0}}, ["retry.max_attempts"], "1 or more"),
    ({**VALID, "retry": {"max_attempts": 1001}}, ["retry.max_attempts"], "1000 or less"),
    ({**VALID, "retry": {"max_attempts": 1.5}}, ["retry.max_attempts"], "whole number"),
    ({**VALID, "retry": {"max_attempts": True}}, ["retry.max_attempts"], "whole number"),
    ({**VALID, "retry": {"base": 0}}, ["retry.base"], "0.001 or more"),
    ({**VALID, "retry": {"max": 1e9}}, ["retry.max"], "or less"),
    ({**VALID, "retry": {"base": 10, "max": 1}}, ["retry.max"], "less than base"),
    ({**VALID, "retry": {"jitter": 1}}, ["retry.jitter"], "true or false"),
    ({**VALID, "retry": {"delays": []}}, ["retry.delays"], "at least 1"),
    ({**VALID, "retry": {"delays": [1] * 101}}, ["retry.delays"], "at most 100"),
    ({**VALID, "retry": {"delays": [-1, "2"]}}, ["retry.delays.0", "retry.delays.1"], "0 or more"),
    ({**VALID, "retry": {"delays": [1], "max_attempts": 2}}, ["retry.delays"], "max_attempts"),
    ({**VALID, "retry": {"attempts": 2}}, ["retry.attempts"], "remove it"),
    ({**VALID, "retry": 3}, ["retry"], "object"),
    ({**VALID, "timeout": 0}, ["timeout"], "0.001 or more"),
    ({**VALID, "timeout": -1}, ["timeout"], "0.001 or more"),
    ({**VALID, "timeout": 3601}, ["timeout"], "3600 or less"),
    ({**VALID, "timeout": "10"}, ["timeout"], "number"),
    # labels, ordering key, application
    ({**VALID, "labels": {"team": "x" * 257}}, ["labels"], "256"),
    ({**VALID, "labels": {"x" * 65: "blue"}}, ["labels"], "64"),
    ({**VALID, "labels": {"te am": "blue"}}, ["labels"], "names"),
    ({**VALID, "labels": {"": "blue"}}, ["labels"], "names"),
    ({**VALID, "labels": {"team": "a\nb"}}, ["labels"], "printable"),
    ({**VALID, "labels": {"team": 1}}, ["labels.team"], "string"),
    ({**VALID, "labels": {f"l{n}": "x" for n in range(21)}}, ["labels"], "at most 20"),
    ({**VALID, "labels": ["team:blue"]}, ["labels"], "object"),
    ({**VALID, "ordering_key": ""}, ["ordering_key"], "1 to 128"),
    ({**VALID, "ordering_key": "a b"}, ["ordering_key"], "blanks"),
    ({**VALID, "ordering_key": "x" * 129}, ["ordering_key"], "1 to 128"),
    ({**VALID, "ordering_key": 7}, ["ordering_key"], "string"),
    *(
        ({**VALID, "application": name}, ["application"], "1 to 64")
        for name in ("", "a:b", "a/b", "a b", "ä", ".", "..", "x" * 65)
    ),
    ({**VALID, "application": 7}, ["application"], "string"),
    # past due, if exists, retention
    *(({**VALID, "past_due": value}, ["past_due"], "fire_within") for value in NO_PAST_DUE),
    *(({**VALID, "if_exists": value}, ["if_exists"], "conflict, keep, replace") for value in NO_IF_EXISTS),
    ({**VALID, "retention": {"done": -1}}, ["retention.done"], "0 or more"),
    ({**VALID, "retention": {"failed": 1e12}}, ["retention.failed"], "or less"),
    ({**VALID, "retention": {"done": "1d"}}, ["retention.done"], "number"),
    ({**VALID, "retention": {"cancelled": 1}}, ["retention.cancelled"], "remove it"),
    ({**VALID, "retention": 60}, ["retention"], "object"),
]


@pytest.mark.parametrize(("members", "fields", "remedy"), TIMER_FAULTS)
async def test_a_faulty_field_of_a_timer(members: dict[str, Any], fields: list[str], remedy: str) -> None:
    """Alone, in a batch, and in a PUT: the same fields, and the sentence names the remedy."""
    store = FakeStore()
    async with api(store) as client:
        response = await client.post("/timers", content=orjson.dumps(members))
        batch = await client.post("/timers/batch", content=orjson.dumps({"timers": [members]}))
        put = await client.put("/timers/a", content=orjson.dumps(members))
    assert response.status_code == 422
    assert fields_of(response) == fields
    assert remedy in response.json()["detail"]
    assert batch.json()["results"] == [response.json()]
    if not {"application", "if_exists"} & set(fields):  # which a PUT has in its path, or not at all
        assert put.json() == response.json()
    assert put.status_code == 422
    assert not store.batches


@pytest.mark.parametrize("value", ["b", 7, [], {}])
@pytest.mark.parametrize("field", ["id", "application"])
async def test_a_put_is_about_the_timer_of_its_path(field: str, value: Any) -> None:
    """Another id or application in the body is a fault."""
    response = await api(FakeStore()).put("/timers/a", json={**VALID, field: value})
    assert response.status_code == 422
    assert fields_of(response) == [field]


QUERY_FAULTS: list[tuple[str, list[str]]] = [
    ("colour=blue", ["colour"]),
    ("cursor=nonsense", ["cursor"]),
    ("cursor=", ["cursor"]),
    ("cursor=%C3%A4", ["cursor"]),
    ("cursor=Zm9v", ["cursor"]),  # base64 of "foo"
    ("cursor=MTphOmI6Yw", ["cursor"]),  # base64 of "1:a:b:c"
    ("cursor=eDphOmI", ["cursor"]),  # base64 of "x:a:b"
    ("limit=0", ["limit"]),
    ("limit=1001", ["limit"]),
    ("limit=ten", ["limit"]),
    ("limit=1&limit=2", ["limit"]),
    ("status=archived", ["status.0"]),
    ("status=scheduled,late", ["status.1"]),
    ("status=scheduled&status=", ["status.1"]),
    ("label=blue", ["label.0"]),
    ("label=team:blue&label=:x", ["label.1"]),
    ("host=https://example.com", ["host"]),
    ("host=example.com:80", ["host"]),
    ("host=example.com/path", ["host"]),
    ("host=example.com%23x", ["host"]),
    ("host=", ["host"]),
    ("due_from=tomorrow", ["due_from"]),
    ("due_to=2030-01-01T00:00:00", ["due_to"]),
    *((f"due_to={number}", ["due_to"]) for number in ("nan", "inf", "1e3", "1893456000000", "1_000", "")),
    ("application=a%00b", ["application"]),
    ("application=a&application=b", ["application"]),
    ("limit=0&colour=blue&status=late&label=x", ["status.0", "label.0", "limit", "colour"]),
]


@pytest.mark.parametrize(("query", "fields"), QUERY_FAULTS)
async def test_a_faulty_query_of_a_list(query: str, fields: list[str]) -> None:
    """Named like the fields of a body; Redis is not asked."""
    response = await api(FakeStore()).get(f"/timers?{query}")
    assert response.status_code == 422
    assert fields_of(response) == fields


@pytest.mark.parametrize(
    ("method", "path", "field"),
    [
        ("DELETE", "/timers/a?app=shop", "app"),  # must not reach the default application's timer
        ("DELETE", "/timers/a?application=shop&application=blog", "application"),
        ("GET", "/timers/a?application=a:b", "application"),
        ("POST", "/timers?application=shop", "application"),  # it belongs into the body
        ("POST", "/timers/batch?application=shop", "application"),
        ("POST", "/timers/replay?label=team:blue", "label"),
        ("POST", "/timers/a/fire?dry_run=true", "dry_run"),
        ("GET", "/applications?application=shop", "application"),
        ("POST", "/applications/shop/pause?for=1h", "for"),
        ("GET", "/destinations?host=example.com", "host"),
        ("PUT", "/destinations/example.com?rate=1", "rate"),
        ("POST", "/clock/advance?seconds=1", "seconds"),
    ],
)
async def test_an_unknown_parameter_is_refused(method: str, path: str, field: str) -> None:
    """Passing over it, the call would do something else than was meant."""
    response = await clocked().request(method, path, json={})
    assert response.status_code == 422
    assert fields_of(response) == [field]


OTHER_FAULTS: list[tuple[str, str, Any, list[str]]] = [
    ("PUT", "/timers/a/callback", {}, ["callback"]),
    ("PUT", "/timers/a/callback", {"callback": {"url": "x"}}, ["callback.url"]),
    ("PUT", "/timers/a/callback", {"callback": None, "url": "x"}, ["url"]),
    ("POST", "/timers/a/fire", {"at": 1}, ["at"]),
    ("POST", "/timers/a/replay", {"dry_run": True}, ["dry_run"]),
    ("POST", "/timers/replay", {"label": "blue", "limit": 1}, ["label", "limit"]),
    ("POST", "/timers/cancel", {"label": "blue", "status": "failed"}, ["label", "status"]),
    ("PUT", "/applications/a", {"quota": {"pending": -1, "x": 1}}, ["quota.pending", "quota.x"]),
    ("PUT", "/applications/a", {"quota": {"bytes": 1.5, "rate": 0}}, ["quota.bytes", "quota.rate"]),
    ("POST", "/timers/replay", {"host": "http://x"}, ["host"]),
    ("POST", "/timers/replay", {"dry_run": "yes"}, ["dry_run"]),
    ("POST", "/timers/replay", {"due_from": "now", "status": "failed"}, ["due_from", "status"]),
    ("PUT", "/applications/a:b", {}, ["application"]),
    ("PUT", "/applications/..%2e", {"secrets": 1}, ["secrets"]),
    ("PUT", "/applications/shop", {"paused": True}, ["paused"]),
    ("PUT", "/applications/shop", {"retention": {"done": -1}}, ["retention.done"]),
    ("PUT", "/applications/shop", {"secrets": ["secret"]}, ["secrets.0"]),
    ("PUT", "/applications/shop", {"secrets": ["whsec_c2hvcnQ="]}, ["secrets.0"]),
    ("PUT", "/applications/shop", {"secrets": ["whsec_" + "?" * 32]}, ["secrets.0"]),
    ("PUT", "/applications/shop", {"secrets": ["whsec_" + "c" * 32] * 3}, ["secrets"]),
    ("PUT", "/applications/shop", {"secrets": "whsec_" + "c" * 32}, ["secrets"]),
    ("POST", "/applications/shop/pause", {"for": 60}, ["for"]),
    ("PUT", "/destinations/example.com:443", {}, ["host"]),
    ("PUT", "/destinations/a%20b", {}, ["host"]),
    ("PUT", "/destinations/127.1", {}, ["host"]),
    ("PUT", "/destinations/user@example.com", {}, ["host"]),
    ("PUT", "/destinations/[::1]:80", {}, ["host"]),
    ("PUT", "/destinations/example.com%3Fx", {}, ["host"]),
    ("DELETE", "/destinations/a..b", None, ["host"]),
    ("PUT", "/destinations/example.com", {"rate": 0, "concurrency": 0}, ["rate", "concurrency"]),
    ("PUT", "/destinations/example.com", {"rate": "1", "concurrency": 1.5}, ["rate", "concurrency"]),
    ("PUT", "/destinations/example.com", {"paused": None}, ["paused"]),
    ("POST", "/clock/advance", {}, ["seconds"]),
    ("POST", "/clock/advance", {"seconds": 1, "to": 1}, ["seconds"]),
    ("POST", "/clock/advance", {"seconds": -1}, ["seconds"]),
    ("POST", "/clock/advance", {"seconds": 1e300}, ["seconds"]),
    ("POST", "/clock/advance", {"to": "2001-01-01T00:00:00Z"}, ["to"]),
    ("POST", "/clock/advance", {"to": "tomorrow", "by": 1}, ["to", "by"]),
]


@pytest.mark.parametrize(("method", "path", "members", "fields"), OTHER_FAULTS)
async def test_a_faulty_field_of_another_call(
    method: str, path: str, members: Any, fields: list[str]
) -> None:
    """Named, and nothing is done: Redis is not asked."""
    response = await clocked().request(method, path, content=orjson.dumps(members))
    assert (response.status_code, fields_of(response)) == (422, fields)


async def test_a_destination_must_have_a_name() -> None:
    """A path without one is unknown."""
    for path in ("/destinations/", "/destinations/a/b"):
        response = await api(FakeStore()).put(path, json={})
        assert response.status_code == 404


async def test_a_secret_is_not_repeated() -> None:
    """Neither in the answer to a faulty one."""
    response = await api(FakeStore()).put("/applications/shop", json={"secrets": ["whsec_topsecret"]})
    assert response.status_code == 422
    assert "topsecret" not in response.text


@pytest.mark.parametrize(
    "value", ["", "0.0.s", "'0.0.s'", '"0.0.s', '"a" "b"', '"a",', '*, "a"', 'w/"a"', '"\x7f"']
)
async def test_if_match_that_is_no_entity_tag(value: str) -> None:
    """400 (RFC 9110 section 13.1.1); nothing is changed."""
    for method in ("PUT", "DELETE"):
        response = await api(FakeStore()).request(
            method, "/timers/a", headers={"if-match": value}, content=orjson.dumps(VALID)
        )
        assert response.status_code == 400
        assert "entity tags" in response.json()["detail"]


@pytest.mark.parametrize("path", ["/timers/a/fire", "/timers/a/replay", "/applications/a/pause"])
async def test_a_body_that_nobody_needs_is_checked_all_the_same(path: str) -> None:
    """No JSON, too long, of another type: as everywhere."""
    client = api(FakeStore())
    assert (await client.post(path, content=b"nonsense")).status_code == 400
    assert (await client.post(path, content=b" " * 1_048_577)).status_code == 413
    assert (await client.post(path, content=b"x", headers={"content-type": "text/plain"})).status_code == 415


def clocked() -> httpx.AsyncClient:
    """The API with a virtual clock, which must not go on."""

    async def advance(_target_of: Callable[[int], int]) -> None:
        pytest.fail("advanced")

    return client_of(create_app(replace(backend(FakeStore()), advance=advance)))
