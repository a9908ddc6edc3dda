"""Attempts: begin, call, finish. What a worker does with a wake-up, for many at once.

A worker that dies in the middle leaves a lease that runs out; the heal pass then wakes the timer again.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

import structlog

from httpqueue import clock
from httpqueue.errors import UnavailableError
from httpqueue.runtime.batch import Batcher
from httpqueue.runtime.metrics import ATTEMPTS, ATTEMPTS_REFUSED, IN_FLIGHT, LATENESS, WAKE_UPS_REFUSED
from httpqueue.runtime.outage import Outage
from httpqueue.runtime.signal import Signal
from httpqueue.storage.timers import Store
from httpqueue.timers.commands import Begun, End, Finish, Finished, Refusal, Refused, Retry, WakeUp
from httpqueue.timers.schedule import Cron
from httpqueue.webhooks.client.sender import Sender
from httpqueue.webhooks.message import Response, SendError, render, sign, webhook_id
from httpqueue.webhooks.outcome import Outcome
from httpqueue.worker.plan import AttemptPolicy, finish_of, reason_not_to_call

MAX_FINISH: Final = 500
MAX_FINISH_BYTES: Final = 4_000_000
GATHER_S: Final = 0.003
"""How long ended attempts are gathered for one finish; nobody waits for it."""
BEAT_S: Final = 5.0
"""How often a worker renews the leases of its attempts."""
BEATS_LEFT: Final = 2
"""A call starts only while its lease has room for so many beats."""

_COUNT: Final = {outcome: ATTEMPTS.labels(outcome.value) for outcome in Outcome}

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class BeginCall:
    """A call of begin that can be repeated: its holder tells the store that it is the same call."""

    wake_ups: tuple[WakeUp, ...]
    room: dict[str, int] | None
    holder: str


@dataclass(slots=True)
class Running:
    """An attempt that this worker makes."""

    begun: Begun
    lease_end_s: float
    """On clock.boottime_s, counted from before begin was called."""
    is_called: bool = False
    """Whether the webhook may have been called."""
    is_answered: bool = False


class Attempts:
    """Runs attempts. How they ended reaches the store in batches, however long it is away."""

    def __init__(self, *, store: Store, sender: Sender, policy: AttemptPolicy) -> None:
        self._store = store
        self._sender = sender
        self._policy = policy
        self._name = uuid4().hex[:12]
        self._calls = 0
        self._take_unblocked: Callable[[WakeUp], None] | None = None
        self._finish: Batcher[Finish, bool] = Batcher(
            self._finish_patiently,
            max_items=MAX_FINISH,
            max_bytes=MAX_FINISH_BYTES,
            size_of=_size_of,
            gather_s=GATHER_S,
        )
        self.is_behind = False
        """Whether the store is away while ended attempts wait for it."""
        self.finished: Signal[Finished] = Signal()
        """After each call of the store's finish."""

    def hand_unblocked_to(self, take: Callable[[WakeUp], None] | None) -> None:
        """Who starts the timers that the end of attempts unblocks; None: they go through relay and queue."""
        self._take_unblocked = take

    def begin_call(self, wake_ups: Sequence[WakeUp], room: dict[str, int] | None = None) -> BeginCall:
        """A new call of begin."""
        self._calls += 1
        return BeginCall(tuple(wake_ups), room, f"{self._name}.{self._calls}")

    async def begin(self, call: BeginCall) -> list[Running | Refused]:
        """Begin what the store lets start and there is room for.

        Raises UnavailableError: then nobody knows whether the store began them, and the same call, repeated,
        gives the same attempts.
        """
        before_s = clock.boottime_s()
        answers = await self._store.begin(
            call.wake_ups, holder=call.holder, timeout_ms=self._policy.timeout_ms, room=call.room
        )
        return [self._running(answer, before_s) for answer in answers]

    def _running(self, answer: Begun | Refused, before_s: float) -> Running | Refused:
        if isinstance(answer, Refused):
            WAKE_UPS_REFUSED.labels(answer.refusal.value).inc()
            if answer.refusal is Refusal.UNREADABLE:
                log.error("attempt.unreadable", timer=str(answer.wake_up.name))
            return answer
        LATENESS.observe((answer.started_ms - answer.due_ms) / 1000)
        return Running(answer, before_s + answer.lease_ms / 1000)

    async def run(self, running: Running, on_answer: Callable[[], None] = lambda: None) -> None:
        """Call the webhook, then on_answer, then tell the store how it ended."""
        begun = running.begun
        IN_FLIGHT.inc()
        started_s = clock.monotonic_s()
        try:
            if clock.boottime_s() > running.lease_end_s - BEATS_LEFT * BEAT_S:
                # This process was frozen, or far too busy: the timer may be another worker's by now.
                await self._hand_back_patiently(running)
                return
            result = reason_not_to_call(begun) or await self._call(running)
        finally:
            running.is_answered = True
            IN_FLIGHT.dec()
            on_answer()
        finish = finish_of(
            begun,
            result,
            self._policy,
            duration_ms=round((clock.monotonic_s() - started_s) * 1000),
            jitter=random.random(),  # noqa: S311 - spreads a herd, guards nothing
        )
        _tell(begun, finish)
        if not await self._finish.submit(finish):
            ATTEMPTS_REFUSED.inc()
            log.warning("attempt.late", timer=str(begun.wake_up.name), attempt=begun.attempt)

    async def beat(self, running: Sequence[Running]) -> list[Running]:
        """Renew the leases of these attempts; returns those whose lease was lost. Raises UnavailableError."""
        before_s = clock.boottime_s()
        kept = await self._store.beat([each.begun for each in running])
        lost = []
        for each, is_kept in zip(running, kept, strict=True):
            if is_kept:
                each.lease_end_s = before_s + each.begun.lease_ms / 1000
            elif not each.is_answered:
                lost.append(each)
        return lost

    async def hand_back(self, running: Sequence[Running]) -> None:
        """Give attempts up, so that another worker makes them at once; raises UnavailableError."""
        await self._store.hand_back([(each.begun, each.is_called) for each in running])

    async def _hand_back_patiently(self, running: Running) -> None:
        log.warning("attempt.dropped", timer=str(running.begun.wake_up.name), attempt=running.begun.attempt)
        outage = Outage("worker.hand_back")
        while True:
            try:
                await self.hand_back([running])
            except UnavailableError as error:
                await outage.wait(error)
            else:
                outage.over()
                return

    async def _call(self, running: Running) -> Response | SendError:
        begun = running.begun
        request = render(
            begun.spec,
            timer_id=begun.wake_up.name.id,
            webhook_id=webhook_id(begun),
            attempt=begun.attempt,
            started_ms=begun.started_ms,
            append_timer_id=self._policy.append_timer_id,
        )
        request = sign(request, begun.policy.secrets)
        running.is_called = True
        try:
            return await self._sender.send(request, timeout_s=self._policy.timeout_ms_of(begun) / 1000)
        except SendError as error:
            return error

    async def _finish_patiently(self, batch: Sequence[Finish]) -> list[bool]:
        outage = Outage("worker.finish")
        take = self._take_unblocked
        while True:
            try:
                finished = await self._store.finish(batch, take_unblocked=take is not None)
            except UnavailableError as error:
                self.is_behind = True
                await outage.wait(error)
                continue
            self.is_behind = False
            outage.over()
            if take is not None:
                for wake_up in finished.unblocked:
                    take(wake_up)
            self.finished.emit(finished)
            return finished.counted


def _size_of(finish: Finish) -> int:
    """About how many bytes a finish has: those of its callback, which repeats the timer's body."""
    then = finish.then
    if isinstance(then, Retry) or then.callback is None:
        return 0
    body = finish.begun.spec.body
    return len(body) if isinstance(body, str) else len(str(body))


def _tell(begun: Begun, finish: Finish) -> None:
    """One line in the log for an attempt that was not delivered, and one metric for each."""
    timer, error, then = str(begun.wake_up.name), finish.attempt.error, finish.then
    if isinstance(begun.spec.schedule, Cron) and isinstance(then, End):
        log.error("attempt.no_next_run", timer=timer, zone=begun.spec.schedule.zone)
    if isinstance(then, Retry):
        _COUNT[Outcome.RETRY].inc()
        log.info("attempt.retry", timer=timer, attempt=begun.attempt, error=error, retry_in_ms=then.delay_ms)
    elif error is None:
        _COUNT[Outcome.DELIVERED].inc()
    else:
        _COUNT[Outcome.FAILED].inc()
        log.warning("attempt.failed", timer=timer, attempt=begun.attempt, error=error)
