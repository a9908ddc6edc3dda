"""Two versions that share a store, and a store that an older one wrote."""

from typing import Any

import pytest
from redis.asyncio import Redis

from httpqueue.errors import StartError
from httpqueue.relay.relay import Relay
from httpqueue.storage.keys import FIRST_USE, STORE_FORMAT
from httpqueue.storage.queue import Queue
from httpqueue.storage.record import FORMAT, encode_spec
from httpqueue.storage.storage import Storage
from httpqueue.timers.commands import Begun, Refusal, Refused
from httpqueue.timers.names import TimerName
from httpqueue.timers.schedule import Delay
from httpqueue.timers.spec import Spec
from tests.support.api_lab import Lab
from tests.support.frozen import T0_MS, FrozenTime, begin, claim, new_timer, snapshot, wake_up
from tests.support.keys import PARTITIONS, Everywhere, record_key
from tests.support.records import encode_record, old_store

NEWER = encode_record(encode_spec(Spec("http://receiver/", Delay(0))), due_ms=T0_MS, version=FORMAT + 1)


@pytest.mark.skipif(PARTITIONS.count > 1, reason="the store in the file has one partition")
async def test_a_store_of_an_older_version(
    redis: Redis, frozen_storage: Storage, frozen_queue: Queue, time: FrozenTime
) -> None:
    """Refused in one line that says what to do, and unchanged; after the upgrade all of its timers fire."""
    for command in old_store():
        await redis.execute_command(*command)  # type: ignore[no-untyped-call] # redis-py
    before = await snapshot(redis)
    with pytest.raises(StartError) as error:
        await frozen_storage.check(allow_unsafe=True)
    assert "stop all of its processes, then run `httpqueue doctor --repair`" in str(error.value)
    assert "\n" not in str(error.value)
    assert await snapshot(redis) == before

    assert await frozen_storage.inspection.upgrade() == 2
    assert await frozen_storage.inspection.upgrade() == 0
    await frozen_storage.check(allow_unsafe=True)
    assert await frozen_storage.store.get(TimerName("shop", "b")) is not None
    relay = Relay(storage=frozen_storage, queue=frozen_queue, horizon_ms=600_000, batch_size=500)
    fired = []
    for now_ms in (1_800_000_000_000, 1_900_000_000_000):
        time.now_ms = now_ms
        await relay.drain()
        await relay.promote()
        begun = await begin(frozen_storage.store, await claim(frozen_queue))
        fired += [str(each.wake_up.name) for each in begun if isinstance(each, Begun)]
    assert fired == ["default:a", "shop:b"]


async def test_a_new_store_gets_its_format(redis: Redis, storage: Storage) -> None:
    """Once; every later start finds it."""
    assert await storage.format() is None
    await storage.check(allow_unsafe=True)
    await storage.check(allow_unsafe=True)
    assert await redis.hget(FIRST_USE, "format") == STORE_FORMAT.encode()  # type: ignore[misc] # sync or async


async def test_a_store_of_a_newer_version(redis: Redis, storage: Storage) -> None:
    """Refused in one line."""
    await redis.hset(FIRST_USE, "format", "9")  # type: ignore[misc] # sync or async
    with pytest.raises(StartError, match="format '9', which this httpqueue does not know"):
        await storage.check(allow_unsafe=True)


async def test_a_newer_record_is_left_to_newer_workers(
    redis: Redis, frozen_storage: Storage, everywhere: Everywhere, time: FrozenTime
) -> None:
    """It is not set aside, and its neighbour begins; the API says that it is no damage."""
    store = frozen_storage.store
    await store.create([new_timer("newer"), new_timer("known")])
    await redis.set(record_key("newer"), NEWER)
    newer, known = await begin(store, [wake_up("newer"), wake_up("known")])
    assert newer == Refused(wake_up("newer"), Refusal.NEWER)
    assert isinstance(known, Begun)
    assert not await everywhere.exists("set_aside")
    assert await redis.get(record_key("newer")) == NEWER
    assert list(await everywhere.zset("due", "default")) == ["newer"]
    answer = await Lab(redis, store, time).client.get("/timers/newer")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "newer httpqueue" in answer.json()["detail"]


async def test_a_newer_outbox_entry_is_left_to_newer_relays(
    frozen_storage: Storage, frozen_queue: Queue, redis: Redis, everywhere: Everywhere
) -> None:
    """It is neither acted on nor set aside; entries around it are."""
    relay = Relay(storage=frozen_storage, queue=frozen_queue, horizon_ms=600_000, batch_size=500)
    await frozen_storage.store.create([new_timer("a")])
    entry: dict[Any, Any] = {"format": "2", "timer": "default:b", "what": "new"}
    for key in everywhere.keys("outbox"):
        await redis.xadd(key, entry)
    assert await relay.drain() == 1
    assert await everywhere.xlen() == PARTITIONS.count
    assert await everywhere.xlen("outbox_dead") == 0
    assert [each.name.id for each in await claim(frozen_queue)] == ["a"]
