"""API keys and the rate limit as clients meet them: in memory, with keys that the test makes and ends."""

import asyncio
from collections.abc import Mapping

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from structlog.testing import capture_logs

from httpqueue import clock
from httpqueue.api.app import create_app
from httpqueue.api.auth import GRANT, Auth, application_of
from httpqueue.api.key_ring import FRESH_S, LOAD_WITHIN_S, RELOAD_GAP_S, KeyRing
from httpqueue.api.problems import Problems
from httpqueue.api.responses import ANSWER_WITHIN_S
from httpqueue.api.router import Router, endpoint
from httpqueue.api.schema.operations import OPERATIONS
from httpqueue.errors import UnavailableError
from httpqueue.timers.access import Grant, Scope, hash_key
from tests.support.api_fakes import FakeStore, backend, client_of, fields_of

FIXED = "0123456789abcdef"


class FakeKeys:
    """What Redis holds, and how often it was asked."""

    def __init__(self) -> None:
        self.grants: dict[str, Grant | None] = {}
        self.loads = 0
        self.asked = asyncio.Event()
        self.failure: Exception | None = None
        self.go_on = asyncio.Event()
        self.go_on.set()

    def add(self, key: str, application: str | None = None, scope: Scope = Scope.ADMIN) -> dict[str, str]:
        """Make a key; returns the header that carries it."""
        self.grants[hash_key(key)] = Grant(f"id-{key}", application, scope)
        return {"x-api-key": key}

    async def load(self) -> Mapping[str, Grant | None]:
        """As ApiKeys.load does."""
        self.loads += 1
        self.asked.set()
        await self.go_on.wait()
        if self.failure is not None:
            raise self.failure
        return dict(self.grants)


class Time:
    """The clock: stands still until it is told to go on, or somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        """Seconds."""
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        """Time passes at once."""
        self.now_s += seconds


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    """The test's own time."""
    time = Time()
    monkeypatch.setattr(clock, "monotonic_s", time)
    monkeypatch.setattr(clock, "sleep", time.sleep)
    return time


@pytest.fixture
def keys() -> FakeKeys:
    """No key."""
    return FakeKeys()


async def answer(request: Request) -> Response:
    """Which application the request is about, by its query."""
    grant = request.scope.get(GRANT)
    application = application_of(request.scope, request.query_params.get("application"))
    return JSONResponse({"application": application, "key": grant and grant.id})


def guarded(
    keys: FakeKeys,
    *,
    rate_limit_per_s: float | None = None,
    fixed_key: str | None = None,
    is_required: bool = False,
) -> httpx.AsyncClient:
    """A client of an app behind Auth, whose every operation answers the same."""
    ring = KeyRing(keys.load, fixed_key=fixed_key, is_required=is_required)
    return client_of(app_of(Auth(ring, rate_limit_per_s=rate_limit_per_s)))


def app_of(auth: Auth) -> Problems:
    """All operations of the table, with `answer` as their handler."""
    return Problems(Router({operation.name: endpoint(answer) for operation in OPERATIONS}, auth))


async def test_off_while_there_is_no_key(keys: FakeKeys, time: Time) -> None:
    """Everyone may do everything, in the application they name; Redis is asked once a second."""
    client = guarded(keys)
    for path, application in (("/timers", "default"), ("/timers?application=shop", "shop")):
        response = await client.post(path)
        assert response.json() == {"application": application, "key": None}
    assert (await client.post("/clock/advance")).status_code == 200
    assert keys.loads == 1
    time.now_s += FRESH_S
    await client.get("/timers")
    assert keys.loads == 2


async def test_any_key_closes_the_api(keys: FakeKeys, time: Time) -> None:
    """After a second at most; the answer says what to send, and how."""
    client = guarded(keys)
    assert (await client.get("/timers")).status_code == 200
    header = keys.add("key")
    time.now_s += FRESH_S
    response = await client.get("/timers")
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert fields_of(response) == []
    assert "X-API-Key" in response.json()["detail"]
    assert (await client.get("/timers", headers=header)).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"X-API-Key": "key"}, 200),
        ({"Authorization": "Bearer key"}, 200),
        ({"Authorization": "bearer  key"}, 200),
        ({"Authorization": "Basic dTpw", "X-API-Key": "key"}, 200),
        ({"Authorization": "Bearer other", "X-API-Key": "key"}, 200),
        ({"Authorization": "Basic dTpw"}, 401),
        ({"Authorization": "key"}, 401),
        ({"X-API-Key": ""}, 401),
        ({"X-API-Key": "Key"}, 401),
        ({"X-API-Key": hash_key("key")}, 401),
        ({"X-API-Key": b"\xff\xfe"}, 401),
    ],
)
async def test_how_a_key_is_sent(keys: FakeKeys, headers: dict[str, str | bytes], status: int) -> None:
    """As X-API-Key or as a bearer token; its stored hash opens nothing."""
    keys.add("key")
    response = await guarded(keys).get("/timers", headers=headers)  # type: ignore[arg-type] # bytes are fine
    assert response.status_code == status


async def test_open_without_a_key(keys: FakeKeys) -> None:
    """Health, and how the API is used; everything else is closed, unknown paths included."""
    keys.add("key")
    app = create_app(backend(FakeStore()), api_keys=KeyRing(keys.load))
    client = client_of(app)
    for path in ("/healthz", "/readyz", "/openapi.json", "/docs", "/docs/swagger-ui.css", "/"):
        assert (await client.get(path)).status_code in {200, 307}, path
    for path in ("/metrics", "/timers", "/timers/a", "/docsx", "/nowhere", "/healthz/"):
        assert (await client.get(path)).status_code == 401, path


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("GET", "/timers", "read"),
        ("HEAD", "/timers/a", "read"),
        ("POST", "/timers", "write"),
        ("PUT", "/timers/a", "write"),
        ("PATCH", "/timers/a", "write"),
        ("DELETE", "/timers/a", "write"),
        ("GET", "/applications", "read"),
        ("GET", "/destinations", "read"),
        ("GET", "/clock", "read"),
        ("POST", "/applications/shop/pause", "admin"),
        ("PUT", "/destinations/example.com", "admin"),
        ("POST", "/clock/advance", "admin"),
        ("GET", "/metrics", "read"),
    ],
)
async def test_scopes(keys: FakeKeys, method: str, path: str, scope: str) -> None:
    """Each call needs its scope, and a greater one does as well; the answer names it."""
    client = guarded(keys)
    for held in Scope:
        response = await client.request(method, path, headers=keys.add(held.value, None, held))
        assert response.status_code == (200 if held.includes(Scope(scope)) else 403)
        if response.status_code == 403:
            assert fields_of(response) == []
            assert f"must have the scope {scope}" in response.json()["detail"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/timers", 200),
        ("GET", "/applications", 200),
        ("POST", "/applications/shop/pause", 200),
        ("POST", "/applications/blog/pause", 403),
        ("GET", "/applications/blog", 403),
        ("POST", "/applications/shop%2Fblog/pause", 404),  # the path is decoded first
        ("GET", "/destinations%0A", 404),  # what is not exactly the path of an operation is none
        ("GET", "/destinations", 403),
        ("PUT", "/destinations/example.com", 403),
        ("POST", "/clock/advance", 403),
        ("GET", "/metrics", 403),
    ],
)
async def test_an_applications_key_reaches_nothing_of_others(
    keys: FakeKeys, method: str, path: str, status: int
) -> None:
    """Not even as admin: neither another application nor what all of them share."""
    response = await guarded(keys).request(method, path, headers=keys.add("key", "shop"))
    assert response.status_code == status


async def test_the_application_of_a_key(keys: FakeKeys) -> None:
    """Its own when none is named; another one is refused, and an empty name is another one."""
    client = guarded(keys)
    own, every = keys.add("own", "shop", Scope.READ), keys.add("every", None, Scope.READ)
    for headers, query, application in (
        (own, "", "shop"),
        (own, "?application=shop", "shop"),
        (every, "", "default"),
        (every, "?application=blog", "blog"),
    ):
        response = await client.get(f"/timers{query}", headers=headers)
        assert response.json()["application"] == application
    for query in ("?application=blog", "?application=", "?application=default"):
        response = await client.get(f"/timers{query}", headers=own)
        assert response.status_code == 403
        assert fields_of(response) == ["application"]


async def test_the_environments_key(keys: FakeKeys) -> None:
    """It may do everything, closes the API by itself, and needs no Redis."""
    keys.failure = UnavailableError("away")
    client = guarded(keys, fixed_key=FIXED)
    assert (await client.post("/clock/advance", headers={"x-api-key": FIXED})).status_code == 200
    assert (await client.get("/timers")).status_code == 401
    assert keys.loads == 0
    keys.failure = None
    assert (await client.get("/timers", headers=keys.add("other"))).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"), [("POST", "/nowhere", 404), ("OPTIONS", "/timers", 405)]
)
async def test_what_is_no_operation_needs_a_key(keys: FakeKeys, method: str, path: str, status: int) -> None:
    """Any API key will do; without one, nobody learns which paths there are."""
    client = guarded(keys)
    header = keys.add("key", "shop", Scope.READ)
    assert (await client.request(method, path, headers=header)).status_code == status
    assert (await client.request(method, path)).status_code == 401


# --- keys come and go ---


async def test_a_new_key_works_at_once(keys: FakeKeys, time: Time) -> None:
    """Even the first one, while the API still believes that it is open to all."""
    client = guarded(keys)
    for name in ("first", "second"):
        await client.get("/timers")
        response = await client.get("/timers", headers=keys.add(name, "shop"))
        assert response.json() == {"application": "shop", "key": f"id-{name}"}
    assert time.now_s < 1_000 + FRESH_S


async def test_a_revoked_key_ends_within_a_second(keys: FakeKeys, time: Time) -> None:
    """The answer says that it may have been revoked."""
    client = guarded(keys)
    header = keys.add("key")
    keys.add("other")
    assert (await client.get("/timers", headers=header)).status_code == 200
    del keys.grants[hash_key("key")]
    time.now_s += FRESH_S
    response = await client.get("/timers", headers=header)
    assert response.status_code == 401
    assert "revoked" in response.json()["detail"]


async def test_guesses_ask_redis_ten_times_a_second(keys: FakeKeys, time: Time) -> None:
    """However many come; they wait for each other, known keys do not."""
    client = guarded(keys)
    header = keys.add("key")
    await client.get("/timers", headers=header)
    for _ in range(20):
        responses = await asyncio.gather(
            *(client.get("/timers", headers={"x-api-key": f"guess-{n}"}) for n in range(10))
        )
        assert {response.status_code for response in responses} == {401}
    assert keys.loads - 1 <= round((time.now_s - 1_000) / RELOAD_GAP_S) + 1


async def test_one_request_reloads_the_others_go_on(keys: FakeKeys, time: Time) -> None:
    """With the keys that are known so far."""
    client = guarded(keys)
    header = keys.add("key")
    await client.get("/timers", headers=header)
    keys.go_on.clear()
    keys.asked.clear()
    time.now_s += FRESH_S
    reloading = asyncio.create_task(client.get("/timers", headers=header))
    await keys.asked.wait()
    time.now_s += FRESH_S  # so long does it take already
    assert (await client.get("/timers", headers=header)).status_code == 200
    assert not reloading.done()
    keys.go_on.set()
    assert (await reloading).status_code == 200
    assert keys.loads == 2


async def test_redis_away_from_the_start(keys: FakeKeys, time: Time) -> None:
    """Nobody knows who may call: 503, at the cost of one question for many requests."""
    keys.failure = UnavailableError("ConnectionError: refused")
    client = guarded(keys)
    responses = await asyncio.gather(*(client.get("/timers") for _ in range(10)))
    assert {response.status_code for response in responses} == {503}
    assert responses[0].json()["detail"] == "Redis does not answer; try again"
    assert keys.loads == 1
    keys.failure = None
    time.now_s += 2 * RELOAD_GAP_S
    assert (await client.get("/timers")).status_code == 200


async def test_redis_away_later(keys: FakeKeys, time: Time) -> None:
    """The keys that are known go on, others are refused; said once in the log."""
    client = guarded(keys)
    header = keys.add("key")
    await client.get("/timers", headers=header)
    keys.failure = UnavailableError("away")
    with capture_logs() as logs:
        for _ in range(3):
            time.now_s += FRESH_S
            assert (await client.get("/timers", headers=header)).status_code == 200
            assert (await client.get("/timers", headers={"x-api-key": "guess"})).status_code == 401
    assert [entry["event"] for entry in logs] == ["auth.keys_not_renewed"]


async def test_redis_that_hangs(keys: FakeKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for, but not for ever."""
    monkeypatch.setattr("httpqueue.api.key_ring.LOAD_WITHIN_S", 0)
    keys.go_on.clear()
    response = await guarded(keys).get("/timers")
    assert response.status_code == 503
    assert response.json()["detail"] == "Redis does not answer; try again"
    assert LOAD_WITHIN_S + ANSWER_WITHIN_S < 6, "what a request takes at most when the store is frozen"


async def test_a_grant_that_cannot_be_read_is_a_key(keys: FakeKeys) -> None:
    """It closes the API and opens nothing."""
    keys.grants[hash_key("key")] = None
    client = guarded(keys)
    assert (await client.get("/timers")).status_code == 401
    assert (await client.get("/timers", headers={"x-api-key": "key"})).status_code == 401


async def test_keys_are_in_no_answer_and_no_log(keys: FakeKeys) -> None:
    """Whatever goes wrong with them."""
    keys.add("a-key-of-mine", "shop", Scope.READ)
    with capture_logs() as logs:
        for key in ("a-key-of-mine", "a-guess-of-mine"):
            response = await guarded(keys, fixed_key=FIXED).post("/timers", headers={"x-api-key": key})
            assert response.status_code in {401, 403}
            assert "of-mine" not in response.text
            assert FIXED not in response.text
        keys.failure = UnavailableError("away")
        await guarded(keys).get("/timers", headers={"x-api-key": "a-key-of-mine"})
    assert "of-mine" not in str(logs)


# --- rate limit ---


async def test_rate_limit_of_each_key(keys: FakeKeys, time: Time) -> None:
    """429 with whole seconds to wait; other keys, and health, are not concerned."""
    client = guarded(keys, rate_limit_per_s=2)
    one, other = keys.add("one"), keys.add("other")
    statuses = [(await client.get("/timers", headers=one)).status_code for _ in range(2)]
    assert statuses == [200, 200]
    response = await client.get("/timers", headers=one)
    assert response.status_code == 429
    assert response.headers["retry-after"] == "1"
    assert fields_of(response) == []
    assert (await client.get("/timers", headers=other)).status_code == 200
    time.now_s += 0.5
    assert (await client.get("/timers", headers=one)).status_code == 200


async def test_rate_limit_below_one_a_second(keys: FakeKeys, time: Time) -> None:
    """Retry-After is rounded up, so that who obeys it is let in; open paths do not count."""
    client = guarded(keys, rate_limit_per_s=0.3)
    for _ in range(3):
        assert (await client.get("/healthz")).status_code != 429
    assert (await client.get("/timers")).status_code == 200
    response = await client.get("/timers")
    assert response.headers["retry-after"] == "4"
    time.now_s += 4
    assert (await client.get("/timers")).status_code == 200


async def test_rate_limit_of_each_address_without_keys(keys: FakeKeys, time: Time) -> None:
    """A server on a Unix socket knows none: all of its clients are one."""
    del time
    app = app_of(Auth(KeyRing(keys.load), rate_limit_per_s=1))

    async def status_from(address: tuple[str, int] | None) -> int:
        transport = httpx.ASGITransport(app, client=address)  # type: ignore[arg-type] # None is what ASGI allows
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return (await client.get("/timers")).status_code

    addresses: list[tuple[str, int] | None] = [("10.0.0.1", 1), ("10.0.0.1", 2), ("10.0.0.2", 1), None, None]
    assert [await status_from(address) for address in addresses] == [200, 429, 200, 200, 429]


# --- who fails, fails closed (issue 11, defect 7) ---


async def test_keys_that_are_gone_open_nothing(keys: FakeKeys, time: Time) -> None:
    """FLUSHALL, an empty replica, a wrong database: who has seen a key asks for one until it ends."""
    client = guarded(keys)
    assert (await client.get("/timers")).status_code == 200
    header = keys.add("key")
    time.now_s += FRESH_S
    assert (await client.get("/timers")).status_code == 401
    keys.grants.clear()
    for _ in range(3):
        time.now_s += FRESH_S
        assert (await client.get("/timers")).status_code == 401
        assert (await client.get("/timers", headers=header)).status_code == 401


async def test_a_key_that_was_sent_is_seen_at_once(keys: FakeKeys, time: Time) -> None:
    """Not only when the keys are renewed."""
    del time
    client = guarded(keys)
    await client.get("/timers")
    assert (await client.get("/timers", headers=keys.add("key"))).status_code == 200
    assert (await client.get("/timers")).status_code == 401


async def test_a_key_that_is_required(keys: FakeKeys, time: Time) -> None:
    """Nobody comes in while there is none, whatever Redis says; the answer says how to make one."""
    client = guarded(keys, is_required=True)
    for _ in range(2):
        response = await client.get("/timers")
        assert response.status_code == 401
        assert "httpqueue keys create" in response.json()["detail"]
        keys.failure = UnavailableError("away")
    keys.failure = None
    time.now_s += FRESH_S
    assert (await client.get("/timers", headers=keys.add("key"))).status_code == 200
    assert (await client.get("/healthz")).status_code == 200


async def test_guesses_before_there_is_a_key(keys: FakeKeys, time: Time) -> None:
    """They ask Redis as seldom as any others."""
    client = guarded(keys, is_required=True)
    for n in range(50):
        assert (await client.get("/timers", headers={"x-api-key": f"guess-{n}"})).status_code == 401
    assert keys.loads <= round((time.now_s - 1_000) / RELOAD_GAP_S) + 2


async def test_a_key_that_has_expired(keys: FakeKeys, time: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    """At its instant it opens nothing, also while Redis is away, and it keeps the API closed."""
    del time
    keys.grants[hash_key("key")] = Grant("a", None, Scope.ADMIN, expires_ms=5_000)
    client, header = guarded(keys), {"x-api-key": "key"}
    monkeypatch.setattr(clock, "now_ms", lambda: 4_999)
    assert (await client.get("/timers", headers=header)).status_code == 200
    keys.failure = UnavailableError("away")
    monkeypatch.setattr(clock, "now_ms", lambda: 5_000)
    response = await client.get("/timers", headers=header)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert "expired" in response.json()["detail"]
    assert (await client.get("/timers")).status_code == 401
