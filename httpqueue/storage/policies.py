"""The policies of applications, with their counts, and those of destinations."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Final

from msgspec import structs
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from httpqueue.clock import StoreNow, server_time
from httpqueue.errors import StartError
from httpqueue.storage.connection import redis_errors
from httpqueue.storage.hosts import Destination, Hosts
from httpqueue.storage.partitions import Partitions, at_once
from httpqueue.storage.record import STATE_OF_LETTER, decode_policy, encode_policy
from httpqueue.storage.scripts import Script, script_now
from httpqueue.storage.secret_box import SealedSecretError, SecretBox
from httpqueue.storage.timers import Store
from httpqueue.timers.policies import ApplicationPolicy, DestinationPolicy
from httpqueue.timers.timer import State

BYTES: Final = b"b"
"""What stands in the place of a state letter where bytes are counted: see lua/common.lua."""
MAX_LISTED: Final = 1_000
"""The most applications or destinations that are listed together."""
RELEASE: Final = 500
"""The most timers that one script call takes out of a line."""
RELEASE_AT_ONCE: Final = 5_000
"""The most timers of a partition that a change of policy takes out of a line. A job releases the others."""


@dataclass(frozen=True, slots=True)
class Application:
    """An application: its policy, how many timers it has in each state, and the bytes of their records."""

    name: str
    policy: ApplicationPolicy
    counts: dict[State, int] = field(default_factory=dict)
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Torn:
    """Policies of which not all partitions know.

    applications: some partition has another policy of them than partition 0. hosts: some partition does not
    know that they have rules, or that they have none.
    """

    applications: list[str]
    hosts: list[str]

    def __bool__(self) -> bool:
        return bool(self.applications or self.hosts)


class Policies:
    """Reads and writes policies. Methods raise UnavailableError when the server is away."""

    def __init__(
        self,
        redis: Redis,
        *,
        partitions: Partitions,
        hosts: Hosts,
        store: Store,
        secrets: SecretBox,
        now: StoreNow = server_time,
    ) -> None:
        self._redis = redis
        self._partitions = partitions
        self._keys = partitions.store_keys
        self._hosts = hosts
        self._store = store
        self._secrets = secrets
        self._now = now
        self._release = Script(redis, "release", partitions.store_keys)

    async def applications(self, *, after: str = "", limit: int = MAX_LISTED) -> list[Application]:
        """The first `limit` applications behind `after` that have timers or a policy, sorted by name.

        All names are read, but only these applications.
        """
        with redis_errors():
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.hkeys(self._keys[0].applications)
            for keys in self._keys:
                pipeline.hkeys(keys.counts)
            fields = chain.from_iterable(await pipeline.execute())
        names = {field_name.partition(b":")[0].decode() for field_name in fields}
        # "" stands for what is counted of all applications together.
        return await self._counted(sorted(name for name in names if name > after)[:limit])

    async def counted(self, name: str) -> Application:
        """One application. It has the default policy and no timers if nobody has used the name."""
        [application] = await self._counted([name])
        return application

    async def _counted(self, names: Sequence[str]) -> list[Application]:
        if not names:
            return []
        kinds = [*STATE_OF_LETTER, BYTES]
        with redis_errors():
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.hmget(self._keys[0].applications, list(names))
            fields = [f"{name}:{what.decode()}" for name in names for what in kinds]
            for keys in self._keys:
                pipeline.hmget(keys.counts, fields)
            policies, *rows = await pipeline.execute()
        totals = iter([sum(int(count or 0) for count in column) for column in zip(*rows, strict=True)])
        return [
            _application(name, policy, {what: next(totals) for what in kinds})
            for name, policy in zip(names, policies, strict=True)
        ]

    async def application(self, name: str) -> ApplicationPolicy:
        """The policy of an application; the default one when none is stored."""
        with redis_errors():
            raw = await self._redis.hget(self._keys[0].applications, name)  # type: ignore[misc] # redis-py: sync or async
        return decode_policy(ApplicationPolicy, raw)

    async def update_application(
        self, name: str, change: Callable[[ApplicationPolicy], ApplicationPolicy]
    ) -> ApplicationPolicy:
        """Replace an application's policy by change(policy), atomically. Returns the new policy.

        The policy of partition 0 counts; the others get a copy. If that ends a pause, the first timers that
        waited for it are woken. `waiting` says whether there are more. Secrets are sealed; raises
        NoSecretsKeyError if that is not possible here.
        """
        key = self._keys[0].applications

        async def write(pipeline: Pipeline) -> ApplicationPolicy:
            raw = await pipeline.hget(key, name)  # type: ignore[misc] # sync or async
            policy = change(decode_policy(ApplicationPolicy, raw))
            sealed = tuple(self._secrets.seal(name, secret) for secret in policy.secrets)
            policy = structs.replace(policy, secrets=sealed)
            pipeline.multi()  # type: ignore[no-untyped-call] # redis-py
            _write(pipeline, key, name, policy)
            return policy

        with redis_errors():
            policy = await self._redis.transaction(write, key, value_from_callable=True)
            await self._copy(name)
            if policy.max_rate is None:
                home = self._partitions.home_of_application(name)
                await self._redis.hdel(self._keys[home].rates, name)  # type: ignore[misc] # redis-py: sync or async
        if not policy.paused:  # not only when it was: the resume before may have died in between
            await at_once([self._release_first(partition, name) for partition in self._partitions.all])
        return policy  # type: ignore[no-any-return] # redis-py: whatever write returned

    async def check_secrets(self, *, reseals: bool) -> None:
        """Check that this process can read all signing secrets. Raises StartError when it cannot.

        reseals: seal those again that were sealed with an older key, or were stored before there was one.
        """
        with redis_errors():
            policies = await self._redis.hgetall(self._keys[0].applications)  # type: ignore[misc] # redis-py: sync or async
        for raw_name, raw in policies.items():
            name, secrets = raw_name.decode(), decode_policy(ApplicationPolicy, raw).secrets
            try:
                is_current = all(self._secrets.is_current(name, secret) for secret in secrets)
            except SealedSecretError as error:
                raise StartError(
                    f"setting `secrets_key`: the secrets of application {name} were encrypted with another "
                    "key: set that one too, behind the new one and a comma (the embedded Valkey's key is "
                    "in secrets.key of setting `data_dir`)"
                ) from error
            if reseals and not is_current:
                await self.update_application(name, partial(self._opened, name))

    def _opened(self, name: str, policy: ApplicationPolicy) -> ApplicationPolicy:
        return structs.replace(
            policy, secrets=tuple(self._secrets.open(name, secret) for secret in policy.secrets)
        )

    async def _copy(self, name: str) -> None:
        """Copy an application's policy to all partitions, until it no longer changes meanwhile."""
        copied: bytes | None = b"?"
        while self._partitions.count > 1:
            raw = await self._redis.hget(self._keys[0].applications, name)  # type: ignore[misc] # redis-py: sync or async
            if raw == copied:
                return
            copied = raw
            pipeline = self._redis.pipeline(transaction=False)
            for keys in self._keys[1:]:
                if raw is None:
                    pipeline.hdel(keys.applications, name)
                else:
                    pipeline.hset(keys.applications, name, raw)
            await pipeline.execute()

    async def torn(self) -> Torn:
        """What was written half: whoever wrote a policy died in between, or is still at it."""
        with redis_errors():
            pipeline = self._redis.pipeline(transaction=False)
            for keys in self._keys:
                pipeline.hgetall(keys.applications)
                pipeline.smembers(keys.limited)
            answers = await pipeline.execute()
        [policies, *copies], limited = answers[::2], answers[1::2]
        hosts = {host.encode() for host in await self._hosts.rules()}
        names = {name for copy in copies for name, _ in policies.items() ^ copy.items()}
        return Torn(
            sorted(name.decode() for name in names),
            sorted(host.decode() for host in set().union(*(part ^ hosts for part in limited))),
        )

    async def mend(self) -> Torn:
        """Finish what was written half. Returns what that was."""
        found = await self.torn()
        for name in found.applications:
            with redis_errors():
                await self._copy(name)
            if not (await self.application(name)).paused:
                await at_once([self._release_line(partition, name) for partition in self._partitions.all])
        for host in found.hosts:
            await self._note_limited(host)
        return found

    async def _note_limited(self, host: str) -> None:
        """Tell all partitions whether a host has rules, until that no longer changes meanwhile."""
        told: bool | None = None
        while told is not (is_limited := host in await self._hosts.rules()):
            told = is_limited
            with redis_errors():
                pipeline = self._redis.pipeline(transaction=False)
                for keys in self._keys:
                    if is_limited:
                        pipeline.sadd(keys.limited, host)
                    else:
                        pipeline.srem(keys.limited, host)
                await pipeline.execute()

    async def waiting(self, name: str) -> int:
        """How many timers wait in the application's lines, because it is or was paused."""
        with redis_errors():
            pipeline = self._redis.pipeline(transaction=False)
            for keys in self._keys:
                pipeline.zcard(keys.lines + name)
            return sum(await pipeline.execute())

    async def release(self, partition: int, name: str) -> int:
        """Wake the first timers that wait in an application's line. Returns how many; less than RELEASE: all.

        Call it at least once: an application with an empty line may still have wake-ups that the pause kept
        out of the queue.
        """
        released: int = await self._release(partition, script_now(self._now), name, RELEASE)
        return released

    async def _release_line(self, partition: int, name: str) -> None:
        while await self.release(partition, name) == RELEASE:
            pass

    async def _release_first(self, partition: int, name: str) -> None:
        for _ in range(RELEASE_AT_ONCE // RELEASE):
            if await self.release(partition, name) < RELEASE:
                break

    async def destinations(self, *, after: str = "", limit: int = MAX_LISTED) -> list[Destination]:
        """The first `limit` destinations behind `after` that were called or have a policy, sorted by host."""
        return await self._hosts.destinations(after=after, limit=limit)

    async def destination(self, host: str) -> Destination:
        """One destination. It has the default policy and no health if it was never called or limited."""
        return await self._hosts.destination(host)

    async def set_destination(self, host: str, policy: DestinationPolicy) -> None:
        """Replace the policy of a destination. Timers that waited for it try again, as far as it lets them.

        Its host has the policy; the partitions only know that there is one.
        """
        await self._hosts.set_rules(host, policy)
        await self._note_limited(host)
        ready = await self._store.ready(host, await self._hosts.release(host))
        await self._store.wake(ready, are_unknown=False)


def _application(name: str, policy: bytes | None, totals: Mapping[bytes, int]) -> Application:
    """totals: number of timers by state letter, and of bytes."""
    counts: dict[State, int] = {
        state: totals[letter] for letter, state in STATE_OF_LETTER.items() if totals[letter]
    }
    return Application(name, decode_policy(ApplicationPolicy, policy), counts, totals[BYTES])


def _write(pipeline: Pipeline, key: str, name: str, policy: ApplicationPolicy) -> None:
    if policy == ApplicationPolicy():
        pipeline.hdel(key, name)
    else:
        pipeline.hset(key, name, encode_policy(policy).decode())
