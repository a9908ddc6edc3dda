"""Everything on the store's server: opens it, checks it, and gives access to its parts."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from httpqueue.clock import StoreNow, server_time
from httpqueue.errors import StartError
from httpqueue.storage.api_keys import ApiKeys
from httpqueue.storage.archive import Archive
from httpqueue.storage.connection import connect, redis_errors, time_ms
from httpqueue.storage.first_use import FirstUse
from httpqueue.storage.hosts import Hosts
from httpqueue.storage.lookup import Lookup
from httpqueue.storage.outbox import Outbox
from httpqueue.storage.partitions import ONE_PARTITION, Partitions
from httpqueue.storage.policies import Policies
from httpqueue.storage.retention import Retention
from httpqueue.storage.timers import Store
from httpqueue.storage.wake_ups import WakeUps

log = structlog.get_logger()


class Storage:
    """The parts of the store. All their methods raise UnavailableError when the server is away."""

    def __init__(
        self,
        redis: Redis,
        *,
        archive_error_rate: float,
        partitions: Partitions = ONE_PARTITION,
        now: StoreNow = server_time,
        wait_replicas: int = 0,
    ) -> None:
        self._redis = redis
        self._now = now
        self._archive = Archive(redis, error_rate=archive_error_rate, partitions=partitions)
        self.partitions = partitions
        self.hosts = Hosts(redis, now=now)
        self.retention = Retention(redis, archive=self._archive, partitions=partitions, now=now)
        self.store = Store(
            redis,
            archive=self._archive,
            retention=self.retention,
            hosts=self.hosts,
            partitions=partitions,
            now=now,
            wait_replicas=wait_replicas,
        )
        self.outbox = Outbox(redis, partitions=partitions)
        self.wake_ups = WakeUps(redis, partitions=partitions, now=now)
        self.lookup = Lookup(redis, partitions=partitions, hosts=self.hosts, now=now)
        self.policies = Policies(redis, partitions=partitions, hosts=self.hosts, store=self.store, now=now)
        self.api_keys = ApiKeys(redis)
        self.first_use = FirstUse(redis)

    async def ping(self) -> None:
        """Raises UnavailableError when the server does not answer."""
        with redis_errors():
            await self._redis.ping()

    async def time_ms(self) -> int:
        """The store's time in ms since the epoch."""
        with redis_errors():
            return time_ms(await self._redis.time(), self._now)

    async def check(self, *, allow_unsafe: bool) -> None:
        """Check that this server may keep timers.

        Raises StartError when it may evict them, unless allow_unsafe is set, and when its archive was made
        with another error rate or its keys with another number of partitions. Logs a warning when it writes
        nothing to disk.
        """
        with redis_errors():
            memory = await self._redis.info("memory")
            persistence = await self._redis.info("persistence")
            snapshots = await self._snapshots()
        policy = memory.get("maxmemory_policy", "noeviction")
        if policy != "noeviction" and not allow_unsafe:
            raise StartError(
                f"Redis may evict timers (maxmemory-policy {policy}): set it to noeviction, "
                "or allow it with setting `allow_unsafe_redis`"
            )
        if not persistence.get("aof_enabled") and not snapshots:
            log.warning("store.not_persistent", remedy="set appendonly yes in Redis")
        await self._archive.open()
        decided = await self.first_use.decide("partitions", str(self.partitions.count))
        if decided != str(self.partitions.count):
            raise StartError(
                f"setting `partitions`: this Redis was first used with {decided}, which cannot be changed;"
                " use the same value, or another Redis"
            )

    async def _snapshots(self) -> bool:
        """Whether the server saves snapshots. True when it does not let us ask."""
        try:
            return bool((await self._redis.config_get("save")).get("save", "?"))
        except ResponseError:
            return True


@asynccontextmanager
async def open_storage(
    url: str,
    *,
    archive_error_rate: float,
    partitions: Partitions = ONE_PARTITION,
    now: StoreNow = server_time,
    wait_replicas: int = 0,
) -> AsyncIterator[Storage]:
    """Open the store at this URL. It connects when it is first used. wait_replicas: as in Store."""
    redis = connect(url, Redis)
    try:
        yield Storage(
            redis,
            archive_error_rate=archive_error_rate,
            partitions=partitions,
            now=now,
            wait_replicas=wait_replicas,
        )
    finally:
        await redis.aclose()
