"""What is decided once for a store."""

import asyncio

import pytest
from redis.asyncio import Redis

from httpqueue.errors import UnavailableError
from httpqueue.storage import keys
from httpqueue.storage.first_use import FirstUse
from httpqueue.storage.storage import Storage, open_storage


async def test_the_first_proposal_is_kept(redis: Redis, storage: Storage) -> None:
    """Later ones change nothing, from whichever process they come."""
    assert await storage.first_use.decide("egress", "private") == "private"
    assert await FirstUse(redis).decide("egress", "public") == "private"
    assert await redis.hgetall(keys.FIRST_USE) == {b"egress": b"private"}  # type: ignore[misc] # redis-py: sync or async


async def test_names_are_apart(storage: Storage) -> None:
    """Each name has its own decision."""
    assert await storage.first_use.decide("egress", "private") == "private"
    assert await storage.first_use.decide("partitions", "4") == "4"


async def test_many_at_once(storage: Storage) -> None:
    """Processes that start together agree."""
    decided = await asyncio.gather(*(storage.first_use.decide("partitions", str(n)) for n in range(20)))
    assert len(set(decided)) == 1


async def test_what_nobody_wrote(redis: Redis, storage: Storage) -> None:
    """Bytes that are no text are given as text, for the caller to refuse."""
    await redis.hset(keys.FIRST_USE, "egress", b"\xff")  # type: ignore[misc, arg-type] # redis-py: sync or async, str only
    assert await storage.first_use.decide("egress", "public") == "\ufffd"


async def test_a_server_that_is_away() -> None:
    """It says so."""
    async with open_storage("unix:///nowhere/valkey.sock", archive_error_rate=1e-6) as storage:
        with pytest.raises(UnavailableError):
            await storage.first_use.decide("egress", "public")
