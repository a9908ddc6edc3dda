"""What a foreign web page makes a browser send is refused (issue 11, defect 8): CSRF and DNS rebinding."""

from http import HTTPStatus

import httpx
import pytest

from httpqueue.api.app import create_app
from httpqueue.api.browser_guard import BrowserGuard
from httpqueue.api.key_ring import KeyRing
from httpqueue.api.problems import ProblemError
from httpqueue.timers.access import Grant, Scope, hash_key
from tests.support.api_fakes import VALID, FakeStore, backend, client_of

KEY = "0123456789abcdef"


def client(
    store: FakeStore | None = None, *, fixed_key: str | None = None, allowed_hosts: tuple[str, ...] = ()
) -> httpx.AsyncClient:
    """The API as it is on loopback."""

    async def load() -> dict[str, Grant | None]:
        return {}

    app = create_app(
        backend(store or FakeStore()),
        api_keys=KeyRing(load, fixed_key=fixed_key),
        allowed_hosts=allowed_hosts,
    )
    return client_of(app)


def status_of_origin(headers: dict[str, str], *allowed_hosts: str) -> int:
    """200, or the status with which the guard refuses."""
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    try:
        BrowserGuard(allowed_hosts).check_origin(raw)
    except ProblemError as problem:
        return problem.status
    return HTTPStatus.OK


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "127.0.0.1:8080"}, 200),
        ({"Host": "127.0.0.1:8080", "Origin": "http://127.0.0.1:8080"}, 200),
        ({"Host": "LOCALHOST:8080", "Origin": "http://localhost:8080"}, 200),
        ({"Host": "[::1]:8080", "Origin": "http://[::1]:8080"}, 200),
        ({"Host": "timers.example", "Origin": "https://timers.example"}, 200),
        ({"Host": "timers.example:443", "Origin": "https://timers.example"}, 200),
        ({"Host": "127.0.0.1:8080", "Origin": "https://evil.example"}, 403),
        ({"Host": "127.0.0.1:8080", "Origin": "http://127.0.0.1:8081"}, 403),
        ({"Host": "127.0.0.1:8080", "Origin": "http://localhost:8080"}, 403),
        ({"Host": "127.0.0.1:8080", "Origin": "http://127.0.0.1"}, 403),
        ({"Host": "127.0.0.1:8080", "Origin": "null"}, 403),
        ({"Host": "127.0.0.1:8080", "Origin": ""}, 403),
        ({"Host": "127.0.0.1:8080", "Origin": "http://["}, 403),
        ({"Host": "127.0.0.1:8080", "Origin": "http://127.0.0.1:99999"}, 403),
        ({"Host": "127.0.0.1:²", "Origin": "http://127.0.0.1"}, 403),
        ({"Origin": "http://127.0.0.1:8080"}, 403),
        ({"Host": "127.0.0.1:8080", "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Host": "a:1", "Sec-Fetch-Site": "cross-site", "Origin": "http://a:1"}, 403),
        ({"Host": "127.0.0.1:8080", "Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:3000"}, 403),
        ({"Host": "127.0.0.1:8080", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Host": "127.0.0.1:8080", "Sec-Fetch-Site": "none"}, 200),
        # a proxy in between changes Host, but the browser knows
        ({"Host": "api:8080", "Sec-Fetch-Site": "same-origin", "Origin": "https://timers.example"}, 200),
    ],
)
def test_whose_page_it_is(headers: dict[str, str], status: int) -> None:
    """A page of this server, or none; not another site, port or scheme on this machine."""
    assert status_of_origin(headers) == status


def test_a_page_of_an_allowed_name() -> None:
    """For older browsers behind a proxy that changes Host."""
    headers = {"Host": "api:8080", "Origin": "https://timers.example"}
    assert status_of_origin(headers) == HTTPStatus.FORBIDDEN
    assert status_of_origin(headers, "timers.example") == HTTPStatus.OK


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:8080",
        "127.9.9.9:1",
        "localhost",
        "LocalHost:8080",
        "[::1]",
        "[::1]:8080",
        "::1",
    ],
)
async def test_loopback_names_are_served(host: str) -> None:
    """In all their forms."""
    response = await client().get("/timers/a", headers={"Host": host})
    assert response.status_code == 404


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:8080", "127.0.0.1.evil.example", "localhost.evil.example", "api"),
        *(
            "10.0.0.1:8080",
            "0.0.0.0:8080",
            "localhost:8080:1",
            "127.1",
            "",
            "[::]",
            "[fd00::1]:8080",
            "http://a",
        ),
    ],
)
async def test_other_names_are_refused(host: str) -> None:
    """A page of such a name would be of this server's origin to a browser; the answer names the setting."""
    store = FakeStore()
    for request in (
        client(store).post("/timers", json=VALID, headers={"Host": host}),
        client(store).get("/timers/a", headers={"Host": host}),
    ):
        response = await request
        assert response.status_code == 403
        assert "HTTPQUEUE_ALLOWED_HOSTS" in response.json()["detail"]
    assert not store.timers


async def test_two_hosts_or_none() -> None:
    """Who sends two of them wants them to be taken for one and for the other."""
    for headers in ([("Host", "localhost"), ("Host", "evil.example")], []):
        request = httpx.Request("GET", "http://localhost/timers/a", headers=headers)
        request.headers = httpx.Headers(headers)
        assert (await client().send(request)).status_code == 403


async def test_names_that_are_allowed() -> None:
    """With any port; nothing below them."""
    api = client(allowed_hosts=("timers.example", "[fd00::1]"))
    for host, status in (
        ("timers.example", 404),
        ("Timers.Example:8080", 404),
        ("[fd00::1]:8080", 404),
        ("127.0.0.1", 404),
        ("a.timers.example", 403),
    ):
        assert (await api.get("/timers/a", headers={"Host": host})).status_code == status


async def test_with_a_key_any_name_is_served() -> None:
    """No page can make a browser send a key, but a proxy could: pages are looked at all the same."""
    api = client(fixed_key=KEY)
    key = {"X-API-Key": KEY, "Host": "timers.example"}
    assert (await api.get("/timers/a", headers=key)).status_code == 404
    for foreign in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert (await api.post("/timers", json=VALID, headers=key | foreign)).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
async def test_a_foreign_page_changes_nothing(headers: dict[str, str]) -> None:
    """Neither with JSON nor with what needs no preflight, nor by a form without a body."""
    store = FakeStore()
    for method, path in (("POST", "/timers"), ("POST", "/timers/a/fire"), ("DELETE", "/timers/a")):
        response = await client(store).request(method, path, json=VALID, headers=headers)
        assert response.status_code == 403, path
        assert "another origin" in response.json()["detail"]
    assert not store.timers


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded"])
@pytest.mark.parametrize("path", ["/timers", "/timers/batch", "/timers/replay", "/timers/a/fire"])
async def test_json_is_said_to_be_json(path: str, content_type: str | None) -> None:
    """The types that a page may send without asking first are not taken for JSON; the answer says so."""
    headers = {} if content_type is None else {"content-type": content_type}
    api = client()
    del api.headers["content-type"]
    response = await api.post(path, content=b'{"a": 1}', headers=headers)
    assert response.status_code == 415
    assert "application/json" in response.json()["detail"]


async def test_the_documentation_and_the_probes_are_open_to_links() -> None:
    """Somebody follows a link to Swagger UI; a probe knows an address alone. Nothing there is a secret."""
    headers = {"Host": "evil.example", "Sec-Fetch-Site": "cross-site"}
    for path in ("/docs", "/docs/swagger-ui.css", "/openapi.json", "/healthz", "/readyz"):
        assert (await client().get(path, headers=headers)).status_code == 200


async def test_swagger_ui_can_try_everything() -> None:
    """Its page sends what a browser adds to requests of the same origin."""
    headers = {
        "Host": "127.0.0.1:8080",
        "Origin": "http://127.0.0.1:8080",
        "Referer": "http://127.0.0.1:8080/docs",
        "Sec-Fetch-Site": "same-origin",
        "Sec-Fetch-Mode": "cors",
    }
    api = client()
    assert (await api.post("/timers", json=VALID, headers=headers)).status_code == 201
    assert (await api.get("/openapi.json", headers=headers)).status_code == 200


async def test_a_scope_is_needed_as_before() -> None:
    """The guard lets nothing in."""

    async def load() -> dict[str, Grant | None]:
        return {hash_key(KEY): Grant("a", None, Scope.READ)}

    app = create_app(backend(FakeStore()), api_keys=KeyRing(load))
    response = await client_of(app).post("/timers", json=VALID, headers={"X-API-Key": KEY})
    assert response.status_code == 403
    assert "scope" in response.json()["detail"]
