"""The policies of applications and destinations, with their counts and health."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

import msgpack
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from httpqueue.storage.connection import redis_errors
from httpqueue.storage.keys import store_keys
from httpqueue.storage.record import STATE_OF_LETTER, decode_policy, encode_policy
from httpqueue.storage.scripts import Script
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


@dataclass(frozen=True, slots=True)
class Health:
    """The last calls to a host: failures in a row, when the last one ended (ms), its status or error."""

    failures: int
    last_ms: int
    last_result: str


@dataclass(frozen=True, slots=True)
class Destination:
    """A destination: its policy, how many timers wait for it, how many calls are in flight, its health.

    `calls` counts only while the policy limits concurrency.
    """

    host: str
    policy: DestinationPolicy
    waiting: int
    calls: int
    health: Health | None


class Policies:
    """Reads and writes policies. Methods raise UnavailableError when the server is away."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._keys = store_keys()
        self._release = Script(redis, "release", self._keys)

    async def applications(self) -> list[Application]:
        """Every application that has timers or a policy, sorted by name."""
        with redis_errors():
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.hgetall(self._keys.counts)
            pipeline.hgetall(self._keys.applications)
            counts, policies = await pipeline.execute()
        counted: dict[str, dict[State, int]] = {name.decode(): {} for name in policies}
        for field_name, count in counts.items():
            name, _, letter = field_name.partition(b":")
            counted.setdefault(name.decode(), {})[STATE_OF_LETTER[letter]] = int(count)
        return [
            Application(name, decode_policy(ApplicationPolicy, policies.get(name.encode())), counted[name])
            for name in sorted(counted)
        ]

    async def application(self, name: str) -> ApplicationPolicy:
        """The policy of an application; the default one when none is stored."""
        with redis_errors():
            raw = await self._redis.hget(self._keys.applications, name)  # type: ignore[misc] # redis-py: sync or async
        return decode_policy(ApplicationPolicy, raw)

    async def update_application(
        self, name: str, change: Callable[[ApplicationPolicy], ApplicationPolicy]
    ) -> ApplicationPolicy:
        """Replace an application's policy by change(policy), atomically. Returns the new policy.

        If that ends a pause, the timers that waited for it are woken.
        """

        async def write(pipeline: Pipeline) -> ApplicationPolicy:
            raw = await pipeline.hget(self._keys.applications, name)  # type: ignore[misc] # sync or async
            policy = change(decode_policy(ApplicationPolicy, raw))
            pipeline.multi()  # type: ignore[no-untyped-call] # redis-py
            _write(pipeline, self._keys.applications, name, policy)
            return policy

        with redis_errors():
            policy = await self._redis.transaction(write, self._keys.applications, value_from_callable=True)
        if not policy.paused:  # not only when it was: the resume before may have died in between
            await self._release_line("application", name)
        return policy  # type: ignore[no-any-return] # redis-py: whatever write returned

    async def destinations(self) -> list[Destination]:
        """Every destination that was called or has a policy, sorted by host."""
        with redis_errors():
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.hgetall(self._keys.destinations)
            pipeline.hgetall(self._keys.health)
            policies, health = await pipeline.execute()
            return await self._destinations(sorted({*policies, *health}), policies, health)

    async def destination(self, host: str) -> Destination:
        """One destination. It has the default policy and no health if it was never called or limited."""
        raw = host.encode()
        with redis_errors():
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.hget(self._keys.destinations, host)
            pipeline.hget(self._keys.health, host)
            policy, health = await pipeline.execute()
            [found] = await self._destinations([raw], {raw: policy or b""}, {raw: health} if health else {})
        return found

    async def set_destination(self, host: str, policy: DestinationPolicy) -> None:
        """Replace the policy of a destination. Unless it is paused, timers that waited for it try again."""
        with redis_errors():
            pipeline = self._redis.pipeline(transaction=False)
            _write(pipeline, self._keys.destinations, host, policy)
            await pipeline.execute()
        if not policy.paused:
            await self._release_line("host", host)

    async def _release_line(self, kind: str, name: str) -> None:
        """Wake all timers that wait in a line now. Those that join it later follow the new policy anyway.

        The script runs at least once: an application with an empty line may still have wake-ups that the
        pause kept out of the queue.
        """
        with redis_errors():
            waiting = await self._redis.zcard(f"{self._keys.lines}{kind}:{name}")
            waiting += await self._redis.zcard(self._keys.starts + name) if kind == "host" else 0
        for _ in range(0, max(waiting, 1), RELEASE):
            await self._release(kind, name, RELEASE)

    async def _destinations(
        self, hosts: Iterable[bytes], policies: dict[bytes, bytes], health: dict[bytes, bytes]
    ) -> list[Destination]:
        hosts = list(hosts)
        pipeline = self._redis.pipeline(transaction=False)
        for raw in hosts:
            host = raw.decode()
            pipeline.zcard(f"{self._keys.lines}host:{host}")
            pipeline.zcard(self._keys.starts + host)
            pipeline.zcard(self._keys.permits + host)
        sizes = await pipeline.execute()
        return [
            Destination(
                host=raw.decode(),
                policy=decode_policy(DestinationPolicy, policies.get(raw)),
                waiting=sizes[3 * n] + sizes[3 * n + 1],
                calls=sizes[3 * n + 2],
                health=_health(health.get(raw)),
            )
            for n, raw in enumerate(hosts)
        ]


def _write(pipeline: Pipeline, key: str, name: str, policy: ApplicationPolicy | DestinationPolicy) -> None:
    if policy == type(policy)():
        pipeline.hdel(key, name)
    else:
        pipeline.hset(key, name, encode_policy(policy).decode())


def _health(raw: bytes | None) -> Health | None:
    if raw is None:
        return None
    failures, last_ms, last_result = msgpack.unpackb(raw, raw=True)
    return Health(failures, last_ms, last_result.decode(errors="replace"))
