"""Creates timers: within the limits of their applications, and with pointers at the homes of their names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import compress
from typing import Any, Final

from redis.asyncio import Redis

from httpqueue.clock import StoreNow, server_time
from httpqueue.storage.due_times import first_runs, now_for, packed_due
from httpqueue.storage.keys import member_of
from httpqueue.storage.nonces import Nonces
from httpqueue.storage.partitions import Partitions, at_once, by_partition
from httpqueue.storage.pointers import POINTS, Elsewhere, Pointers
from httpqueue.storage.quotas import OK, Admission, Quotas
from httpqueue.storage.reading import Reader
from httpqueue.storage.record import STATE_OF_LETTER, encode_spec, head_of
from httpqueue.storage.requests import KEPT_ANSWER_MS, Requests, packed_request
from httpqueue.storage.retention import Retention
from httpqueue.storage.scripts import Script, pack, script_now
from httpqueue.storage.waiting import Waiting
from httpqueue.timers.commands import Created, Creation, IfExists, NewTimer, WakeUp
from httpqueue.timers.cron import first_due
from httpqueue.timers.names import TimerName
from httpqueue.timers.schedule import Due
from httpqueue.timers.spec import Spec

HEAD_BYTES: Final = 40
"""About how long the head of a new record is without its ordering key and host."""

_REUSED: Final = Created(Creation.REUSED, 0)
_ASK: Final = Created(Creation.FULL, 0)
"""create.lua wants to know first what the limits of the application allow."""


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


class Creator:
    """Creates timers. Methods raise UnavailableError when the server is away."""

    def __init__(  # noqa: PLR0913 - its parts
        self,
        redis: Redis,
        *,
        partitions: Partitions,
        pointers: Pointers,
        reader: Reader,
        retention: Retention,
        waiting: Waiting,
        quotas: Quotas,
        nonces: Nonces,
        now: StoreNow = server_time,
        wait_replicas: int = 0,
    ) -> None:
        """wait_replicas: how many replicas have to confirm a new timer."""
        self._redis = redis
        self._partitions = partitions
        self._pointers = pointers
        self._reader = reader
        self._retention = retention
        self._waiting = waiting
        self._quotas = quotas
        self._limited: frozenset[str] = frozenset()
        """Applications that had limits when their timers were created last."""
        self._nonces = nonces
        self._now = now
        self._requests = Requests(redis, partitions)
        self._create = Script(redis, "create", partitions.store_keys, replicas=wait_replicas)

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
        now_ms = await now_for((timer.spec.schedule for timer in timers), self._redis, self._now)
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
                timers, admissions, await first_runs(timers, now_ms), strict=True
            )
        ]
        places: dict[TimerName, int] = {}
        # A later timer of a name, if it would be in another partition, comes when the first one is stored.
        are_first = [places.setdefault(each.timer.name, each.place) == each.place for each in placed]
        answers = iter(await self._create_where(list(compress(placed, are_first)), now_ms))
        created = []
        for each, is_first in zip(placed, are_first, strict=True):
            answer = next(answers) if is_first else (await self._create_where([each], now_ms))[0]
            if isinstance(answer, Elsewhere):
                answer = await self._create_again(each, answer.partition, now_ms)
            created.append(answer)
        return created

    async def _create_where(self, placed: Sequence[_Placed], now_ms: int) -> list[Created | Elsewhere]:
        """Store each timer in its place, and a pointer at its home before, if that is another partition."""
        answers: dict[int, Created | Elsewhere] = {}
        waiting = list(enumerate(placed))
        for tries_left in reversed(range(POINTS)):
            noted = await self._pointers.note(
                [(each.timer.name, each.place, each.nonce) for _, each in waiting if each.place != each.home]
            )
            ready = []
            for number, each in waiting:
                if each.timer.name in noted.others:
                    answers[number] = Elsewhere(noted.others[each.timer.name])
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
    ) -> list[Created | Elsewhere | None]:
        """None: it comes so late that its pointer may be gone."""
        batch = [
            (
                member_of(each.timer.name),
                encode_spec(each.timer.spec),
                *packed_due(each.first_run or first_due(each.timer.spec.schedule, now_ms)),
                *head_of(each.timer.spec),
                each.nonce,
                each.timer.if_exists.value,
                each.admission,
                each.place != each.home and hold_until_ms.get(each.home, False),
            )
            for each in placed
        ]
        answers = await self._create(
            partition,
            script_now(self._now),
            pack(batch),
            "" if self._quotas.pending_of_partition is None else self._quotas.pending_of_partition,
            int(self._partitions.count == 1),
            pack([packed_request(each.timer) for each in placed]),
            KEPT_ANSWER_MS,
        )
        for each, answer in zip(placed, answers, strict=True):
            match answer:
                case [b"replaced", _, host, generation] if host:
                    wake_up = WakeUp(each.timer.name, generation, partition=partition)
                    await self._waiting.leave(host.decode(), [wake_up])
        return [self._created(answer) for answer in answers]

    def _created(self, answer: list[Any]) -> Created | Elsewhere | None:
        match answer:
            case [b"late", _]:
                return None
            case [b"moved", partition]:
                return self._pointers.elsewhere(partition) or Created(Creation.CONFLICT, 0)
            case [b"ask", _]:
                return _ASK
            case [b"rate", wait_ms]:
                return Created(Creation.RATE, 0, wait_ms=wait_ms)
        return _created(answer)

    async def _create_again(self, placed: _Placed, partition: int, now_ms: int) -> Created:
        """Create a timer whose name another one has in another partition: it has another ordering key."""
        name = placed.timer.name
        if await self._reader.is_over(partition, member_of(name)) is True:
            await self._retention.forget_these(partition, [member_of(name).encode()])
        [answer] = await self._create_where([placed], now_ms)  # the other one may be gone by now
        if isinstance(answer, Created):
            return answer
        other = await self._reader.timer_in(partition, name)
        if other is not None and placed.timer.if_exists is IfExists.KEEP:
            return Created(Creation.KEPT, other.due_ms, other.state)
        return Created(Creation.OTHER_LANE, 0 if other is None else other.due_ms)


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
    _, lane, host = head_of(spec)
    return HEAD_BYTES + len(encode_spec(spec)) + len(lane) + len(host)
