"""What the API tells of timers, applications and destinations, over a real store."""

from typing import Any

import pytest
from redis.asyncio import Redis

from httpqueue.relay.relay import GRACE_MS
from httpqueue.storage.timers import Store
from httpqueue.timers.commands import Refused
from httpqueue.timers.explain import WORKER_SILENCE_MS, Code
from httpqueue.timers.schedule import format_instant
from httpqueue.timers.timer import State
from httpqueue.webhooks.outcome import Outcome
from tests.support.api_lab import HOOK, Lab
from tests.support.frozen import T0_MS, FrozenTime, begin, wake_up
from tests.support.keys import PARTITIONS, place_of
from tests.support.records import encode_record

SPECLESS = encode_record(b"{}")
"""A record that scripts can read, of a spec that says nothing."""
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture
def lab(redis: Redis, frozen_store: Store, time: FrozenTime) -> Lab:
    """The API on an empty server."""
    return Lab(redis, frozen_store, time)


def key_of(timer_id: str) -> str:
    """The key of a record."""
    return f"{PARTITIONS.store_keys[place_of(timer_id)].records}default:{timer_id}"


async def test_attempts(lab: Lab) -> None:
    """The oldest first, each with its time, lateness and answer; GET shows them, too."""
    await lab.post("a")
    assert (await lab.client.get("/timers/a/attempts")).json() == {"attempts": []}
    await lab.end(await lab.begin("a"), Outcome.RETRY, ms=5_000)
    lab.time.advance(5_000)
    await lab.end(await lab.begin("a"), Outcome.DELIVERED)
    attempts = (await lab.client.get("/timers/a/attempts")).json()["attempts"]
    assert [attempt["status"] for attempt in attempts] == [503, 200]
    assert [attempt["started"] for attempt in attempts] == [
        format_instant(T0_MS),
        format_instant(T0_MS + 5_000),
    ]
    assert attempts[0].keys() == {
        *("number", "generation", "due", "started", "lateness_ms", "duration_ms"),
        *("status", "error", "response"),
    }
    assert (await lab.get("a"))["last_attempts"] == attempts


async def explain(lab: Lab, timer_id: str = "a") -> tuple[str, str]:
    """Code and sentence."""
    response = await lab.client.get(f"/timers/{timer_id}/explain")
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer.keys() == {"code", "reason", "details"}
    return answer["code"], answer["reason"]


@pytest.mark.parametrize("state", [State.RUNNING, State.DONE, State.FAILED, State.CANCELLED])
async def test_explain_a_timer_that_is_not_waiting(lab: Lab, state: State) -> None:
    """Its state is the reason."""
    await lab.bring("a", state)
    assert (await explain(lab))[0] == state.value


async def test_explain_a_timer_that_waits(lab: Lab) -> None:
    """Not due, backoff, paused, no worker, about to start: one after the other."""
    await lab.post("a", seconds=60)
    code, reason = await explain(lab)
    assert (code, "in 60 s" in reason) == (Code.NOT_DUE, True)
    lab.time.advance(60_000)
    assert (await explain(lab))[0] == Code.STARTING
    await lab.end(await lab.begin("a"), Outcome.RETRY, ms=5_000)
    assert (await explain(lab))[0] == Code.BACKOFF
    lab.time.advance(5_000)
    lab.worker_silence_ms = WORKER_SILENCE_MS + 1_000
    assert await explain(lab) == (Code.NO_WORKER, "no worker was seen for 16 s: start `httpqueue worker`")
    lab.worker_silence_ms = None
    assert "no worker was ever seen" in (await explain(lab))[1]
    await lab.client.put("/destinations/receiver", json={"paused": True})
    assert await explain(lab) == (Code.PAUSED, "destination receiver is paused")
    await lab.client.post("/applications/default/pause")
    assert await explain(lab) == (Code.PAUSED, "application default is paused")


async def test_explain_a_timer_in_a_line(lab: Lab) -> None:
    """Behind another one of its ordering key, or behind the calls that its host takes."""
    for timer_id in ("a", "b"):
        await lab.post(timer_id, ordering_key="k")
    code, reason = await explain(lab, "b")
    assert (code, "blocked by timer a" in reason) == (Code.BLOCKED, True)
    await lab.client.put("/destinations/busy", json={"concurrency": 1})
    for timer_id in ("c", "d"):
        await lab.post(timer_id, url="http://busy/")
    await lab.begin("c")
    assert isinstance(await lab.try_to_begin("d"), Refused)
    code, reason = await explain(lab, "d")
    assert (code, "a concurrency limit of 1" in reason) == (Code.WAITING, True)


@pytest.mark.parametrize("below", ["", "/attempts", "/explain"])
async def test_a_timer_that_never_was(lab: Lab, below: str) -> None:
    """404."""
    assert (await lab.client.get(f"/timers/a{below}")).status_code == 404


async def test_an_archived_timer(lab: Lab) -> None:
    """Only that it was is known: GET says so, the rest cannot be told."""
    await lab.bring("a", State.ARCHIVED)
    response = await lab.client.get("/timers/a")
    assert response.json() == {"id": "a", "status": "archived", "time_left": 0, "archived": True}
    assert "etag" not in response.headers
    for below in ("attempts", "explain"):
        response = await lab.client.get(f"/timers/a/{below}")
        assert (response.status_code, response.json()["timer_status"]) == (409, "archived")


@pytest.mark.parametrize("record", [b"", b"\xc1", b"garbage", SPECLESS])
async def test_a_damaged_record_is_said_to_be_one(lab: Lab, record: bytes) -> None:
    """410 for whatever is asked of the timer, which is left as it is; the list goes on without it."""
    for timer_id in ("a", "b"):
        await lab.post(timer_id)
    key = key_of("a")
    await lab.redis.set(key, record)
    for method, below in (
        *(("GET", ""), ("GET", "/attempts"), ("GET", "/explain")),
        *(("PATCH", ""), ("PUT", "/callback")),
    ):
        response = await lab.client.request(
            method, f"/timers/a{below}", json={"callback": None} if method in {"PUT", "PATCH"} else None
        )
        assert response.status_code == 410, (method, below, response.text)
        assert "damaged" in response.json()["detail"]
    assert await lab.redis.get(key) == record
    listed = (await lab.client.get("/timers")).json()["timers"]
    assert [timer["id"] for timer in listed] == ["b"]


@pytest.mark.parametrize(
    ("method", "below"), [("DELETE", ""), ("POST", "/fire"), ("POST", "/replay"), ("PUT", "")]
)
async def test_a_damaged_record_is_not_changed(lab: Lab, method: str, below: str) -> None:
    """410, not a 404: its id is taken."""
    await lab.post("a")
    await lab.redis.set(key_of("a"), b"garbage")
    content = {"url": HOOK, "seconds": 1}
    response = await lab.client.request(method, f"/timers/a{below}", json=None if below else content)
    assert response.status_code == 410
    assert (await lab.client.post("/timers", json={"id": "a", **content})).status_code == 409


# --- applications ---


async def test_applications(lab: Lab) -> None:
    """Those with timers or settings, with their timers by status; secrets are only counted."""
    await lab.bring("a", State.DONE)
    await lab.post("b", application="shop")
    await lab.client.put(
        "/applications/blog", json={"secrets": [SECRET], "retention": {"done": 60, "failed": 0.5}}
    )
    response = await lab.client.get("/applications")
    listed = response.json()["applications"]
    assert [each["bytes"] > 0 for each in listed] == [False, True, True]
    plain = {"paused": False, "retention": None, "secrets": 0, "quota": None, "deleting": False}
    assert [{name: each[name] for name in each if name != "bytes"} for each in listed] == [
        {
            "application": "blog",
            **plain,
            "counts": {},
            "secrets": 1,
            "retention": {"done": 60, "failed": 0.5},
        },
        {"application": "default", **plain, "counts": {"done": 1}},
        {"application": "shop", **plain, "counts": {"scheduled": 1}},
    ]
    assert SECRET not in response.text
    for application in listed:
        path = f"/applications/{application['application']}"
        assert (await lab.client.get(path)).json() == application
    unknown = (await lab.client.get("/applications/nobody")).json()
    assert unknown == {"application": "nobody", **plain, "counts": {}, "bytes": 0}


@pytest.mark.parametrize("kind", ["applications", "destinations"])
async def test_names_come_in_pages(lab: Lab, kind: str) -> None:
    """Defect 12: a list of very many is read in parts, each name once."""
    for number in range(5):
        if kind == "applications":
            await lab.post("a", application=f"n{number}")
        else:
            await lab.client.put(f"/destinations/n{number}", json={"rate": 1})
    found: list[str] = []
    params: dict[str, Any] = {"limit": 2}
    for _ in range(3):
        answer = (await lab.client.get(f"/{kind}", params=params)).json()
        found += [each["application" if kind == "applications" else "host"] for each in answer[kind]]
        params["cursor"] = answer["next_cursor"]
    assert found == [f"n{number}" for number in range(5)]
    assert answer["next_cursor"] is None
    refused = await lab.client.get(f"/{kind}", params={"limit": 0, "cursor": ""})
    assert [each["field"] for each in refused.json()["errors"]] == ["limit", "cursor"]
    assert (await lab.client.get(f"/{kind}", params={"after": "x"})).status_code == 422


async def test_one_application_costs_what_it_is(lab: Lab, redis: Redis) -> None:
    """Defect 12: neither a look at it nor a change of it reads what others have."""
    await lab.post("a", application="shop")
    await redis.config_resetstat()
    await lab.client.get("/applications/shop")
    await lab.client.put("/applications/shop", json={})
    await lab.client.get("/destinations/receiver")
    commands = {*await redis.info("commandstats")}
    assert not commands & {f"cmdstat_{name}" for name in ("hgetall", "hkeys", "hvals", "hscan")}


async def test_an_application_is_paused_and_resumed(lab: Lab) -> None:
    """Its timers wait meanwhile; other settings leave the pause, and the pause leaves them."""
    await lab.post("a")
    path = "/applications/default"
    await lab.client.put(path, json={"secrets": [SECRET]})
    for _ in range(2):
        assert (await lab.client.post(f"{path}/pause")).json()["paused"]
    assert (await lab.client.put(path, json={"retention": {"done": 1}})).json()["paused"]
    [refused] = await begin(lab.store, [wake_up("a")])
    assert isinstance(refused, Refused)
    for _ in range(2):
        shown = (await lab.client.post(f"{path}/resume", json={})).json()
        assert (shown["paused"], shown["secrets"], shown["retention"]) == (False, 0, {"done": 1})
    await lab.begin("a")


# --- destinations ---


async def test_destinations(lab: Lab) -> None:
    """Those that were called or are set up, by name; limits are replaced whole, and dropped by DELETE."""
    await lab.bring("a", State.FAILED)
    limits = {"rate": 2.5, "concurrency": 3, "paused": True}
    shown = (await lab.client.put("/destinations/Example.COM", json=limits)).json()
    idle = {"waiting": 0, "calls": 0, "health": None}
    assert shown == {"host": "example.com", **limits, **idle}
    assert (await lab.client.put("/destinations/[::1]", json={})).json()["host"] == "[::1]"
    free = {"rate": None, "concurrency": None, "paused": False}
    listed = (await lab.client.get("/destinations")).json()["destinations"]
    assert [host["host"] for host in listed] == ["example.com", "receiver"]
    assert listed[0] == shown
    health = {"failures": 1, "last_call": format_instant(T0_MS), "last_result": "HTTP 404"}
    assert listed[1] == {"host": "receiver", **free, **idle, "health": health}
    assert (await lab.client.put("/destinations/example.com", json={"rate": 1})).json() == {
        **shown,
        **free,
        "rate": 1,
    }
    for _ in range(2):
        gone = (await lab.client.delete("/destinations/example.com")).json()
        assert gone == {"host": "example.com", **free, **idle}
    assert (await lab.client.get("/destinations/example.com")).json() == gone
    assert len((await lab.client.get("/destinations")).json()["destinations"]) == 1


async def test_a_paused_destination_takes_nothing(lab: Lab) -> None:
    """Its timers are counted as waiting, and go on when it does."""
    await lab.post("a")
    await lab.client.put("/destinations/receiver", json={"paused": True})
    assert isinstance(await lab.try_to_begin("a"), Refused)
    assert (await lab.client.get("/destinations/receiver")).json()["waiting"] == 1
    await lab.client.put("/destinations/receiver", json={"paused": False})
    await lab.begin("a")
    lab.time.advance(GRACE_MS + 1)
    await lab.relay.heal()  # whoever begins without a permit leaves the line when a relay has looked
    assert (await lab.client.get("/destinations/receiver")).json()["waiting"] == 0


# --- the virtual clock ---


async def test_the_clock_goes_forward(lab: Lab) -> None:
    """By seconds, or to an instant; never back. A timer's due time is counted from it."""
    assert (await lab.client.get("/clock")).json() == {"now": format_instant(T0_MS)}
    response = await lab.client.post("/clock/advance", json={"seconds": 1.5})
    assert response.json() == {"now": format_instant(T0_MS + 1_500)}
    for to in ("2027-01-15T08:00:10Z", T0_MS / 1000 + 10):
        response = await lab.client.post("/clock/advance", json={"to": to})
        assert response.json() == {"now": format_instant(T0_MS + 10_000)}
    assert (await lab.client.post("/clock/advance", json={"to": T0_MS / 1000})).status_code == 422
    await lab.post("a", url=HOOK, cron="* * * * *")
    assert (await lab.get("a"))["due"] == format_instant(T0_MS + 60_000)
