"""Reads for people: lists of timers, and what holds a timer up. Nothing here writes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from redis.asyncio import Redis

from httpqueue.clock import StoreNow, server_time
from httpqueue.errors import InvalidTimerError
from httpqueue.storage.connection import redis_errors, time_ms
from httpqueue.storage.hosts import Hosts
from httpqueue.storage.keys import host_keys, is_member, member_of, name_of, parse_wake_up_id, queue_keys
from httpqueue.storage.partitions import Partitions, at_once
from httpqueue.storage.record import decode_policy, decode_record
from httpqueue.storage.scripts import Script, script_now
from httpqueue.timers.commands import Position, TimerPage, WakeUp
from httpqueue.timers.explain import Facts
from httpqueue.timers.names import TimerName
from httpqueue.timers.policies import ApplicationPolicy
from httpqueue.timers.timer import FINISHED, State, Timer

MAX_LOOK: Final = 1_000
"""The most index entries that one script call reads."""
_UNREADABLE: Final = 3
"""How many values explain.lua answers when there is no readable record."""


@dataclass(frozen=True, slots=True)
class Window:
    """Which timers to list: in these states, due in [from_ms, to_ms], of one application or (None) of all.

    Times are ms since the epoch; to_ms None: no end.
    """

    states: frozenset[State]
    application: str | None = None
    from_ms: int = 0
    to_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Pulse:
    """Whether all is done now, and when the next thing happens (ms since the epoch; None: never)."""

    is_settled: bool
    next_ms: int | None


class Lookup:
    """Reads timers without changing them. Methods raise UnavailableError when the server is away."""

    def __init__(
        self, redis: Redis, *, partitions: Partitions, hosts: Hosts, now: StoreNow = server_time
    ) -> None:
        self._redis = redis
        self._now = now
        self._partitions = partitions
        self._hosts = hosts
        self._list, self._explain, self._pulse = (
            Script(redis, name, partitions.store_keys, partitions.queue_keys)
            for name in ("list", "explain", "pulse")
        )

    async def list(self, window: Window, position: Position | None, *, look_at: int) -> TimerPage:
        """List timers of the window in the order of (due_ms, application, id), behind `position`.

        The page comes from at most look_at index entries (1,000 at most) of each application and partition,
        so it may have fewer timers. Each application costs one script call in each partition that has some of
        its timers.
        """
        pages = await at_once(
            [
                self._list_of(partition, application, window, position, look_at)
                for partition, application in await self._sources(window.application)
            ]
        )
        if not pages:
            return TimerPage([], None, await self._time_ms())
        return pages[0] if len(pages) == 1 else _merged(pages, min(look_at, MAX_LOOK))

    async def walk(
        self, partition: int, application: str, window: Window, position: Position | None, *, look_at: int
    ) -> TimerPage:
        """The same for one application in one partition: for those who visit all timers."""
        return await self._list_of(partition, application, window, position, look_at)

    async def count(self, application: str, window: Window) -> int:
        """About how many timers of an application are in this window; running ones count as scheduled."""
        fields = [f"{state.letter}:{application}" for state in window.states if state in FINISHED]
        latest = "+inf" if window.to_ms is None else window.to_ms
        with redis_errors():
            pipeline = self._redis.pipeline(transaction=False)
            for keys in self._partitions.store_keys:
                indices = [keys.ended + field for field in fields]
                if not window.states <= FINISHED:
                    indices += [keys.due + application, keys.held + application]
                for index in indices:
                    pipeline.zcount(index, window.from_ms, latest)
            return sum(await pipeline.execute())

    async def _list_of(
        self,
        partition: int,
        application: str,
        window: Window,
        position: Position | None,
        look_at: int,
    ) -> TimerPage:
        from_ms, after = window.from_ms, ""
        if position is not None and position.due_ms >= from_ms:
            from_ms, after = position.due_ms, _after(application, position)
        now_ms, last_id, last_due_ms, found = await self._list(
            partition,
            script_now(self._now),
            application,
            "".join(state.letter for state in window.states),
            from_ms,
            "" if window.to_ms is None else window.to_ms,
            after,
            min(look_at, MAX_LOOK),
        )
        timers = [
            timer
            for timer_id, record in zip(found[::2], found[1::2], strict=True)
            if (timer := _readable(TimerName(application, timer_id.decode()), record))
        ]
        following = Position(last_due_ms, TimerName(application, last_id.decode())) if last_id else None
        return TimerPage(timers, following, now_ms)

    async def _sources(self, application: str | None) -> Sequence[tuple[int, str]]:
        """The (partition, application) pairs that have timers."""
        if application is not None:
            return [(partition, application) for partition in self._partitions.all]
        with redis_errors():
            pipeline = self._redis.pipeline(transaction=False)
            for keys in self._partitions.store_keys:
                pipeline.hkeys(keys.counts)
            answers = await pipeline.execute()
        return [
            (partition, name)
            for partition, fields in zip(self._partitions.all, answers, strict=True)
            for name in sorted({field.decode().partition(":")[0] for field in fields} - {""})
        ]

    async def applications_with(self, timer_id: str) -> Sequence[str]:
        """The applications that have a record of a timer of this id. It costs what `_sources` costs."""
        sources = await self._sources(None)
        names = sorted({application for _, application in sources})
        homes = [TimerName(application, timer_id) for application in names]
        with redis_errors():
            pipeline = self._redis.pipeline(transaction=False)
            for name in homes:
                keys = self._partitions.store_keys[self._partitions.home_of(name)]
                pipeline.exists(keys.records + member_of(name))
            answers = await pipeline.execute()
        return [name.application for name, is_there in zip(homes, answers, strict=True) if is_there]

    async def facts(self, name: TimerName) -> Facts | None:
        """What explain.explain needs to know about a timer. None when there is no readable record."""
        member, partition = member_of(name), self._partitions.home_of(name)
        answer = await self._explain(partition, script_now(self._now), member)
        if len(answer) == _UNREADABLE and answer[2] in self._partitions.all:
            partition = answer[2]
            answer = await self._explain(partition, script_now(self._now), member)
        if len(answer) == _UNREADABLE:
            return None
        now_ms, record, application, host, first, lease_end = answer
        timer = decode_record(name, record)
        at_host = await self._hosts.facts(
            host.decode(), WakeUp(name, timer.generation, timer.due_ms, partition)
        )
        return Facts(
            timer=timer,
            now_ms=now_ms,
            application=decode_policy(ApplicationPolicy, application),
            host=host.decode(),
            destination=at_host.policy,
            blocked_by=name_of(first).id if is_member(first) and first.decode() != member else None,
            reserved_start_ms=at_host.start_ms,
            lease_end_ms=round(float(lease_end)) if lease_end else None,
            is_in_line=at_host.is_in_line,
        )

    async def pulse(self) -> Pulse:
        """Whether all that is due is settled, for the virtual clock. Store and queue must be one server."""
        pulse = await self._pulse_of_partitions()
        if not pulse.is_settled:
            return pulse
        if await self._hosts.can_start_any() or await self._is_any_in_hand():
            return Pulse(is_settled=False, next_ms=pulse.next_ms)
        return await self._pulse_of_partitions()  # has what was at a host when they were looked at before

    async def _is_any_in_hand(self) -> bool:
        """Whether a worker is about to begin a call to a host with rules, or to give its permit back.

        The first that waits for a rate has a wake-up in the queue, unless a worker has just claimed it.
        """
        for host, rule in (await self._hosts.rules()).items():
            keys = host_keys(host)
            with redis_errors():
                if await self._redis.exists(keys.permits):
                    return True
                is_asked = rule.rate is not None and not rule.paused
                line = await self._redis.zrange(keys.line, 0, MAX_LOOK - 1) if is_asked else []
                for wake_up_id in line:
                    wake_up = parse_wake_up_id(wake_up_id.decode())
                    if wake_up is not None and await self._is_waiting(wake_up):
                        queue = queue_keys(wake_up.partition).queue
                        if await self._redis.zscore(queue, wake_up_id) is None:
                            return True
                        break
        return False

    async def _is_waiting(self, wake_up: WakeUp) -> bool:
        """Whether the store says so. A line may have timers that were cancelled."""
        waiting = self._partitions.store_keys[wake_up.partition].waiting
        return await self._redis.zscore(waiting, member_of(wake_up.name)) is not None

    async def _pulse_of_partitions(self) -> Pulse:
        pulses = await at_once(
            [self._pulse(partition, script_now(self._now), MAX_LOOK) for partition in self._partitions.all]
        )
        next_ms = min((next_ms for _, next_ms in pulses if next_ms >= 0), default=None)
        return Pulse(all(is_settled for is_settled, _ in pulses), next_ms)

    async def _time_ms(self) -> int:
        with redis_errors():
            return time_ms(await self._redis.time(), self._now)


def _after(application: str, position: Position) -> str:
    """The id behind which the list of this application goes on, among its timers due at position.due_ms.

    Timers due at the same time are ordered by application, then by id. So an application before that of the
    position goes on behind all of these timers, and a later one before all of them ("").
    """
    if application == position.name.application:
        return position.name.id
    return "\x7f" if application < position.name.application else ""


def _merged(pages: Sequence[TimerPage], limit: int) -> TimerPage:
    """Merge one page per application. Timers behind the end of any page wait for the next page."""
    ends = [page.next for page in pages if page.next is not None]
    end = min(ends, key=_order, default=None)
    timers = sorted(
        (timer for page in pages for timer in page.timers), key=lambda timer: _order(_place(timer))
    )
    if end is not None:
        timers = [timer for timer in timers if _order(_place(timer)) <= _order(end)]
    if len(timers) > limit:
        timers = timers[:limit]
        end = _place(timers[-1])
    return TimerPage(timers, end, max(page.now_ms for page in pages))


def _place(timer: Timer) -> Position:
    return Position(timer.due_ms, timer.name)


def _order(position: Position) -> tuple[int, TimerName]:
    return position.due_ms, position.name


def _readable(name: TimerName, record: bytes) -> Timer | None:
    """None when the record cannot be read; the next begin sets it aside."""
    try:
        return decode_record(name, record)
    except InvalidTimerError:
        return None
