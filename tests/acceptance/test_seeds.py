"""What the five systems do over HTTP, row by row; docstrings quote the sentences of the systems' documents.

Most tests share one `httpqueue --virtual-clock`, in which each has an application of its own.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import pytest_asyncio

from httpqueue.storage.embedded import EmbeddedValkey
from httpqueue.timers.schedule import parse_instant_ms
from tests.support.processes import HTTPQUEUE, started
from tests.support.receiver import Receiver, Reply, hang, reply_when, reset
from tests.support.scheduler import API_KEY, NEW_YEAR_S, Scheduler, own, parts, started_scheduler

pytestmark = pytest.mark.asyncio(loop_scope="module")

DAY_S: Final = 86_400
AS_SCHEDULE_RS: Final = (
    f"SCHEDULERS_API_KEY={API_KEY}",
    "SCHEDULERS_CALLBACK_TIMEOUT=0.3",
    "SCHEDULERS_CALLBACK_RETRY_INTERVAL=1, 5, 30",
    "HTTPQUEUE_RETENTION_DONE=30d",
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def virtual(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scheduler]:
    """Shared by all."""
    async with started_scheduler(tmp_path_factory.mktemp("virtual")) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def with_schedule_rs_settings(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scheduler]:
    """Set up by schedule-rs' variables."""
    async with started_scheduler(tmp_path_factory.mktemp("schedule-rs"), *AS_SCHEDULE_RS) as running:
        yield running


@pytest.fixture
def scheduler(virtual: Scheduler) -> Scheduler:
    """For one test."""
    return own(virtual)


@pytest.fixture
def schedule_rs(with_schedule_rs_settings: Scheduler) -> Scheduler:
    """The same with schedule-rs' settings."""
    return own(with_schedule_rs_settings)


def names_in(directory: Path) -> list[str]:
    """What is in it."""
    return [path.name for path in directory.iterdir()]


async def callback_attempts(scheduler: Scheduler) -> list[dict[str, Any]]:
    """The attempts of the one callback there is; it is a timer like any other."""
    [timer_id] = [each for each in await scheduler.ids("") if "~callback-" in each]
    attempts: list[dict[str, Any]] = (await scheduler.get(timer_id))["last_attempts"]
    return attempts


# --- httpqueue ---


async def test_httpqueue_post(scheduler: Scheduler) -> None:
    """“schedule a timer: POST /timers”."""
    answer = await scheduler.client.post(
        "/timers", json={"hours": 0, "minutes": 1, "seconds": 30, "url": scheduler.url}
    )
    assert answer.status_code == 201
    await scheduler.advance(89)
    assert scheduler.calls() == 0
    await scheduler.advance(1)
    assert scheduler.calls() == 1


async def test_httpqueue_get(scheduler: Scheduler) -> None:
    """“get a timer using the timer ID: GET /timers/{timer_id}”."""
    await scheduler.post("a", minutes=1)
    timer = await scheduler.get("a")
    assert (timer["id"], timer["time_left"]) == ("a", 60)


@pytest.mark.parametrize(("status", "attempts"), [(400, 1), (404, 1), (410, 1), (429, 3), (503, 3)])
async def test_httpqueue_4xx_final_except_429(scheduler: Scheduler, status: int, attempts: int) -> None:
    """“if a webhook fails because of a client error, i.e. 4XX (except 429), then it fails permanently”."""
    scheduler.receiver.answer(Reply(status), path=scheduler.path)
    await scheduler.post("a", seconds=0, retry={"max_attempts": 3})
    await scheduler.advance(60)
    assert (await scheduler.get("a"))["status"] == "failed"
    assert scheduler.calls() == attempts


async def test_httpqueue_zero_delay(scheduler: Scheduler) -> None:
    """“It's possible to schedule a timer with zero delay.”."""
    await scheduler.post("a", seconds=0)
    await scheduler.until_called()


async def test_httpqueue_past_due_never_expires(scheduler: Scheduler) -> None:
    """“if the requested delay is past due, even after some hours, the timer is not considered expired”."""
    await scheduler.call("POST", f"/applications/{scheduler.application}/pause")
    await scheduler.post("a", seconds=1)
    await scheduler.advance(5 * 3_600)
    assert scheduler.calls() == 0
    await scheduler.call("POST", f"/applications/{scheduler.application}/resume")
    await scheduler.advance()
    assert scheduler.calls() == 1
    assert (await scheduler.get("a"))["lateness_ms"] == (5 * 3_600 - 1) * 1_000


async def test_httpqueue_bloom_archive(scheduler: Scheduler) -> None:
    """“Only the timer ID is kept”: “it archives the finished webhooks in a Bloom Filter”."""
    await scheduler.post("a", seconds=1)
    await scheduler.advance(2)
    assert (await scheduler.get("a"))["status"] == "done"
    await scheduler.advance(2 * 3_600)
    assert await scheduler.get("a") == {"id": "a", "status": "archived", "time_left": 0, "archived": True}
    await scheduler.call("GET", "/timers/b", status=404)


@pytest.mark.parametrize("names", ["all", "api relay worker"])
async def test_httpqueue_one_process_or_many(
    tmp_path: Path, valkey_server: EmbeddedValkey, names: str
) -> None:
    """“for each component there is a separate process, but it's also possible to have all […] in one”."""
    async with Receiver() as receiver, AsyncExitStack() as stack:
        if names == "all":
            process = await stack.enter_async_context(started(*HTTPQUEUE, "--ephemeral", cwd=tmp_path))
            await process.until_ready()
            client = await stack.enter_async_context(httpx.AsyncClient(base_url=process.url, timeout=60))
        else:
            [client] = await stack.enter_async_context(parts(names, tmp_path, valkey_server))
        await client.post("/timers", json={"url": receiver.url, "seconds": 0})
        await receiver.wait_for(1)


# --- cassata-io ---


async def test_cassata_event_id_per_application(scheduler: Scheduler) -> None:
    """“Event Id must be unique within every application. Different applications can share an event ID.”."""
    other = own(scheduler)
    await scheduler.post("event", seconds=60)
    await other.post("event", seconds=120)
    assert (await scheduler.get("event"))["url"] == scheduler.url
    assert (await other.get("event"))["url"] == other.url
    await scheduler.post("event", status=409, seconds=61)


async def test_cassata_dedup(scheduler: Scheduler) -> None:
    """“A unique event Id used for de-duplication.”."""
    await scheduler.post("event", seconds=60)
    await scheduler.post("event", status=200, seconds=60)
    await scheduler.advance(60)
    assert scheduler.calls() == 1


async def test_cassata_method_headers_body(scheduler: Scheduler) -> None:
    """“Clients can provide the HTTP method and optional headers”; body: “any arbitrary JSON string”."""
    headers = {"Content-Type": "application/json", "Header1": "value1", "Header2": "value2"}
    await scheduler.post("event", seconds=0, method="PUT", headers=headers, body='{"a": [1, null]}')
    await scheduler.post("plain", seconds=0, url=f"{scheduler.url}/plain", body={})
    [put] = await scheduler.receiver.wait_for(1, path=scheduler.path)
    [plain] = await scheduler.receiver.wait_for(1, path=f"{scheduler.path}/plain")
    assert (put.method, put.body) == ("PUT", b'{"a": [1, null]}')
    assert {name: put.header(name) for name in headers} == headers
    assert (plain.method, plain.header("Content-Type"), plain.body) == ("POST", "application/json", b"{}")


async def test_cassata_unix_expiry(scheduler: Scheduler) -> None:
    """“Expiry: The UNIX timestamp of the time when this event should be emitted by the worker.”."""
    assert (await scheduler.post("past", fire_at=1_724_141_245))["due"] == "2024-08-20T08:07:25.000Z"
    assert (await scheduler.post("future", fire_at=2_000_000_000))["due"] == "2033-05-18T03:33:20.000Z"
    await scheduler.until_called()


async def test_cassata_delete(scheduler: Scheduler) -> None:
    """“Delete the event identified by appId and eventID”."""
    await scheduler.post("event", seconds=60)
    assert (await scheduler.call("DELETE", "/timers/event"))["status"] == "cancelled"
    await scheduler.advance(61)
    assert scheduler.calls() == 0


async def test_cassata_status_words(scheduler: Scheduler) -> None:
    """“Possible status are PENDING, PROCESSING, COMPLETED, SERVICE_UNAVAILABLE, FAILED.”."""

    async def status() -> tuple[str, int]:
        timer = await scheduler.get("event")
        return timer["status"], timer["attempts"]

    answer = asyncio.Event()
    scheduler.receiver.answer(Reply(503), reply_when(answer, Reply(200)), Reply(404), path=scheduler.path)
    await scheduler.post("event", seconds=10, retry={"delays": [60]})
    assert await status() == ("scheduled", 0), "PENDING"
    await scheduler.advance(10)
    assert await status() == ("scheduled", 1), "SERVICE_UNAVAILABLE"
    assert (await scheduler.get("event"))["last_error"] == "HTTP 503"
    advancing = asyncio.create_task(scheduler.advance(60))
    await scheduler.until_called(2)
    assert await status() == ("running", 2), "PROCESSING"
    answer.set()
    await advancing
    assert await status() == ("done", 2), "COMPLETED"
    await scheduler.post("other", seconds=0)
    await scheduler.advance()
    assert (await scheduler.get("other"))["status"] == "failed", "FAILED"


async def test_cassata_failure_log(scheduler: Scheduler) -> None:
    """“error codes and status messages can also be persisted to the datastore for diagnosis”."""
    scheduler.receiver.answer(Reply(503, b"try later"), reset, Reply(400, b"no order"), path=scheduler.path)
    await scheduler.post("event", seconds=0)
    await scheduler.advance(60)
    attempts = (await scheduler.call("GET", "/timers/event/attempts"))["attempts"]
    assert [attempt["status"] for attempt in attempts] == [503, None, 400]
    assert [attempt["response"] for attempt in attempts] == ["try later", "", "no order"]
    assert all(attempt["error"] for attempt in attempts)


async def test_cassata_retry_count(scheduler: Scheduler) -> None:
    """“httpRetryCount 5 Number of retries […] before marking the event as failure.”."""
    scheduler.receiver.answer(Reply(500), path=scheduler.path)
    await scheduler.post("event", seconds=0, retry={"max_attempts": 6})
    await scheduler.advance(600)
    assert (await scheduler.get("event"))["status"] == "failed"
    assert scheduler.calls() == 6


async def test_cassata_several_services_and_workers(tmp_path: Path, valkey_server: EmbeddedValkey) -> None:
    """“you have have multiple instances of Service and Worker running for scalability”."""
    async with Receiver() as receiver, parts("api api relay worker worker", tmp_path, valkey_server) as apis:
        for number in range(40):
            timer = {"url": f"{receiver.url}/{number}", "seconds": 0}
            assert (await apis[number % 2].post("/timers", json=timer)).status_code == 201
        requests = await receiver.wait_for(40)
    assert len({request.path for request in requests}) == len(receiver.requests) == 40


# --- schedule-rs ---


async def test_schedule_rs_cron(schedule_rs: Scheduler) -> None:
    """“The schedule field is a cron expression”: “0 0 1 1 *”, “on every 1st of January at 00:00”."""
    await schedule_rs.post("a", cron="0 0 1 1 *")
    before = await schedule_rs.get("a")
    await schedule_rs.call("POST", "/clock/advance", to=before["due"])
    after = await schedule_rs.get("a")
    assert schedule_rs.calls() == 1
    year = int(before["due"][:4])
    assert (before["due"], after["due"]) == (
        f"{year}-01-01T00:00:00.000Z",
        f"{year + 1}-01-01T00:00:00.000Z",
    )
    assert (after["status"], after["executed_at"]) == ("scheduled", before["due"])
    await schedule_rs.call("DELETE", "/timers/a")


async def test_schedule_rs_schedule_at(schedule_rs: Scheduler) -> None:
    """“To schedule one time HTTP request, use schedule_at field with ISO 8601 format”."""
    await schedule_rs.post("past", fire_at="2021-01-01T00:00:00Z")
    await schedule_rs.advance()
    assert (await schedule_rs.get("past"))["status"] == "done"
    assert (await schedule_rs.post("a", fire_at="2999-01-01T01:00:00+01:00"))[
        "due"
    ] == "2999-01-01T00:00:00.000Z"


async def test_schedule_rs_list(schedule_rs: Scheduler) -> None:
    """“To get all schedules, send a GET request to /schedule.”."""
    await schedule_rs.post("b", fire_at="2998-01-01T00:00:00Z")
    await schedule_rs.post("a", cron="0 0 1 1 *")
    assert await schedule_rs.ids("") == ["a", "b"]
    await schedule_rs.call("DELETE", "/timers/a")


async def test_schedule_rs_get(schedule_rs: Scheduler) -> None:
    """“send a GET request to /schedule/{id}”; “Response body will be the schedule's JSON.”."""
    timer: dict[str, Any] = {
        "url": schedule_rs.url,
        "method": "GET",
        "body": "Hello world!",
        "headers": {"Content-Type": "text/plain"},
        "cron": "0 0 1 1 *",
    }
    await schedule_rs.post("a", **timer)
    assert timer.items() <= (await schedule_rs.get("a")).items()
    await schedule_rs.call("DELETE", "/timers/a")


async def test_schedule_rs_update(schedule_rs: Scheduler) -> None:
    """“To update a schedule, send a PUT request to /schedule/{id}”."""
    await schedule_rs.post("a", seconds=60, body="old")
    await schedule_rs.call("PUT", "/timers/a", url=schedule_rs.url, seconds=120, body="new")
    await schedule_rs.advance(119)
    assert schedule_rs.calls() == 0
    await schedule_rs.advance(1)
    [request] = await schedule_rs.receiver.wait_for(1, path=schedule_rs.path)
    assert request.body == b"new"


async def test_schedule_rs_delete(schedule_rs: Scheduler) -> None:
    """“To delete a schedule, send a DELETE request to /schedule/{id}.”."""
    await schedule_rs.post("a", cron="@hourly")
    await schedule_rs.call("DELETE", "/timers/a")
    await schedule_rs.advance(2 * 3_600)
    assert schedule_rs.calls() == 0


@pytest.mark.parametrize("by_put", [True, False], ids=["PUT", "when creating"])
async def test_schedule_rs_callback(schedule_rs: Scheduler, *, by_put: bool) -> None:
    """“Callback URL will be sent a POST request”; “Or set callback field when creating”."""
    callback: dict[str, Any] = {
        "url": f"{schedule_rs.url}/callback",
        "headers": {"Authorization": "Bearer token"},
    }
    created_with = None if by_put else callback
    await schedule_rs.post("a", seconds=60, body="Hello world!", callback=created_with)
    if by_put:
        await schedule_rs.call("PUT", "/timers/a/callback", callback=callback)
    await schedule_rs.advance(60)
    [request] = await schedule_rs.receiver.wait_for(1, path=f"{schedule_rs.path}/callback")
    told = httpx.Response(200, content=request.body).json()
    assert (request.method, request.header("Authorization")) == ("POST", "Bearer token")
    assert told["request"] == {
        "url": schedule_rs.url,
        "method": "POST",
        "body": "Hello world!",
        "headers": {},
    }
    assert (told["id"], told["status"], told["schedule_at"]) == ("a", "done", told["executed_at"])


async def test_schedule_rs_api_key(schedule_rs: Scheduler) -> None:
    """“use it in each request in X-API-Key header”, set by SCHEDULERS_API_KEY."""
    await schedule_rs.post("a", hours=1)
    for key, status in ((API_KEY, 200), ("another-key-that-is-wrong", 401), ("", 401)):
        query = {"application": schedule_rs.application}
        response = await schedule_rs.client.get("/timers/a", params=query, headers={"X-API-Key": key})
        assert response.status_code == status


@pytest.mark.parametrize("status", [200, 404], ids=["done", "failed"])
async def test_schedule_rs_retention_30_days(schedule_rs: Scheduler, status: int) -> None:
    """“deleted automatically […] when retention policy is met. Default retention policy is 30 days.”."""
    schedule_rs.receiver.answer(Reply(status), path=schedule_rs.path)
    await schedule_rs.post("a", seconds=0)
    await schedule_rs.advance(30 * DAY_S - 60)
    assert (await schedule_rs.get("a"))["status"] == ("done" if status == 200 else "failed")
    await schedule_rs.advance(120)
    assert (await schedule_rs.get("a"))["status"] == "archived"


async def test_schedule_rs_last_error(schedule_rs: Scheduler) -> None:
    """“status”: “failed”, “last_error”: “Failed to connect to host”."""
    schedule_rs.receiver.answer(reset, path=schedule_rs.path)
    await schedule_rs.post("a", seconds=0, retry={"max_attempts": 1})
    await schedule_rs.advance()
    timer = await schedule_rs.get("a")
    assert timer["status"] == "failed"
    assert timer["last_error"].endswith("; gave up after 1 attempts")


async def test_schedule_rs_executed_at(schedule_rs: Scheduler) -> None:
    """“failed and done schedules contains additional info about execution”: “executed_at”."""
    due = (await schedule_rs.post("a", seconds=90))["due"]
    assert (await schedule_rs.get("a"))["executed_at"] is None
    await schedule_rs.advance(90)
    assert (await schedule_rs.get("a"))["executed_at"] == due


async def test_schedule_rs_callback_timeout(schedule_rs: Scheduler) -> None:
    """“SCHEDULERS_CALLBACK_TIMEOUT: Default timeout for callback request in seconds.”."""
    path = f"{schedule_rs.path}/callback"
    schedule_rs.receiver.answer(hang, Reply(200), path=path)
    await schedule_rs.post("a", seconds=0, callback={"url": f"{schedule_rs.receiver.url}{path}"})
    await schedule_rs.advance(60)
    first, second = await callback_attempts(schedule_rs)
    assert first["status"] is None
    assert 250 <= first["duration_ms"] < 5_000
    assert second["status"] == 200


async def test_schedule_rs_callback_retry_intervals(schedule_rs: Scheduler) -> None:
    """“The above example will retry 3 times with interval of 1, then 5 and finally 30 seconds.”."""
    path = f"{schedule_rs.path}/callback"
    schedule_rs.receiver.answer(Reply(503), path=path)
    await schedule_rs.post("a", seconds=0, callback={"url": f"{schedule_rs.receiver.url}{path}"})
    await schedule_rs.advance(3_600)
    starts_ms = [parse_instant_ms(each["started"]) for each in await callback_attempts(schedule_rs)]
    assert [later - earlier for earlier, later in pairwise(starts_ms)] == [1_000, 5_000, 30_000]


# --- clockwork ---


async def test_clockwork_client_id_and_schedule_key(scheduler: Scheduler) -> None:
    """“clientId + scheduleId should be unique”."""
    other = own(scheduler)
    await scheduler.post("order1-create", fire_at=NEW_YEAR_S * 2, body="payload")
    await scheduler.post("order1-create", status=409, fire_at=NEW_YEAR_S * 2, body="other")
    await other.post("order1-create", fire_at=NEW_YEAR_S * 2, body="other")


async def test_clockwork_ordering_key(scheduler: Scheduler) -> None:
    """“all schedule with same ordering key will be delivered in order”."""
    scheduler.receiver.answer(Reply(503), Reply(503), Reply(200), path=scheduler.path)
    for number in (3, 1, 2):
        await scheduler.post(f"{number}", seconds=number, ordering_key="order1", body=f"{number}")
    await scheduler.advance(60)
    requests = await scheduler.receiver.wait_for(5, path=scheduler.path)
    assert [request.body for request in requests] == [b"1", b"1", b"1", b"2", b"3"]


async def test_clockwork_cancel(scheduler: Scheduler) -> None:
    """“(Optional) if you will be using cancel api”: the answer says whether it came in time."""
    await scheduler.post("early", seconds=60)
    await scheduler.post("late", seconds=30)
    await scheduler.advance(30)
    assert (await scheduler.call("DELETE", "/timers/early"))["status"] == "cancelled"
    assert (await scheduler.call("DELETE", "/timers/late", status=409))["timer_status"] == "done"
    await scheduler.advance(60)
    assert scheduler.calls() == 1


async def test_clockwork_at_least_once(scheduler: Scheduler) -> None:
    """“atleast once delivery guarantees”: a call whose answer is lost is made again, with the same id."""
    scheduler.receiver.answer(reset, Reply(200), path=scheduler.path)
    await scheduler.post("a", seconds=0)
    await scheduler.advance(60)
    first, second = await scheduler.receiver.wait_for(2, path=scheduler.path)
    assert first.header("webhook-id") == second.header("webhook-id")
    assert first.run == f"{scheduler.application}:a:0"


async def test_clockwork_metrics(scheduler: Scheduler) -> None:
    """“Micrometer is used to push execution and creation metrics”: here Prometheus gets them."""

    async def figures() -> tuple[float, float]:
        lines = (await scheduler.client.get("/metrics")).text.splitlines()
        values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        delivered = 'httpqueue_attempts_total{outcome="delivered"}'
        return float(values["httpqueue_timers_created_total"]), float(values[delivered])

    created, executed = await figures()
    await scheduler.post("a", seconds=0)
    await scheduler.advance()
    assert await figures() == (created + 1, executed + 1)


# --- kafka-message-scheduler: REST and mini ---


async def test_kafka_message_scheduler_mini(tmp_path: Path) -> None:
    """“a ”mini“ version of the scheduler which doesn't need any dependencies”, “for integration tests”."""
    async with Receiver() as receiver, started(*HTTPQUEUE, "--ephemeral", cwd=tmp_path) as process:
        await process.until_ready()
        async with httpx.AsyncClient(base_url=process.url, timeout=60) as client:
            assert (await client.post("/timers", json={"url": receiver.url, "seconds": 0})).status_code == 201
            await receiver.wait_for(1)
        assert await process.end() == 0
    assert names_in(tmp_path) == []


async def test_kafka_message_scheduler_list(scheduler: Scheduler) -> None:
    """“These topics contains all the schedules to trigger.”."""
    await scheduler.post("vid1-offline", seconds=300)
    await scheduler.post("vid1-online", seconds=200)
    await scheduler.post("vid0-online", seconds=100)
    await scheduler.advance(150)
    assert await scheduler.ids("status=scheduled,running") == ["vid1-online", "vid1-offline"]


async def test_kafka_message_scheduler_history(scheduler: Scheduler) -> None:
    """“The same message will also be produced to the 'history' topic for auditing.”."""
    scheduler.receiver.answer(Reply(200), Reply(404), path=scheduler.path)
    await scheduler.post("vid1-online", seconds=1, headers={"customer-header": "dummy"}, body="video 1")
    await scheduler.post("vid1-offline", seconds=2)
    await scheduler.post("vid2-online", seconds=900)
    await scheduler.advance(3)
    assert await scheduler.ids("status=done,failed") == ["vid1-online", "vid1-offline"]
    told = await scheduler.get("vid1-online")
    assert (told["body"], told["headers"]) == ("video 1", {"customer-header": "dummy"})


# --- none of them ---


async def test_none_of_them_explain(scheduler: Scheduler) -> None:
    """A code and one sentence say why a timer has not fired yet."""
    await scheduler.post("a", hours=1)
    explained = await scheduler.call("GET", "/timers/a/explain")
    assert explained["code"] == "not_due"
    assert "3,600 s" in explained["reason"]


@pytest.mark.parametrize(
    ("if_exists", "due_s"), [("keep", 60), ("replace", 90), ("earliest", 60), ("latest", 90)]
)
async def test_none_of_them_upsert(scheduler: Scheduler, if_exists: str, due_s: int) -> None:
    """One request stores, keeps or replaces."""
    await scheduler.post("a", seconds=60, if_exists=if_exists)
    await scheduler.post("a", status=200, seconds=90, if_exists=if_exists)
    assert (await scheduler.get("a"))["time_left"] == due_s


async def test_none_of_them_bulk_replay_with_dry_run(scheduler: Scheduler) -> None:
    """All failed timers with a label, first only said, then sent again."""
    scheduler.receiver.answer(Reply(404), Reply(404), Reply(404), Reply(200), path=scheduler.path)
    for timer_id, team in (("a", "blue"), ("b", "red"), ("c", "blue")):
        await scheduler.post(timer_id, seconds=0, labels={"team": team})
    await scheduler.advance()
    wish: dict[str, Any] = {"application": scheduler.application, "label": "team:blue"}
    for dry_run, calls in ((True, 3), (False, 5)):
        job = await scheduler.call("POST", "/timers/replay", status=202, **wish, dry_run=dry_run)
        await scheduler.advance()
        job = await scheduler.call("GET", f"/jobs/{job['id']}")
        assert (job["matched"], job["changed"]) == (2, 0 if dry_run else 2)
        assert scheduler.calls() == calls
    assert await scheduler.ids("status=failed") == ["b"]


async def test_none_of_them_per_host_limits(scheduler: Scheduler) -> None:
    """A host with a rate of one call a second gets one each second."""
    await scheduler.call("PUT", "/destinations/127.0.0.1", rate=1)
    try:
        for number in range(3):
            await scheduler.post(f"{number}", seconds=0)
        calls = []
        for seconds in (0, 1, 1):
            await scheduler.advance(seconds)
            calls.append(scheduler.calls())
        assert calls == [1, 2, 3]
    finally:
        await scheduler.call("DELETE", "/destinations/127.0.0.1")


async def test_none_of_them_past_due_policy(scheduler: Scheduler) -> None:
    """Fire however late, skip, or fire within so many seconds."""
    for timer_id, past_due in (("fire", "fire"), ("skip", "skip"), ("within", {"fire_within": 10 * DAY_S})):
        await scheduler.post(timer_id, fire_at="2020-01-01T00:00:00Z", past_due=past_due)
    await scheduler.advance()
    states = [(await scheduler.get(timer_id))["status"] for timer_id in ("fire", "skip", "within")]
    assert states == ["done", "failed", "failed"]
    assert scheduler.calls() == 1


async def test_none_of_them_lateness_per_attempt(scheduler: Scheduler) -> None:
    """Each attempt says when it was due, when it started, and the difference."""
    scheduler.receiver.answer(Reply(503), Reply(200), path=scheduler.path)
    await scheduler.post("a", fire_at=NEW_YEAR_S - 7, retry={"delays": [5]})
    await scheduler.advance(5)
    first, second = (await scheduler.call("GET", "/timers/a/attempts"))["attempts"]
    assert first["due"] == "2029-12-31T23:59:53.000Z"
    assert first["lateness_ms"] >= 7_000
    assert (second["due"], second["lateness_ms"]) == (second["started"], 0)
