"""Pointers: a timer that is not in the home of its name has one there, which names its partition."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from redis.asyncio import Redis

from httpqueue.clock import StoreNow, server_time
from httpqueue.storage.keys import member_of
from httpqueue.storage.partitions import Partitions, by_partition
from httpqueue.storage.scripts import Script, pack, script_now
from httpqueue.timers.names import TimerName

POINTER_BYTES: Final = 32
"""No pointer is longer."""
POINTS: Final = 3
"""How often a pointer is written when its record comes too late. The last time, the record is stored anyway:
then the servers' clocks must differ by more than a pointer holds."""


@dataclass(frozen=True, slots=True)
class Noted:
    """Pointers were written at their homes. Who stores a record too late may find them dropped."""

    others: dict[TimerName, int]
    """Names that have a timer elsewhere, and where. They got no pointer."""
    hold_until_ms: dict[int, int]
    """{home: until when its pointers hold}, in ms since the epoch."""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """The timer, or another one of its name, is in this partition."""

    partition: int


class Pointers:
    """Writes pointers and says where they lead. Methods raise UnavailableError when the server is away."""

    def __init__(
        self, redis: Redis, *, partitions: Partitions, now: StoreNow = server_time, wait_replicas: int = 0
    ) -> None:
        """wait_replicas: how many replicas have to confirm a pointer."""
        self._partitions = partitions
        self._now = now
        self._point = Script(redis, "point", partitions.store_keys, replicas=wait_replicas)

    async def note(self, pointers: Sequence[tuple[TimerName, int, str]], *, when_full: bool = False) -> Noted:
        """Store (name, partition, nonce) at the homes. when_full: even when the server is full."""
        hold_until_ms: dict[int, int] = {}

        async def note_at(home: int, part: Sequence[tuple[TimerName, int, str]]) -> list[int]:
            items = [(member_of(name), partition, nonce) for name, partition, nonce in part]
            answers: list[int]
            hold_until_ms[home], answers = await self._point(
                home, script_now(self._now), int(when_full), pack(items)
            )
            return answers

        answers = await by_partition(pointers, lambda each: self._partitions.home_of(each[0]), note_at)
        others = {
            # A damaged pointer leads to the home itself, where the name is taken.
            name: other if other in self._partitions.all else self._partitions.home_of(name)
            for (name, _, _), other in zip(pointers, answers, strict=True)
            if other >= 0
        }
        return Noted(others, hold_until_ms)

    async def point(self, name: TimerName, partition: int, nonce: str) -> bool:
        """Write the pointer of a timer that has lost it. False: its name has another timer by now."""
        return not (await self.note([(name, partition, nonce)])).others

    def elsewhere(self, partition: int | None) -> Elsewhere | None:
        """Where a pointer points to. None when there is no such partition: then it is a damaged record."""
        if partition is None or partition not in self._partitions.all:
            return None
        return Elsewhere(partition)
