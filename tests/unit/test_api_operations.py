"""Health, readiness, metrics, documentation, and what clients see when something is broken."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.testing import capture_logs

from httpqueue.api import responses
from httpqueue.api.app import create_app, create_ops_app
from httpqueue.api.problems import Problems
from httpqueue.errors import UnavailableError
from httpqueue.timers.commands import Created, Found, NewTimer
from httpqueue.timers.names import TimerName
from tests.support.api_fakes import VALID, FakeStore, api, backend, client_of, fields_of, ready


class BrokenStore(FakeStore):
    """Every call raises the error, or never returns when there is none."""

    def __init__(self, error: Exception | None) -> None:
        super().__init__()
        self.error = error

    async def create(self, timers: Sequence[NewTimer]) -> list[Created]:
        """Never stores."""
        del timers
        raise await self._failure()

    async def get(self, name: TimerName) -> Found | None:
        """Never finds."""
        del name
        raise await self._failure()

    async def _failure(self) -> Exception:
        if self.error is None:
            await hang()
        return self.error or AssertionError("hang returned")


async def away() -> None:
    """Not ready."""
    raise UnavailableError("ConnectionError: Error 111 connecting to 10.1.2.3:6379. connection refused")


async def hang() -> None:
    """Never an answer."""
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    "create", [lambda: create_app(backend(FakeStore(), away)), lambda: create_ops_app(readiness=away)]
)
async def test_a_process_is_alive_without_redis(create: Callable[[], ASGIApp]) -> None:
    """/healthz is about the process alone."""
    response = await client_of(create()).get("/healthz")
    assert response.status_code == 200
    assert response.json() == {"status": "ok"}


@pytest.mark.parametrize(
    "create",
    [lambda: create_app(backend(FakeStore())), lambda: create_ops_app(readiness=ready)],
)
async def test_a_process_is_ready_when_redis_is(create: Callable[[], ASGIApp]) -> None:
    """/readyz answers 200."""
    client = client_of(create())
    assert (await client.get("/readyz")).json() == {"status": "ok"}
    assert (await client.head("/readyz")).status_code == 200


@pytest.mark.parametrize(
    ("readiness", "reason"), [(away, "Redis does not answer; try again"), (hang, "did not answer in time")]
)
async def test_a_process_that_is_not_ready_says_why(
    readiness: Callable[[], Awaitable[None]], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503 with the reason and Retry-After. Addresses are for the log (issue 11, defect 11)."""
    if readiness is hang:
        monkeypatch.setattr(responses, "ANSWER_WITHIN_S", 0)
    with capture_logs() as logs:
        response = await client_of(create_ops_app(readiness=readiness)).get("/readyz")
    assert response.status_code == 503
    assert "10.1.2.3" not in response.text
    assert ("10.1.2.3:6379" in logs[0]["reason"]) == (readiness is away)
    assert response.headers["retry-after"] == "1"
    assert fields_of(response) == []
    assert reason in response.json()["detail"]


async def test_the_operators_part_has_no_timers() -> None:
    """The metrics port of relay and worker stores nothing."""
    response = await client_of(create_ops_app(readiness=ready)).post("/timers", json=VALID)
    assert response.status_code == 404


async def test_metrics_are_in_prometheus_text() -> None:
    """With the type that Prometheus asks for."""
    response = await client_of(create_ops_app(readiness=ready)).get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    assert "\nhttpqueue_timers_created_total " in response.text


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("error", [UnavailableError("ConnectionError: refused"), None])
async def test_redis_away_is_said_and_lived_through(
    method: str, error: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503 with Retry-After, within the time that is set; the next request is served."""
    store = BrokenStore(error)
    client = api(store)
    if error is None:
        monkeypatch.setattr(responses, "ANSWER_WITHIN_S", 0)
    path = "/timers/a" if method == "GET" else "/timers"
    with capture_logs() as logs:
        async with asyncio.timeout(30):
            response = await client.request(method, path, json=VALID)
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert fields_of(response) == []
    assert ("whether the timer was stored is unknown" in response.json()["detail"]) == (method == "POST")
    assert [(log["event"], log["log_level"]) for log in logs] == [("api.unavailable", "warning")]
    assert (await client.get("/healthz")).status_code == 200


def test_redis_is_given_up_before_the_client_gives_up() -> None:
    """An answer is promised within 6 s."""
    assert responses.ANSWER_WITHIN_S < 6


async def test_an_error_nobody_foresaw_is_logged_once_and_answered() -> None:
    """500 without the error's text, which may hold what it should not."""
    client = api(BrokenStore(RuntimeError("secret")))
    with capture_logs() as logs:
        response = await client.post("/timers", json=VALID)
    assert response.status_code == 500
    assert fields_of(response) == []
    assert "secret" not in response.text
    (log,) = logs
    assert (log["event"], log["method"], log["path"]) == ("api.error", "POST", "/timers")
    assert log["exc_info"]
    assert "body" not in log


async def test_an_answer_that_breaks_off_is_not_answered_twice() -> None:
    """The error goes on to the server, which cuts the connection."""

    async def half(_request: object) -> StreamingResponse:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"half"
            raise RuntimeError("broken")

        return StreamingResponse(chunks())

    app = Problems(Starlette(routes=[Route("/", half)]))
    with capture_logs() as logs, pytest.raises(RuntimeError, match="broken"):
        await client_of(app).get("/")
    assert [log["event"] for log in logs] == ["api.error"]


async def test_a_client_that_goes_away_is_no_error() -> None:
    """Nothing is stored, logged or answered."""
    store = FakeStore()
    messages: list[Message] = [
        {"type": "http.request", "body": b'{"url"', "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent: list[Message] = []

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/timers", "headers": headers, "query_string": b""}
    with capture_logs() as logs:
        await create_app(backend(store))(scope, receive, send)
    assert not sent
    assert not logs
    assert not store.batches


async def test_the_app_starts_and_stops_under_a_server() -> None:
    """The lifespan protocol passes through."""
    incoming = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent: list[str] = []

    async def receive() -> Message:
        return incoming.pop(0)

    async def send(message: Message) -> None:
        sent.append(message["type"])

    await create_app(backend(FakeStore()))({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_a_start_that_fails_is_the_servers_to_report() -> None:
    """Only requests are answered with problems."""

    async def broken(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise RuntimeError("cannot start")

    async def receive() -> Message:
        return {"type": "lifespan.startup"}

    async def send(_message: Message) -> None:
        pytest.fail("answered")

    with pytest.raises(RuntimeError, match="cannot start"):
        await Problems(broken)({"type": "lifespan"}, receive, send)


async def test_the_root_leads_to_the_documentation() -> None:
    """A browser opened at the address the process prints finds it."""
    response = await api(FakeStore()).get("/")
    assert response.is_redirect
    assert response.headers["location"] == "/docs"


async def test_swagger_ui_works_offline() -> None:
    """Every file it needs comes from here, no script stands inline, and the page may fetch nothing else."""
    client = api(FakeStore())
    page = await client.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "//" not in page.text
    for name, media_type in {
        "swagger-ui-bundle.js": "javascript",
        "swagger-initializer.js": "javascript",
        "swagger-ui.css": "css",
        "favicon-32x32.png": "png",
    }.items():
        assert f'"/docs/{name}"' in page.text
        response = await client.get(f"/docs/{name}")
        assert response.status_code == 200
        assert response.headers["content-type"].partition(";")[0].endswith(f"/{media_type}")
        assert response.headers["x-content-type-options"] == "nosniff"
        again = await client.get(f"/docs/{name}", headers={"if-none-match": response.headers["etag"]})
        assert again.status_code == 304
    assert 'url: "/openapi.json"' in (await client.get("/docs/swagger-initializer.js")).text
