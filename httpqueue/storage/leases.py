"""Attempts in the store. A worker that begins one has a lease of its timer: begin, beat, hand back, finish.

They go by wake-up, which knows its partition.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import astuple, replace
from typing import Any, Final

import structlog
from msgspec import structs
from redis.asyncio import Redis

from httpqueue.clock import StoreNow, server_time
from httpqueue.errors import InvalidTimerError
from httpqueue.storage.keys import member_of, name_of
from httpqueue.storage.nonces import Nonces
from httpqueue.storage.partitions import Partitions, by_partition
from httpqueue.storage.pointers import POINTS, Pointers
from httpqueue.storage.record import decode_policy, decode_spec, encode_attempt, encode_spec, head_of
from httpqueue.storage.scripts import Script, pack, script_now
from httpqueue.storage.secret_box import SealedSecretError, SecretBox
from httpqueue.timers.commands import (
    Begun,
    End,
    Finish,
    Finished,
    NewTimer,
    Recur,
    Refusal,
    Refused,
    Retry,
    WakeUp,
)
from httpqueue.timers.policies import ApplicationPolicy
from httpqueue.timers.room import Room

LEASE_MARGIN_MS: Final = 15_000
"""How much longer a lease is than the attempt's timeout."""
MAX_LEASE_MS: Final = 20_000
"""The longest lease. A living worker renews its leases (beat)."""
KEPT_ATTEMPTS: Final = 10
"""How many attempts a record keeps: the latest."""

log = structlog.get_logger()

_NO_POLICY: Final = (ApplicationPolicy(), True)
_COUNTED: Final = 1
_KNOWN: Final = 2
_LATE: Final = 3
_WITHOUT_CALLBACK: Final = 4
"""What finish.lua answers."""


class Leases:
    """Starts attempts, keeps them and ends them. Methods raise UnavailableError when the server is away."""

    def __init__(
        self,
        redis: Redis,
        *,
        partitions: Partitions,
        pointers: Pointers,
        nonces: Nonces,
        secrets: SecretBox,
        now: StoreNow = server_time,
    ) -> None:
        self._partitions = partitions
        self._pointers = pointers
        self._nonces = nonces
        self._secrets = secrets
        self._now = now
        self._begin, self._beat, self._finish, self._hand_back, self._set_aside = (
            Script(redis, name, partitions.store_keys)
            for name in ("begin", "beat", "finish", "hand_back", "set_aside")
        )

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
                script_now(self._now),
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
                await self._set_aside(partition, script_now(self._now), pack(damaged))
            return decoded

        return await by_partition(wake_ups, lambda each: each.partition, begin_in)

    def _opened(self, application: str, raw: bytes) -> tuple[ApplicationPolicy, bool]:
        """(policy with its secrets opened, whether that was possible)."""
        policy = decode_policy(ApplicationPolicy, raw)
        try:
            secrets = tuple(self._secrets.open(application, secret) for secret in policy.secrets)
        except SealedSecretError:
            return policy, False
        return structs.replace(policy, secrets=secrets), True

    async def beat(self, attempts: Sequence[Begun]) -> list[bool]:
        """Renew the leases of these attempts. False: the attempt no longer belongs to this worker."""

        async def beat_in(partition: int, part: Sequence[Begun]) -> list[bool]:
            items = [(member_of(each.wake_up.name), each.nonce, each.holder, each.lease_ms) for each in part]
            answers = await self._beat(partition, script_now(self._now), pack(items))
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
            answers = await self._hand_back(partition, script_now(self._now), pack(items))
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
            noted = await self._pointers.note(
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
                partition, script_now(self._now), KEPT_ATTEMPTS, int(take_unblocked), pack(items)
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
        timeout_ms, _, host = head_of(callback.spec)
        holds_until_ms = hold_until_ms.get(self._partitions.home_of(callback.name), False)
        return member_of(callback.name), encode_spec(callback.spec), timeout_ms, host, nonce, holds_until_ms


def _packed_then(then: Retry | Recur | End) -> tuple[str, int]:
    match then:
        case Retry(delay_ms):
            return "retry", delay_ms
        case Recur(next_due_ms):
            return "recur", next_due_ms
    return then.state.value, then.retention_ms


def _callback_of(finish: Finish) -> NewTimer | None:
    return None if isinstance(finish.then, Retry) else finish.then.callback


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
