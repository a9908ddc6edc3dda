"""Which partition a timer is in. A partition is a slice of all keys under one hash tag of a Redis Cluster.

A timer's name has a home: the partition that its name hashes to. A timer with an ordering key is in the
partition that the key hashes to, so that its lane is in one place; its home then has a pointer to it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, TypeVar
from zlib import crc32

from httpqueue.storage.keys import QueueKeys, StoreKeys, queue_keys, store_keys
from httpqueue.timers.names import TimerName, owner_of

MAX_PARTITIONS: Final = 1_024

Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Partitions:
    """The partitions of store and queue. Their number is fixed when the store is first used."""

    count: int = 1

    @property
    def all(self) -> range:
        """The numbers of the partitions."""
        return range(self.count)

    @cached_property
    def store_keys(self) -> list[StoreKeys]:
        """The keys of each partition on the store's server."""
        return [store_keys(number) for number in range(self.count)]

    @cached_property
    def queue_keys(self) -> list[QueueKeys]:
        """The keys of each partition on the queue's server."""
        return [queue_keys(number) for number in range(self.count)]

    def home_of(self, name: TimerName) -> int:
        """The partition that a timer's name hashes to. A callback has the home of its timer."""
        return self._hash(name.application, owner_of(name.id))

    def home_of_application(self, application: str) -> int:
        """The partition that has what all partitions must agree on about an application."""
        return crc32(application.encode()) % self.count

    def place_of(self, name: TimerName, ordering_key: str | None) -> int:
        """The partition that a timer is in: its home, or that of its ordering key."""
        return self._hash(name.application, ordering_key) if ordering_key else self.home_of(name)

    def _hash(self, application: str, text: str) -> int:
        return crc32(f"{application}/{text}".encode()) % self.count


ONE_PARTITION: Final = Partitions()


async def at_once(calls: Sequence[Awaitable[Answer]]) -> list[Answer]:
    """Await all of them at the same time. When some fail, wait for the others, then raise the first error."""
    if len(calls) == 1:
        return [await calls[0]]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return answers  # type: ignore[return-value] # no exception is among them


async def by_partition(
    items: Sequence[Item],
    partition_of: Callable[[Item], int],
    call: Callable[[int, Sequence[Item]], Awaitable[Sequence[Answer]]],
) -> list[Answer]:
    """Call each partition once, with its own items. The answers are in the order of the items."""
    groups: dict[int, list[int]] = {}
    for index, item in enumerate(items):
        groups.setdefault(partition_of(item), []).append(index)
    if len(groups) == 1:
        [partition] = groups
        return list(await call(partition, items))
    parts = await at_once(
        [call(partition, [items[index] for index in indices]) for partition, indices in groups.items()]
    )
    answers: dict[int, Answer] = {}
    for indices, part in zip(groups.values(), parts, strict=True):
        answers.update(zip(indices, part, strict=True))
    return [answers[index] for index in range(len(items))]
