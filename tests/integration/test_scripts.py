"""How a script gets its keys: by the names in its header, and no others."""

import pytest
from redis.asyncio import Redis

from httpqueue.errors import UnavailableError
from httpqueue.storage import scripts
from httpqueue.storage.scripts import Script
from tests.support.keys import PARTITIONS

STORE, QUEUE = PARTITIONS.store_keys[-1], PARTITIONS.queue_keys[-1]


async def run(monkeypatch: pytest.MonkeyPatch, redis: Redis, text: str) -> object:
    """The answer of a script with this text, in the last partition."""
    files = {"common": "-- what all of them share\n", "of_this_test": text}
    monkeypatch.setattr(scripts, "_read", files.__getitem__)
    script = Script(redis, "of_this_test", PARTITIONS.store_keys, PARTITIONS.queue_keys)
    return await script(PARTITIONS.count - 1)


async def test_a_script_gets_its_keys_by_name(monkeypatch: pytest.MonkeyPatch, redis: Redis) -> None:
    """Whatever their order; of the store and of the queue."""
    text = "-- KEYS    due, jobs,\n--         records\nreturn {keys.records, keys.due, keys.jobs}"
    answer = await run(monkeypatch, redis, text)
    assert answer == [key.encode() for key in (STORE.records, STORE.due, QUEUE.jobs)]


async def test_a_script_that_touches_an_unnamed_key_fails(
    monkeypatch: pytest.MonkeyPatch, redis: Redis
) -> None:
    """The message says which one; what it named it got."""
    text = "-- KEYS    records\nredis.call('SET', keys.records, 1)\nreturn keys.due"
    with pytest.raises(UnavailableError, match="does not name its key due"):
        await run(monkeypatch, redis, text)
    assert await redis.get(STORE.records) == b"1"


async def test_the_line_of_an_error_is_that_of_the_files(
    monkeypatch: pytest.MonkeyPatch, redis: Redis
) -> None:
    """Counted from the first line of common.lua."""
    with pytest.raises(UnavailableError, match=r":4: it went wrong"):
        await run(monkeypatch, redis, "-- KEYS    records\n\nerror('it went wrong')")


async def test_a_key_that_does_not_exist(monkeypatch: pytest.MonkeyPatch, redis: Redis) -> None:
    """Is noticed when the script is made."""
    with pytest.raises(ValueError, match="no key sorrows"):
        await run(monkeypatch, redis, "-- KEYS    records, sorrows\nreturn 1")
