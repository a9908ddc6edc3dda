"""The API in memory: no server, no Redis; what it asks of the store is counted and kept."""

from collections.abc import Sequence
from typing import Any, cast

import httpx
from redis.asyncio import Redis
from starlette.types import ASGIApp

from httpqueue import clock
from httpqueue.api.app import create_app
from httpqueue.api.backend import Backend, Readiness
from httpqueue.storage.lookup import Lookup
from httpqueue.storage.nonces import Nonces
from httpqueue.storage.record import encode_spec
from httpqueue.storage.storage import Storage
from httpqueue.storage.timers import Store
from httpqueue.timers.commands import Created, Creation, Found, NewTimer
from httpqueue.timers.cron import first_due
from httpqueue.timers.names import DEFAULT_APPLICATION, TimerName
from httpqueue.timers.schedule import Delay
from httpqueue.timers.timer import State, Timer
from tests.support.egress import PRIVATE

VALID: dict[str, Any] = {"url": "https://example.com/hook", "seconds": 30}


class FakeStore:
    """Keeps new timers in a dict; the record of a timer can be replaced through `timers`."""

    def __init__(self) -> None:
        self.timers: dict[str, Timer] = {}
        self.archived: set[str] = set()
        self.now_ms = clock.now_ms()
        self.batches: list[int] = []

    async def create(self, timers: Sequence[NewTimer]) -> list[Created]:
        """Keep those whose ids are free."""
        self.batches.append(len(timers))
        return [self._create(timer) for timer in timers]

    def _create(self, new: NewTimer) -> Created:
        due = first_due(new.spec.schedule, self.now_ms)
        due_ms = self.now_ms + due.delay_ms if isinstance(due, Delay) else due.at_ms
        timer = Timer(
            new.name, Nonces().draw(), State.SCHEDULED, generation=0, attempts=0, due_ms=due_ms, spec=new.spec
        )
        kept = self.timers.setdefault(new.name.id, timer)
        if kept is timer:
            return Created(Creation.CREATED, due_ms)
        is_same = encode_spec(kept.spec) == encode_spec(new.spec)
        return Created(Creation.EXISTS if is_same else Creation.CONFLICT, kept.due_ms)

    async def get(self, name: TimerName) -> Found | None:
        """The record, if there is one."""
        timer = self.timers.get(name.id)
        return None if timer is None or timer.name != name else Found(timer, self.now_ms)

    async def is_archived(self, name: TimerName) -> bool:
        """Whether the test said so."""
        return name.application == DEFAULT_APPLICATION and name.id in self.archived

    def only(self) -> Timer:
        """The one timer that is stored."""
        (timer,) = self.timers.values()
        return timer


class FakeLookup:
    """Finds nothing."""

    async def applications_with(self, timer_id: str) -> list[str]:
        """No application has a timer of another one's id."""
        del timer_id
        return []


async def ready() -> None:
    """Everything works."""


def client_of(app: ASGIApp) -> httpx.AsyncClient:
    """A client that calls the app directly; an exception that leaves the app fails the test.

    It says that its bodies are JSON unless it is told otherwise.
    """
    json = {"content-type": "application/json"}
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost", headers=json)


def backend(store: FakeStore, readiness: Readiness = ready) -> Backend:
    """That store, and nothing else: whatever asks Redis itself fails the test."""
    away = Storage(Redis(port=1), archive_error_rate=1e-6)
    return Backend(
        store=cast(Store, store),
        lookup=cast(Lookup, FakeLookup()),
        policies=away.policies,
        jobs=away.jobs,
        readiness=readiness,
        worker_silence_ms=worker_silence_ms,
        retention_ms=3_600_000,
        egress=lambda: PRIVATE,
        audit=away.audit,
    )


async def worker_silence_ms() -> int | None:
    """A worker was seen just now."""
    return 0


def api(store: FakeStore) -> httpx.AsyncClient:
    """A client of the API over that store."""
    return client_of(create_app(backend(store)))


def fields_of(response: httpx.Response) -> list[str]:
    """The faulty fields that a problem names, after a check of its shape (RFC 9457)."""
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == response.status_code
    assert problem["type"] == "about:blank"
    assert problem["title"]
    assert problem["detail"]
    errors = problem.get("errors", [])
    assert all(error.keys() == {"field", "detail"} and error["detail"] for error in errors)
    return [error["field"] for error in errors]
