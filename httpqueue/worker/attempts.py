"""Makes attempts, many at once: begins them in the store, calls the webhooks, notes how they ended.

An attempt has no asyncio task of its own: the HTTP client calls back when the response is there. When a
worker dies during an attempt, its lease ends, and the relay's heal pass wakes the timer again.
"""

import asyncio
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final
from uuid import uuid4

import structlog

from httpqueue import clock
from httpqueue.runtime.metrics import IN_FLIGHT, LATENESS, WAKE_UPS_REFUSED
from httpqueue.storage.timers import Store
from httpqueue.timers.commands import Begun, Refusal, Refused, WakeUp
from httpqueue.timers.room import Room
from httpqueue.webhooks.client.sender import Call, Sender
from httpqueue.webhooks.message import Response, SendError, render, sign, webhook_id
from httpqueue.worker.finishes import Finishes
from httpqueue.worker.plan import AttemptPolicy, finish_of, reason_not_to_call

BEAT_S: Final = 5.0
"""Seconds between two renewals of the leases of a worker's attempts."""
BEATS_LEFT: Final = 2
"""A call starts only if its lease lasts for at least this many beats more."""

NO_PERMITS: Final[Mapping[WakeUp, str]] = {}

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class BeginCall:
    """A call of `begin` in one partition that can be repeated: the store knows it again by its holder."""

    wake_ups: tuple[WakeUp, ...]
    permits: Mapping[WakeUp, str]
    """The hosts of those of the wake-ups that have a permit."""
    holder: str

    @property
    def partition(self) -> int:
        """Of all its wake-ups."""
        return self.wake_ups[0].partition


@dataclass(slots=True, eq=False)
class Running:
    """An attempt that this worker is making."""

    begun: Begun
    lease_end_s: float
    """On clock.boottime_s. Counted from before `begin` was called, so it is never too late."""
    has_permit: bool = False
    """Whether it has a permit of its host, which has to be given back."""
    started_s: float = 0.0
    call: Call | None = None
    is_answered: bool = False
    has_bug: bool = False
    """A bug kept us from deciding its end. Its lease will end, and the attempt is made again."""

    @property
    def is_called(self) -> bool:
        """Whether the webhook may have been called."""
        return self.call is not None and self.call.written

    def __str__(self) -> str:
        """application:id:generation:attempt:holder, for logs."""
        wake_up = self.begun.wake_up
        return f"{wake_up.name}:{wake_up.generation}:{self.begun.attempt}:{self.begun.holder}"


class Attempts:
    """Makes attempts, and adds how they ended to `finishes`."""

    def __init__(self, *, store: Store, sender: Sender, policy: AttemptPolicy) -> None:
        self._store = store
        self._sender = sender
        self._policy = policy
        self._name = uuid4().hex[:12]
        self._calls = 0
        self.finishes = Finishes(store)

    def begin_call(self, wake_ups: Sequence[WakeUp], permits: Mapping[WakeUp, str] = NO_PERMITS) -> BeginCall:
        """A new call of `begin`, with a holder of its own."""
        self._calls += 1
        return BeginCall(tuple(wake_ups), permits, f"{self._name}.{self._calls}")

    async def begin(self, call: BeginCall, room: Room | None = None) -> list[Running | Refused]:
        """Begin the attempts that the store lets start. The answers are in the order of the wake-ups.

        room: see Leases.begin in storage/leases.py.

        Raises UnavailableError. Nobody knows then whether the store began them: repeat the same call, which
        gives the same attempts.
        """
        before_s = clock.boottime_s()
        answers = await self._store.begin(
            call.wake_ups,
            holder=call.holder,
            timeout_ms=self._policy.timeout_ms,
            room=room,
            permits=call.permits,
        )
        return [self._running(answer, before_s, call.permits) for answer in answers]

    def _running(
        self, answer: Begun | Refused, before_s: float, permits: Collection[WakeUp]
    ) -> Running | Refused:
        if isinstance(answer, Refused):
            WAKE_UPS_REFUSED.labels(answer.refusal.value).inc()
            if answer.refusal is Refusal.UNREADABLE:
                log.error("attempt.unreadable", timer=str(answer.wake_up.name))
            return answer
        LATENESS.observe((answer.started_ms - answer.due_ms) / 1000)
        return Running(answer, before_s + answer.lease_ms / 1000, answer.wake_up in permits)

    def has_time(self, running: Running) -> bool:
        """Whether a call may still start. If this process was frozen, another worker may have the timer."""
        if clock.boottime_s() <= running.lease_end_s - BEATS_LEFT * BEAT_S:
            return True
        log.warning("attempt.dropped", attempt=str(running))
        return False

    async def make(self, running: Running) -> None:
        """Make one attempt, from its call until the store knows how it ended. Raises UnavailableError."""
        if not self.has_time(running):
            await self.hand_back([running])
            return
        answered = asyncio.Event()
        try:
            self.start(running, lambda _: answered.set())
            await answered.wait()
            await self.finishes.drain()
        finally:
            self.drop(running)

    def start(self, running: Running, on_answer: Callable[[Running], None]) -> None:
        """Call the webhook. on_answer is called at the response or error, but not after drop."""
        IN_FLIGHT.inc()
        running.started_s = clock.monotonic_s()
        reason = reason_not_to_call(running.begun)
        if reason is not None:
            self._answered(running, on_answer, reason)
            return
        try:
            running.call = self._call(running, on_answer)
        except Exception as error:  # noqa: BLE001 - whatever it is, the other attempts must go on
            self._fail(running, error)
            on_answer(running)

    def _call(self, running: Running, on_answer: Callable[[Running], None]) -> Call:
        begun = running.begun
        request = render(
            begun.spec,
            timer_id=begun.wake_up.name.id,
            webhook_id=webhook_id(begun),
            attempt=begun.attempt,
            started_ms=begun.started_ms,
            append_timer_id=self._policy.append_timer_id,
        )
        return self._sender.start(
            sign(request, begun.policy.secrets),
            timeout_s=self._policy.timeout_ms_of(begun) / 1000,
            on_done=partial(self._answered, running, on_answer),
        )

    def _answered(
        self, running: Running, on_answer: Callable[[Running], None], result: Response | SendError
    ) -> None:
        try:
            finish = finish_of(
                running.begun,
                result,
                self._policy,
                duration_ms=round((clock.monotonic_s() - running.started_s) * 1000),
                jitter=random.random(),  # noqa: S311 - spreads a herd, guards nothing
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, the other attempts must go on
            self._fail(running, error)
            on_answer(running)
            return
        running.is_answered = True
        IN_FLIGHT.dec()
        try:
            self.finishes.add(finish)
        finally:  # a log that cannot be written must not keep a slot
            on_answer(running)

    def _fail(self, running: Running, error: Exception) -> None:
        """A bug of ours ends this attempt alone: its lease ends, and it is made again."""
        log.error("worker.bug", attempt=str(running), exc_info=error)
        running.has_bug = running.is_answered = True
        IN_FLIGHT.dec()

    def drop(self, running: Running) -> None:
        """Cancel the attempt's call if it is in flight."""
        if running.call is not None and not running.is_answered:
            running.call.cancel()
            running.is_answered = True
            IN_FLIGHT.dec()

    async def beat(self, running: Sequence[Running]) -> list[Running]:
        """Renew leases. Returns the attempts whose lease was lost. Raises UnavailableError."""
        before_s = clock.boottime_s()
        kept = await self._store.beat([each.begun for each in running])
        lost = []
        for each, is_kept in zip(running, kept, strict=True):
            if is_kept:
                each.lease_end_s = before_s + each.begun.lease_ms / 1000
            elif not each.is_answered:
                lost.append(each)
        return lost

    async def hand_back(self, running: Sequence[Running]) -> list[bool]:
        """Give attempts up, so that another worker makes them at once. Raises UnavailableError.

        False: it was not this worker's any more.
        """
        return await self._store.hand_back([(each.begun, each.is_called) for each in running])
