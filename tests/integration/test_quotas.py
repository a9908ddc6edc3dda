"""Quotas (defect 15): what one application and all together may store, and how often one may post."""

import asyncio
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from httpqueue.storage.embedded import EmbeddedValkey
from httpqueue.storage.quotas import NOTED_MS
from httpqueue.storage.storage import Storage
from httpqueue.storage.timers import Store
from httpqueue.timers.commands import Created, Creation, IfExists, NewTimer
from httpqueue.timers.policies import ApplicationPolicy
from httpqueue.timers.timer import State
from tests.support.api_lab import Lab
from tests.support.frozen import FrozenTime, new_timer, snapshot, storage_of
from tests.support.keys import PARTITIONS, Everywhere
from tests.support.round_trips import RoundTrips


@pytest.fixture
def lab(redis: Redis, frozen_store: Store, time: FrozenTime) -> Lab:
    """The API on an empty server."""
    return Lab(redis, frozen_store, time)


async def limit(store: Store, application: str = "default", **limits: Any) -> None:
    """Of the default application."""
    await storage_of(store).policies.update_application(application, lambda _: ApplicationPolicy(**limits))


async def create(store: Store, *names: str, **spec: Any) -> list[Creation]:
    """What became of each."""
    return [each.creation for each in await store.create([new_timer(name, 1_000, **spec) for name in names])]


def numbered(count: int, prefix: str = "t") -> list[str]:
    """So many names."""
    return [f"{prefix}{number}" for number in range(count)]


async def bytes_of(redis: Redis) -> int:
    """Those of all records, found by a scan."""
    return sum([await redis.strlen(key) for key in await redis.keys("hq:{*}[a-z]*")])


# --- pending ---


async def test_the_most_pending_timers(frozen_store: Store) -> None:
    """Exactly as many; what is refused is not stored, what is there answers as ever."""
    await limit(frozen_store, max_pending=10)
    answers = await create(frozen_store, *numbered(15))
    assert sorted(answers) == [Creation.CREATED] * 10 + [Creation.PENDING] * 5
    stored = [name for name, each in zip(numbered(15), answers, strict=True) if each is Creation.CREATED]
    [refused, *_] = {*numbered(15)} - {*stored}
    assert await create(frozen_store, stored[0], refused) == [Creation.EXISTS, Creation.PENDING]
    assert await frozen_store.get(new_timer(refused).name) is None
    assert await create(frozen_store, stored[0], body="other") == [Creation.CONFLICT]
    replaced = NewTimer(new_timer(stored[0]).name, new_timer("x", 5).spec, IfExists.REPLACE)
    assert (await frozen_store.create([replaced]))[0].creation is Creation.REPLACED


async def test_a_timer_that_ends_makes_room(lab: Lab) -> None:
    """A cancelled, delivered or failed one; one that runs or is to be retried does not."""
    await limit(lab.store, max_pending=3)
    for timer_id, state in (
        *(("cancelled", State.CANCELLED), ("done", State.DONE), ("failed", State.FAILED)),
        *(("cancelled-2", State.CANCELLED), ("done-2", State.DONE)),
    ):
        await lab.bring(timer_id, state)
    await lab.bring("runs", State.RUNNING)
    assert await create(lab.store, "a", "b", "c") == [Creation.CREATED, Creation.CREATED, Creation.PENDING]
    replaced = [
        NewTimer(new_timer(name).name, new_timer(name, 5).spec, IfExists.REPLACE) for name in ("done", "a")
    ]
    answers = [each.creation for each in await lab.store.create(replaced)]
    assert answers == [Creation.PENDING, Creation.REPLACED]
    assert (await lab.get("done"))["status"] == "done"


async def test_a_timer_whose_retention_is_over_stays_when_its_name_is_refused(lab: Lab) -> None:
    """Nothing is changed by a refusal: it is still forgotten in its turn."""
    await lab.bring("a", State.ARCHIVED)
    await limit(lab.store, max_pending=0)
    counts = await Everywhere(lab.redis).hash("counts")
    assert await create(lab.store, "a") == [Creation.PENDING]
    assert await Everywhere(lab.redis).hash("counts") == counts
    assert (await lab.get("a"))["archived"]


async def test_many_processes_at_once_never_exceed_a_quota(
    redis: Redis, valkey_server: EmbeddedValkey
) -> None:
    """Over all partitions: at most as many, and all of them when they ask one after the other."""
    async with Redis.from_url(valkey_server.url) as other:
        stores = [
            Storage(client, archive_error_rate=1e-6, partitions=PARTITIONS).store for client in (redis, other)
        ]
        await limit(stores[0], max_pending=100)
        calls = [
            stores[number % 2].create([new_timer(f"{number}-{n}", 60_000) for n in range(9)])
            for number in range(30)
        ]
        created = [each for answer in await asyncio.gather(*calls) for each in answer]
        stored = sum(each.creation is Creation.CREATED for each in created)
        assert stored <= 100
        for number in range(100 - stored + 1):
            [answer] = await create(stores[0], f"last-{number}")
            assert answer is (Creation.CREATED if number < 100 - stored else Creation.PENDING)
        assert (await Everywhere(redis).hash("counts"))["default:s"] == 100
        assert not await redis.keys("hq:{*}:reserved:*")


async def test_a_process_that_dies_gives_its_part_back(frozen_store: Store, time: FrozenTime) -> None:
    """What it was about to store is noted for ten seconds."""
    await limit(frozen_store, max_pending=2)
    await frozen_store._creator._quotas.admit("default", [100, 100])
    one = PARTITIONS.count == 1
    assert await create(frozen_store, "a") == [Creation.CREATED if one else Creation.PENDING]
    time.advance(NOTED_MS)
    assert await create(frozen_store, "b") == [Creation.CREATED]


async def test_a_limit_that_is_gone_is_forgotten(
    redis: Redis, frozen_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has no limits pays no round trip for them; who has, one with one partition."""
    names = [f"t{number}" for number in range(40)]

    async def trips_of(*timers: str) -> int:
        trips = RoundTrips(monkeypatch, redis)
        await create(frozen_store, *timers)
        return trips.count

    await trips_of("warm", "up", *names[:20])
    free = await trips_of(names[20])
    await limit(frozen_store, max_pending=1_000)
    await create(frozen_store, names[21])
    limited = await trips_of(names[22])
    assert limited == (free if PARTITIONS.count == 1 else free + 3)
    await limit(frozen_store)
    await create(frozen_store, names[23])
    assert await trips_of(names[24]) == free


# --- bytes ---


async def test_the_most_bytes(redis: Redis, frozen_store: Store) -> None:
    """Of all records, ended ones included, whatever becomes of the timers."""
    await limit(frozen_store, max_bytes=10_000)
    answers = await create(frozen_store, *numbered(30), body="x" * 900)
    stored = answers.count(Creation.CREATED)
    assert {*answers} == {Creation.CREATED, Creation.BYTES}
    assert 9 <= stored <= 10
    assert await bytes_of(redis) <= 10_000
    application = await storage_of(frozen_store).policies.counted("default")
    assert application.bytes == await bytes_of(redis)
    first = numbered(30)[answers.index(Creation.CREATED)]
    smaller = NewTimer(new_timer(first).name, new_timer(first, 5).spec, IfExists.REPLACE)
    assert (await frozen_store.create([smaller]))[0].creation is Creation.REPLACED
    assert await create(frozen_store, "again", body="x" * 800) == [Creation.CREATED]


async def test_bytes_are_counted_through_attempts_and_retention(lab: Lab) -> None:
    """Attempts make a record longer; when it is forgotten, nothing is left."""
    await lab.bring("a", State.FAILED)
    await lab.bring("b", State.DONE)
    assert (await lab.client.get("/applications/default")).json()["bytes"] == await bytes_of(lab.redis)
    await limit(lab.store, max_bytes=await bytes_of(lab.redis) + 10)
    assert await create(lab.store, "c") == [Creation.BYTES]


# --- rate ---


async def test_the_rate_of_posts(frozen_store: Store, time: FrozenTime) -> None:
    """As many as one second has may come at once, then one by one; it says when the next may come."""
    await limit(frozen_store, max_rate=5)
    answers = await frozen_store.create([new_timer(name, 1_000) for name in numbered(7)])
    assert [each.creation for each in answers] == [Creation.CREATED] * 5 + [Creation.RATE] * 2
    assert answers[5] == answers[6] == Created(Creation.RATE, 0, wait_ms=200)
    time.advance(199)
    assert await create(frozen_store, "a") == [Creation.RATE]
    time.advance(1)
    assert await create(frozen_store, "a", "b") == [Creation.CREATED, Creation.RATE]
    time.advance(60_000)
    assert (await create(frozen_store, *numbered(9, "c"))).count(Creation.CREATED) == 5


async def test_a_slow_rate(frozen_store: Store, time: FrozenTime) -> None:
    """Less than one in a second: one at once, the next when it is time."""
    await limit(frozen_store, max_rate=0.1)
    assert await create(frozen_store, "a", "b") == [Creation.CREATED, Creation.RATE]
    time.advance(9_999)
    assert await create(frozen_store, "b") == [Creation.RATE]
    time.advance(1)
    assert await create(frozen_store, "b") == [Creation.CREATED]


async def test_all_processes_share_the_rate(
    redis: Redis, valkey_server: EmbeddedValkey, time: FrozenTime
) -> None:
    """Twenty posts to two of them: five are stored."""
    async with Redis.from_url(valkey_server.url) as other:
        stores = [
            Storage(client, archive_error_rate=1e-6, partitions=PARTITIONS, now=time).store
            for client in (redis, other)
        ]
        await limit(stores[0], max_rate=5)
        created = [(await create(stores[number % 2], f"t{number}"))[0] for number in range(20)]
    assert created == [Creation.CREATED] * 5 + [Creation.RATE] * 15


# --- all applications ---


async def test_the_most_pending_timers_of_all(redis: Redis, time: FrozenTime) -> None:
    """Each partition has an equal part; what ends makes room, and nobody's is refused otherwise."""
    most = 10 * PARTITIONS.count
    storage = Storage(redis, archive_error_rate=1e-6, partitions=PARTITIONS, now=time, max_pending=most)
    answers = await create(storage.store, *numbered(20 * PARTITIONS.count))
    assert answers.count(Creation.CREATED) + answers.count(Creation.FULL) == len(answers)
    assert answers.count(Creation.CREATED) == most
    first = new_timer(numbered(20 * PARTITIONS.count)[answers.index(Creation.CREATED)])
    assert (await storage.store.create([first]))[0].creation is Creation.CONFLICT
    full = numbered(20 * PARTITIONS.count)[answers.index(Creation.FULL)]
    assert await create(storage.store, full) == [Creation.FULL]
    for name, answer in zip(numbered(20 * PARTITIONS.count), answers, strict=True):
        if answer is Creation.CREATED:
            await storage.store.cancel(new_timer(name).name, version=None, retention_ms=1)
    assert await create(storage.store, full) == [Creation.CREATED]
    unlimited = Storage(redis, archive_error_rate=1e-6, partitions=PARTITIONS, now=time).store
    assert {*await create(unlimited, *numbered(most, "u"))} == {Creation.CREATED}


# --- the API ---


async def test_quotas_in_the_api(lab: Lab, redis: Redis) -> None:
    """Set, shown, met, and named in the problem; nothing is stored."""
    response = await lab.client.put("/applications/default", json={"quota": {"pending": 1, "rate": 100}})
    assert response.json()["quota"] == {"pending": 1, "bytes": None, "rate": 100}
    await lab.post("a", seconds=1)
    before = await Everywhere(redis).hash("counts")
    refused = await post(lab, "b")
    assert (refused.status_code, refused.json()["quota"]) == (403, "pending")
    assert await Everywhere(redis).hash("counts") == before
    await lab.client.put("/applications/default", json={"quota": {"bytes": 10}})
    refused = await post(lab, "b")
    assert (refused.status_code, refused.json()["quota"]) == (403, "bytes")
    await lab.client.put("/applications/default", json={"quota": {"rate": 0.5}})
    lab.time.advance(1_000)  # by then the posts until now no longer count
    assert (await post(lab, "b")).status_code == 201
    refused = await post(lab, "c")
    assert (refused.status_code, refused.json()["quota"]) == (429, "rate")
    assert refused.headers["retry-after"] == "2"
    batch = {
        "timers": [
            {"id": "d", "url": "http://x/", "seconds": 1, "application": each} for each in ("default", "shop")
        ]
    }
    results = (await lab.client.post("/timers/batch", json=batch)).json()["results"]
    assert [result["status"] for result in results] == [429, 201]
    assert results[0]["quota"] == "rate"
    assert (await lab.client.put("/applications/default", json={})).json()["quota"] is None
    assert (await post(lab, "c")).status_code == 201


async def post(lab: Lab, timer_id: str) -> httpx.Response:
    """What is answered."""
    return await lab.client.post("/timers", json={"id": timer_id, "url": "http://x/", "seconds": 1})


async def test_a_full_server_is_unavailable(lab: Lab, redis: Redis, time: FrozenTime) -> None:
    """503 with Retry-After, as at maxmemory, but before that."""
    small = Storage(redis, archive_error_rate=1e-6, partitions=PARTITIONS, now=time, max_pending=1)
    lab = Lab(redis, small.store, time)
    await lab.post("a", seconds=1)
    before = await snapshot(redis)
    refused = [await post(lab, name) for name in numbered(9)]
    full = [each for each in refused if each.status_code != 201]
    assert full
    assert {each.status_code for each in full} == {503}
    assert int(full[0].headers["retry-after"]) > 0
    assert len(refused) - len(full) < PARTITIONS.count
    if PARTITIONS.count == 1:
        assert await snapshot(redis) == before
