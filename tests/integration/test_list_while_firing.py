"""GET /timers, page after page, while the listed timers fire."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator

import httpx
import pytest

from httpqueue.api.app import create_app
from httpqueue.api.backend import Backend
from httpqueue.storage.queue import Queue
from httpqueue.storage.storage import Storage
from httpqueue.storage.timers import Store
from httpqueue.timers.commands import Begun, NewTimer
from httpqueue.timers.names import DEFAULT_APPLICATION, TimerName
from httpqueue.timers.schedule import Delay
from httpqueue.timers.spec import Spec
from httpqueue.webhooks.outcome import Outcome
from tests.support.egress import PRIVATE
from tests.support.frozen import HOUR_MS, begin, finish_of, wake_up
from tests.support.pipeline import running
from tests.support.receiver import Receiver

TIMERS = 100_000
DUE_TIMES = 4_000
"""Several timers share each."""
AT_ONCE = 1_000


@pytest.fixture
async def client(storage: Storage, queue: Queue) -> AsyncIterator[httpx.AsyncClient]:
    """The API on that store."""
    backend = Backend(
        store=storage.store,
        lookup=storage.lookup,
        policies=storage.policies,
        jobs=storage.jobs,
        readiness=storage.ping,
        worker_silence_ms=queue.worker_silence_ms,
        retention_ms=HOUR_MS,
        egress=lambda: PRIVATE,
    )
    transport = httpx.ASGITransport(create_app(backend))
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
        yield client


async def pages(client: httpx.AsyncClient, limit: int) -> AsyncIterator[list[dict[str, str]]]:
    """All of them, from the first to the last."""
    cursor: dict[str, str] = {}
    while True:
        response = await client.get("/timers", params={"limit": limit, **cursor})
        page = response.json()
        yield page["timers"]
        if page["next_cursor"] is None:
            return
        cursor = {"cursor": page["next_cursor"]}


async def create(store: Store, url: str, count: int, chance: random.Random) -> list[str]:
    """So many timers that are due already or within the next seconds; their ids."""
    names = [f"t{number}" for number in range(count)]
    for first in range(0, count, AT_ONCE):
        await store.create(
            [
                NewTimer(TimerName(DEFAULT_APPLICATION, name), Spec(url, Delay(chance.randrange(DUE_TIMES))))
                for name in names[first : first + AT_ONCE]
            ]
        )
    return names


async def fire(store: Store, names: list[str]) -> None:
    """Begin and finish them, as a worker does; those that are due."""
    while names:
        some = [names.pop() for _ in range(min(AT_ONCE, len(names)))]
        answers = await begin(store, [wake_up(name) for name in some])
        begun = [answer for answer in answers if isinstance(answer, Begun)]
        await store.finish([finish_of(each, Outcome.DELIVERED) for each in begun])


@pytest.mark.no_cover  # the other test covers the same code
async def test_100_000_timers_are_each_seen_once(store: Store, client: httpx.AsyncClient) -> None:
    """In every state, in due order, however many are begun, finished and not yet due between two pages."""
    names = await create(store, "http://receiver/", TIMERS, random.Random(4))
    shuffled = random.Random(5).sample(names, TIMERS)
    firing = asyncio.create_task(fire(store, shuffled))
    seen: Counter[str] = Counter()
    states: Counter[str] = Counter()
    dues: list[str] = []
    async for page in pages(client, 1_000):
        seen.update(timer["id"] for timer in page)
        states.update(timer["status"] for timer in page)
        dues += [timer["due"] for timer in page]
    await firing
    assert seen == Counter(names)
    assert dues == sorted(dues)
    assert states["done"] > 0, states
    assert states["scheduled"] > 0, states


async def test_timers_that_are_really_delivered_are_each_seen_once(
    store: Store, queue: Queue, client: httpx.AsyncClient
) -> None:
    """Small pages, read again and again from the first to the last while workers call a receiver."""
    count = 3_000
    async with Receiver() as receiver, running(store, queue) as pipeline:
        names = await create(store, receiver.url, count, random.Random(6))
        await asyncio.gather(*(client.post(f"/timers/{name}/fire") for name in names[:500]))
        await pipeline.schedule("last", receiver.url, Delay(HOUR_MS))
        names.append("last")
        finished = asyncio.create_task(pipeline.until_all_finished())
        readings = 0
        while readings == 0 or not finished.done():
            seen = [timer["id"] async for page in pages(client, 100) for timer in page]
            assert sorted(seen) == sorted(names)
            readings += 1
            if readings == 2:  # not all of them end before
                await client.post("/timers/last/fire")
        await finished
