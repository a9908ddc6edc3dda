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


async def test_the_store_names_those_that_do_not_wait_any_more(left_behind: Storage) -> None:
    """So that their host forgets them; the others are seen to."""
    gone = await left_behind.store.wake([wake_up("a"), wake_up("b"), wake_up("b", 1)], are_unknown=False)
    assert gone == [wake_up("a"), wake_up("b", 1)]
    assert await woken(left_behind.store) == ["b"]


async def test_a_change_of_rules_takes_them_out_of_the_line(left_behind: Storage, redis: Redis) -> None:
    """The next probe finds who comes after them."""
    await left_behind.hosts.probe([HOST])
    assert await hosts.line(redis) == "ab"
    await left_behind.policies.set_destination(HOST, DestinationPolicy(concurrency=1, rate=9))
    assert await hosts.line(redis) == "b"
    await left_behind.policies.set_destination(HOST, DestinationPolicy(concurrency=1))
    assert await woken(left_behind.store) == ["b"]
