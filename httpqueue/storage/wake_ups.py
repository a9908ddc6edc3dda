"""What relays ask each partition: which wake-ups the queue should have, and which may be lost.

When a relay dies before it puts an answer into the queue, its wake-ups are lost. `overdue` finds them again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import Redis

from httpqueue.clock import StoreNow, server_time
from httpqueue.storage.connection import redis_errors
from httpqueue.storage.keys import is_member, member_of, name_of
from httpqueue.storage.partitions import Partitions
from httpqueue.storage.scripts import PipelinedScript, Script, pack, script_now
from httpqueue.timers.commands import WakeUp

WINDOW: Final = 2_500
"""About how many wake-ups of one application a partition's queue holds. Others wait in the due index."""

_EPOCH: Final = ":epoch"
"""A field of `filled` that is no application: the epoch of the queue that was filled."""


@dataclass(frozen=True, slots=True)
class TopUp:
    """Wake-ups that the queue should have next."""

    wake_ups: list[WakeUp]
    next: int | None
    """The `start` of the next call. None: there is nothing more to put now."""
    complete_for_ms: int | None
    """The queue has all wake-ups that are due in the next so many ms. None: all up to the horizon."""


@dataclass(frozen=True, slots=True)
class Look:
    """What a relay has to do in a partition."""

    has_entries: bool
    """The outbox has entries."""
    has_expired: bool
    """Some timer's retention is over."""
    has_near: bool
    """Some timer is due within the horizon."""
    must_heal: bool
    """Something may be lost, or attempts are being made."""


@dataclass(frozen=True, slots=True)
class Lost:
    """Timers that nothing else wakes.

    workers: the wake-ups of those that lost their worker, the longest lost first. waiting: (host, wake-up) of
    those that have waited for their host so long that it should be asked whether it still knows.
    """

    workers: list[WakeUp]
    waiting: list[tuple[str, WakeUp]]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a search for overdue wake-ups goes on.

    `passed` applications are done. In the next one, all entries up to (due_ms, id) are done.
    """

    passed: int = 0
    due_ms: int = 0
    id: str = ""


class WakeUps:
    """Finds wake-ups for the relay. Methods raise UnavailableError when the server is away."""

    def __init__(
        self,
        redis: Redis,
        *,
        partitions: Partitions,
        now: StoreNow = server_time,
        window: int = WINDOW,
    ) -> None:
        self._redis = redis
        self._now = now
        self._keys = partitions.store_keys
        self._look = PipelinedScript(redis, "look")
        self._window = window
        self._admit, self._top_up, self._overdue, self._heal = (
            Script(redis, name, partitions.store_keys) for name in ("admit", "top_up", "overdue", "heal")
        )

    async def look(self, *, horizon_ms: int, overdue_ms: int) -> list[Look]:
        """What there is to do in each partition. This is one round trip for all of them."""
        args = (script_now(self._now), horizon_ms, overdue_ms)
        answers = await self._look([(keys, args) for keys in self._keys])
        return [Look(*map(bool, answer)) for answer in answers]

    async def admit(self, partition: int, wake_ups: Sequence[WakeUp], *, horizon_ms: int) -> list[WakeUp]:
        """Those that go into the queue now. top_up finds the others later, in the due index."""
        items = [(member_of(wake_up.name), wake_up.due_ms) for wake_up in wake_ups]
        answers = await self._admit(partition, script_now(self._now), horizon_ms, self._window, pack(items))
        return [wake_up for wake_up, admitted in zip(wake_ups, answers, strict=True) if admitted]

    async def top_up(self, partition: int, start: int, *, horizon_ms: int, limit: int) -> TopUp:
        """At most `limit` wake-ups that the queue should have next. start: 0, or `next` of the last answer.

        Each wake-up is handed out once: put it into the queue before the next call.
        """
        now_ms, following, complete_until, found = await self._top_up(
            partition, script_now(self._now), horizon_ms, self._window, limit, start
        )
        complete_ms = None if complete_until == b"" else max(0, complete_until - now_ms)
        return TopUp(_wake_ups(partition, found), None if following < 0 else following, complete_ms)

    async def overdue(
        self, partition: int, place: Place, *, by_ms: int, limit: int
    ) -> tuple[list[WakeUp], Place | None]:
        """Wake-ups that were put and are overdue by by_ms, and where to go on (None: at the end)."""
        passed, due_ms, timer_id, found = await self._overdue(
            partition, script_now(self._now), by_ms, limit, place.passed, place.due_ms, place.id
        )
        following = None if passed < 0 else Place(passed, due_ms, timer_id.decode())
        return _wake_ups(partition, found), following

    async def heal(self, partition: int, *, limit: int, skip: int = 0) -> Lost:
        """Find timers that nobody else would wake, at most `limit` of each kind.

        The relay is told of the first timers of lanes and lines that nobody serves. skip: how many of those
        that lost their worker to leave out; with a skip, it looks for nothing else.
        """
        lost, waiting = await self._heal(partition, script_now(self._now), limit, skip)
        return Lost(
            _wake_ups(partition, lost),
            [
                (host.decode(), WakeUp(name_of(member), generation, due_ms, partition))
                for member, generation, due_ms, host in zip(
                    waiting[::4], waiting[1::4], waiting[2::4], waiting[3::4], strict=True
                )
                if is_member(member)
            ],
        )

    async def start_over_for(self, partition: int, epoch: str) -> bool:
        """Whether this is the epoch of a new queue. If so, top_up hands everything out again."""
        with redis_errors():
            known = await self._redis.hget(self._keys[partition].filled, _EPOCH)  # type: ignore[misc] # redis-py: sync or async
            if known is not None and known.decode() == epoch:
                return False
            pipeline = self._redis.pipeline(transaction=True)
            pipeline.delete(self._keys[partition].filled)
            pipeline.hset(self._keys[partition].filled, _EPOCH, epoch)
            await pipeline.execute()
        return True


def _wake_ups(partition: int, found: list[Any]) -> list[WakeUp]:
    return [
        WakeUp(name_of(member), generation, due_ms, partition)
        for member, generation, due_ms in zip(found[::3], found[1::3], found[2::3], strict=True)
        if is_member(member)
    ]
