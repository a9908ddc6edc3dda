"""`httpqueue --virtual-clock`: what users' tests do with it, against the real command."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from httpqueue.clock import sleep
from httpqueue.run.virtual_clock import LOOK_S, VirtualClock
from httpqueue.storage.queue import Queue
from httpqueue.storage.storage import Storage
from httpqueue.timers.commands import Begun, Refused, WakeUp
from httpqueue.timers.policies import DestinationPolicy
from httpqueue.timers.schedule import Delay, format_instant, parse_instant_ms
from tests.support.keys import PARTITIONS
from tests.support.pipeline import running
from tests.support.processes import HTTPQUEUE, started
from tests.support.receiver import Receiver, Reply

HOUR_S = 3_600
DAY_S = 24 * HOUR_S


class Lab:
    """A client of the process, and the receiver of its webhooks."""

    def __init__(self, client: httpx.AsyncClient, receiver: Receiver) -> None:
        self._client = client
        self.receiver = receiver

    async def ask(self, method: str, path: str, status: int = 200, **options: Any) -> Any:
        """The answer's JSON."""
        response = await self._client.request(method, path, **options)
        assert response.status_code == status, response.text
        return response.json()

    async def post(self, timer_id: str, **timer: Any) -> Any:
        """A timer that calls /<its id>."""
        return await self.ask(
            "POST", "/timers", 201, json={"id": timer_id, "url": f"{self.receiver.url}/{timer_id}", **timer}
        )

    async def get(self, path: str) -> Any:
        """Of a timer."""
        return await self.ask("GET", f"/timers/{path}")

    async def now_ms(self) -> int:
        """What the virtual clock says."""
        return parse_instant_ms((await self.ask("GET", "/clock"))["now"])

    async def advance(self, **wish: Any) -> int:
        """To when it went, ms."""
        return parse_instant_ms((await self.ask("POST", "/clock/advance", json=wish))["now"])

    @property
    def called(self) -> list[str]:
        """The ids in the order of their calls."""
        return [request.path.removeprefix("/") for request in self.receiver.requests]


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    """A process whose time stands still."""
    async with (
        Receiver() as receiver,
        started(*HTTPQUEUE, "--virtual-clock", cwd=tmp_path, retention_done="1h") as process,
    ):
        await process.until_ready()
        async with httpx.AsyncClient(base_url=process.url, timeout=60) as client:
            yield Lab(client, receiver)
    assert not (tmp_path / ".httpqueue").exists(), "a virtual clock never touches real data"


async def test_a_reminder_in_30_days(lab: Lab) -> None:
    """Fires when the clock gets there, through the real delivery path, and has when advance answers."""
    created = await lab.post("a", seconds=30 * DAY_S, body={"remind": True})
    start_ms = await lab.now_ms()
    assert parse_instant_ms(created["due"]) == start_ms + 30 * DAY_S * 1000
    assert await lab.advance(seconds=30 * DAY_S - 0.001) == start_ms + 30 * DAY_S * 1000 - 1
    assert lab.called == []
    await lab.advance(seconds=0.001)
    [request] = lab.receiver.requests
    assert request.body == b'{"remind":true}'
    assert request.header("webhook-timestamp") == str((start_ms // 1000) + 30 * DAY_S)
    timer = await lab.get("a")
    assert (timer["status"], timer["lateness_ms"], timer["executed_at"]) == ("done", 0, created["due"])


async def test_nothing_fires_while_time_stands_still(lab: Lab) -> None:
    """A timer due in a millisecond waits for ever; one that is due now does not."""
    await lab.post("soon", seconds=0.001)
    await lab.post("now", seconds=0)
    await lab.receiver.wait_for(1)
    await lab.advance(seconds=0)
    assert lab.called == ["now"]
    assert (await lab.get("soon"))["status"] == "scheduled"
    assert (await lab.get("now"))["status"] == "done"


async def test_advance_answers_when_all_is_done(lab: Lab) -> None:
    """1,000 timers in due order, all of them delivered and finished."""
    batch = [
        {"id": f"{n:03}", "url": f"{lab.receiver.url}/{n:03}", "seconds": 1 + n // 10} for n in range(1_000)
    ]
    await lab.ask("POST", "/timers/batch", json={"timers": batch})
    await lab.advance(seconds=50)
    assert sorted(lab.called) == [f"{n:03}" for n in range(500)]
    assert [name[:2] for name in lab.called] == [f"{n // 10:02}" for n in range(500)]
    await lab.advance(seconds=50)
    assert len(lab.called) == 1_000
    listed = await lab.ask("GET", "/timers", params={"limit": 1000})
    assert {timer["status"] for timer in listed["timers"]} == {"done"}
    assert {timer["lateness_ms"] for timer in listed["timers"]} == {0}


async def test_retries_settle_within_one_advance(lab: Lab) -> None:
    """Each attempt at the instant at which its backoff ends."""
    lab.receiver.answer(Reply(503), Reply(503), Reply(503), Reply(200), path="/a")
    created = await lab.post("a", seconds=60, retry={"delays": [10, 600, DAY_S]})
    await lab.advance(seconds=60 + 10 + 600 + DAY_S)
    attempts = (await lab.get("a/attempts"))["attempts"]
    due_ms = parse_instant_ms(created["due"])
    gaps = (0, 10, 10 + 600, 10 + 600 + DAY_S)
    assert [attempt["started"] for attempt in attempts] == [
        format_instant(due_ms + seconds * 1000) for seconds in gaps
    ]
    assert [attempt["status"] for attempt in attempts] == [503, 503, 503, 200]


async def test_retry_after_counts_in_virtual_time(lab: Lab) -> None:
    """Its date is compared with the virtual clock, which may be years ahead."""
    start_ms = await lab.advance(seconds=400 * DAY_S)
    later = format_instant(start_ms + 120_000)
    http_date = _http_date(start_ms // 1000 + 120)
    lab.receiver.answer(Reply(503, headers=(("retry-after", http_date),)), Reply(200), path="/a")
    await lab.post("a", seconds=0, retry={"base": 1, "max": 3_600})
    await lab.receiver.wait_for(1)
    await lab.advance(seconds=HOUR_S)
    started_ms = parse_instant_ms((await lab.get("a/attempts"))["attempts"][1]["started"])
    assert abs(started_ms - parse_instant_ms(later)) < 2_000


def _http_date(seconds: int) -> str:

    return formatdate(seconds, usegmt=True)


async def test_a_cron_timer_runs_in_every_slot_on_the_way(lab: Lab) -> None:
    """A day of hours in one advance."""
    await lab.post("a", cron="@hourly")
    await lab.advance(seconds=DAY_S)
    assert lab.called == ["a"] * 24
    assert len({request.header("webhook-id") for request in lab.receiver.requests}) == 24
    attempts = (await lab.get("a/attempts"))["attempts"]
    assert all(attempt["started"].endswith(":00:00.000Z") for attempt in attempts)
    assert {attempt["lateness_ms"] for attempt in attempts} == {0}


async def test_a_lane_settles_in_its_order(lab: Lab) -> None:
    """A retry of the first holds the others; all are through when advance answers."""
    lab.receiver.answer(Reply(503), Reply(200), path="/0")
    for n in range(5):
        await lab.post(str(n), seconds=n, ordering_key="k", retry={"delays": [HOUR_S]})
    await lab.advance(seconds=HOUR_S - 1)
    assert lab.called == ["0"]
    assert (await lab.get("1/explain"))["code"] == "blocked"
    await lab.advance(seconds=1)
    assert lab.called == ["0", "0", "1", "2", "3", "4"]


async def test_a_rate_is_kept_in_virtual_time(lab: Lab) -> None:
    """One call a minute: ten timers that are due at once take nine minutes."""
    await lab.ask("PUT", "/destinations/127.0.0.1", json={"rate": 1 / 60})
    for n in range(10):
        await lab.post(str(n), seconds=1)
    await lab.advance(seconds=1 + 4 * 60)
    assert len(lab.called) == 5
    await lab.advance(seconds=HOUR_S)
    assert len(lab.called) == 10


async def test_callbacks_settle_too(lab: Lab) -> None:
    """With their own retries."""
    lab.receiver.answer(Reply(500), Reply(500), Reply(200), path="/told")
    await lab.post("a", seconds=5, callback={"url": f"{lab.receiver.url}/told"})
    await lab.advance(seconds=60)
    assert lab.called == ["a", "told", "told", "told"]


async def test_what_is_paused_does_not_keep_advance_from_answering(lab: Lab) -> None:
    """It is sent when its application goes on."""
    await lab.ask("POST", "/applications/default/pause")
    await lab.post("a", seconds=5)
    await lab.advance(seconds=60)
    assert lab.called == []
    assert (await lab.get("a/explain"))["code"] == "paused"
    await lab.ask("POST", "/applications/default/resume")
    await lab.advance(seconds=0)
    assert lab.called == ["a"]


async def test_advance_to_an_instant(lab: Lab) -> None:
    """The clock stands exactly there, and never goes back."""
    await lab.post("a", fire_at="2100-01-01T00:00:00Z")
    now_ms = await lab.advance(to="2100-01-01T00:00:00Z")
    assert format_instant(now_ms) == "2100-01-01T00:00:00.000Z"
    assert lab.called == ["a"]
    await lab.ask("POST", "/clock/advance", 422, json={"to": "2099-12-31T23:59:59Z"})
    await lab.ask("POST", "/clock/advance", 422, json={"seconds": -1})
    await lab.ask("POST", "/clock/advance", 422, json={})
    assert await lab.now_ms() == now_ms


async def test_two_advances_at_once(lab: Lab) -> None:
    """One after the other; no timer fires twice, and the clock is where both wanted it or beyond."""
    for n in range(20):
        await lab.post(str(n), seconds=60 * n)
    start_ms = await lab.now_ms()
    await asyncio.gather(lab.advance(seconds=HOUR_S), lab.advance(seconds=HOUR_S))
    assert await lab.now_ms() == start_ms + 2 * HOUR_S * 1000
    assert lab.called == [str(n) for n in range(20)]


async def test_answers_follow_the_virtual_now(lab: Lab) -> None:
    """time_left, explain, new timers and retention."""
    await lab.post("a", seconds=HOUR_S)
    assert (await lab.get("a"))["time_left"] == HOUR_S
    assert "in 3,600 s" in (await lab.get("a/explain"))["reason"]
    await lab.advance(seconds=HOUR_S - 60)
    assert (await lab.get("a"))["time_left"] == 60
    assert "in 60 s" in (await lab.get("a/explain"))["reason"]
    created = await lab.post("b", seconds=1)
    assert parse_instant_ms(created["due"]) == await lab.now_ms() + 1_000
    await lab.advance(seconds=60)
    await lab.advance(seconds=HOUR_S - 1)
    assert (await lab.get("a"))["status"] == "done"
    await lab.advance(seconds=1)
    assert (await lab.get("a"))["status"] == "archived"
    assert (await lab.ask("GET", "/timers"))["timers"] == []


async def test_signatures_carry_virtual_time(lab: Lab) -> None:
    """Which the usual check refuses when it is more than five minutes from the receiver's own."""
    secret = "whsec_" + "A" * 43 + "="
    await lab.ask("PUT", "/applications/default", json={"secrets": [secret]})
    await lab.post("a", seconds=1, body={})
    await lab.advance(seconds=1)
    [request] = lab.receiver.requests
    headers = {name.lower(): value for name, value in request.headers}
    Webhook(secret).verify(request.body, headers)
    await lab.post("b", seconds=HOUR_S, body={})
    await lab.advance(seconds=HOUR_S)
    headers = {name.lower(): value for name, value in lab.receiver.requests[1].headers}
    with pytest.raises(WebhookVerificationError, match="too new"):
        Webhook(secret).verify(lab.receiver.requests[1].body, headers)


@pytest.mark.parametrize("limit", [DestinationPolicy(rate=1), DestinationPolicy(concurrency=1)])
async def test_what_a_worker_has_in_its_hands_is_waited_for(
    redis: Redis, queue: Queue, limit: DestinationPolicy
) -> None:
    """Between two steps of a worker one that waits for its host is nowhere: advance goes on."""
    now = VirtualClock()
    storage = Storage(redis, archive_error_rate=1e-6, partitions=PARTITIONS, now=now)
    store, queue = storage.store, Queue(queue.redis, partitions=PARTITIONS, now=now)
    begin, put = store.begin, queue.put

    async def begin_slowly(wake_ups: Sequence[WakeUp], **options: Any) -> list[Begun | Refused]:
        await sleep(5 * LOOK_S)
        return await begin(wake_ups, **options)

    async def put_slowly(wake_ups: Sequence[WakeUp]) -> int:
        await sleep(5 * LOOK_S)
        return await put(wake_ups)

    store.begin, queue.put = begin_slowly, put_slowly  # type: ignore[method-assign] # a slow machine
    async with Receiver() as receiver, running(store, queue) as pipeline:
        await storage.policies.set_destination("127.0.0.1", limit)
        for n in range(10):
            await pipeline.schedule(str(n), receiver.url, Delay(1_000))
        await now.advance(
            lambda now_ms: now_ms + 60_000, lookup=storage.lookup, relay=pipeline.relay, queue=queue
        )
        assert len(receiver.requests) == 10
