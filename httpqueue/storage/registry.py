"""Applications and destinations: what operators say of them, and how they fare."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

import msgpack
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import WatchError

from httpqueue.storage import keys
from httpqueue.storage.connection import Script, redis_errors
from httpqueue.storage.timers import SCRIPT_KEYS
from httpqueue.timers.policies import Application, Destination, decode_policy, encode_policy
from httpqueue.timers.timer import STATE_OF_LETTER, State

RELEASE: Final = 500
"""Timers that one script call takes out of a line."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """An application: what was said of it, and its timers by state."""

    name: str
    policy: Application
    counts: dict[State, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Health:
    """What the last calls to a host gave: failures in a row, when it was, and a status or an error."""

    failures: int
    last_ms: int
    last_result: str


@dataclass(frozen=True, slots=True)
class Host:
    """A destination: what was said of it, its calls, who waits for it, and its health."""

    name: str
    policy: Destination
    waiting: int
    calls: int
    health: Health | None


class Registry:
    """Every method raises UnavailableError when the server is away."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._release = Script(redis, "release")

    async def tenants(self) -> list[Tenant]:
        """Every application that has timers or a policy, by name."""
        with redis_errors():
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.hgetall(keys.COUNTS)
            pipeline.hgetall(keys.APPLICATIONS)
            counts, policies = await pipeline.execute()
        counted: dict[str, dict[State, int]] = {name.decode(): {} for name in policies}
        for field_name, count in counts.items():
            name, _, letter = field_name.partition(b":")
            counted.setdefault(name.decode(), {})[STATE_OF_LETTER[letter]] = int(count)
        return [
            Tenant(name, decode_policy(Application, policies.get(name.encode(), b"")), counted[name])
            for name in sorted(counted)
        ]

    async def application(self, name: str) -> Application:
        """What was said of an application."""
        with redis_errors():
            raw = await self._redis.hget(keys.APPLICATIONS, name)  # type: ignore[misc] # redis-py: sync or async
        return decode_policy(Application, raw or b"")

    async def update_application(
        self, name: str, change: Callable[[Application], Application]
    ) -> Application:
        """Change what was said of an application; its timers that waited are woken when it goes on."""
        with redis_errors():
            while True:
                async with self._redis.pipeline() as pipeline:
                    try:
                        await pipeline.watch(keys.APPLICATIONS)
                        raw = await pipeline.hget(keys.APPLICATIONS, name)  # type: ignore[misc] # sync or async
                        policy = change(decode_policy(Application, raw or b""))
                        pipeline.multi()  # type: ignore[no-untyped-call] # redis-py
                        _write(pipeline, keys.APPLICATIONS, name, policy)
                        await pipeline.execute()
                        break
                    except WatchError:
                        continue
        if not policy.paused:
            await self._release_line(f"application:{name}")
        return policy

    async def hosts(self) -> list[Host]:
        """Every destination that was called or has a policy, by name."""
        with redis_errors():
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.hgetall(keys.DESTINATIONS)
            pipeline.hgetall(keys.HEALTH)
            policies, health = await pipeline.execute()
            return await self._hosts(sorted({*policies, *health}), policies, health)

    async def host(self, name: str) -> Host:
        """One destination, known or not."""
        raw = name.encode()
        with redis_errors():
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.hget(keys.DESTINATIONS, name)
            pipeline.hget(keys.HEALTH, name)
            policy, health = await pipeline.execute()
            [host] = await self._hosts([raw], {raw: policy or b""}, {raw: health} if health else {})
        return host

    async def set_destination(self, name: str, policy: Destination) -> None:
        """Replace what was said of a destination; who waited for it tries again under the new rules."""
        with redis_errors():
            pipeline = self._redis.pipeline(transaction=False)
            _write(pipeline, keys.DESTINATIONS, name, policy)
            await pipeline.execute()
        if not policy.paused:
            await self._release_line(f"host:{name}")

    async def _release_line(self, line: str) -> None:
        """All that wait now; who comes into the line meanwhile already knows the new rules."""
        with redis_errors():
            waiting = await self._redis.zcard(keys.LINE_PREFIX + line)
            waiting += await self._redis.zcard(keys.SLOTS_PREFIX + line.removeprefix("host:"))
        for _ in range(0, waiting, RELEASE):
            await self._release(SCRIPT_KEYS, line, RELEASE)

    async def _hosts(
        self, names: Iterable[bytes], policies: dict[bytes, bytes], health: dict[bytes, bytes]
    ) -> list[Host]:
        names = list(names)
        pipeline = self._redis.pipeline(transaction=False)
        for raw in names:
            name = raw.decode()
            pipeline.zcard(f"{keys.LINE_PREFIX}host:{name}")
            pipeline.zcard(keys.SLOTS_PREFIX + name)
            pipeline.zcard(keys.CALLS_PREFIX + name)
        sizes = await pipeline.execute()
        return [
            Host(
                name=raw.decode(),
                policy=decode_policy(Destination, policies.get(raw, b"")),
                waiting=sizes[3 * n] + sizes[3 * n + 1],
                calls=sizes[3 * n + 2],
                health=_health(health.get(raw)),
            )
            for n, raw in enumerate(names)
        ]


def _write(pipeline: Pipeline, key: str, name: str, policy: Application | Destination) -> None:
    text = encode_policy(policy)
    if text == b"{}":
        pipeline.hdel(key, name)
    else:
        pipeline.hset(key, name, text.decode())


def _health(raw: bytes | None) -> Health | None:
    if raw is None:
        return None
    failures, last_ms, last_result = msgpack.unpackb(raw, raw=True)
    return Health(failures, last_ms, last_result.decode(errors="replace"))
