"""What is noted of changes over the API, and when it is written down (issue 11, defect 7)."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from http import HTTPStatus

import httpx
import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from structlog.testing import capture_logs

from httpqueue import clock
from httpqueue.api import audit_trail
from httpqueue.api.app import create_app
from httpqueue.api.audit_trail import AuditTrail
from httpqueue.api.auth import Auth
from httpqueue.api.key_ring import KeyRing
from httpqueue.api.problems import ProblemError, Problems, faulty_field
from httpqueue.api.router import Router, endpoint
from httpqueue.api.schema.operations import OPERATIONS
from httpqueue.errors import InvalidTimerError, UnavailableError
from httpqueue.runtime.metrics import AUDIT_LOST
from httpqueue.timers.access import Grant, Scope, hash_key
from httpqueue.timers.audit import AuditEntry
from tests.support.api_fakes import VALID, FakeStore, backend, client_of

KEYS = {
    hash_key("shop"): Grant("id-shop", "shop", Scope.ADMIN),
    hash_key("every"): Grant("id-every", None, Scope.ADMIN),
}


class Written:
    """Where entries are written, as the test says."""

    def __init__(self) -> None:
        self.entries: list[AuditEntry] = []
        self.batches: list[int] = []
        self.failures: list[Exception] = []
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def append(self, entries: Sequence[AuditEntry]) -> None:
        """As Audit.append does."""
        await self.go_on.wait()
        if self.failures:
            raise self.failures.pop(0)
        self.batches.append(len(entries))
        self.entries += entries


@pytest.fixture
def written() -> Written:
    """Nothing."""
    return Written()


@pytest.fixture(autouse=True)
def gather_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for more."""
    monkeypatch.setattr(audit_trail, "GATHER_S", 0)


async def load() -> dict[str, Grant | None]:
    """Two keys."""
    return dict(KEYS)


def guarded(trail: AuditTrail, result: Exception | int = 200) -> httpx.AsyncClient:
    """An API whose every operation ends in that way."""

    async def answer(_request: Request) -> Response:
        if isinstance(result, Exception):
            raise result
        return JSONResponse({}, result)

    handlers = {operation.name: endpoint(answer) for operation in OPERATIONS}
    return client_of(Problems(Router(handlers, Auth(KeyRing(load)), trail)))


@pytest.mark.parametrize(
    ("method", "path", "key", "subject"),
    [
        ("DELETE", "/timers/a", "shop", ("id-shop", "cancelTimer", "shop", "a")),
        ("DELETE", "/timers/a", "every", ("id-every", "cancelTimer", "default", "a")),
        ("POST", "/timers/a/fire?application=blog", "every", ("id-every", "fireTimer", "blog", "a")),
        ("PUT", "/timers/a/callback", "shop", ("id-shop", "setCallback", "shop", "a")),
        ("POST", "/applications/shop/pause", "shop", ("id-shop", "pauseApplication", "shop", "")),
        ("PUT", "/destinations/b.example", "every", ("id-every", "setDestination", "", "b.example")),
        ("POST", "/clock/advance", "every", ("id-every", "advanceClock", "", "")),
        ("POST", "/timers/replay", "shop", ("id-shop", "replayTimers", "shop", "")),
    ],
)
async def test_who_changed_what(
    written: Written, method: str, path: str, key: str, subject: tuple[str, str, str, str]
) -> None:
    """The key's id, the operation, and what the path names."""
    trail = AuditTrail(written.append)
    assert (await guarded(trail).request(method, path, headers={"X-API-Key": key})).status_code == 200
    await trail.close()
    [entry] = written.entries
    assert (entry.key_id, entry.action, entry.application, entry.target) == subject
    assert entry.status == 200
    assert entry.is_setting == (entry.action in {"pauseApplication", "setDestination", "advanceClock"})


async def test_reading_is_no_change(written: Written) -> None:
    """Nor is asking with HEAD."""
    trail = AuditTrail(written.append)
    client = guarded(trail)
    for operation in OPERATIONS:
        if operation.method == "GET":
            for method in ("GET", "HEAD"):
                await client.request(method, operation.path, headers={"X-API-Key": "every"})
    await trail.close()
    assert not written.entries


@pytest.mark.parametrize(
    ("result", "status"),
    [
        (200, 200),
        (201, 201),
        (409, None),
        (faulty_field("a", "b"), None),
        (InvalidTimerError(), None),
        (ClientDisconnect(), None),
        (UnavailableError("away"), 503),
        (TimeoutError(), 503),
        (ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, "full"), 503),
        (ZeroDivisionError(), 500),
    ],
)
async def test_what_changed_nothing_is_not_noted(
    written: Written, result: Exception | int, status: int | None
) -> None:
    """From 500 on, nobody knows; below, whoever may do nothing could fill the log."""
    trail = AuditTrail(written.append)
    client = guarded(trail, result)
    with suppress(AssertionError):  # a client that is gone gets no answer, which httpx takes for a mistake
        await client.delete("/timers/a", headers={"X-API-Key": "shop"})
    await client.delete("/timers/a", headers={"X-API-Key": "guess"})
    await client.delete("/timers/a")
    await trail.close()
    assert [entry.status for entry in written.entries] == ([] if status is None else [status])


async def test_new_timers_are_named(written: Written) -> None:
    """Those that were stored, by their ids, with the application that they are in; nobody needs a key."""
    trail = AuditTrail(written.append)
    client = client_of(create_app(backend(FakeStore()), trail=trail))
    [given] = [(await client.post("/timers", json=VALID)).json()["id"]]
    items = [{"id": "a", "application": "shop"}, {"id": "b"}, {"id": "?"}, {"id": "b", "method": "GET"}]
    await client.post("/timers/batch", json={"timers": [VALID | item for item in items]})
    await client.post("/timers/batch", json={"timers": [{}]})
    await trail.close()
    assert [(entry.key_id, entry.action, entry.application, entry.target) for entry in written.entries] == [
        ("", "createTimer", "default", given),
        ("", "createTimers", "shop", "a"),
        ("", "createTimers", "default", "b"),
    ]


async def test_no_answer_waits(written: Written) -> None:
    """Changes that are made meanwhile are written together."""
    written.go_on.clear()
    trail = AuditTrail(written.append)
    client = client_of(create_app(backend(FakeStore()), trail=trail))
    for _ in range(3):
        assert (await client.post("/timers", json=VALID)).status_code == 201
        await asyncio.sleep(0)  # noqa: TID251 - the writer takes its first batch
    assert not written.entries
    written.go_on.set()
    await trail.close()
    assert sum(written.batches) == 3
    assert len(written.batches) <= 2


async def test_an_outage_is_waited_for(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be written is written later, in its order; said once."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(clock, "sleep", sleep)
    written.failures = [UnavailableError("away"), UnavailableError("away")]
    trail = AuditTrail(written.append)
    with capture_logs() as logs:
        await guarded(trail).delete("/timers/a", headers={"X-API-Key": "shop"})
        await trail.close()
    assert len(written.entries) == 1
    assert len(slept) == 3
    assert [entry["event"] for entry in logs] == ["redis.away", "redis.back"]


async def test_memory_is_bounded(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    """During a long outage the first changes are kept; how many are lost is counted, and said once."""
    monkeypatch.setattr(audit_trail, "MAX_WAITING", 2)
    written.go_on.clear()
    trail = AuditTrail(written.append)
    client = guarded(trail, UnavailableError("away"))
    before = lost()
    with capture_logs() as logs:
        for n in range(5):
            await client.delete(f"/timers/{n}", headers={"X-API-Key": "shop"})
    assert lost() - before == 3
    assert [entry["event"] for entry in logs].count("audit.lost") == 1
    written.go_on.set()
    await trail.close()
    assert [entry.target for entry in written.entries] == ["0", "1"]


async def test_the_end_waits_but_not_for_ever(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be written by then is counted as lost."""
    monkeypatch.setattr(audit_trail, "CLOSE_WITHIN_S", 0.01)
    written.go_on.clear()
    trail = AuditTrail(written.append)
    await guarded(trail).delete("/timers/a", headers={"X-API-Key": "shop"})
    before = lost()
    await trail.close()
    assert lost() - before == 1


async def test_a_bug_ends_nothing(written: Written) -> None:
    """The batch is lost, and said; the next one is written."""
    written.failures = [ZeroDivisionError()]
    trail = AuditTrail(written.append)
    client = guarded(trail)
    with capture_logs() as logs:
        await client.delete("/timers/a", headers={"X-API-Key": "shop"})
        await trail.close()
        await client.delete("/timers/b", headers={"X-API-Key": "shop"})
        await trail.close()
    assert [entry["event"] for entry in logs] == ["audit.bug", "audit.lost"]
    assert [entry.target for entry in written.entries] == ["b"]


def lost() -> float:
    """How many changes were lost so far."""
    [metric] = AUDIT_LOST.collect()
    return next(sample.value for sample in metric.samples if sample.name.endswith("_total"))
