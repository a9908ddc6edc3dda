"""What the API says of URLs whose host must not be called."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from httpqueue.api.app import create_app
from httpqueue.errors import StartingError
from httpqueue.webhooks.egress import Egress, EgressMode, parse_list
from tests.support.api_fakes import VALID, FakeStore, backend, client_of, fields_of

RULES = Egress(EgressMode.PUBLIC, parse_list("10.1.0.0/16"), parse_list("*.evil.example"))
BLOCKED = [
    ("http://169.254.169.254/latest/meta-data/", "has a link-local address, which is never called"),
    ("http://[::ffff:169.254.169.254]/", "has a link-local address, which is never called"),
    ("http://[64:ff9b::a9fe:a9fe]:8080/", "has a link-local address, which is never called"),
    ("http://[fd00:ec2::254]/", "has the address of a cloud's metadata service, which is never called"),
    ("http://0.0.0.0/", "has an unspecified address, which is never called"),
    ("http://127.0.0.1/", "has a loopback address, and HTTPQUEUE_EGRESS is public"),
    ("http://[::1]/", "has a loopback address, and HTTPQUEUE_EGRESS is public"),
    ("http://10.0.0.1/", "has a private address, and HTTPQUEUE_EGRESS is public"),
    ("http://192.0.2.1/", "has an address that is not public"),
    ("https://a.EVIL.example/", "is listed in HTTPQUEUE_EGRESS_DENY"),
]
UNREADABLE = ["2130706433", "0x7f.1", "0x7f000001", "0177.0.0.1", "127.1", "0", "①②⑦.0.0.1", "127.0.0.1."]
"""What resolvers read as an address, and nobody writes in good faith: refused in every mode."""


@pytest.fixture
def store() -> FakeStore:
    """Where accepted timers are."""
    return FakeStore()


@pytest.fixture
async def client(store: FakeStore) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an API with those rules."""
    async with client_of(create_app(replace(backend(store), egress=lambda: RULES))) as client:
        yield client


def ways(members: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Every request that can bring these members."""
    return [
        ("POST", "/timers", VALID | members),
        ("PUT", "/timers/a", VALID | members),
        ("PATCH", "/timers/a", members),
    ]


@pytest.mark.parametrize(("url", "reason"), BLOCKED)
@pytest.mark.parametrize("field", ["url", "callback.url"])
async def test_a_blocked_host(
    client: httpx.AsyncClient, store: FakeStore, field: str, url: str, reason: str
) -> None:
    """422 that names the field and what to do; nothing is stored or changed."""
    assert (await client.post("/timers", json=VALID | {"id": "a"})).status_code == 201
    before = store.only()
    members: dict[str, Any] = {"url": url} if field == "url" else {"callback": {"url": url}}
    requests = ways(members)
    if field == "callback.url":
        requests.append(("PUT", "/timers/a/callback", members))
    for method, path, body in requests:
        response = await client.request(method, path, json=body)
        assert (response.status_code, fields_of(response)) == (422, [field]), (method, path)
        [error] = response.json()["errors"]
        assert error["detail"] == f"must have a host that may be called, but it {reason}: use another host"
    assert store.only() is before


async def test_in_a_batch(client: httpx.AsyncClient, store: FakeStore) -> None:
    """The item has the problem; its neighbours are stored."""
    items = [VALID, VALID | {"url": "http://127.0.0.1/"}, VALID | {"callback": {"url": "http://[::1]/"}}]
    response = await client.post("/timers/batch", json={"timers": items})
    results = response.json()["results"]
    assert [result["status"] for result in results] == [201, 422, 422]
    assert [result["errors"][0]["field"] for result in results[1:]] == ["url", "callback.url"]
    assert len(store.timers) == 1


@pytest.mark.parametrize("host", UNREADABLE)
async def test_spellings_that_resolvers_read_as_addresses(host: str) -> None:
    """They are no valid hosts, whatever the rules are."""
    async with client_of(create_app(backend(FakeStore()))) as client:
        for members in ({"url": f"http://{host}/"}, {"callback": {"url": f"http://{host}:80/"}}):
            response = await client.post("/timers", json=VALID | members)
            assert response.status_code == 422, response.text


@pytest.mark.parametrize(
    "url", ["http://8.8.8.8/", "http://10.1.2.3/", "http://localhost/", "http://evil.example"]
)
async def test_what_may_be_called_or_is_not_known_yet(
    client: httpx.AsyncClient, store: FakeStore, url: str
) -> None:
    """A public address, an allowed one, and names: they are judged when they are called."""
    assert (await client.post("/timers", json=VALID | {"url": url})).status_code == 201
    assert store.only().spec.url == url


async def test_before_the_rules_are_known() -> None:
    """503: a process that is starting accepts no URL unjudged."""

    def unknown() -> Egress:
        raise StartingError

    async with client_of(create_app(replace(backend(FakeStore()), egress=unknown))) as client:
        response = await client.post("/timers", json=VALID)
        assert response.status_code == 503
        assert response.headers["retry-after"]
        assert "httpqueue is starting" in response.json()["detail"]
