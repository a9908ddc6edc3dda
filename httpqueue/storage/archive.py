"""The archive: a Bloom filter of finished timer ids, as layers of bits in the store's Redis.

pybloom-live sizes a layer and computes an id's bit positions. forget.lua sets the bits in the transaction
that drops the timer's record, so a crash loses no id. Each layer is four times as large as the one before,
and has a lower error rate, so that all layers together stay below the error rate of the settings. Each
partition has its own layers; an id is in the archive of its home.
The archive never decides whether a timer is accepted or delivered.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import log
from typing import Any, Final

import orjson
from pybloom_live import BloomFilter
from redis.asyncio import Redis

from httpqueue.errors import StartError
from httpqueue.storage.connection import redis_errors
from httpqueue.storage.keys import ARCHIVE_MANIFEST
from httpqueue.storage.partitions import Partitions

FIRST_CAPACITY: Final = 100_000
GROWTH: Final = 4
SHRINKING: Final = 0.4
"""The error rate of a layer divided by that of the layer before. At 1e-6, layer 0 takes 29.9 bits per id."""
MARGIN: Final = 0.95
"""Factor on a layer's error rate. It makes up for pybloom's rounding, which raises the rate a little."""
ALLOCATE_AT: Final = 0.8
"""When a layer is filled to this share of its capacity, the memory of the next layer is allocated."""
MAX_BITS: Final = 2**32 - 2**16
"""The most bits of a layer. A Redis string has 2**32; the rest is room for pybloom's rounding up."""

_GOLDEN_MEMBER: Final = "default:golden"


@dataclass(frozen=True, slots=True)
class Layer:
    """One Bloom filter: `slices` slices of `slice_bits` bits. An id sets one bit in each slice."""

    number: int
    capacity: int
    slices: int
    slice_bits: int
    hashes: Any
    """Takes an id as str; gives its bit position in each slice."""

    @property
    def bits(self) -> int:
        """The number of bits of all slices together."""
        return self.slice_bits * self.slices

    def positions(self, member: str) -> list[int]:
        """The bit positions of a member (application:id). Only str: pybloom hashes bytes differently."""
        return [index * self.slice_bits + position for index, position in enumerate(self.hashes(member))]


@lru_cache(maxsize=64)
def layer(number: int, error_rate: float) -> Layer:
    """Layer `number`, counted from 0. The error rates of all layers add up to less than error_rate."""
    layer_error_rate = MARGIN * error_rate * (1 - SHRINKING) * SHRINKING**number
    bits_an_id = -log(layer_error_rate) / log(2) ** 2
    capacity = min(FIRST_CAPACITY * GROWTH**number, int(MAX_BITS / bits_an_id))
    bloom = BloomFilter(capacity, layer_error_rate)
    return Layer(number, capacity, bloom.num_slices, bloom.bits_per_slice, bloom.make_hashes)


class Archive:
    """The archive in Redis. Methods raise UnavailableError when the server is away."""

    def __init__(self, redis: Redis, *, error_rate: float, partitions: Partitions) -> None:
        self._redis = redis
        self._keys = partitions.store_keys
        self._error_rate = error_rate
        self._current = [0] * partitions.count
        self._allocated = [0] * partitions.count

    async def open(self) -> None:
        """Raises StartError when the archive in Redis has other parameters than this process."""
        with redis_errors():
            await self._redis.set(ARCHIVE_MANIFEST, self._manifest(), nx=True)
        other = await self.other_parameters()
        if other is not None:
            raise StartError(
                "setting `archive_error_rate`: the archive in this Redis has other parameters"
                f" ({other}); use the same value, or another Redis"
            )
        for partition in range(len(self._keys)):
            await self._learn_layers(partition)

    async def exists(self) -> bool:
        """Whether any process has opened it."""
        with redis_errors():
            return bool(await self._redis.exists(ARCHIVE_MANIFEST))

    async def other_parameters(self) -> str | None:
        """The parameters of the archive in Redis, as text, if they are not this process's. Writes nothing."""
        with redis_errors():
            stored = await self._redis.get(ARCHIVE_MANIFEST)
        return None if stored in {None, self._manifest()} else _describe(stored)

    def _manifest(self) -> bytes:
        return orjson.dumps(
            {
                "error_rate": self._error_rate,
                "first_capacity": FIRST_CAPACITY,
                "growth": GROWTH,
                "golden": layer(0, self._error_rate).positions(_GOLDEN_MEMBER),
            }
        )

    def current(self, partition: int) -> Layer:
        """The layer of a partition to which forget adds ids now."""
        return layer(self._current[partition], self._error_rate)

    async def note_count(self, partition: int, number: int, count: int) -> None:
        """Note that layer `number` holds `count` ids: allocate the next layer in time, and switch to it."""
        if count >= layer(number, self._error_rate).capacity * ALLOCATE_AT:
            await self._allocate(partition, layer(number + 1, self._error_rate))
        self._note_count(partition, number, count)

    async def _allocate(self, partition: int, following: Layer) -> None:
        """Have Redis allocate all bits of a layer at once. It is slow, so no transition does it."""
        if self._allocated[partition] < following.number:
            key = f"{self._keys[partition].archive_layers}{following.number}"
            with redis_errors():
                await self._redis.setbit(key, following.bits - 1, 0)
            self._allocated[partition] = following.number

    def _note_count(self, partition: int, number: int, count: int) -> None:
        if number == self._current[partition] and count >= self.current(partition).capacity:
            self._current[partition] += 1

    async def contains(self, partition: int, member: str) -> bool:
        """Whether the archive has this member (application:id), whose home is this partition.

        For an unknown id it may wrongly say yes. The probability of that is at most error_rate.
        """
        await self._learn_layers(partition)
        layers = [layer(number, self._error_rate) for number in range(self._current[partition] + 1)]
        with redis_errors():
            pipeline = self._redis.pipeline(transaction=False)
            for each in layers:
                pipeline.execute_command(
                    "BITFIELD_RO",
                    f"{self._keys[partition].archive_layers}{each.number}",
                    *_get_bits(each.positions(member)),
                )
            answers = await pipeline.execute()
        return any(all(bits) for bits in answers)

    async def _learn_layers(self, partition: int) -> None:
        with redis_errors():
            counts = await self._redis.hgetall(self._keys[partition].archive_counts)  # type: ignore[misc] # redis-py: sync or async
        for number, count in sorted((int(number), int(count)) for number, count in counts.items()):
            self._current[partition] = max(self._current[partition], number)
            self._note_count(partition, number, count)


def _get_bits(positions: Sequence[int]) -> list[Any]:
    return [word for position in positions for word in ("GET", "u1", position)]


def _describe(manifest: bytes | None) -> str:
    try:
        return f"error rate {orjson.loads(manifest or b'')['error_rate']}"
    except (ValueError, TypeError, KeyError):
        return "unreadable"
