"""Credentials in headers of timers and callbacks (issue 11, defect 11): shown to who may use them alone."""

from typing import Any

import httpx
import pytest

from httpqueue.api.app import create_app
from httpqueue.api.key_ring import KeyRing
from httpqueue.timers.access import Grant, Scope, hash_key
from httpqueue.timers.credentials import MASK, is_credential
from tests.support.api_fakes import VALID, FakeStore, backend, client_of, fields_of

HEADERS = {"Authorization": "Bearer shop", "Cookie": "a=shop", "X-Api-Key": "shop", "X-Source": "shop"}
MASKED = {"Authorization": MASK, "Cookie": MASK, "X-Api-Key": MASK, "X-Source": "shop"}
TIMER = VALID | {"id": "a", "headers": HEADERS, "callback": {"url": "https://b.example/", "headers": HEADERS}}


def key(scope: Scope) -> dict[str, str]:
    """The header with the key of that scope."""
    return {"X-API-Key": f"key-{scope}"}


async def api() -> httpx.AsyncClient:
    """The API with a key for each scope, and the timer."""

    async def load() -> dict[str, Grant | None]:
        return {hash_key(f"key-{scope}"): Grant(scope, None, scope) for scope in Scope}

    client = client_of(create_app(backend(FakeStore()), api_keys=KeyRing(load)))
    assert (await client.post("/timers", json=TIMER, headers=key(Scope.WRITE))).status_code == 201
    return client


def headers_in(timer: dict[str, Any]) -> list[dict[str, str]]:
    """The timer's headers, and its callback's."""
    return [timer["headers"], timer["callback"]["headers"]]


@pytest.mark.parametrize("scope", Scope)
async def test_credentials_are_masked(scope: Scope) -> None:
    """From whoever does not ask to see them, and from read keys always."""
    client = await api()
    for query in ("", "?reveal=false"):
        response = await client.get(f"/timers/a{query}", headers=key(scope))
        assert headers_in(response.json()) == [MASKED, MASKED]
        assert "shop" not in response.text.replace('"X-Source":"shop"', "")


@pytest.mark.parametrize("scope", Scope)
async def test_reveal_needs_write(scope: Scope) -> None:
    """Who may write could have the timer sent to a receiver of their own, and see them there."""
    client = await api()
    response = await client.get("/timers/a?reveal=true", headers=key(scope))
    if scope is Scope.READ:
        assert response.status_code == 403
        assert "scope write" in response.json()["detail"]
        assert (await client.get("/timers?reveal=true", headers=key(scope))).status_code == 403
    else:
        assert headers_in(response.json()) == [HEADERS, HEADERS]


async def test_what_reveal_can_be() -> None:
    """Nothing but true or false, and only where there is something to reveal."""
    client = await api()
    for path in ("/timers/a?reveal=yes", "/timers/a?reveal=true&reveal=true", "/timers?reveal=maybe"):
        response = await client.get(path, headers=key(Scope.ADMIN))
        assert response.status_code == 422
        assert fields_of(response) == ["reveal"]
    for path in ("/timers/a/attempts?reveal=true", "/timers/a/explain?reveal=true"):
        assert (await client.get(path, headers=key(Scope.ADMIN))).status_code == 422


async def test_a_mask_is_never_stored() -> None:
    """Who sends back what GET showed is told, before the credential is lost."""
    client = await api()
    shown = (await client.get("/timers/a", headers=key(Scope.WRITE))).json()
    members = VALID | {"headers": shown["headers"]}
    response = await client.put("/timers/a", json=members, headers=key(Scope.WRITE))
    assert response.status_code == 422
    assert fields_of(response) == ["headers.Authorization", "headers.Cookie", "headers.X-Api-Key"]
    assert "not shown" in response.json()["detail"]


@pytest.mark.parametrize(
    "name",
    [
        *(
            "Authorization",
            "authorization",
            "Proxy-Authorization",
            "X-Amz-Security-Token",
            "Cookie",
            "Cookie2",
        ),
        *("X-API-Key", "apikey", "Api_Key", "X-Auth", "X-Auth-Token", "X-Secret", "X-Hub-Signature-256"),
        *("X-CSRF-Token", "PRIVATE-TOKEN", "X-Password", "X-Session-Id", "Ocp-Apim-Subscription-Key"),
    ],
)
def test_what_is_a_credential(name: str) -> None:
    """By the words that name one, however it is written."""
    assert is_credential(name)


@pytest.mark.parametrize(
    "name",
    ["Content-Type", "Accept", "User-Agent", "X-Source", "Idempotency-Key", "X-Request-Id", "traceparent"],
)
def test_what_is_none(name: str) -> None:
    """What everybody may see, people look for."""
    assert not is_credential(name)
