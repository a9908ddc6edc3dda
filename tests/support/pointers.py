"""Timers with ordering keys that lead away from their homes, and what happens in between two scripts."""

import asyncio
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any, Final

from redis.asyncio import Redis

from httpqueue.errors import UnavailableError
from httpqueue.storage.keys import member_of
from httpqueue.storage.partitions import Partitions
from httpqueue.storage.record import read_pointer
from httpqueue.storage.storage import Storage
from httpqueue.timers.commands import WakeUp
from httpqueue.timers.names import DEFAULT_APPLICATION, TimerName

NAME: Final = TimerName(DEFAULT_APPLICATION, "a")
POINTER_CHECK_MS: Final = 60_000
"""When a pointer is checked: POINTER_CHECK_MS of lua/common.lua."""


def lane_to(partitions: Partitions, place: int, number: int = 0) -> str:
    """An ordering key whose timers are in this partition; each number gives another one."""
    keys = (f"key-{n}" for n in range(1_000_000))
    found = (key for key in keys if partitions.place_of(NAME, key) == place)
    for _ in range(number):
        next(found)
    return next(found)


def away_from_home(partitions: Partitions, name: TimerName = NAME) -> int:
    """Another partition than the home of that name, if there is one."""
    return (partitions.home_of(name) + 1) % partitions.count


def wake_up_of(partitions: Partitions, name: TimerName, key: str | None, generation: int = 0) -> WakeUp:
    """The wake-up of a timer with this ordering key."""
    return WakeUp(name, generation, partition=partitions.place_of(name, key))


async def pointed_to(redis: Redis, partitions: Partitions, name: TimerName = NAME) -> int | None:
    """The partition that the pointer at a name's home names. None: there is no pointer."""
    keys = partitions.store_keys[partitions.home_of(name)]
    return read_pointer(await redis.get(keys.records + member_of(name)) or b"")


async def forget_all(storage: Storage) -> int:
    """Forget all timers whose retention is over; returns how many there were."""
    counts = [await storage.retention.forget(each, limit=1_000) for each in storage.partitions.all]
    return sum(counts)


async def check_all_pointers(storage: Storage) -> int:
    """Returns how many were looked at."""
    return sum([await storage.retention.check_pointers(each) for each in storage.partitions.all])


class Crash:
    """Stands in for a method of `owner`: the process dies before or after it."""

    def __init__(self, owner: object, method: str, *, is_after: bool) -> None:
        self._method = getattr(owner, method)
        self._is_after = is_after

    async def __call__(self, *args: Any) -> Any:
        """What the server does may be done; nobody hears of it."""
        if self._is_after:
            await self._method(*args)
        raise UnavailableError("the process died")


class InTurn:
    """Has steps of several tasks happen in a given order."""

    def __init__(self, order: Sequence[str]) -> None:
        self._left = list(order)
        self._changed = asyncio.Condition()

    def gate(self, owner: object, method: str, step: str) -> None:
        """Replace a method of `owner`: it waits for its turn, and is the step of this name."""
        wrapped: Callable[..., Any] = getattr(owner, method)

        async def in_turn(*args: Any) -> Any:
            async with self._changed:
                await self._changed.wait_for(lambda: self._left[0] == step)
                answer = await wrapped(*args)
                self._left.pop(0)
                self._changed.notify_all()
                return answer

        setattr(owner, method, in_turn)


def interleavings(one: str, other: str) -> list[str]:
    """All orders of the steps of two tasks, a letter each."""
    size = len(one) + len(other)
    orders = []
    for places in combinations(range(size), len(one)):
        first, second = iter(one), iter(other)
        orders.append("".join(next(first) if place in places else next(second) for place in range(size)))
    return orders
