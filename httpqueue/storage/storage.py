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
from httpqueue.storage.audit import Audit
from httpqueue.storage.connection import connect, redis_errors, time_ms
from httpqueue.storage.first_use import FirstUse
from httpqueue.storage.hosts import Hosts
from httpqueue.storage.inspection import Inspection
from httpqueue.storage.jobs import Jobs
from httpqueue.storage.keys import STORE_FORMAT
from httpqueue.storage.lookup import Lookup
from httpqueue.storage.outbox import Outbox
from httpqueue.storage.partitions import ONE_PARTITION, Partitions
from httpqueue.storage.policies import Policies
from httpqueue.storage.quotas import Quotas
from httpqueue.storage.retention import Retention
from httpqueue.storage.secret_box import SecretBox
from httpqueue.storage.timers import Store
from httpqueue.storage.wake_ups import WakeUps

log = structlog.get_logger()


class Storage:
    """The parts of the store. All their methods raise UnavailableError when the server is away."""

    def __init__(  # noqa: PLR0913 - its parts and settings
        self,
        redis: Redis,
        *,
        archive_error_rate: float,
        partitions: Partitions = ONE_PARTITION,
        secrets: SecretBox | None = None,
        now: StoreNow = server_time,
        max_pending: int | None = None,
        wait_replicas: int = 0,
    ) -> None:
        """secrets: encrypts signing secrets. None: they can neither be stored nor read."""
        secrets = secrets or SecretBox()
        self._redis = redis
        self._now = now
        self._archive = Archive(redis, error_rate=archive_error_rate, partitions=partitions)
        self.partitions = partitions
        self.hosts = Hosts(redis, now=now)
        self.retention = Retention(redis, archive=self._archive, partitions=partitions, now=now)
        self.store = Store(
            redis,
            retention=self.retention,
            hosts=self.hosts,
            partitions=partitions,
            quotas=Quotas(redis, partitions=partitions, now=now, max_pending=max_pending),
            secrets=secrets,
            now=now,
            wait_replicas=wait_replicas,
        )
        self.outbox = Outbox(redis, partitions=partitions)
        self.wake_ups = WakeUps(redis, partitions=partitions, now=now)
        self.lookup = Lookup(redis, partitions=partitions, hosts=self.hosts, now=now)
        self.policies = Policies(
            redis, partitions=partitions, hosts=self.hosts, store=self.store, secrets=secrets, now=now
        )
        self.api_keys = ApiKeys(redis)
        self.jobs = Jobs(redis, now=now)
        self.first_use = FirstUse(redis)
        self.inspection = Inspection(redis, partitions=partitions, now=now)
        self.audit = Audit(redis)

    async def ping(self) -> None:
        """Raises UnavailableError when the server does not answer."""
        with redis_errors():
            await self._redis.ping()

    async def time_ms(self) -> int:
        """The store's time in ms since the epoch."""
        with redis_errors():
            return time_ms(await self._redis.time(), self._now)

    async def other_archive(self) -> str | None:
        """What the archive was made with, if that is not what this process would make it with."""
        return await self._archive.other_parameters()

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
        await self._check_format()
        await self._archive.open()
        decided = await self.first_use.decide("partitions", str(self.partitions.count))
        if decided != str(self.partitions.count):
            raise StartError(
                f"setting `partitions`: this Redis was first used with {decided}, which cannot be changed;"
                " use the same value, or another Redis"
            )

    async def format(self) -> str | None:
        """The format of this store; None when nobody has used it yet."""
        known = await self.first_use.read("format")
        if known is None and await self._archive.exists():
            # Read it again: somebody else may have become the first user in between.
            known = await self.first_use.read("format") or "1"
        return known

    async def _check_format(self) -> None:
        """This comes before anything is written: so a store without a format is a new one, or an old one."""
        known = await self.format() or await self.first_use.decide("format", STORE_FORMAT)
        if known == "1":
            raise StartError(
                "this Redis was written by an older httpqueue: stop all of its processes, then run"
                " `httpqueue doctor --repair`; or use another Redis"
            )
        if known != STORE_FORMAT:
            raise StartError(
                f"this Redis has format {known[:20]!r}, which this httpqueue does not know:"
                " use the version that wrote it, or another Redis"
            )

    async def _snapshots(self) -> bool:
        """Whether the server saves snapshots. True when it does not let us ask."""
        try:
            return bool((await self._redis.config_get("save")).get("save", "?"))
        except ResponseError:
            return True


@asynccontextmanager
async def open_storage(  # noqa: PLR0913 - as Storage
    url: str,
    *,
    archive_error_rate: float,
    partitions: Partitions = ONE_PARTITION,
    secrets: SecretBox | None = None,
    now: StoreNow = server_time,
    max_pending: int | None = None,
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
            max_pending=max_pending,
            secrets=secrets,
            wait_replicas=wait_replicas,
        )
    finally:
        await redis.aclose()
