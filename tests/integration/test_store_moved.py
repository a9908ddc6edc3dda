"""A name whose timers are now in one partition, now in another: their ordering keys differ."""

from dataclasses import replace

from redis.asyncio import Redis

from httpqueue.storage.partitions import Partitions
from httpqueue.storage.storage import Storage
from httpqueue.timers.commands import Created, Creation, IfExists, Refusal, Refused, WakeUp
from httpqueue.timers.names import TimerName
from tests.support.frozen import T0_MS, FrozenTime, begin, new_timer

FOUR = Partitions(4)
NAME = TimerName("default", "c")
HOME = FOUR.home_of(NAME)
HERE, THERE = "lane", "k"
"""Ordering keys of two partitions, neither of them the home of NAME."""


def four(redis: Redis, time: FrozenTime) -> Storage:
    """A store of four partitions, whatever the other tests have."""
    assert len({FOUR.place_of(NAME, key) for key in (None, HERE, THERE)}) == 3
    return Storage(redis, archive_error_rate=1e-6, partitions=FOUR, now=time)


async def test_a_wake_up_at_a_home_that_has_a_pointer_is_gone(redis: Redis, time: FrozenTime) -> None:
    """It is of an earlier timer of the name. The pointer is no record that nobody can read."""
    store = four(redis, time).store
    await store.create([new_timer("c", ordering_key=HERE)])
    answers = await begin(store, [WakeUp(NAME, 0, partition=HOME)])
    assert [each.refusal for each in answers if isinstance(each, Refused)] == [Refusal.GONE]
    assert not await redis.exists(FOUR.store_keys[HOME].set_aside)


async def test_two_posts_find_one_that_is_over_elsewhere(redis: Redis, time: FrozenTime) -> None:
    """The first forgets it and is stored; the second finds the first, not the one that is gone."""
    store = four(redis, time).store
    await store.create([new_timer("c", ordering_key=HERE)])
    await store.cancel(NAME, version=None, retention_ms=0)
    new = replace(new_timer("c", ordering_key=THERE), if_exists=IfExists.KEEP)
    assert await store.create([new, new]) == [
        Created(Creation.CREATED, T0_MS),
        Created(Creation.KEPT, T0_MS),
    ]
    found = await store.get(NAME)
    assert found
    assert found.timer.spec.ordering_key == THERE
