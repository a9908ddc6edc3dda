"""The header Idempotency-Key of POST /timers (issue 11, 15): docs/adr/0031."""

import asyncio
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from httpqueue.api.schema.idempotency import MAX_KEY_CHARACTERS
from httpqueue.storage.requests import KEPT_ANSWER_MS
from httpqueue.storage.timers import Store
from httpqueue.timers.names import TimerName, hash_of_key
from httpqueue.timers.policies import ApplicationPolicy
from tests.support.api_lab import HOOK, Lab
from tests.support.frozen import FrozenTime, storage_of
from tests.support.keys import PARTITIONS, Everywhere

BODY = {"url": HOOK, "seconds": 60}


@pytest.fixture
def lab(redis: Redis, frozen_store: Store, time: FrozenTime) -> Lab:
    """The API in the test's own time."""
    return Lab(redis, frozen_store, time)


async def post(lab: Lab, key: str = '"k"', **members: Any) -> httpx.Response:
    """POST /timers with that key."""
    return await lab.client.post("/timers", json={**BODY, **members}, headers={"Idempotency-Key": key})


def same(one: httpx.Response, other: httpx.Response) -> bool:
    """Whether status, headers and body are the same."""
    return (one.status_code, one.headers, one.content) == (other.status_code, other.headers, other.content)


def key_elsewhere(timer_id: str) -> str:
    """A key that is in another partition than the timer, if there are several."""
    place = PARTITIONS.home_of(TimerName("default", timer_id))
    keys = (f"key-{n}" for n in range(1_000))
    return next(
        key
        for key in keys
        if PARTITIONS.count == 1 or PARTITIONS.home_of(TimerName("default", hash_of_key(key))) != place
    )


@pytest.mark.parametrize(
    "members", [{}, {"id": "a"}, {"ordering_key": "lane"}, {"id": "a", "ordering_key": "k"}]
)
async def test_the_same_request_gets_the_same_answer(lab: Lab, members: dict[str, Any]) -> None:
    """201, and one timer, although time goes on and the timer ends and is archived."""
    key = key_elsewhere("a")
    members = {**members, "retention": {"done": 0}}
    first = await post(lab, key, **members)
    assert first.status_code == 201
    timer_id = first.json()["id"]
    assert same(first, await post(lab, key, **members))
    lab.time.advance(1_000)
    assert (await lab.client.delete(f"/timers/{timer_id}")).status_code == 200
    assert (await lab.get(timer_id))["status"] == "archived"
    assert same(first, await post(lab, key, **members))
    assert (await lab.get(timer_id))["status"] == "archived"


async def test_the_same_answer_after_a_change(lab: Lab) -> None:
    """The answer is that to the request, not what has become of the timer."""
    first = await post(lab)
    changed = await lab.client.patch(first.headers["location"], json={"seconds": 5, "body": "new"})
    assert changed.status_code == 200
    assert same(first, await post(lab))


@pytest.mark.parametrize(
    "other",
    [{"seconds": 61}, {"body": "b"}, {"id": "b"}, {"ordering_key": "k"}, {"if_exists": "replace"}],
)
@pytest.mark.parametrize("first", [{}, {"id": "a"}])
async def test_another_request_with_the_same_key_is_refused(
    lab: Lab, first: dict[str, Any], other: dict[str, Any]
) -> None:
    """422, and nothing changes; with several partitions, the key may be in another one than both timers."""
    key = key_elsewhere("a")
    stored = await post(lab, key, **first)
    refused = await post(lab, key, **{**first, **other})
    assert refused.status_code == 422
    assert [error["field"] for error in refused.json()["errors"]] == ["Idempotency-Key"]
    assert same(stored, await post(lab, key, **first))
    assert len((await lab.client.get("/timers")).json()["timers"]) == 1


async def test_requests_at_the_same_moment_store_one_timer(lab: Lab) -> None:
    """They share a commit: there is no moment at which one is in progress, so that none gets a 409."""
    answers = await asyncio.gather(*(post(lab) for _ in range(20)))
    assert all(same(answer, answers[0]) for answer in answers)
    assert answers[0].status_code == 201
    assert len((await lab.client.get("/timers")).json()["timers"]) == 1


async def test_answers_of_200_are_repeated_too(lab: Lab) -> None:
    """Here the timer was there already."""
    await lab.post("a", **BODY)
    first = await post(lab, id="a")
    assert (first.status_code, first.json()["created"]) == (200, False)
    assert same(first, await post(lab, id="a"))
    replaced = await post(lab, "r", id="a", seconds=7, if_exists="replace")
    assert replaced.status_code == 200
    lab.time.advance(1)
    assert same(replaced, await post(lab, "r", id="a", seconds=7, if_exists="replace"))


async def test_a_refused_request_leaves_the_key_to_the_next_try(lab: Lab) -> None:
    """A conflict is no answer worth to be kept: it may be gone by then."""
    await lab.post("a", **BODY)
    assert (await post(lab, "k", id="a", seconds=7)).status_code == 409
    assert (await lab.client.delete("/timers/a")).status_code == 200
    lab.time.advance(3_600_001)
    assert (await post(lab, "k", id="a", seconds=7)).status_code == 201


@pytest.mark.parametrize("timer_id", [None, "b"])
async def test_a_quota_leaves_the_key_to_the_next_try(lab: Lab, timer_id: str | None) -> None:
    """What is refused is not remembered; what was stored is answered as before, although there is no room."""
    policies, named = storage_of(lab.store).policies, {} if timer_id is None else {"id": timer_id}
    await policies.update_application("default", lambda _: ApplicationPolicy(max_pending=1))
    first = await post(lab, "first", id="a")
    refused = await post(lab, key_elsewhere("b"), **named)
    assert (first.status_code, refused.status_code) == (201, 403)
    assert same(first, await post(lab, "first", id="a"))
    await policies.update_application("default", lambda _: ApplicationPolicy(max_pending=2))
    assert (await post(lab, key_elsewhere("b"), **named)).status_code == 201


async def test_keys_belong_to_applications(lab: Lab) -> None:
    """Another tenant's key says nothing."""
    assert (await post(lab)).status_code == 201
    assert (await post(lab, application="shop", seconds=7)).status_code == 201


async def test_a_key_is_remembered_for_a_day(lab: Lab, everywhere: Everywhere) -> None:
    """Then it goes by itself. A timer that is still there protects it for longer."""
    await post(lab)
    await post(lab, key_elsewhere("a"), id="a")
    for keys in everywhere.keys("requests", ""):
        async for key in lab.redis.scan_iter(f"{keys}*"):
            assert KEPT_ANSWER_MS - 60_000 < await lab.redis.pttl(key) <= KEPT_ANSWER_MS
            await lab.redis.delete(key)
    assert (await post(lab)).json()["created"] is False
    assert (await post(lab, seconds=1)).status_code == 422


@pytest.mark.parametrize("key", ["k", '"k"', ' "k" ', '"\\k"'.replace("\\", "")])
async def test_quotes_make_no_difference(lab: Lab, key: str) -> None:
    """The draft wants them, many clients send none."""
    first = await post(lab, '"k"')
    assert same(first, await post(lab, key))


@pytest.mark.parametrize(
    "key", ["", '""', '"', 'a"b', '"a', "a b", "é".encode(), "a" * (MAX_KEY_CHARACTERS + 1)]
)
async def test_a_key_that_cannot_be_read_is_refused(lab: Lab, key: str | bytes) -> None:
    """400, and nothing is stored."""
    headers = [(b"Idempotency-Key", key if isinstance(key, bytes) else key.encode())]
    answer = await lab.client.post("/timers", json=BODY, headers=headers)
    assert answer.status_code == 400
    assert "Idempotency-Key" in answer.json()["detail"]
    assert not (await lab.client.get("/timers")).json()["timers"]


async def test_two_keys_are_refused(lab: Lab) -> None:
    """Nobody knows which one counts."""
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    assert (await lab.client.post("/timers", json=BODY, headers=headers)).status_code == 400
