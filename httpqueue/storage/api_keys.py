"""The API keys, kept on the store's server. Only the SHA-256 hash of a key is stored."""

import structlog
from redis.asyncio import Redis

from httpqueue.clock import now_ms
from httpqueue.storage.connection import redis_errors
from httpqueue.storage.keys import API_KEYS
from httpqueue.timers.access import Grant, decode_grant, encode_grant, hash_key, new_key

log = structlog.get_logger()


class ApiKeys:
    """Creates, lists and revokes API keys. Methods raise UnavailableError when the server is away."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def create(self, grant: Grant) -> str:
        """Make a key with this grant and return it. This is the only time the key can be seen."""
        key = new_key()
        with redis_errors():
            stored = encode_grant(grant, now_ms())
            await self._redis.hset(API_KEYS, hash_key(key), stored)  # type: ignore[misc, arg-type] # redis-py: sync or async, str only
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
                    return bool(await self._redis.hdel(API_KEYS, digest.decode()))  # type: ignore[misc] # redis-py: sync or async
        return False

    async def load(self) -> dict[str, Grant | None]:
        """Return {hash_key(key): grant}. A grant that cannot be read is None: it permits nothing."""
        rows = {digest.decode(): decode_grant(stored) for digest, stored in (await self._stored()).items()}
        return {digest: None if row is None else row[0] for digest, row in rows.items()}

    async def _stored(self) -> dict[bytes, bytes]:
        with redis_errors():
            stored: dict[bytes, bytes] = await self._redis.hgetall(API_KEYS)  # type: ignore[misc] # redis-py: sync or async
        return stored
