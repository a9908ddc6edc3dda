"""POST /timers and GET /timers/{id}: what is stored, what is answered."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY

from httpqueue.api.schema.answer_models import ArchivedTimer, StoredTimer, TimerView
from httpqueue.api.schema.read_timer import read_content
from httpqueue.api.schema.request_models import TimerRequest
from httpqueue.storage.record import encode_spec
from httpqueue.timers.commands import Created, NewTimer
from httpqueue.timers.names import TimerName
from httpqueue.timers.schedule import MAX_DUE_MS, Delay, Instant, Schedule, format_instant
from httpqueue.timers.spec import Spec
from httpqueue.timers.timer import Attempt, State
from tests.support.api_fakes import VALID, FakeStore, api, fields_of
from tests.support.egress import PRIVATE

URL = VALID["url"]


async def post(store: FakeStore, members: dict[str, Any]) -> httpx.Response:
    """POST /timers."""
    return await api(store).post("/timers", json=members)


async def test_a_timer_is_stored_and_can_be_found_where_location_says() -> None:
    """201 with id, due and Location."""
    store = FakeStore()
    response = await post(store, VALID)
    assert response.status_code == 201
    answer = StoredTimer.model_validate(response.json(), extra="forbid")
    assert answer.due == format_instant(store.now_ms + 30_000)
    assert response.headers["location"] == f"/timers/{answer.id}"
    assert (await api(store).get(response.headers["location"])).json()["id"] == answer.id


async def test_the_ancestors_request_is_served_as_the_ancestor_did() -> None:
    """Its fields, its 201 with an id, its time_left."""
    store = FakeStore()
    text = b'{"hours": 4, "minutes": 0, "seconds": 1, "url": "https://someserver.com"}'
    response = await api(store).post("/timers", content=text)
    assert response.status_code == 201
    timer_id = response.json()["id"]
    assert store.only().spec == Spec(url="https://someserver.com", schedule=Delay(14_401_000))
    answer = (await api(store).get(f"/timers/{timer_id}")).json()
    assert (answer["id"], answer["time_left"]) == (timer_id, 14_401)


async def test_everything_given_is_stored_as_given() -> None:
    """Method in capitals, all else unchanged."""
    store = FakeStore()
    body = {"order": 4711, "items": [1, 2.5, None, "ä"]}
    members = {
        "id": "order-4711",
        "url": "http://example.com:81/{id}?a=b",
        "fire_at": "2030-01-01T01:00:00.5+01:00",
        "method": "put",
        "headers": {"X-Source": "shop", "Accept": "*/*"},
        "body": body,
    }
    assert (await post(store, members)).status_code == 201
    timer = store.only()
    assert timer.name == TimerName("default", "order-4711")
    assert timer.spec == Spec(
        url="http://example.com:81/{id}?a=b",
        schedule=Instant(1_893_456_000_500),
        method="PUT",
        headers={"X-Source": "shop", "Accept": "*/*"},
        body=body,
    )


async def test_null_means_absent() -> None:
    """For every field that may be absent."""
    store = FakeStore()
    optional = dict.fromkeys(name for name in TimerRequest.model_fields if name not in VALID)
    assert (await post(store, VALID | optional)).status_code == 201
    assert store.only().spec == Spec(url=URL, schedule=Delay(30_000))


@pytest.mark.parametrize(
    ("members", "schedule"),
    [
        ({"seconds": 0}, Delay(0)),
        ({"seconds": -0.0}, Delay(0)),
        ({"seconds": 0.0004}, Delay(0)),
        ({"seconds": 0.25}, Delay(250)),
        ({"seconds": 0.1, "minutes": 0}, Delay(100)),
        ({"hours": 1.5, "minutes": 1, "seconds": 1.001}, Delay(5_461_001)),
        ({"hours": 24 * 365 * 7000}, Delay(24 * 365 * 7000 * 3_600_000)),
        ({"fire_at": 1893456000}, Instant(1_893_456_000_000)),
        ({"fire_at": 1893456000.1234}, Instant(1_893_456_000_123)),
        ({"fire_at": "2030-01-01T00:00:00Z"}, Instant(1_893_456_000_000)),
        ({"fire_at": "9999-12-31T23:59:59.999Z"}, Instant(MAX_DUE_MS)),
        ({"fire_at": 253402300799.999}, Instant(MAX_DUE_MS)),
        ({"fire_at": "2001-01-01t00:00:00z"}, Instant(978_307_200_000)),
        *(({"fire_at": past}, Instant(1)) for past in (0, -1, -1.5, -1e308, "1969-12-31T23:59:59Z", 0.0001)),
    ],
)
async def test_when_it_is_due(members: dict[str, Any], schedule: Schedule) -> None:
    """Delays add up to ms; instants are ms since the epoch, at least 1; the past is due at once."""
    store = FakeStore()
    response = await post(store, {"url": URL, **members})
    assert response.status_code == 201
    assert store.only().spec.schedule == schedule


def test_a_delay_may_lead_up_to_the_end_of_year_9999() -> None:
    """And not a millisecond beyond."""
    members = {"url": URL, "seconds": 1}
    assert read_content(members, now_ms=MAX_DUE_MS - 1_000, egress=PRIVATE).schedule == Delay(1_000)
    with pytest.raises(Exception, match="year 9999"):
        read_content(members, now_ms=MAX_DUE_MS - 999, egress=PRIVATE)


async def test_made_up_ids_are_short_and_differ() -> None:
    """16 characters that no URL escapes."""
    store = FakeStore()
    for _ in range(100):
        await post(store, VALID)
    assert len(store.timers) == 100
    assert {len(timer_id) for timer_id in store.timers} == {16}


async def test_the_same_timer_again_is_answered_with_the_existing_one() -> None:
    """200, also when it is spelled differently: a client may repeat a POST whose answer it never saw."""
    store = FakeStore()
    first = await post(store, {"url": URL, "minutes": 1, "id": "a", "headers": {"A": "1", "B": "2"}})
    spelled = {"id": "a", "headers": {"B": "2", "A": "1"}, "method": "post", "seconds": 60.0, "url": URL}
    again = await post(store, spelled)
    assert again.status_code == 200
    assert again.json() == {**first.json(), "created": False, "status": "scheduled"}
    assert "location" not in again.headers


@pytest.mark.parametrize("change", [{"url": URL + "/x"}, {"seconds": 31}, {"body": "x"}, {"method": "PUT"}])
async def test_another_timer_under_the_same_id_is_a_conflict(change: dict[str, Any]) -> None:
    """409 naming the id; the first one stays."""
    store = FakeStore()
    await post(store, {**VALID, "id": "a"})
    before = store.only()
    response = await post(store, {**VALID, "id": "a", **change})
    assert response.status_code == 409
    assert fields_of(response) == ["id"]
    assert store.only() == before


async def test_only_new_timers_are_counted() -> None:
    """httpqueue_timers_created_total grows by what was stored."""

    def count() -> float:
        return REGISTRY.get_sample_value("httpqueue_timers_created_total") or 0

    store, before = FakeStore(), count()
    for members in ({**VALID, "id": "a"}, {**VALID, "id": "a"}, {**VALID, "id": "a", "body": 1}, VALID, {}):
        await post(store, members)
    assert count() - before == 2


async def test_posts_at_the_same_time_share_one_call_of_the_store() -> None:
    """What arrives while a call is in flight goes into the next, at most 500 at once."""
    gate = asyncio.Event()

    class SlowStore(FakeStore):
        async def create(self, timers: Sequence[NewTimer]) -> list[Created]:
            await gate.wait()
            return await super().create(timers)

    store = SlowStore()
    client = api(store)
    first = asyncio.create_task(client.post("/timers", json=VALID))
    rest = [asyncio.create_task(client.post("/timers", json=VALID)) for _ in range(700)]
    gate.set()
    async with asyncio.timeout(60):
        responses = await asyncio.gather(first, *rest)
    assert {response.status_code for response in responses} == {201}
    assert sum(store.batches) == 701
    assert max(store.batches) == 500


async def test_large_posts_at_the_same_time_share_calls_of_bounded_size() -> None:
    """Of forty timers of 1 MB, no call carries more than some 4 MB: Redis is soon free for others."""
    gate = asyncio.Event()
    sizes: list[int] = []

    class SlowStore(FakeStore):
        async def create(self, timers: Sequence[NewTimer]) -> list[Created]:
            await gate.wait()
            sizes.append(sum(len(encode_spec(timer.spec)) for timer in timers))
            return await super().create(timers)

    store = SlowStore()
    client = api(store)
    bodies = ["x" * 999_990, ["y" * 999_990], "\0" * 160_000, "\U0001f600" * 160_000]
    posts = [
        asyncio.create_task(client.post("/timers", json={**VALID, "body": body}))
        for body in bodies
        for _ in range(10)
    ]
    gate.set()
    async with asyncio.timeout(60):
        responses = await asyncio.gather(*posts)
    assert {response.status_code for response in responses} == {201}
    assert sum(store.batches) == len(posts)
    assert max(sizes) < 4_100_000
    assert len(sizes) <= len(posts) / 4 + 2  # and yet they share


async def test_an_unfinished_timer_is_shown_as_it_is() -> None:
    """time_left is in whole seconds of the store's clock, rounded up."""
    store = FakeStore()
    await post(store, {**VALID, "id": "a", "seconds": 30, "headers": {"X": "y"}, "body": [1]})
    store.now_ms += 28_001
    response = await api(store).get("/timers/a")
    assert response.status_code == 200
    assert response.json() == {
        "id": "a",
        "application": "default",
        "status": "scheduled",
        "time_left": 2,
        "due": format_instant(store.only().due_ms),
        "due_local": None,
        "generation": 0,
        "attempts": 0,
        "lateness_ms": None,
        "last_status": None,
        "last_error": None,
        "executed_at": None,
        "url": URL,
        "method": "POST",
        "headers": {"X": "y"},
        "body": [1],
        "delay_ms": 30_000,
        "fire_at": None,
        "cron": None,
        "timezone": None,
        "timeout": None,
        "retry": None,
        "callback": None,
        "ordering_key": None,
        "labels": {},
        "past_due": "fire",
        "retention": None,
        "last_attempts": [],
    }
    assert response.headers["etag"] == f'"{store.only().nonce}.0.0.s"'
    TimerView.model_validate_json(response.content, extra="forbid")


@pytest.mark.parametrize("state", [State.RUNNING, State.DONE, State.FAILED])
async def test_no_time_is_left_once_it_runs(state: State) -> None:
    """Whatever its due time says; the last attempt is told."""
    store = FakeStore()
    await post(store, {"url": URL, "id": "a", "fire_at": "2100-01-01T00:00:00+00:00"})
    attempt = Attempt(started_ms=1_893_456_000_007, lateness_ms=7, status=503, error="HTTP 503")
    store.timers["a"] = replace(store.timers["a"], state=state, attempts=3, log=(attempt,))
    answer = (await api(store).get("/timers/a")).json()
    expected = {
        "status": state.value,
        "time_left": 0,
        "attempts": 3,
        "lateness_ms": 7,
        "last_status": 503,
        "last_error": "HTTP 503",
        "executed_at": "2030-01-01T00:00:00.007Z",
        "delay_ms": None,
        "fire_at": "2100-01-01T00:00:00.000Z",
    }
    assert {name: answer[name] for name in expected} == expected


async def test_an_overdue_timer_has_no_time_left() -> None:
    """0, not less."""
    store = FakeStore()
    await post(store, {"url": URL, "id": "a", "fire_at": 1})
    assert (await api(store).get("/timers/a")).json()["time_left"] == 0


async def test_an_archived_timer_is_remembered_by_its_id() -> None:
    """The record is gone, the archive knows."""
    store = FakeStore()
    store.archived.add("a")
    response = await api(store).get("/timers/a")
    assert response.status_code == 200
    assert response.json() == {"id": "a", "status": "archived", "time_left": 0, "archived": True}
    ArchivedTimer.model_validate_json(response.content, extra="forbid")


async def test_the_record_counts_more_than_the_archive() -> None:
    """A finished timer whose retention is not over is shown whole."""
    store = FakeStore()
    await post(store, {**VALID, "id": "a"})
    store.archived.add("a")
    assert (await api(store).get("/timers/a")).json()["status"] == "scheduled"


@pytest.mark.parametrize("timer_id", ["a", "a%20b", "%2e%2e", "a:b", "a" * 193])
async def test_an_id_that_never_was_is_not_found(timer_id: str) -> None:
    """404; for an impossible id the store is not even asked."""
    store = FakeStore()
    store.archived |= {"a b", "..", "a:b", "a" * 129}
    response = await api(store).get(f"/timers/{timer_id}")
    assert response.status_code == 404
    assert fields_of(response) == []


async def test_a_timer_can_be_asked_for_with_head() -> None:
    """HEAD as GET (RFC 9110 section 9.3.2)."""
    store = FakeStore()
    await post(store, {**VALID, "id": "a"})
    assert (await api(store).head("/timers/a")).status_code == 200
    assert (await api(store).head("/timers/b")).status_code == 404


@pytest.mark.parametrize("timer_id", ["batch", "replay"])
async def test_an_id_may_be_the_name_of_an_operation(timer_id: str) -> None:
    """POST /timers/batch is an operation, GET /timers/batch shows the timer of that id."""
    store = FakeStore()
    await post(store, {**VALID, "id": timer_id})
    assert (await api(store).get(f"/timers/{timer_id}")).json()["id"] == timer_id
