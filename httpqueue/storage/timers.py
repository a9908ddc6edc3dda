"""The timers in the store: one method for each transition, each for many timers at once.

A call is one Redis script, so a crash leaves either all of its changes or none.
"""

from base64 import urlsafe_b64encode
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, replace
from functools import partial
from itertools import compress
from typing import Any, Final

import structlog
from msgspec import structs
from redis.asyncio import Redis

from httpqueue import clock
from httpqueue.clock import StoreNow, now_ms, server_time
from httpqueue.errors import InvalidTimerError, UnavailableError
from httpqueue.storage.connection import redis_errors, time_ms
from httpqueue.storage.hosts import Hosts
from httpqueue.storage.keys import member_of, name_of
from httpqueue.storage.partitions import Partitions, at_once, by_partition
from httpqueue.storage.quotas import OK, Admission, Quotas
from httpqueue.storage.record import (
    STATE_OF_LETTER,
    decode_policy,
    decode_record,
    decode_spec,
    encode_attempt,
    encode_spec,
    read_pointer,
)
from httpqueue.storage.requests import KEPT_ANSWER_MS, Requests, packed_request
from httpqueue.storage.retention import Retention
from httpqueue.storage.scripts import Script, pack
from httpqueue.storage.secret_box import SealedSecretError, SecretBox
from httpqueue.timers.commands import (
    Begun,
    Change,
    Changed,
    ChangeResult,
    Created,
    Creation,
    End,
    Finish,
    Finished,
    Found,
    IfExists,
    NewTimer,
    Recur,
    Refusal,
    Refused,
    Retry,
    WakeUp,
)
from httpqueue.timers.cron import first_due
from httpqueue.timers.names import TimerName
from httpqueue.timers.policies import ApplicationPolicy
from httpqueue.timers.room import Room
from httpqueue.timers.schedule import Cron, Delay, Due, Schedule
from httpqueue.timers.spec import Spec
from httpqueue.timers.timer import State, Timer

LEASE_MARGIN_MS: Final = 15_000
"""How much longer a lease is than the attempt's timeout."""
MAX_LEASE_MS: Final = 20_000
"""The longest lease. A living worker renews its leases (beat)."""
RUNS_AT_ONCE: Final = 50
"""How many first runs of cron timers are computed at once."""
KEPT_ATTEMPTS: Final = 10
"""How many attempts a record keeps: the latest."""
MAX_UNREADY: Final = 500
"""How often one look at a line finds first timers that cannot begin, before it leaves them to the next."""
HEAD_BYTES: Final = 40
"""About how long the head of a new record is without its ordering key and host."""
POINTER_BYTES: Final = 32
"""No pointer is longer."""
POINTS: Final = 3
"""How often a pointer is written when its record comes too late. The last time, the record is stored anyway:
then the servers' clocks must differ by more than a pointer holds."""


log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Placed:
    """A new timer with the nonce that it gets, its home and the partition where it is to be."""

    timer: NewTimer
    nonce: str
    home: int
    place: int
    admission: str
    """What `create` is told of the limits of its application."""
    first_run: Due | None = None
    """When a cron timer is due. None: it is no cron timer."""


@dataclass(frozen=True, slots=True)
class _Noted:
    """Pointers were written at their homes. Who stores a record too late may find them dropped."""

    others: dict[TimerName, int]
    """Names that have a timer elsewhere, and where. They got no pointer."""
    hold_until_ms: dict[int, int]
    """{home: until when its pointers hold}, in ms since the epoch."""


@dataclass(frozen=True, slots=True)
class _Elsewhere:
    """The timer, or another one of its name, is in this partition."""

    partition: int


class Store:
    """The transitions of timers. Methods raise UnavailableError when the server is away.

    The call has then changed all or nothing in each partition, and nobody knows which.
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
        self._secrets = secrets
        self._quotas = quotas
        self._limited: frozenset[str] = frozenset()
        """Applications that had limits when their timers were created last."""
        self._hosts = hosts
        self._archive = retention.archive
        self._retention = retention
        self._partitions = partitions
        self._now = now
        self._nonces = Nonces()
        self._requests = Requests(redis, partitions)
        (
            self._create,
            self._point,
            self._begin,
            self._beat,
            self._finish,
            self._hand_back,
            self._set_aside,
            self._wait,
            self._wake,
            self._ready,
            self._change,
            self._cancel,
            self._end_timers,
        ) = (
            Script(redis, name, partitions.store_keys, replicas=wait_replicas if name in _CONFIRMED else 0)
            for name in (
                "create",
                "point",
                "begin",
                "beat",
                "finish",
                "hand_back",
                "set_aside",
                "wait",
                "wake",
                "ready",
                "change",
                "cancel",
                "end_timers",
            )
        )

    # --- create, change, cancel: by name ---

    async def create(self, timers: Sequence[NewTimer]) -> list[Created]:
        """Store new timers. The answers are in the same order."""
        reused = await self._requests.find_reused(timers)
        if reused:
            stored = iter(await self.create([each for n, each in enumerate(timers) if n not in reused]))
            return [_REUSED if n in reused else next(stored) for n in range(len(timers))]
        known = frozenset(timer.name.application for timer in timers) & self._limited
        if known:
            return await self._create_within_limits(timers, known)
        created = await self._create_admitted(timers, [Admission()] * len(timers))
        limited = frozenset(
            timer.name.application for timer, answer in zip(timers, created, strict=True) if answer is _ASK
        )
        if limited:
            self._limited |= limited
            asked = [index for index, answer in enumerate(created) if answer is _ASK]
            again = await self._create_within_limits([timers[index] for index in asked], limited)
            for index, answer in zip(asked, again, strict=True):
                created[index] = answer
        return created

    async def _create_within_limits(
        self, timers: Sequence[NewTimer], limited: frozenset[str]
    ) -> list[Created]:
        """Create timers when these of their applications have limits."""
        admissions, tokens = [Admission(OK)] * len(timers), []
        for application in limited:
            own = [index for index, timer in enumerate(timers) if timer.name.application == application]
            found, token = await self._quotas.admit(application, [_size_of(timers[n].spec) for n in own])
            if token is None:
                self._limited -= {application}
            else:
                tokens.append((application, token))
            for index, admission in zip(own, found, strict=True):
                admissions[index] = admission
        in_time = [not admission.wait_ms for admission in admissions]
        answers = iter(
            await self._create_admitted(list(compress(timers, in_time)), list(compress(admissions, in_time)))
        )
        await at_once([self._quotas.settle(*each) for each in tokens])
        return [
            Created(Creation.RATE, 0, wait_ms=admission.wait_ms) if admission.wait_ms else next(answers)
            for admission in admissions
        ]

    async def _create_admitted(
        self, timers: Sequence[NewTimer], admissions: Sequence[Admission]
    ) -> list[Created]:
        now_ms = await self._now_for(timer.spec.schedule for timer in timers)
        placed = [
            _Placed(
                timer,
                self._nonces.draw(),
                self._partitions.home_of(timer.name),
                self._partitions.place_of(timer.name, timer.spec.ordering_key),
                admission.word,
                first_run,
            )
            for timer, admission, first_run in zip(
                timers, admissions, await _first_runs(timers, now_ms), strict=True
            )
        ]
        places: dict[TimerName, int] = {}
        # A later timer of a name, if it would be in another partition, comes when the first one is stored.
        are_first = [places.setdefault(each.timer.name, each.place) == each.place for each in placed]
        answers = iter(await self._create_where(list(compress(placed, are_first)), now_ms))
        created = []
        for each, is_first in zip(placed, are_first, strict=True):
            answer = next(answers) if is_first else (await self._create_where([each], now_ms))[0]
            if isinstance(answer, _Elsewhere):
                answer = await self._create_again(each, answer.partition, now_ms)
            created.append(answer)
        return created

    async def _create_where(self, placed: Sequence[_Placed], now_ms: int) -> list[Created | _Elsewhere]:
        """Store each timer in its place, and a pointer at its home before, if that is another partition."""
        answers: dict[int, Created | _Elsewhere] = {}
        waiting = list(enumerate(placed))
        for tries_left in reversed(range(POINTS)):
            noted = await self._note_at_homes(
                [(each.timer.name, each.place, each.nonce) for _, each in waiting if each.place != each.home]
            )
            ready = []
            for number, each in waiting:
                if each.timer.name in noted.others:
                    answers[number] = _Elsewhere(noted.others[each.timer.name])
                else:
                    ready.append((number, each))
            hold_until_ms = noted.hold_until_ms if tries_left else {}
            created = await by_partition(
                [each for _, each in ready],
                lambda each: each.place,
                partial(self._create_in, now_ms=now_ms, hold_until_ms=hold_until_ms),
            )
            answers |= {number: answer for (number, _), answer in zip(ready, created, strict=True) if answer}
            waiting = [pair for pair, answer in zip(ready, created, strict=True) if answer is None]
            if not waiting:
                break
        return [answers[number] for number in range(len(placed))]

    async def _create_in(
        self,
        partition: int,
        placed: Sequence[_Placed],
        *,
        now_ms: int,
        hold_until_ms: Mapping[int, int],
    ) -> list[Created | _Elsewhere | None]:
        """None: it comes so late that its pointer may be gone."""
        batch = [
            (
                member_of(each.timer.name),
                encode_spec(each.timer.spec),
                *_packed_due(each.first_run or first_due(each.timer.spec.schedule, now_ms)),
                *_head_of(each.timer.spec),
                each.nonce,
                each.timer.if_exists.value,
                each.admission,
                each.place != each.home and hold_until_ms.get(each.home, False),
            )
            for each in placed
        ]
        answers = await self._create(
            partition,
            self._script_now(),
            pack(batch),
            "" if self._quotas.pending_of_partition is None else self._quotas.pending_of_partition,
            int(self._partitions.count == 1),
            pack([packed_request(each.timer) for each in placed]),
            KEPT_ANSWER_MS,
        )
        for each, answer in zip(placed, answers, strict=True):
            if answer[0] == b"replaced":
                await self._leave_line(partition, each.timer.name, answer)
        return [self._created(answer) for answer in answers]

    def _created(self, answer: list[Any]) -> Created | _Elsewhere | None:
        match answer:
            case [b"late", _]:
                return None
            case [b"moved", partition]:
                return self._elsewhere(partition) or Created(Creation.CONFLICT, 0)
            case [b"ask", _]:
                return _ASK
            case [b"rate", wait_ms]:
                return Created(Creation.RATE, 0, wait_ms=wait_ms)
        return _created(answer)

    async def _create_again(self, placed: _Placed, partition: int, now_ms: int) -> Created:
        """Create a timer whose name another one has in another partition: it has another ordering key."""
        name = placed.timer.name
        if await self._is_over(partition, member_of(name)) is True:
            await self._retention.forget_these(partition, [member_of(name).encode()])
        [answer] = await self._create_where([placed], now_ms)  # the other one may be gone by now
        if isinstance(answer, Created):
            return answer
        other = await self._timer_in(partition, name)
        if other is not None and placed.timer.if_exists is IfExists.KEEP:
            return Created(Creation.KEPT, other.due_ms, other.state)
        return Created(Creation.OTHER_LANE, 0 if other is None else other.due_ms)

    async def _timer_in(self, partition: int, name: TimerName) -> Timer | None:
        """A timer; None when it has no readable record (yet)."""
        try:
            found = await self._get_in(partition, name)
        except InvalidTimerError:
            return None
        return found.timer if isinstance(found, Found) else None

    async def _note_at_homes(
        self, pointers: Sequence[tuple[TimerName, int, str]], *, when_full: bool = False
    ) -> _Noted:
        """Store (name, partition, nonce) at the homes. when_full: even when the server is full."""
        hold_until_ms: dict[int, int] = {}

        async def note(home: int, part: Sequence[tuple[TimerName, int, str]]) -> list[int]:
            items = [(member_of(name), partition, nonce) for name, partition, nonce in part]
            answers: list[int]
            hold_until_ms[home], answers = await self._point(
                home, self._script_now(), int(when_full), pack(items)
            )
            return answers

        answers = await by_partition(pointers, lambda each: self._partitions.home_of(each[0]), note)
        others = {
            # A damaged pointer leads to the home itself, where the name is taken.
            name: other if other in self._partitions.all else self._partitions.home_of(name)
            for (name, _, _), other in zip(pointers, answers, strict=True)
            if other >= 0
        }
        return _Noted(others, hold_until_ms)

    async def point(self, name: TimerName, partition: int, nonce: str) -> bool:
        """Write the pointer of a timer that has lost it. False: its name has another timer by now."""
        return not (await self._note_at_homes([(name, partition, nonce)])).others

    async def change(self, changes: Sequence[Change]) -> list[Changed]:
        """Give timers other content or another due time. The answers are in the same order."""
        now_ms = await self._now_for(change.due for change in changes if change.due is not None)

        async def change_in(partition: int, part: Sequence[Change]) -> list[Changed | _Elsewhere]:
            batch = [
                (
                    member_of(change.name),
                    "".join(state.letter for state in change.states),
                    change.version or "",
                    "" if change.spec is None else encode_spec(change.spec),
                    *((0, "", "") if change.spec is None else _head_of(change.spec)),
                    *((False, False) if change.due is None else _packed_due(first_due(change.due, now_ms))),
                )
                for change in part
            ]
            answers = await self._change(partition, self._script_now(), pack(batch))
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
            if isinstance(answer, _Elsewhere)
        ]
        again = iter(
            await by_partition(
                moved,
                lambda each: each[1],
                lambda partition, part: change_in(partition, [change for change, _ in part]),
            )
        )
        return [
            _never_elsewhere(next(again)) if isinstance(answer, _Elsewhere) else answer for answer in answers
        ]

    async def cancel(self, name: TimerName, *, version: str | None, retention_ms: int) -> Changed:
        """End a scheduled timer and keep its record; or delete a failed timer.

        retention_ms: how long it is kept, unless the timer or its application say so. version: refuse when
        the timer has another one; None: any.
        """

        async def cancel_in(partition: int) -> Changed | _Elsewhere:
            answer = await self._cancel(
                partition, self._script_now(), member_of(name), version or "", retention_ms
            )
            await self._leave_line(partition, name, answer)
            return self._changed(answer)

        answer = await cancel_in(self._partitions.home_of(name))
        if isinstance(answer, _Elsewhere):
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
        answers = await self._end_timers(partition, self._script_now(), letters, pack(items))
        waited: dict[str, list[WakeUp]] = {}
        for (timer, _), host, generation in zip(timers, answers[1::3], answers[2::3], strict=True):
            if host:
                wake_up = WakeUp(timer.name, generation, partition=partition)
                waited.setdefault(host.decode(), []).append(wake_up)
        for host_name, wake_ups in waited.items():
            with suppress(UnavailableError):  # as in _leave_line
                await self._hosts.leave(host_name, wake_ups)
        return sum(answers[::3])

    async def delete_timers(
        self, partition: int, timers: Sequence[Timer], *, states: Collection[State]
    ) -> int:
        """Like end_timers, but forget them at once: only the archive remembers their ids."""
        count = await self.end_timers(partition, [(timer, 0) for timer in timers], states=states)
        await self._retention.forget_these(partition, [member_of(timer.name).encode() for timer in timers])
        return count

    async def _leave_line(self, partition: int, name: TimerName, answer: list[Any]) -> None:
        """Take a changed timer out of its host's line. If this fails, the host finds out in its turn."""
        match answer:
            case [b"changed", _, _, _, host, generation] | [b"replaced", _, host, generation] if host:
                with suppress(UnavailableError):
                    await self._hosts.leave(host.decode(), [WakeUp(name, generation, partition=partition)])

    async def get(self, name: TimerName) -> Found | None:
        """Read a timer. None when it has no record, or its retention is over: then ask is_archived.

        Raises InvalidTimerError when its record is damaged.
        """
        found = await self._get_in(self._partitions.home_of(name), name)
        if isinstance(found, _Elsewhere):
            found = await self._get_in(found.partition, name)
        if isinstance(found, _Elsewhere):
            raise InvalidTimerError("unreadable pointer: it points to another one")
        return found

    async def _get_in(self, partition: int, name: TimerName) -> Found | _Elsewhere | None:
        member, keys = member_of(name), self._partitions.store_keys[partition]
        with redis_errors():
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.get(keys.records + member)
            pipeline.zscore(keys.retention, member)
            pipeline.time()
            record, kept_until_ms, time = await pipeline.execute()
        now_ms = time_ms(time, self._now)
        if record is None or (kept_until_ms is not None and kept_until_ms <= now_ms):
            return None
        return self._elsewhere(read_pointer(record)) or Found(decode_record(name, record), now_ms)

    async def is_archived(self, name: TimerName) -> bool:
        """Whether a timer of this name has ended and its retention is over.

        A record whose retention is over counts, too: the archive gets its id a little later. In rare cases
        the archive wrongly says yes (see Archive.contains).
        """
        home, member = self._partitions.home_of(name), member_of(name)
        moved_to = await self._is_over(home, member)
        if isinstance(moved_to, _Elsewhere):
            moved_to = await self._is_over(moved_to.partition, member)
        return moved_to is True or await self._archive.contains(home, member)

    async def _is_over(self, partition: int, member: str) -> bool | _Elsewhere:
        """Whether there is a record whose retention is over."""
        keys = self._partitions.store_keys[partition]
        with redis_errors():
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.zscore(keys.retention, member)
            pipeline.getrange(keys.records + member, 0, POINTER_BYTES)
            pipeline.time()
            kept_until_ms, record, time = await pipeline.execute()
        elsewhere = self._elsewhere(read_pointer(record))
        if elsewhere is not None:
            return elsewhere
        return kept_until_ms is not None and kept_until_ms <= time_ms(time, self._now)

    def _changed(self, answer: list[Any]) -> Changed | _Elsewhere:
        match answer:
            case [b"changed", letter, due_ms, version, _, _]:
                return Changed(ChangeResult.CHANGED, STATE_OF_LETTER[letter], due_ms, version.decode())
            case [b"gone"]:
                return Changed(ChangeResult.GONE)
            case [b"state" | b"version" | b"lane" as reason, letter]:
                return Changed(ChangeResult(reason.decode()), STATE_OF_LETTER[letter])
            case [b"moved", partition]:
                return self._elsewhere(partition) or Changed(ChangeResult.GONE)
        raise TypeError(f"the script answered {answer!r}")

    def _elsewhere(self, partition: int | None) -> _Elsewhere | None:
        """Where a pointer points to. None when there is no such partition: then it is a damaged record."""
        if partition is None or partition not in self._partitions.all:
            return None
        return _Elsewhere(partition)

    # --- begin, beat, finish, hand back: by wake-up, which knows its partition ---

    async def begin(
        self,
        wake_ups: Sequence[WakeUp],
        *,
        holder: str,
        timeout_ms: int,
        room: Room | None = None,
        permits: Collection[WakeUp] = (),
    ) -> list[Begun | Refused]:
        """Start an attempt for each wake-up whose timer may start. The answers are in the same order.

        holder: names the worker and this call. When the answer is lost, repeat the call with the same holder:
        the answer has the same attempts. timeout_ms: the timeout of timers without one of their own. room:
        which calls the worker may start in each partition (None: any). permits: those of the wake-ups that
        have a permit of their host.
        """

        async def begin_in(partition: int, part: Sequence[WakeUp]) -> list[Begun | Refused]:
            answers, policies = await self._begin(
                partition,
                self._script_now(),
                holder,
                timeout_ms,
                LEASE_MARGIN_MS,
                MAX_LEASE_MS,
                pack(None if room is None else astuple(room)),
                pack([(member_of(each.name), each.generation, each in permits) for each in part]),
            )
            policy_of = {
                application.decode(): self._opened(application.decode(), policy)
                for application, policy in zip(policies[::2], policies[1::2], strict=True)
            }
            decoded = [
                _readably_begun(wake_up, holder, answer, policy_of)
                for wake_up, answer in zip(part, answers, strict=True)
            ]
            damaged = [
                member_of(answer.wake_up.name)
                for answer, raw in zip(decoded, answers, strict=True)
                if isinstance(answer, Refused) and answer.refusal is Refusal.UNREADABLE and len(raw) > 1
            ]
            if damaged:
                await self._set_aside(partition, self._script_now(), pack(damaged))
            return decoded

        return await by_partition(wake_ups, _partition_of, begin_in)

    def _opened(self, application: str, raw: bytes) -> tuple[ApplicationPolicy, bool]:
        """(policy with its secrets opened, whether that was possible)."""
        policy = decode_policy(ApplicationPolicy, raw)
        try:
            secrets = tuple(self._secrets.open(application, secret) for secret in policy.secrets)
        except SealedSecretError:
            return policy, False
        return structs.replace(policy, secrets=secrets), True

    async def wait(self, wake_ups: Sequence[WakeUp]) -> None:
        """Note that these timers wait in the lines of their hosts, which know already."""

        async def wait_in(partition: int, part: Sequence[WakeUp]) -> Sequence[WakeUp]:
            items = [(member_of(each.name), each.generation) for each in part]
            await self._wait(partition, self._script_now(), pack(items))
            return part

        await by_partition(wake_ups, _partition_of, wait_in)

    async def wake(self, wake_ups: Sequence[WakeUp], *, are_unknown: bool) -> None:
        """See to the wake-ups of timers that wait for their hosts. are_unknown: their hosts lost them."""

        async def wake_in(partition: int, part: Sequence[WakeUp]) -> Sequence[WakeUp]:
            members = [member_of(each.name) for each in part]
            await self._wake(partition, self._script_now(), int(are_unknown), pack(members))
            return part

        await by_partition(wake_ups, _partition_of, wake_in)

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
            answers = await self._ready(partition, self._script_now(), pack(items))
            return [bool(answer) for answer in answers]

        return await by_partition(wake_ups, _partition_of, are_ready_in)

    async def beat(self, attempts: Sequence[Begun]) -> list[bool]:
        """Renew the leases of these attempts. False: the attempt no longer belongs to this worker."""

        async def beat_in(partition: int, part: Sequence[Begun]) -> list[bool]:
            items = [(member_of(each.wake_up.name), each.nonce, each.holder, each.lease_ms) for each in part]
            answers = await self._beat(partition, self._script_now(), pack(items))
            return [bool(answer) for answer in answers]

        return await by_partition(attempts, lambda each: each.wake_up.partition, beat_in)

    async def hand_back(self, attempts: Sequence[tuple[Begun, bool]]) -> list[bool]:
        """Give up attempts, so that another worker makes them. Takes (attempt, was it perhaps called?).

        A timer that was perhaps called counts a lost worker. False: the attempt no longer belongs to this
        worker, and nothing was changed.
        """

        async def hand_back_in(partition: int, part: Sequence[tuple[Begun, bool]]) -> list[bool]:
            items = [
                (member_of(begun.wake_up.name), begun.nonce, begun.holder, may_be_sent)
                for begun, may_be_sent in part
            ]
            answers = await self._hand_back(partition, self._script_now(), pack(items))
            return [bool(answer) for answer in answers]

        return await by_partition(attempts, lambda each: each[0].wake_up.partition, hand_back_in)

    async def finish(self, attempts: Sequence[Finish], *, take_unblocked: bool = False) -> Finished:
        """Write down how attempts ended.

        Their ends may unblock other timers. With take_unblocked, the answer names those that are due, and the
        caller starts them. Otherwise the relay puts their wake-ups into the queue.
        """
        unblocked: list[WakeUp] = []

        async def finish_in(
            partition: int, part: Sequence[Finish], tries_left: int = POINTS - 1
        ) -> list[int]:
            callbacks = [_callback_of(finish) for finish in part]
            nonces = [self._nonces.draw() if callback else "" for callback in callbacks]
            noted = await self._note_at_homes(
                [
                    (callback.name, partition, nonce)
                    for callback, nonce in zip(callbacks, nonces, strict=True)
                    if callback and self._partitions.home_of(callback.name) != partition
                ],
                when_full=True,
            )
            hold_until_ms = noted.hold_until_ms if tries_left else {}
            items = [
                (
                    member_of(finish.begun.wake_up.name),
                    finish.begun.nonce,
                    finish.begun.holder,
                    *_packed_then(finish.then),
                    encode_attempt(finish.attempt),
                    self._packed_callback(callback, nonce, hold_until_ms),
                )
                for finish, callback, nonce in zip(part, callbacks, nonces, strict=True)
            ]
            answers, woken = await self._finish(
                partition, self._script_now(), KEPT_ATTEMPTS, int(take_unblocked), pack(items)
            )
            unblocked.extend(
                WakeUp(name_of(member), generation, partition=partition)
                for member, generation in zip(woken[::2], woken[1::2], strict=True)
            )
            for callback, answer in zip(callbacks, answers, strict=True):
                if callback is not None and answer == _WITHOUT_CALLBACK:
                    log.error("callback.id_taken", callback=str(callback.name))
            late = [finish for finish, answer in zip(part, answers, strict=True) if answer == _LATE]
            again = iter(await finish_in(partition, late, tries_left - 1) if late else ())
            return [next(again) if answer == _LATE else int(answer) for answer in answers]

        answers = await by_partition(attempts, lambda each: each.begun.wake_up.partition, finish_in)
        return Finished(
            [each in {_COUNTED, _WITHOUT_CALLBACK} for each in answers],
            unblocked,
            [each == _KNOWN for each in answers],
        )

    def _packed_callback(
        self, callback: NewTimer | None, nonce: str, hold_until_ms: Mapping[int, int]
    ) -> tuple[Any, ...]:
        if callback is None:
            return ()
        timeout_ms, _, host = _head_of(callback.spec)
        holds_until_ms = hold_until_ms.get(self._partitions.home_of(callback.name), False)
        return member_of(callback.name), encode_spec(callback.spec), timeout_ms, host, nonce, holds_until_ms

    async def _now_for(self, schedules: Iterable[Schedule]) -> int:
        """The store's time in ms if any schedule is a cron, else 0. Asking for it costs a round trip."""
        if not any(isinstance(schedule, Cron) for schedule in schedules):
            return 0
        with redis_errors():
            return time_ms(await self._redis.time(), self._now)

    def _script_now(self) -> int | str:
        now_ms = self._now()
        return "" if now_ms is None else now_ms


class Nonces:
    """Draws nonces. A nonce tells a timer from a later one with the same name.

    A nonce is a time in ms, and each is later than the one before it in this process. Random nonces of seven
    characters would repeat when a name is used very often.
    """

    def __init__(self) -> None:
        self._last = 0

    def draw(self) -> str:
        """Seven URL-safe characters."""
        self._last = max(self._last + 1, now_ms())
        return urlsafe_b64encode(self._last.to_bytes(6, "big")).decode()[1:]


async def _first_runs(timers: Sequence[NewTimer], now_ms: int) -> list[Due | None]:
    """When cron timers are due. The event loop has its turn in between: one may take a millisecond."""
    runs: list[Due | None] = []
    for n, timer in enumerate(timers, start=1):
        schedule = timer.spec.schedule
        runs.append(first_due(schedule, now_ms) if isinstance(schedule, Cron) else None)
        if n % RUNS_AT_ONCE == 0:
            await clock.sleep(0)
    return runs


def _head_of(spec: Spec) -> tuple[int, str, str]:
    """The parts of a spec that the record's head has, too: timeout in ms (0: none), ordering key, host."""
    return spec.timeout_ms or 0, spec.ordering_key or "", spec.host


def _packed_due(due: Due) -> tuple[int, bool]:
    """(ms, whether they count from the store's now rather than from the epoch)."""
    return (due.delay_ms, True) if isinstance(due, Delay) else (due.at_ms, False)


def _packed_then(then: Retry | Recur | End) -> tuple[str, int]:
    match then:
        case Retry(delay_ms):
            return "retry", delay_ms
        case Recur(next_due_ms):
            return "recur", next_due_ms
    return then.state.value, then.retention_ms


def _callback_of(finish: Finish) -> NewTimer | None:
    return None if isinstance(finish.then, Retry) else finish.then.callback


def _partition_of(wake_up: WakeUp) -> int:
    return wake_up.partition


def _readably_begun(
    wake_up: WakeUp, holder: str, answer: list[Any], policy_of: dict[str, tuple[ApplicationPolicy, bool]]
) -> Begun | Refused:
    try:
        return _begun(wake_up, holder, answer, policy_of)
    except (InvalidTimerError, UnicodeDecodeError):
        return Refused(wake_up, Refusal.UNREADABLE)


def _begun(
    wake_up: WakeUp, holder: str, answer: list[Any], policy_of: dict[str, tuple[ApplicationPolicy, bool]]
) -> Begun | Refused:
    match answer:
        case [b"begun", attempt, lost, due_ms, now_ms, lease_ms, nonce, raw_spec, host]:
            policy, can_sign = policy_of.get(wake_up.name.application, _NO_POLICY)
            return Begun(
                wake_up=wake_up,
                nonce=nonce.decode(),
                holder=holder,
                lease_ms=lease_ms,
                attempt=attempt,
                lost=lost,
                due_ms=due_ms,
                started_ms=now_ms,
                spec=decode_spec(raw_spec),
                host=host.decode(),
                policy=policy,
                can_sign=can_sign,
            )
        case [b"early", wait_ms]:
            return Refused(wake_up, Refusal.EARLY, wait_ms=wait_ms)
        case [b"permit", host, due_ms]:
            return Refused(
                replace(wake_up, due_ms=due_ms), Refusal.NEEDS_PERMIT, host=host.decode(errors="replace")
            )
        case [refusal]:
            return Refused(wake_up, Refusal(refusal.decode()))
    raise TypeError(f"begin.lua answered {answer!r}")


def _created(answer: list[Any]) -> Created:
    match answer:
        case [b"repeated", due_ms, letter, result]:
            return Created(Creation(result.decode()), due_ms, STATE_OF_LETTER[letter], is_repeated=True)
        case [b"exists" | b"kept" as result, due_ms, letter]:
            return Created(Creation(result.decode()), due_ms, STATE_OF_LETTER[letter])
    result, due_ms, *_ = answer
    return Created(Creation(result.decode()), due_ms)


def _size_of(spec: Spec) -> int:
    """About how many bytes a new record has."""
    _, lane, host = _head_of(spec)
    return HEAD_BYTES + len(encode_spec(spec)) + len(lane) + len(host)


def _never_elsewhere(answer: Changed | _Elsewhere) -> Changed:
    """A pointer never points to another pointer. If one did, the timer could not be found."""
    return answer if isinstance(answer, Changed) else Changed(ChangeResult.GONE)


_ASK: Final = Created(Creation.FULL, 0)
"""create.lua wants to know first what the limits of the application allow."""
_CONFIRMED: Final = {"create", "point", "change", "cancel"}
_NO_POLICY: Final = (ApplicationPolicy(), True)
_COUNTED: Final = 1
_KNOWN: Final = 2
_LATE: Final = 3
_WITHOUT_CALLBACK: Final = 4
"""What finish.lua answers."""
_REUSED: Final = Created(Creation.REUSED, 0)
