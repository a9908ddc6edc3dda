"""The first of a host's line may have ended: its worker died before it gave the permit back."""

import pytest
from redis.asyncio import Redis

from httpqueue.storage.storage import Storage
from httpqueue.timers.commands import Begun
from httpqueue.timers.policies import DestinationPolicy
from httpqueue.webhooks.outcome import Outcome
from tests.support import hosts
from tests.support.frozen import LEASE_MS, FrozenTime, begin, finish_of, new_timer, wake_up
from tests.support.hosts import HOST
from tests.support.lines import woken


@pytest.fixture
async def left_behind(frozen_storage: Storage, time: FrozenTime) -> Storage:
    """`a` was delivered by a worker that died then; `b` waits behind it for the only permit."""
    store = frozen_storage.store
    await frozen_storage.policies.set_destination(HOST, DestinationPolicy(concurrency=1))
    await store.create([new_timer("a"), new_timer("b", 1)])
    time.advance(1)
    served = await hosts.serve(frozen_storage.hosts, "ab")
    assert hosts.granted(served) == "a"
    await store.wait([each for each, _ in served.refused])
    [attempt] = await begin(store, served.granted, permits=served.granted)
    assert isinstance(attempt, Begun)
    await store.finish([finish_of(attempt, Outcome.DELIVERED)])
    await woken(store)
    time.advance(LEASE_MS + 1)
    return frozen_storage


async def test_it_leaves_the_line_when_somebody_looks(left_behind: Storage, redis: Redis) -> None:
    """Nobody who woke it would come to the host."""
    first = await left_behind.hosts.release(HOST)
    assert [each.name.id for each in first] == ["a"]
    assert await left_behind.store.ready(HOST, first) == [wake_up("b")]
    assert await hosts.line(redis) == "b"


async def test_a_change_of_rules_wakes_who_comes_next(left_behind: Storage, redis: Redis) -> None:
    """However often the rules change."""
    for rate in (9, None):
        await left_behind.policies.set_destination(HOST, DestinationPolicy(concurrency=1, rate=rate))
        assert await hosts.line(redis) == "b"
        assert await woken(left_behind.store) == ["b"]
