"""The timers in the store: one method for each transition, each for many timers at once.

A call is one Redis script, so a crash leaves either all of its changes or none.
"""

from base64 import urlsafe_b64encode
from collections.abc import Iterable, Sequence
from typing import Any, Final

import structlog
from redis.asyncio import Redis

from httpqueue.clock import StoreNow, now_ms, server_time
from httpqueue.errors import InvalidTimerError
from httpqueue.storage.archive import Archive
from httpqueue.storage.connection import redis_errors
from httpqueue.storage.keys import StoreKeys, member_of, name_of, store_keys
from httpqueue.storage.record import (
    STATE_OF_LETTER,
    decode_policy,
    decode_record,
    decode_spec,
    encode_attempt,
    encode_spec,
)
from httpqueue.storage.scripts import Script, pack
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
from httpqueue.timers.schedule import Cron, Delay, Due, Schedule
from httpqueue.timers.spec import Spec

LEASE_MARGIN_MS: Final = 15_000
"""How much longer a lease is than the attempt's timeout."""
MAX_LEASE_MS: Final = 20_000
"""The longest lease. A living worker renews its leases (beat)."""
KEPT_ATTEMPTS: Final = 10
"""How many attempts a record keeps: the latest."""
log = structlog.get_logger()


class Store:
    """The transitions of timers. Methods raise UnavailableError when the server is away.

    The call has then changed all or nothing, and nobody knows which.
    """

    def __init__(
        self, redis: Redis, *, archive: Archive, now: StoreNow = server_time, keys: StoreKeys | None = None
    ) -> None:
        self._redis = redis
        self._archive = archive
        self._now = now
        self._nonces = Nonces()
        self._keys = keys or store_keys()
        (
            self._create,
            self._begin,
            self._beat,
            self._finish,
            self._hand_back,
            self._set_aside,
            self._change,
            self._cancel,
        ) = (
            Script(redis, name, self._keys)
            for name in (
                "create",
                "begin",
                "beat",
                "finish",
                "hand_back",
                "set_aside",
                "change",
                "cancel",
            )
        )

    async def create(self, timers: Sequence[NewTimer]) -> list[Created]:
        """Store new timers. The answers are in the same order."""
        now_ms = await self._now_for(timer.spec.schedule for timer in timers)
        batch = [
            (
                member_of(timer.name),
                encode_spec(timer.spec),
                *_packed_due(first_due(timer.spec.schedule, now_ms)),
                *_head_of(timer.spec),
                self._nonces.draw(),
                timer.if_exists.value,
            )
            for timer in timers
        ]
        answers = await self._create(self._script_now(), pack(batch))
        return [Created(Creation(creation.decode()), due_ms) for creation, due_ms in answers]

    async def begin(
        self,
        wake_ups: Sequence[WakeUp],
        *,
        holder: str,
        timeout_ms: int,
        room: dict[str, int] | None = None,
    ) -> list[Begun | Refused]:
        """Start an attempt for each wake-up whose timer may start. The answers are in the same order.

        holder: names the worker and this call. When the answer is lost, repeat the call with the same holder:
        the answer has the same attempts. timeout_ms: the timeout of timers without one of their own. room:
        {host: calls that the worker may still make}, only for hosts that the worker limits.
        """
        answers, policies = await self._begin(
            self._script_now(),
            holder,
            timeout_ms,
            LEASE_MARGIN_MS,
            MAX_LEASE_MS,
            pack(room or {}),
            pack([(member_of(wake_up.name), wake_up.generation) for wake_up in wake_ups]),
        )
        policy_of = {
            application.decode(): decode_policy(ApplicationPolicy, policy)
            for application, policy in zip(policies[::2], policies[1::2], strict=True)
        }
        decoded = [
            _begun(wake_up, holder, answer, policy_of)
            for wake_up, answer in zip(wake_ups, answers, strict=True)
        ]
        damaged = [
            member_of(answer.wake_up.name)
            for answer, raw in zip(decoded, answers, strict=True)
            if isinstance(answer, Refused) and raw[0] == b"begun"
        ]
        if damaged:
            await self._set_aside(self._script_now(), pack(damaged))
        return decoded

    async def beat(self, attempts: Sequence[Begun]) -> list[bool]:
        """Renew the leases of these attempts. False: the attempt no longer belongs to this worker."""
        answers = await self._beat(
            self._script_now(),
            pack(
                [(member_of(each.wake_up.name), each.nonce, each.holder, each.lease_ms) for each in attempts]
            ),
        )
        return [bool(answer) for answer in answers]

    async def hand_back(self, attempts: Sequence[tuple[Begun, bool]]) -> list[bool]:
        """Give up attempts, so that another worker makes them. Takes (attempt, was it perhaps called?).

        A timer that was perhaps called counts a lost worker. False: the attempt no longer belongs to this
        worker, and nothing was changed.
        """
        answers = await self._hand_back(
            self._script_now(),
            pack(
                [
                    (member_of(begun.wake_up.name), begun.nonce, begun.holder, may_be_sent)
                    for begun, may_be_sent in attempts
                ]
            ),
        )
        return [bool(answer) for answer in answers]

    async def finish(self, attempts: Sequence[Finish], *, take_unblocked: bool = False) -> Finished:
        """Write down how attempts ended.

        Their ends may unblock other timers. With take_unblocked, the answer names those that are due, and the
        caller starts them. Otherwise the relay puts their wake-ups into the queue.
        """
        answers, unblocked = await self._finish(
            self._script_now(),
            KEPT_ATTEMPTS,
            int(take_unblocked),
            pack(
                [
                    (
                        member_of(finish.begun.wake_up.name),
                        finish.begun.nonce,
                        finish.begun.holder,
                        *_packed_then(finish.then),
                        encode_attempt(finish.attempt),
                        finish.attempt.error is None,
                        _result(finish),
                        _packed_callback(finish.then, self._nonces),
                    )
                    for finish in attempts
                ]
            ),
        )
        return Finished(
            counted=[bool(answer) for answer in answers],
            unblocked=[
                WakeUp(name_of(member), generation)
                for member, generation in zip(unblocked[::2], unblocked[1::2], strict=True)
            ],
        )

    async def change(self, changes: Sequence[Change]) -> list[Changed]:
        """Give timers other content or another due time. The answers are in the same order."""
        now_ms = await self._now_for(change.due for change in changes if change.due is not None)
        batch = [
            (
                member_of(change.name),
                "".join(state.letter for state in change.states),
                change.version or "",
                "" if change.spec is None else encode_spec(change.spec),
                *((0, "", "") if change.spec is None else _head_of(change.spec)),
                *((False, False) if change.due is None else _packed_due(first_due(change.due, now_ms))),
            )
            for change in changes
        ]
        answers = await self._change(self._script_now(), pack(batch))
        return [_changed(answer) for answer in answers]

    async def cancel(self, name: TimerName, *, version: str | None, retention_ms: int) -> Changed:
        """End a scheduled timer and keep its record for retention_ms; or delete a failed timer.

        version: refuse when the timer has another one; None: any.
        """
        answer = await self._cancel(self._script_now(), member_of(name), version or "", retention_ms)
        return _changed(answer)

    async def get(self, name: TimerName) -> Found | None:
        """Read a timer. None when it has no record, or its retention is over: then ask is_archived.

        Raises InvalidTimerError when its record is damaged.
        """
        member = member_of(name)
        with redis_errors():
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.get(self._keys.records + member)
            pipeline.zscore(self._keys.retention, member)
            pipeline.time()
            record, kept_until_ms, time = await pipeline.execute()
        now_ms = time_ms(time, self._now)
        if record is None or (kept_until_ms is not None and kept_until_ms <= now_ms):
            return None
        return Found(decode_record(name, record), now_ms)

    async def is_archived(self, name: TimerName) -> bool:
        """Whether a timer of this name has ended and its retention is over.

        A record whose retention is over counts, too: the archive gets its id a little later. In rare cases
        the archive wrongly says yes (see Archive.contains).
        """
        with redis_errors():
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.zscore(self._keys.retention, member_of(name))
            pipeline.time()
            kept_until_ms, time = await pipeline.execute()
        if kept_until_ms is not None and kept_until_ms <= time_ms(time, self._now):
            return True
        return await self._archive.contains(member_of(name))

    async def _now_for(self, schedules: Iterable[Schedule]) -> int:
        """The store's time in ms if any schedule is a cron, else 0. Asking for it costs a round trip."""
        if not any(isinstance(schedule, Cron) for schedule in schedules):
            return 0
        with redis_errors():
            return time_ms(await self._redis.time(), self._now)

    def _script_now(self) -> int | str:
        now_ms = self._now()
        return "" if now_ms is None else now_ms


def time_ms(time: tuple[int, int], now: StoreNow) -> int:
    """The time in ms since the epoch: now() if it gives one, else what the command TIME answered."""
    seconds, microseconds = time
    now_ms = now()
    return seconds * 1000 + microseconds // 1000 if now_ms is None else now_ms


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


def _result(finish: Finish) -> str:
    """The status or error of the call; empty when there was no call."""
    attempt = finish.attempt
    return (attempt.error or str(attempt.status)) if finish.was_called else ""


def _packed_callback(then: Retry | Recur | End, nonces: Nonces) -> tuple[Any, ...]:
    callback = None if isinstance(then, Retry) else then.callback
    if callback is None:
        return ()
    timeout_ms, _, host = _head_of(callback.spec)
    return member_of(callback.name), encode_spec(callback.spec), timeout_ms, host, nonces.draw()


def _begun(
    wake_up: WakeUp, holder: str, answer: list[Any], policy_of: dict[str, ApplicationPolicy]
) -> Begun | Refused:
    match answer:
        case [b"begun", attempt, lost, due_ms, now_ms, lease_ms, nonce, raw_spec, host]:
            try:
                spec = decode_spec(raw_spec)
            except InvalidTimerError:
                return Refused(wake_up, Refusal.UNREADABLE)
            policy = policy_of.get(wake_up.name.application, _NO_POLICY)
            return Begun(
                wake_up=wake_up,
                nonce=nonce.decode(),
                holder=holder,
                lease_ms=lease_ms,
                attempt=attempt,
                lost=lost,
                due_ms=due_ms,
                started_ms=now_ms,
                spec=spec,
                host=host.decode(),
                policy=policy,
            )
        case [b"early", wait_ms]:
            return Refused(wake_up, Refusal.EARLY, wait_ms=wait_ms)
        case [b"waiting", until_ms]:
            return Refused(wake_up, Refusal.WAITING, until_ms=until_ms)
        case [refusal]:
            return Refused(wake_up, Refusal(refusal.decode()))
    raise TypeError(f"begin.lua answered {answer!r}")


def _changed(answer: list[Any]) -> Changed:
    match answer:
        case [b"changed", letter, due_ms, version]:
            return Changed(ChangeResult.CHANGED, STATE_OF_LETTER[letter], due_ms, version.decode())
        case [b"gone"]:
            return Changed(ChangeResult.GONE)
        case [b"state" | b"version" as reason, letter]:
            return Changed(ChangeResult(reason.decode()), STATE_OF_LETTER[letter])
    raise TypeError(f"the script answered {answer!r}")


_NO_POLICY: Final = ApplicationPolicy()
