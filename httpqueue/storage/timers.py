"""The timers in the store: one method for each transition, each for many timers at once.

A call is one Redis script, so a crash leaves either all of its changes or none.
"""

from collections.abc import Collection, Sequence
from typing import Any

from redis.asyncio import Redis

from httpqueue.clock import StoreNow, server_time
from httpqueue.storage.creation import Creator
from httpqueue.storage.due_times import now_for, packed_due
from httpqueue.storage.hosts import Hosts
from httpqueue.storage.keys import member_of
from httpqueue.storage.leases import Leases
from httpqueue.storage.nonces import Nonces
from httpqueue.storage.partitions import Partitions, at_once, by_partition
from httpqueue.storage.pointers import Elsewhere, Pointers
from httpqueue.storage.quotas import Quotas
from httpqueue.storage.reading import Reader
from httpqueue.storage.record import STATE_OF_LETTER, encode_spec, head_of
from httpqueue.storage.retention import Retention
from httpqueue.storage.scripts import Script, pack, script_now
from httpqueue.storage.secret_box import SecretBox
from httpqueue.storage.waiting import Waiting
from httpqueue.timers.commands import Change, Changed, ChangeResult, WakeUp
from httpqueue.timers.cron import first_due
from httpqueue.timers.names import TimerName
from httpqueue.timers.timer import State, Timer


class Store:
    """The transitions of timers. Methods raise UnavailableError when the server is away.

    The call has then changed all or nothing in each partition, and nobody knows which. Changes and ends that
    clients ask for are methods here. All others are methods of its parts, which it hands on: Creator, Reader,
    Leases, Waiting and Pointers.
    """

    def __init__(  # noqa: PLR0913 - its parts
        self,
        redis: Redis,
        *,
        retention: Retention,
        hosts: Hosts,
        partitions: Partitions,
        quotas: Quotas,
        secrets: SecretBox,
        now: StoreNow = server_time,
        wait_replicas: int = 0,
    ) -> None:
        """wait_replicas: how many replicas have to confirm what clients ask for."""
        self._redis = redis
        self._retention = retention
        self._partitions = partitions
        self._now = now
        nonces = Nonces()
        self._pointers = Pointers(redis, partitions=partitions, now=now, wait_replicas=wait_replicas)
        self._reader = Reader(
            redis, archive=retention.archive, partitions=partitions, pointers=self._pointers, now=now
        )
        self._waiting = Waiting(redis, hosts=hosts, partitions=partitions, now=now)
        self._creator = Creator(
            redis,
            partitions=partitions,
            pointers=self._pointers,
            reader=self._reader,
            retention=retention,
            waiting=self._waiting,
            quotas=quotas,
            nonces=nonces,
            now=now,
            wait_replicas=wait_replicas,
        )
        self._leases = Leases(
            redis, partitions=partitions, pointers=self._pointers, nonces=nonces, secrets=secrets, now=now
        )
        self._change, self._cancel = (
            Script(redis, name, partitions.store_keys, replicas=wait_replicas)
            for name in ("change", "cancel")
        )
        self._end_timers = Script(redis, "end_timers", partitions.store_keys)

        self.create = self._creator.create
        self.point = self._pointers.point
        self.get, self.is_archived = self._reader.get, self._reader.is_archived
        self.begin, self.beat = self._leases.begin, self._leases.beat
        self.finish, self.hand_back = self._leases.finish, self._leases.hand_back
        self.wait, self.wake, self.ready = self._waiting.wait, self._waiting.wake, self._waiting.ready

    async def change(self, changes: Sequence[Change]) -> list[Changed]:
        """Give timers other content or another due time. The answers are in the same order."""
        now_ms = await now_for(
            (change.due for change in changes if change.due is not None), self._redis, self._now
        )

        async def change_in(partition: int, part: Sequence[Change]) -> list[Changed | Elsewhere]:
            batch = [
                (
                    member_of(change.name),
                    "".join(state.letter for state in change.states),
                    change.version or "",
                    "" if change.spec is None else encode_spec(change.spec),
                    *((0, "", "") if change.spec is None else head_of(change.spec)),
                    *((False, False) if change.due is None else packed_due(first_due(change.due, now_ms))),
                )
                for change in part
            ]
            answers = await self._change(partition, script_now(self._now), pack(batch))
            await at_once(
                [
                    self._leave_line(partition, change.name, answer)
                    for change, answer in zip(part, answers, strict=True)
                ]
            )
            return [self._changed(answer) for answer in answers]

        answers = await by_partition(changes, lambda each: self._partitions.home_of(each.name), change_in)
        moved = [
            (change, answer.partition)
            for change, answer in zip(changes, answers, strict=True)
            if isinstance(answer, Elsewhere)
        ]
        again = iter(
            await by_partition(
                moved,
                lambda each: each[1],
                lambda partition, part: change_in(partition, [change for change, _ in part]),
            )
        )
        return [
            _never_elsewhere(next(again)) if isinstance(answer, Elsewhere) else answer for answer in answers
        ]

    async def cancel(self, name: TimerName, *, version: str | None, retention_ms: int) -> Changed:
        """End a scheduled timer and keep its record; or delete a failed timer.

        retention_ms: how long it is kept, unless the timer or its application say so. version: refuse when
        the timer has another one; None: any.
        """

        async def cancel_in(partition: int) -> Changed | Elsewhere:
            answer = await self._cancel(
                partition, script_now(self._now), member_of(name), version or "", retention_ms
            )
            await self._leave_line(partition, name, answer)
            return self._changed(answer)

        answer = await cancel_in(self._partitions.home_of(name))
        if isinstance(answer, Elsewhere):
            return _never_elsewhere(await cancel_in(answer.partition))
        return answer

    async def end_timers(
        self, partition: int, timers: Sequence[tuple[Timer, int]], *, states: Collection[State]
    ) -> int:
        """End timers that are in one of these states and as they were read. Returns how many were.

        Takes (timer, for how many ms its record is kept if it is scheduled). A finished one's retention ends.
        """
        if not timers:
            return 0
        items = [(member_of(timer.name), timer.version, retention_ms) for timer, retention_ms in timers]
        letters = "".join(state.letter for state in states)
        answers = await self._end_timers(partition, script_now(self._now), letters, pack(items))
        waited: dict[str, list[WakeUp]] = {}
        for (timer, _), host, generation in zip(timers, answers[1::3], answers[2::3], strict=True):
            if host:
                wake_up = WakeUp(timer.name, generation, partition=partition)
                waited.setdefault(host.decode(), []).append(wake_up)
        for host_name, wake_ups in waited.items():
            await self._waiting.leave(host_name, wake_ups)
        return sum(answers[::3])

    async def delete_timers(
        self, partition: int, timers: Sequence[Timer], *, states: Collection[State]
    ) -> int:
        """Like end_timers, but forget them at once: only the archive remembers their ids."""
        count = await self.end_timers(partition, [(timer, 0) for timer in timers], states=states)
        await self._retention.forget_these(partition, [member_of(timer.name).encode() for timer in timers])
        return count

    async def _leave_line(self, partition: int, name: TimerName, answer: list[Any]) -> None:
        """Take a changed timer out of its host's line."""
        match answer:
            case [b"changed", _, _, _, host, generation] if host:
                await self._waiting.leave(host.decode(), [WakeUp(name, generation, partition=partition)])

    def _changed(self, answer: list[Any]) -> Changed | Elsewhere:
        match answer:
            case [b"changed", letter, due_ms, version, _, _]:
                return Changed(ChangeResult.CHANGED, STATE_OF_LETTER[letter], due_ms, version.decode())
            case [b"gone"]:
                return Changed(ChangeResult.GONE)
            case [b"state" | b"version" | b"lane" as reason, letter]:
                return Changed(ChangeResult(reason.decode()), STATE_OF_LETTER[letter])
            case [b"moved", partition]:
                return self._pointers.elsewhere(partition) or Changed(ChangeResult.GONE)
        raise TypeError(f"the script answered {answer!r}")


def _never_elsewhere(answer: Changed | Elsewhere) -> Changed:
    """A pointer never points to another pointer. If one did, the timer could not be found."""
    return answer if isinstance(answer, Changed) else Changed(ChangeResult.GONE)
