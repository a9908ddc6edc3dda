"""How often each path asks Redis for 100 timers; docs/architecture.md says the same."""

import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from httpqueue.relay.relay import Relay
from httpqueue.storage.embedded import EmbeddedValkey
from httpqueue.storage.prompt import PromptConnection
from httpqueue.storage.queue import Queue
from httpqueue.storage.storage import Storage, open_storage
from httpqueue.timers.commands import Begun
from httpqueue.webhooks.outcome import Outcome
from tests.support import frozen
from tests.support.frozen import HOUR_MS, finish_of, new_timer
from tests.support.keys import PARTITIONS
from tests.support.processes import REPOSITORY

TIMERS = 100


class RoundTrips:
    """Counts what is written to Redis in one go and then waited for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._count = 0
        send = PromptConnection.send_packed_command

        async def counted(connection: PromptConnection, *args: Any, **kwargs: Any) -> None:
            self._count += 1
            await send(connection, *args, **kwargs)

        monkeypatch.setattr(PromptConnection, "send_packed_command", counted)

    async def of(self, path: Callable[[], Awaitable[Any]]) -> int:
        """Those of one path."""
        before = self._count
        await path()
        return self._count - before


def documented() -> dict[str, int]:
    """The table of docs/architecture.md."""
    text = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    _, _, section = text.partition("## Round trips")
    rows = re.findall(r"^\| (\w[^|]*?) \| (\d+) \|", section.partition("\n## ")[0], re.MULTILINE)
    return {path: int(count) for path, count in rows}


async def open_connections(client: Redis) -> None:
    """As many as are used at the same time: greeting the server takes round trips, too."""
    pool = client.connection_pool
    connections = [await pool.get_connection() for _ in PARTITIONS.all]
    for connection in connections:
        await pool.release(connection)


async def test_round_trips_for_a_hundred_timers(
    valkey_server: EmbeddedValkey, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each path takes as many for 100 timers as for one, in each partition."""
    async with open_storage(valkey_server.url, archive_error_rate=1e-6, partitions=PARTITIONS) as storage:
        await count_round_trips(storage, queue, monkeypatch)


async def count_round_trips(storage: Storage, queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure each path and compare."""
    store = storage.store
    relay = Relay(storage=storage, queue=queue, horizon_ms=HOUR_MS, batch_size=500)
    timers = [new_timer(str(number)) for number in range(TIMERS)]
    begun: list[Begun] = []

    async def create() -> None:
        await store.create(timers)

    async def begin() -> None:
        claims = [await queue.claim(partition, TIMERS) for partition in PARTITIONS.all]
        answers = await frozen.begin(store, [each for claim in claims for each in claim.wake_ups])
        begun.extend(answer for answer in answers if isinstance(answer, Begun))

    async def finish() -> None:
        await store.finish([finish_of(each, Outcome.DELIVERED, HOUR_MS) for each in begun])

    await open_connections(storage._redis)
    await open_connections(queue.redis)
    for warm_up in (create, relay.drain, begin, finish):  # scripts, the consumer group
        await warm_up()
    begun.clear()
    await storage._redis.flushall()
    await relay.drain()
    trips = RoundTrips(monkeypatch)
    measured = {
        "API: create": await trips.of(create),
        "relay: read, admit, put, acknowledge": await trips.of(relay.drain),
        "worker: claim, begin": await trips.of(begin),
        "worker: finish": await trips.of(finish),
    }
    assert len(begun) == TIMERS
    assert measured == {path: count * PARTITIONS.count for path, count in documented().items()}
