"""Many timers through the API, over a real store: lists in pages, batches, one id twice."""

from typing import Any

import pytest
from redis.asyncio import Redis

from httpqueue.api.handlers import lists
from httpqueue.storage.timers import Store
from httpqueue.timers.credentials import MASK
from httpqueue.timers.schedule import format_instant
from httpqueue.timers.timer import State
from httpqueue.webhooks.outcome import Outcome
from tests.support.api_lab import HOOK, Lab
from tests.support.frozen import HOUR_MS, FrozenTime, begin, finish_of, new_timer, wake_up

LISTED = [state for state in State if state is not State.ARCHIVED]


@pytest.fixture
def lab(redis: Redis, frozen_store: Store, time: FrozenTime) -> Lab:
    """The API on an empty server."""
    return Lab(redis, frozen_store, time)


async def ids(lab: Lab, **query: Any) -> list[str]:
    """Those of all pages of a list."""
    found: list[str] = []
    cursor: str | None = None
    while True:
        params = query if cursor is None else {**query, "cursor": cursor}
        response = await lab.client.get("/timers", params=params)
        assert response.status_code == 200, response.text
        answer = response.json()
        assert len(answer["timers"]) <= query.get("limit", 100)
        found += [timer["id"] for timer in answer["timers"]]
        cursor = answer["next_cursor"]
        if cursor is None:
            return found


async def test_an_empty_list(lab: Lab) -> None:
    """No timers, and no cursor."""
    assert (await lab.client.get("/timers")).json() == {"timers": [], "next_cursor": None}


async def test_a_list_shows_what_get_shows_but_the_attempts(lab: Lab) -> None:
    """A page of a thousand timers would be mostly attempts."""
    await lab.bring("a", State.FAILED, labels={"team": "blue"})
    shown = await lab.get("a")
    del shown["last_attempts"]
    assert (await lab.client.get("/timers")).json()["timers"] == [shown]


async def test_credentials_in_a_list(lab: Lab) -> None:
    """Masked unless they are asked for (issue 11, defect 11)."""
    headers = {"Authorization": "Bearer token", "X-A": "1"}
    await lab.post("a", headers=headers, callback={"url": f"{HOOK}b", "headers": headers})
    for query, value in (("", MASK), ("?reveal=false", MASK), ("?reveal=true", "Bearer token")):
        [timer] = (await lab.client.get(f"/timers{query}")).json()["timers"]
        assert timer["headers"] == timer["callback"]["headers"] == headers | {"Authorization": value}


async def test_a_list_is_sorted_by_due(lab: Lab) -> None:
    """Then by id."""
    for timer_id, seconds in (("c", 1), ("b", 2), ("a", 2), ("d", 0)):
        await lab.post(timer_id, seconds=seconds)
    assert await ids(lab) == ["d", "c", "a", "b"]


async def test_filters(lab: Lab) -> None:
    """Each alone, and all of them together."""
    for n, state in enumerate(LISTED):
        await lab.bring(state.value, state, labels={"n": str(n), "all": "a:b"}, url=f"http://h{n}.example/")
    await lab.bring("gone", State.ARCHIVED)
    await lab.post("later", seconds=60, url="https://LATER.example:8080/x", application="shop")
    now, later = format_instant(lab.time.now_ms), format_instant(lab.time.now_ms + 60_000)
    for state in LISTED:
        assert await ids(lab, status=state.value, application="default") == [state.value]
    assert set(await ids(lab, status="done,failed")) == {"done", "failed"}
    assert set(await ids(lab, status=["done", "failed"])) == {"done", "failed"}
    assert await ids(lab, label="n:1") == [LISTED[1].value]
    assert set(await ids(lab, label="all:a:b")) == {state.value for state in LISTED}
    assert await ids(lab, label=["all:a:b", "n:2"]) == [LISTED[2].value]
    assert await ids(lab, label="all:a") == []
    assert await ids(lab, host="h1.example") == [LISTED[1].value]
    assert await ids(lab, host="later.EXAMPLE") == ["later"]
    assert await ids(lab, application="shop") == ["later"]
    assert await ids(lab, due_from=later) == ["later"]
    assert await ids(lab, due_from=(lab.time.now_ms + 60_000) / 1000) == ["later"]
    assert await ids(lab, due_from=later, due_to=later) == ["later"]
    assert set(await ids(lab, due_to=now)) == {state.value for state in LISTED}
    assert await ids(lab, due_to=now, due_from=later) == []
    everything = {"application": "shop", "status": "scheduled", "host": "later.example", "due_from": later}
    assert await ids(lab, **everything, limit=1) == ["later"]


@pytest.mark.parametrize("limit", [1, 2, 7, 1_000])
async def test_pages(lab: Lab, limit: int) -> None:
    """Each timer once, whatever the size of a page; filters go on behind the cursor."""
    for n in range(23):
        await lab.post(f"t{n:02}", seconds=n // 5, labels={"odd": str(n % 2)})
    assert await ids(lab, limit=limit) == [f"t{n:02}" for n in range(23)]
    assert await ids(lab, limit=limit, label="odd:1") == [f"t{n:02}" for n in range(1, 23, 2)]


async def test_pages_stay_right_while_timers_fire(lab: Lab) -> None:
    """A timer keeps its place when it ends between two pages."""
    for n in range(10):
        await lab.post(f"t{n}")
    first = (await lab.client.get("/timers", params={"limit": 4})).json()
    for n in (0, 5, 9):
        await lab.end(await lab.begin(f"t{n}"), Outcome.DELIVERED)
    rest = (await lab.client.get("/timers", params={"cursor": first["next_cursor"]})).json()
    assert [timer["id"] for timer in rest["timers"]] == [f"t{n}" for n in range(4, 10)]


async def test_a_list_of_one_state_is_not_behind_other_states(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Defect 12: one page, however many timers of other states come before; no empty pages."""
    monkeypatch.setattr(lists, "MAX_LOOK", 20)
    monkeypatch.setattr(lists, "LOOK", 10)
    monkeypatch.setattr(lists, "FIRST_LOOK", 10)
    await lab.store.create([new_timer(f"a{number:03}") for number in range(200)])
    begun: Any = await begin(lab.store, [wake_up(f"a{number:03}") for number in range(100)])
    await lab.store.finish([finish_of(each, Outcome.DELIVERED) for each in begun])
    lab.time.advance(1)
    await lab.bring("b-failed", State.FAILED)
    await lab.bring("b-running", State.RUNNING)
    for state in ("failed", "running"):
        page = (await lab.client.get("/timers", params={"status": state, "limit": 1})).json()
        assert [timer["id"] for timer in page["timers"]] == [f"b-{state}"]
        assert page["next_cursor"] is None


# --- one id twice ---


async def test_a_batch_with_every_if_exists(lab: Lab) -> None:
    """Each is answered by what became of it, in one commit."""
    for name in ("conflict", "keep", "replace", "earliest", "latest"):
        await lab.post(name, seconds=60)
    await lab.bring("running", State.RUNNING)
    timers: list[dict[str, Any]] = [
        {"id": name, "url": "http://receiver/new", "seconds": 30, "if_exists": name}
        for name in ("conflict", "keep", "replace", "earliest", "latest")
    ]
    timers += [{**timers[2], "id": "running"}, {**timers[1], "id": "new"}, {**timers[0], "if_exists": None}]
    answer = (await lab.client.post("/timers/batch", json={"timers": timers})).json()
    results = {(result.get("id") or "", result["status"]) for result in answer["results"]}
    assert [result["status"] for result in answer["results"]] == [409, 200, 200, 200, 200, 409, 201, 409]
    assert answer["results"][5]["timer_status"] == "running"
    assert ("replace", 200) in results
    soon, late = format_instant(lab.time.now_ms + 30_000), format_instant(lab.time.now_ms + 60_000)
    due = {name: (await lab.get(name))["due"] for name in ("keep", "replace", "earliest", "latest")}
    assert due == {"keep": late, "replace": soon, "earliest": soon, "latest": late}
    assert [result["due"] for result in answer["results"][1:5]] == list(due.values())


async def test_a_finished_timer_can_be_replaced(lab: Lab) -> None:
    """Under a new generation, so that its webhook has another id."""
    await lab.bring("a", State.DONE)
    assert (
        await lab.client.post("/timers", json={"id": "a", "url": "http://x/", "seconds": 1})
    ).status_code == 409
    await lab.post("a", seconds=1, if_exists="replace")
    assert (await lab.get("a"))["generation"] == 1


async def test_applications_do_not_see_each_other(lab: Lab) -> None:
    """One id in two of them is two timers; each is changed alone."""
    here = await lab.client.post("/timers", json={"id": "a", "url": "http://one/", "seconds": 1})
    there = await lab.client.post(
        "/timers", json={"id": "a", "url": "http://two/", "seconds": 1, "application": "shop"}
    )
    assert [here.status_code, there.status_code] == [201, 201]
    assert there.headers["location"] == "/timers/a?application=shop"
    assert (await lab.client.get(there.headers["location"])).json()["url"] == "http://two/"
    assert (await lab.get("a"))["url"] == "http://one/"
    assert (await lab.client.delete("/timers/a?application=shop")).status_code == 200
    assert (await lab.get("a"))["status"] == "scheduled"
    assert (await lab.get("a", application="shop"))["status"] == "cancelled"
    assert (await lab.client.get("/timers/a?application=blog")).status_code == 404
    assert await ids(lab, application="shop") == ["a"]
    assert await ids(lab) == ["a", "a"]


async def test_an_archived_timer_is_archived_in_its_application_only(lab: Lab) -> None:
    """The archive tells applications apart."""
    await lab.bring("a", State.ARCHIVED, application="shop")
    lab.time.advance(HOUR_MS)
    assert (await lab.get("a", application="shop"))["archived"]
    assert (await lab.client.get("/timers/a")).status_code == 404
