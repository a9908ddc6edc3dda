"""One timer through the API, over a real store: each call, in each state, with one definite answer."""

from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from httpqueue.storage.timers import Store
from httpqueue.timers.schedule import format_instant
from httpqueue.timers.timer import State
from httpqueue.webhooks.outcome import Outcome
from tests.support.api_lab import HOOK, Lab
from tests.support.frozen import T0_MS, FrozenTime

OTHER = "http://receiver/other"
TELL = "http://receiver/tell"
CALLS: dict[str, tuple[str, str, Any]] = {
    "put": ("PUT", "", {"url": OTHER, "seconds": 60}),
    "patch": ("PATCH", "", {"url": OTHER}),
    "delete": ("DELETE", "", None),
    "fire": ("POST", "/fire", None),
    "replay": ("POST", "/replay", None),
    "callback": ("PUT", "/callback", {"callback": {"url": TELL}}),
}
ALLOWED = {
    State.SCHEDULED: {"put", "patch", "delete", "fire", "callback"},
    State.FAILED: {"delete", "replay"},
    State.CANCELLED: {"delete"},
}
STATES = list(State)


@pytest.fixture
def lab(redis: Redis, frozen_store: Store, time: FrozenTime) -> Lab:
    """The API on an empty server."""
    return Lab(redis, frozen_store, time)


async def call(lab: Lab, name: str, timer_id: str = "a", **headers: str) -> httpx.Response:
    """One of CALLS."""
    method, below, members = CALLS[name]
    return await lab.client.request(method, f"/timers/{timer_id}{below}", json=members, headers=headers)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", CALLS)
async def test_a_change_is_done_or_refused_with_the_state(lab: Lab, name: str, state: State) -> None:
    """200, or 409 with the timer's state; a refused change changes nothing."""
    await lab.bring("a", state)
    before = await lab.get("a")
    response = await call(lab, name)
    if name in ALLOWED.get(state, set()):
        assert response.status_code == 200
        assert response.json()["id"] == "a"
    else:
        assert response.status_code == 409
        assert response.json()["timer_status"] == state
        assert await lab.get("a") == before


@pytest.mark.parametrize("name", CALLS)
async def test_a_timer_that_never_was(lab: Lab, name: str) -> None:
    """404, whatever If-Match says; an impossible id as well."""
    for timer_id in ("a", "a:b"):
        for headers in ({}, {"if-match": '"0.0.s"'}, {"if-match": '"0.0.s", "1.0.s"'}, {"if-match": "*"}):
            assert (await call(lab, name, timer_id, **headers)).status_code == 404
    assert not await lab.redis.keys("hq:{*}[a-z]*")


@pytest.mark.parametrize("name", CALLS)
async def test_if_match(lab: Lab, name: str) -> None:
    """412 unless one of the tags is the timer's own; weak and empty tags match nothing, * any timer."""
    await lab.bring("a", State.FAILED if name == "replay" else State.SCHEDULED)
    own = await lab.etag("a")
    for other in ('"9.0.s"', '"9.0.s", "8.0.s"', f"W/{own}", '""', '"-"'):
        response = await call(lab, name, **{"if-match": other})
        assert response.status_code == 412
        assert await lab.etag("a") == own
    assert (await call(lab, name, **{"if-match": f'"9.0.s", {own}'})).status_code == 200
    assert await lab.etag("a") != own if name != "delete" else True


@pytest.mark.parametrize("name", CALLS)
async def test_if_match_of_a_running_timer(lab: Lab, name: str) -> None:
    """The state comes first (RFC 9110 section 13.2.1): that it is in flight says more than 412."""
    await lab.post("a")
    old = await lab.etag("a")
    await lab.begin("a")
    for tags in (old, f'{old}, "9.0.s"', '"9.0.s", "8.0.s"'):
        response = await call(lab, name, **{"if-match": tags})
        assert (response.status_code, response.json()["timer_status"]) == (409, "running")


async def test_each_change_gives_a_new_etag(lab: Lab) -> None:
    """Answered by the change itself, so that the next one needs no GET."""
    await lab.post("a", seconds=60)
    seen = [await lab.etag("a")]
    for name in ("put", "patch", "callback", "fire", "fire"):
        response = await call(lab, name, **{"if-match": seen[-1]})
        assert response.headers["etag"] == await lab.etag("a")
        seen.append(response.headers["etag"])
    await lab.begin("a", generation=5)
    seen.append(await lab.etag("a"))
    assert len(set(seen)) == len(seen)


async def test_put_replaces_everything(lab: Lab) -> None:
    """What is absent is as in a new timer; the delay begins anew."""
    await lab.post("a", seconds=30, method="PUT", labels={"team": "blue"}, body=[1], retry={"base": 2})
    lab.time.advance(10_000)
    response = await lab.client.put(
        "/timers/a", json={"id": "a", "application": "default", "url": OTHER, "minutes": 1}
    )
    due = format_instant(T0_MS + 70_000)
    assert response.json() == {"id": "a", "status": "scheduled", "due": due}
    await lab.post("b", url=OTHER, minutes=1)
    shown, fresh = await lab.get("a"), await lab.get("b")
    assert shown == fresh | {"id": "a", "generation": 1}


@pytest.mark.parametrize(
    ("members", "due"),
    [
        ({"fire_at": "2030-01-01T00:00:00Z"}, "2030-01-01T00:00:00.000Z"),
        ({"fire_at": "2030-07-01T09:00:00", "timezone": "Europe/Berlin"}, "2030-07-01T07:00:00.000Z"),
        ({"cron": "@yearly", "timezone": "America/New_York"}, "2028-01-01T05:00:00.000Z"),
    ],
)
async def test_put_takes_every_schedule(lab: Lab, members: dict[str, str], due: str) -> None:
    """And GET shows it as given, in its own timezone, too."""
    await lab.post("a", seconds=30)
    response = await lab.client.put("/timers/a", json={"url": HOOK, **members})
    assert response.json()["due"] == due
    shown = await lab.get("a")
    assert (shown["due"], shown["delay_ms"]) == (due, None)
    assert shown["timezone"] == members.get("timezone")
    assert bool(shown["due_local"]) == ("timezone" in members)


# --- merge patches ---

WHOLE = {
    "method": "PUT",
    "headers": {"X-A": "1", "X-B": "2"},
    "body": {"order": {"id": 1, "items": [1, 2]}, "note": "x"},
    "timeout": 5.0,
    "retry": {"max_attempts": 3, "base": 0.5},
    "callback": {"url": TELL, "headers": {"X-C": "3"}, "on": ["failed"]},
    "ordering_key": "k",
    "labels": {"team": "blue", "tier": "1"},
    "past_due": {"fire_within": 60.0},
    "retention": {"done": 60.0},
}


@pytest.mark.parametrize(
    ("patch", "changed"),
    [
        ({}, {}),
        ({"url": OTHER}, {"url": OTHER}),
        ({"method": None}, {"method": "POST"}),
        ({"headers": {"X-A": None, "X-D": "4"}}, {"headers": {"X-B": "2", "X-D": "4"}}),
        ({"headers": None}, {"headers": {}}),
        (
            {"body": {"order": {"id": None}, "note": "y"}},
            {"body": {"order": {"items": [1, 2]}, "note": "y"}},
        ),
        ({"body": {"order": {"items": [3]}}}, {"body": {"order": {"id": 1, "items": [3]}, "note": "x"}}),
        ({"body": [1]}, {"body": [1]}),
        ({"body": None}, {"body": None}),
        ({"timeout": None, "ordering_key": "k"}, {"timeout": None}),
        ({"retry": {"base": None, "jitter": False}}, {"retry": {"max_attempts": 3, "jitter": False}}),
        ({"retry": {"max_attempts": None, "base": None, "delays": [1]}}, {"retry": {"delays": [1.0]}}),
        ({"callback": {"on": None}}, {"callback": WHOLE["callback"] | {"on": ["done", "failed"]}}),  # type: ignore[operator] # a dict
        ({"callback": None}, {"callback": None}),
        ({"labels": {"tier": None}}, {"labels": {"team": "blue"}}),
        ({"past_due": "skip"}, {"past_due": "skip"}),
        ({"past_due": None}, {"past_due": "fire"}),
        ({"retention": {"done": None, "failed": 0}}, {"retention": {"failed": 0.0}}),
        ({"seconds": None, "cron": None}, {}),
    ],
)
async def test_a_merge_patch(lab: Lab, patch: dict[str, Any], changed: dict[str, Any]) -> None:
    """RFC 7396: what it names is changed, null removes, all else stays; due when it was."""
    await lab.post("a", fire_at=T0_MS / 1000 + 60, **WHOLE)
    before = await lab.get("a")
    assert WHOLE.items() <= before.items()
    lab.time.advance(10_000)
    response = await lab.client.patch(
        "/timers/a", json=patch, headers={"content-type": "application/merge-patch+json"}
    )
    assert response.status_code == 200, response.text
    assert response.json()["due"] == before["due"]
    assert await lab.get("a") == before | changed | {"generation": 1, "time_left": 50}


async def test_a_patched_delay_goes_on(lab: Lab) -> None:
    """A patch that does not say when keeps the due time; one that does begins anew."""
    first = await lab.post("a", seconds=60)
    lab.time.advance(10_000)
    response = await lab.client.patch("/timers/a", json={"labels": {"a": "b"}})
    assert response.json()["due"] == first["due"]
    response = await lab.client.patch("/timers/a", json={"seconds": 60})
    assert response.json()["due"] == format_instant(T0_MS + 70_000)


async def test_a_patch_keeps_a_backoff(lab: Lab) -> None:
    """The wait after a failed attempt stays, unless the patch says when."""
    await lab.post("a", cron="@yearly", timezone="UTC")
    lab.time.now_ms = 1_830_297_600_000  # 2028-01-01
    await lab.end(await lab.begin("a"), Outcome.RETRY, ms=5_000)
    backoff = (await lab.get("a"))["due"]
    assert (await lab.client.patch("/timers/a", json={"body": 1})).json()["due"] == backoff
    response = await lab.client.patch("/timers/a", json={"timezone": "Asia/Tokyo"})
    assert response.json()["due"] == "2028-12-31T15:00:00.000Z"


@pytest.mark.parametrize(
    ("schedule", "patch", "expected"),
    [
        ({"seconds": 60}, {"cron": "@daily"}, {"cron": "@daily", "timezone": "UTC", "delay_ms": None}),
        ({"cron": "@daily", "timezone": "Asia/Tokyo"}, {"seconds": 1}, {"cron": None, "timezone": None}),
        ({"minutes": 1}, {"hours": 1}, {"delay_ms": 3_600_000}),
        ({"cron": "@daily", "timezone": "Asia/Tokyo"}, {"cron": "@hourly"}, {"timezone": "Asia/Tokyo"}),
        ({"cron": "@daily"}, {"timezone": "Asia/Tokyo"}, {"cron": "@daily", "timezone": "Asia/Tokyo"}),
        ({"cron": "@daily", "timezone": "Asia/Tokyo"}, {"timezone": None}, {"timezone": "UTC"}),
        ({"cron": "@daily"}, {"cron": None, "fire_at": 1893456000}, {"fire_at": "2030-01-01T00:00:00.000Z"}),
    ],
)
async def test_a_schedule_is_patched_as_a_whole(
    lab: Lab, schedule: dict[str, Any], patch: dict[str, Any], expected: dict[str, Any]
) -> None:
    """One of its fields replaces all of them; a timezone stays where there is a use for it."""
    await lab.post("a", **schedule)
    assert (await lab.client.patch("/timers/a", json=patch)).status_code == 200
    assert expected.items() <= (await lab.get("a")).items()


@pytest.mark.parametrize(
    ("patch", "field"),
    [
        ({"url": None}, "url"),
        ({"seconds": None}, "seconds"),
        ({"fire_at": "2030-01-01T00:00:00"}, "fire_at"),
        ({"timezone": "Asia/Tokyo"}, "timezone"),
        ({"callback": {"on": ["done"]}}, "callback.url"),
        ({"callback": {"url": HOOK}}, "callback.url"),
        ({"id": "b"}, "id"),
        ({"status": "done"}, "status"),
    ],
)
async def test_a_patch_must_give_a_timer(lab: Lab, patch: dict[str, Any], field: str) -> None:
    """422 naming the field, and the timer stays as it is."""
    await lab.post("a", seconds=60)
    before = await lab.get("a")
    response = await lab.client.patch("/timers/a", json=patch)
    assert response.status_code == 422
    assert field in [error["field"] for error in response.json()["errors"]]
    assert await lab.get("a") == before


@pytest.mark.parametrize(("old", "new"), [(None, "k"), ("k", None), ("k", "other")])
async def test_an_ordering_key_stays_as_it_is(lab: Lab, old: str | None, new: str | None) -> None:
    """409 naming the field, for as long as the id has a timer: its key says where it is kept."""
    await lab.post("a", seconds=60, ordering_key=old)
    before = await lab.get("a")
    whole = {"url": OTHER, "seconds": 60, "ordering_key": new}
    for response in (
        await lab.client.patch("/timers/a", json={"ordering_key": new}),
        await lab.client.put("/timers/a", json=whole),
        await lab.client.post("/timers", json={"id": "a", "if_exists": "replace", **whole}),
    ):
        assert response.status_code == 409, response.text
        assert [error["field"] for error in response.json()["errors"]] == ["ordering_key"]
    assert await lab.get("a") == before
    response = await lab.client.put("/timers/a", json={**whole, "ordering_key": old})
    assert response.status_code == 200


async def test_patches_do_not_add_up_to_more_than_a_post(lab: Lab) -> None:
    """413 beyond 1 MiB."""
    await lab.post("a", seconds=60)
    half = "x" * 600_000
    assert (await lab.client.patch("/timers/a", json={"body": {"one": half}})).status_code == 200
    assert (await lab.client.patch("/timers/a", json={"body": {"two": half}})).status_code == 413
    assert (await lab.get("a"))["body"] == {"one": half}
