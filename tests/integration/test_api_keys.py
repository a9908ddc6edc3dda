"""API keys in a real server: what is stored is enough to check a key, and not enough to use it."""

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from httpqueue.clock import now_ms
from httpqueue.errors import UnavailableError
from httpqueue.storage import api_keys as stored_keys
from httpqueue.storage import keys
from httpqueue.storage.api_keys import ApiKeys
from httpqueue.storage.embedded import EmbeddedValkey
from httpqueue.storage.storage import open_storage
from httpqueue.timers.access import Grant, Scope, decode_grant, hash_key

SHOP = Grant("00000001", "shop", Scope.WRITE)
EVERY = Grant("00000002", None, Scope.ADMIN)


@pytest.fixture
def api_keys(redis: Redis) -> ApiKeys:
    """On the empty server."""
    return ApiKeys(redis)


async def test_a_key_is_stored_as_its_hash(redis: Redis, api_keys: ApiKeys) -> None:
    """Nothing in the server has the key itself."""
    before_ms = now_ms()
    key = await api_keys.create(SHOP)
    [(digest, stored)] = (await redis.hgetall(keys.API_KEYS)).items()  # type: ignore[misc] # redis-py: sync or async
    assert digest.decode() == hash_key(key)
    row = decode_grant(stored)
    assert row is not None
    assert row[0] == SHOP
    assert before_ms <= row[1] <= now_ms()
    assert key.encode() not in digest + stored


async def test_load_and_list(api_keys: ApiKeys) -> None:
    """What each key permits, by its hash; and all of them, the oldest first."""
    assert await api_keys.load() == {}
    assert await api_keys.list() == []
    shop, every = await api_keys.create(SHOP), await api_keys.create(EVERY)
    assert await api_keys.load() == {hash_key(shop): SHOP, hash_key(every): EVERY}
    rows = await api_keys.list()
    assert [grant for grant, _ in rows] == [SHOP, EVERY]
    assert sorted(created_ms for _, created_ms in rows) == [created_ms for _, created_ms in rows]


async def test_keys_that_did_not_change_are_not_read_again(
    redis: Redis, api_keys: ApiKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Defect 12: each API process asks every second, and there may be many keys."""
    other = ApiKeys(redis)  # another process
    shop = await other.create(SHOP)
    await api_keys.load()
    await redis.config_resetstat()
    for _ in range(5):
        assert await api_keys.load() == {hash_key(shop): SHOP}
    assert "cmdstat_hgetall" not in await redis.info("commandstats")
    await other.revoke(SHOP.id)
    every = await other.create(EVERY)
    assert await api_keys.load() == {hash_key(every): EVERY}
    await redis.delete(keys.API_KEYS)
    assert await api_keys.load() == {}
    monkeypatch.setattr(stored_keys, "RELOAD_S", 0)
    await redis.config_resetstat()
    await api_keys.load()
    assert "cmdstat_hgetall" in await redis.info("commandstats")


async def test_revoke(api_keys: ApiKeys) -> None:
    """That key alone ends; a second time there is none of that id."""
    await api_keys.create(SHOP)
    every = await api_keys.create(EVERY)
    assert await api_keys.revoke(SHOP.id)
    assert await api_keys.load() == {hash_key(every): EVERY}
    assert not await api_keys.revoke(SHOP.id)


async def test_a_grant_that_cannot_be_read(redis: Redis, api_keys: ApiKeys) -> None:
    """It is loaded as a key that permits nothing, told in the log of a list, and in nobody's way."""
    await redis.hset(keys.API_KEYS, "0" * 64, "garbage")  # type: ignore[misc] # redis-py: sync or async
    await api_keys.create(SHOP)
    assert (await api_keys.load())["0" * 64] is None
    with capture_logs() as logs:
        assert [grant for grant, _ in await api_keys.list()] == [SHOP]
    assert [(entry["event"], entry["count"]) for entry in logs] == [("api_keys.unreadable", 1)]
    assert await api_keys.revoke(SHOP.id)


async def test_a_server_of_its_own_url(valkey_server: EmbeddedValkey, redis: Redis) -> None:
    """Opened by URL, as the command and the API do."""
    async with open_storage(valkey_server.url, archive_error_rate=1e-6) as storage:
        await storage.api_keys.create(SHOP)
    assert await redis.hlen(keys.API_KEYS) == 1  # type: ignore[misc] # redis-py: sync or async


async def test_a_server_that_is_away() -> None:
    """Every method says so."""
    async with open_storage("unix:///nowhere/valkey.sock", archive_error_rate=1e-6) as storage:
        api_keys = storage.api_keys
        for call in (api_keys.load(), api_keys.list(), api_keys.revoke("a"), api_keys.create(SHOP)):
            with pytest.raises(UnavailableError):
                await call
