"""The API keys, kept on the store's server. Only the SHA-256 hash of a key is stored."""

from typing import Any, Final

import structlog
from redis.asyncio import Redis

from httpqueue import clock
from httpqueue.clock import now_ms
from httpqueue.storage.connection import redis_errors
from httpqueue.storage.keys import API_KEYS, API_KEYS_VERSION
from httpqueue.timers.access import Grant, decode_grant, encode_grant, hash_key, new_key

RELOAD_S: Final = 60.0
"""After this time all keys are read again, even when their version is the same."""

log = structlog.get_logger()


class ApiKeys:
    """Creates, lists and revokes API keys. Methods raise UnavailableError when the server is away."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._version: tuple[Any, ...] = ()
        self._grants: dict[str, Grant | None] = {}
        self._loaded_s = 0.0

    async def create(self, grant: Grant) -> str:
        """Make a key with this grant and return it. This is the only time the key can be seen."""
        key = new_key()
        with redis_errors():
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.hset(API_KEYS, hash_key(key), encode_grant(grant, now_ms()))  # type: ignore[arg-type] # redis-py: str only
            pipeline.incr(API_KEYS_VERSION)
            await pipeline.execute()
        return key

    async def list(self) -> list[tuple[Grant, int]]:
        """Return (grant, created_ms) of every key, the oldest first. Logs and skips unreadable grants."""
        stored = await self._stored()
        rows = [row for row in map(decode_grant, stored.values()) if row is not None]
        if len(rows) < len(stored):
            log.warning("api_keys.unreadable", count=len(stored) - len(rows), redis_key=API_KEYS)
        return sorted(rows, key=lambda row: (row[1], row[0].id))

    async def revoke(self, key_id: str) -> bool:
        """Delete the key with this id. Returns False when there is none."""
        for digest, stored in (await self._stored()).items():
            row = decode_grant(stored)
            if row is not None and row[0].id == key_id:
                with redis_errors():
                    pipeline = self._redis.pipeline(transaction=False)
                    pipeline.hdel(API_KEYS, digest.decode())
                    pipeline.incr(API_KEYS_VERSION)
                    count, _ = await pipeline.execute()
                return bool(count)
        return False

    async def load(self) -> dict[str, Grant | None]:
        """Return {hash_key(key): grant}. A grant that cannot be read is None: it permits nothing.

        Every API process asks each second. All keys are read and decoded only when their version or number is
        another one, or after RELOAD_S: somebody may have written them by other means.
        """
        with redis_errors():
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.get(API_KEYS_VERSION)
            pipeline.hlen(API_KEYS)
            version = tuple(await pipeline.execute())
        asked_s = clock.monotonic_s()
        if version == self._version and asked_s - self._loaded_s < RELOAD_S:
            return self._grants
        rows = {digest.decode(): decode_grant(stored) for digest, stored in (await self._stored()).items()}
        self._grants = {digest: None if row is None else row[0] for digest, row in rows.items()}
        self._version, self._loaded_s = version, asked_s
        return self._grants

    async def _stored(self) -> dict[bytes, bytes]:
        with redis_errors():
            stored: dict[bytes, bytes] = await self._redis.hgetall(API_KEYS)  # type: ignore[misc] # redis-py: sync or async
        return stored
