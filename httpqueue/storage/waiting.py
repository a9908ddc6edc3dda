"""Timers that wait in the lines of their hosts: what the store does about them. hosts.py has the lines."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from redis.asyncio import Redis

from httpqueue.clock import StoreNow, server_time
from httpqueue.errors import UnavailableError
from httpqueue.storage.hosts import Hosts
from httpqueue.storage.keys import member_of
from httpqueue.storage.partitions import Partitions, by_partition
from httpqueue.storage.scripts import Script, pack, script_now
from httpqueue.timers.commands import WakeUp

MAX_UNREADY: Final = 500
"""How often one look at a line finds first timers that cannot begin, before it leaves them to the next."""


class Waiting:
    """Lets timers wait for their hosts, wakes them, and takes them out of line.

    Methods raise UnavailableError when the server is away.
    """

    def __init__(
        self, redis: Redis, *, hosts: Hosts, partitions: Partitions, now: StoreNow = server_time
    ) -> None:
        self._hosts = hosts
        self._now = now
        self._wait, self._wake, self._ready = (
            Script(redis, name, partitions.store_keys) for name in ("wait", "wake", "ready")
        )

    async def wait(self, wake_ups: Sequence[WakeUp]) -> None:
        """Note that these timers wait in the lines of their hosts, which know already."""

        async def wait_in(partition: int, part: Sequence[WakeUp]) -> Sequence[WakeUp]:
            items = [(member_of(each.name), each.generation) for each in part]
            await self._wait(partition, script_now(self._now), pack(items))
            return part

        await by_partition(wake_ups, lambda each: each.partition, wait_in)

    async def wake(self, wake_ups: Sequence[WakeUp], *, are_unknown: bool) -> None:
        """See to the wake-ups of timers that wait for their hosts. are_unknown: their hosts lost them."""

        async def wake_in(partition: int, part: Sequence[WakeUp]) -> Sequence[WakeUp]:
            members = [member_of(each.name) for each in part]
            await self._wake(partition, script_now(self._now), int(are_unknown), pack(members))
            return part

        await by_partition(wake_ups, lambda each: each.partition, wake_in)

    async def ready(self, host: str, first: Sequence[WakeUp]) -> Sequence[WakeUp]:
        """The first wake-ups of a host's line that could begin. `first`: the first ones, as the host told.

        The others leave the line. Who begins them would not come to the host, and those behind them would
        wait for ever. If they wait for something else, they will ask again.
        """
        for _ in range(MAX_UNREADY):
            are_ready = await self._are_ready(first)
            if all(are_ready):
                return first
            await self._hosts.leave(
                host, [each for each, is_ready in zip(first, are_ready, strict=True) if not is_ready]
            )
            first = await self._hosts.release(host)
        return []  # there are very many: the next probe goes on

    async def _are_ready(self, wake_ups: Sequence[WakeUp]) -> list[bool]:
        """Whether each of these timers could begin now if its host let it."""

        async def are_ready_in(partition: int, part: Sequence[WakeUp]) -> list[bool]:
            items = [(member_of(each.name), each.generation) for each in part]
            answers = await self._ready(partition, script_now(self._now), pack(items))
            return [bool(answer) for answer in answers]

        return await by_partition(wake_ups, lambda each: each.partition, are_ready_in)

    async def leave(self, host: str, wake_ups: Sequence[WakeUp]) -> None:
        """Take changed timers out of their host's line. If this fails, the host finds out in its turn."""
        with suppress(UnavailableError):
            await self._hosts.leave(host, wake_ups)
