"""The policies of applications, with their counts, and those of destinations."""

from collections import Counter
from collections.abc import Callable
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
from httpqueue.storage.scripts import Script
from httpqueue.storage.secret_box import SealedSecretError, SecretBox
from httpqueue.storage.timers import Store
from httpqueue.timers.policies import ApplicationPolicy, DestinationPolicy
from httpqueue.timers.timer import State

RELEASE: Final = 500
"""The most timers that one script call takes out of a line."""


@dataclass(frozen=True, slots=True)
class Application:
    """An application: its policy, and how many timers it has in each state."""

    name: str
    policy: ApplicationPolicy
    counts: dict[State, int] = field(default_factory=dict)


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

    async def applications(self) -> list[Application]:
        """Every application that has timers or a policy, sorted by name."""
        with redis_errors():
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.hgetall(self._keys[0].applications)
            for keys in self._keys:
                pipeline.hgetall(keys.counts)
            policies, *counts = await pipeline.execute()
        counted: dict[str, Counter[State]] = {name.decode(): Counter() for name in policies}
        for field_name, count in chain.from_iterable(part.items() for part in counts):
            name, _, letter = field_name.partition(b":")
            counted.setdefault(name.decode(), Counter())[STATE_OF_LETTER[letter]] += int(count)
        return [
            Application(
                name, decode_policy(ApplicationPolicy, policies.get(name.encode())), dict(counted[name])
            )
            for name in sorted(counted)
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

        The policy of partition 0 counts; the others get a copy. If that ends a pause, the timers that waited
        for it are woken. Secrets are sealed; raises NoSecretsKeyError if that is not possible here.
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
        if not policy.paused:  # not only when it was: the resume before may have died in between
            await at_once([self._release_line(partition, name) for partition in self._partitions.all])
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
                _write(pipeline, keys.applications, name, decode_policy(ApplicationPolicy, raw))
            await pipeline.execute()

    async def _release_line(self, partition: int, application: str) -> None:
        """Wake all timers that wait in a line now. Those that join it later follow the new policy anyway.

        The script runs at least once: an application with an empty line may still have wake-ups that the
        pause kept out of the queue.
        """
        with redis_errors():
            waiting = await self._redis.zcard(self._keys[partition].lines + application)
        for _ in range(0, max(waiting, 1), RELEASE):
            await self._release(partition, self._script_now(), application, RELEASE)

    async def destinations(self) -> list[Destination]:
        """Every destination that was called or has a policy, sorted by host."""
        return await self._hosts.destinations()

    async def destination(self, host: str) -> Destination:
        """One destination. It has the default policy and no health if it was never called or limited."""
        return await self._hosts.destination(host)

    async def set_destination(self, host: str, policy: DestinationPolicy) -> None:
        """Replace the policy of a destination. Timers that waited for it try again, as far as it lets them.

        Its host has the policy; the partitions only know that there is one.
        """
        await self._hosts.set_rules(host, policy)
        with redis_errors():
            pipeline = self._redis.pipeline(transaction=False)
            for keys in self._keys:
                if policy == DestinationPolicy():
                    pipeline.srem(keys.limited, host)
                else:
                    pipeline.sadd(keys.limited, host)
            await pipeline.execute()
        ready = await self._store.ready(host, await self._hosts.release(host))
        await self._store.wake(ready, are_unknown=False)

    def _script_now(self) -> int | str:
        now_ms = self._now()
        return "" if now_ms is None else now_ms


def _write(pipeline: Pipeline, key: str, name: str, policy: ApplicationPolicy) -> None:
    if policy == ApplicationPolicy():
        pipeline.hdel(key, name)
    else:
        pipeline.hset(key, name, encode_policy(policy).decode())
