"""Requests with an Idempotency-Key: what was answered to them, for KEPT_ANSWER_MS.

The answer is stored with the timer, in one transaction (lua/create.lua). With several partitions, a request
that names its timer may be in another partition than the key; then the key is taken first.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, Final

import msgpack
from redis.asyncio import Redis

from httpqueue.storage.connection import redis_errors
from httpqueue.storage.partitions import Partitions
from httpqueue.storage.record import encode_spec
from httpqueue.timers.commands import NewTimer
from httpqueue.timers.names import TimerName

KEPT_ANSWER_MS: Final = 24 * 3600 * 1000
"""How long the answer to a request with an Idempotency-Key is remembered."""
_FINGERPRINT_BYTES: Final = 16


class Requests:
    """Takes Idempotency-Keys that are in another partition than their timers."""

    def __init__(self, redis: Redis, partitions: Partitions) -> None:
        self._redis = redis
        self._partitions = partitions

    async def find_reused(self, timers: Sequence[NewTimer]) -> frozenset[int]:
        """The places in `timers` of those whose key another request has. Takes the keys of the others."""
        apart = [(n, timer) for n, timer in enumerate(timers) if self._is_apart(timer)]
        if not apart:
            return frozenset()
        pipeline = self._redis.pipeline(transaction=False)
        for _, timer in apart:
            key = self._key_of(timer)
            pipeline.set(key, msgpack.packb(_fingerprint(timer)), px=KEPT_ANSWER_MS, nx=True)
            pipeline.get(key)
        with redis_errors():
            answers = await pipeline.execute()
        return frozenset(
            n
            for (n, timer), known in zip(apart, answers[1::2], strict=True)
            if known is not None and not _is_of(timer, known)
        )

    def _is_apart(self, timer: NewTimer) -> bool:
        if timer.idempotency_key is None:
            return False
        return self._partition_of(timer) != self._partitions.place_of(timer.name, timer.spec.ordering_key)

    def _partition_of(self, timer: NewTimer) -> int:
        """Where the key is: where a timer without an id of its own would be."""
        return self._partitions.home_of(TimerName(timer.name.application, timer.idempotency_key or ""))

    def _key_of(self, timer: NewTimer) -> str:
        return self._partitions.store_keys[self._partition_of(timer)].requests + _member(timer)


def packed_request(timer: NewTimer) -> tuple[str, bytes]:
    """What lua/create.lua remembers a request by: its key, or '', and its fingerprint."""
    return ("", b"") if timer.idempotency_key is None else (_member(timer), _fingerprint(timer))


def _member(timer: NewTimer) -> str:
    return f"{timer.name.application}:{timer.idempotency_key}"


def _fingerprint(timer: NewTimer) -> bytes:
    """Equal for two requests that ask for the same."""
    asked = b" ".join((timer.name.id.encode(), timer.if_exists.value.encode(), encode_spec(timer.spec)))
    return hashlib.sha256(asked).digest()[:_FINGERPRINT_BYTES]


def _is_of(timer: NewTimer, known: bytes) -> bool:
    """Whether the key was taken by a request for the same."""
    unpacker = msgpack.Unpacker(raw=True)
    unpacker.feed(known)
    fingerprint: Any = next(iter(unpacker), None)
    return bool(fingerprint == _fingerprint(timer))
