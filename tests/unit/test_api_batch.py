"""POST /timers/batch: each timer as if it were posted alone, all in one commit."""

from typing import Any

import pytest

from httpqueue.api.schema.json_body import MAX_BATCH_BYTES
from httpqueue.api.schema.request_models import MAX_BATCH
from tests.support.api_fakes import VALID, FakeStore, api, fields_of


async def test_results_stand_in_the_order_of_the_timers() -> None:
    """New, again, other content, faulty: each has its own status; one commit carried the valid ones."""
    store = FakeStore()
    timers = [
        {**VALID, "id": "a"},
        {**VALID, "id": "a"},
        {**VALID, "id": "a", "seconds": 31},
        {"url": "ftp://x", "seconds": 1, "id": "b", "headers": {"Host": "x"}},
        7,
        VALID,
    ]
    async with api(store) as client:
        response = await client.post("/timers/batch", json={"timers": timers})
    assert response.status_code == 200
    results = response.json()["results"]
    assert [result["status"] for result in results] == [201, 200, 409, 422, 422, 201]
    assert results[0].keys() == {"status", "id", "due"}
    assert results[0]["due"] == results[1]["due"]
    assert {error["field"] for error in results[3]["errors"]} == {"url", "headers.Host"}
    assert results[5]["id"] in store.timers
    assert store.batches == [4]


async def test_a_thousand_in_one_commit() -> None:
    """The most a batch may have."""
    store = FakeStore()
    async with api(store) as client:
        response = await client.post("/timers/batch", json={"timers": [VALID] * MAX_BATCH})
    assert {result["status"] for result in response.json()["results"]} == {201}
    assert (store.batches, len(store.timers)) == ([MAX_BATCH], MAX_BATCH)


async def test_nothing_but_faulty_timers_needs_no_commit() -> None:
    """The store is not asked."""
    store = FakeStore()
    async with api(store) as client:
        response = await client.post("/timers/batch", json={"timers": [{}]})
    assert response.json()["results"][0]["status"] == 422
    assert store.batches == []


@pytest.mark.parametrize(
    ("batch", "fields"),
    [
        ({}, ["timers"]),
        ({"timers": []}, ["timers"]),
        ({"timers": {}}, ["timers"]),
        ({"timers": [VALID] * (MAX_BATCH + 1)}, ["timers"]),
        ({"timers": [VALID], "extra": 1}, ["extra"]),
        ({"extra": 1}, ["extra", "timers"]),
    ],
    ids=["none", "empty", "object", "too many", "unknown field", "unknown and none"],
)
async def test_what_is_no_batch_is_refused_whole(batch: dict[str, Any], fields: list[str]) -> None:
    """422 naming the field, and nothing is stored."""
    store = FakeStore()
    async with api(store) as client:
        response = await client.post("/timers/batch", json=batch)
    assert response.status_code == 422
    assert fields_of(response) == fields
    assert store.batches == []


async def test_a_batch_may_be_larger_than_a_timer() -> None:
    """8 MiB; beyond that 413."""
    store = FakeStore()
    large = {**VALID, "body": "x" * 700_000}
    async with api(store) as client:
        assert (await client.post("/timers/batch", json={"timers": [large] * 4})).status_code == 200
        response = await client.post("/timers/batch", content=b" " * (MAX_BATCH_BYTES + 1))
    assert response.status_code == 413
    assert store.batches == [4]


async def test_batch_is_no_timer() -> None:
    """GET /timers/batch looks for a timer of that id."""
    async with api(FakeStore()) as client:
        assert (await client.get("/timers/batch")).status_code in {404, 405}
