"""Attempts: begin, call, finish. What a worker does with a wake-up, for many at once.

A worker that dies in the middle leaves a lease that runs out; the heal pass then wakes the timer again.
"""

import random
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from httpqueue import clock
from httpqueue.errors import UnavailableError
from httpqueue.runtime.batch import Batcher
from httpqueue.runtime.metrics import ATTEMPTS, ATTEMPTS_REFUSED, IN_FLIGHT, LATENESS, WAKE_UPS_REFUSED
from httpqueue.runtime.outage import Outage
from httpqueue.runtime.signal import Signal
from httpqueue.storage.timers import LEASE_MARGIN_MS, Store
from httpqueue.timers.commands import Begun, End, Finish, Finished, Refusal, Refused, Retry, WakeUp
from httpqueue.timers.schedule import Cron
from httpqueue.webhooks.client.sender import Sender
from httpqueue.webhooks.message import Response, SendError, render, sign
from httpqueue.webhooks.outcome import Outcome
from httpqueue.worker.plan import AttemptPolicy, finish_of, reason_not_to_call

MAX_FINISH: Final = 500
GATHER_S: Final = 0.003
"""How long ended attempts are gathered for one finish; nobody waits for it."""

_COUNT: Final = {outcome: ATTEMPTS.labels(outcome.value) for outcome in Outcome}

log = structlog.get_logger()


class Attempts:
    """Runs attempts. How they ended reaches the store in batches, however long it is away."""

    def __init__(self, *, store: Store, sender: Sender, policy: AttemptPolicy) -> None:
        self._store = store
        self._sender = sender
        self._policy = policy
        self._take_unblocked: Callable[[WakeUp], None] | None = None
        self._finish: Batcher[Finish, bool] = Batcher(
            self._finish_patiently, max_items=MAX_FINISH, gather_s=GATHER_S
        )
        self.finished: Signal[Finished] = Signal()
        """After each call of the store's finish."""

    def hand_unblocked_to(self, take: Callable[[WakeUp], None] | None) -> None:
        """Who starts the timers that the end of attempts unblocks; None: they go through relay and queue."""
        self._take_unblocked = take

    async def begin(
        self, wake_ups: Sequence[WakeUp], room: dict[str, int] | None = None
    ) -> list[Begun | Refused]:
        """Begin those that the store lets start and that there is room for; raises UnavailableError."""
        answers = await self._store.begin(
            wake_ups, lease_ms=self._policy.timeout_ms + LEASE_MARGIN_MS, room=room
        )
        for answer in answers:
            if isinstance(answer, Refused):
                WAKE_UPS_REFUSED.labels(answer.refusal.value).inc()
                if answer.refusal is Refusal.UNREADABLE:
                    log.error("attempt.unreadable", timer=str(answer.wake_up.name))
            else:
                LATENESS.observe((answer.started_ms - answer.due_ms) / 1000)
        return answers

    async def run(self, begun: Begun, on_answer: Callable[[], None] = lambda: None) -> None:
        """Call the webhook, then on_answer, then tell the store how it ended."""
        IN_FLIGHT.inc()
        started_s = clock.monotonic_s()
        try:
            result = reason_not_to_call(begun, self._policy) or await self._call(begun)
        finally:
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

    async def _call(self, begun: Begun) -> Response | SendError:
        request = render(
            begun.spec,
            timer_id=begun.wake_up.name.id,
            generation=begun.wake_up.generation,
            attempt=begun.attempt,
            started_ms=begun.started_ms,
            append_timer_id=self._policy.append_timer_id,
        )
        request = sign(request, begun.policy.secrets)
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
                await outage.wait(error)
                continue
            outage.over()
            if take is not None:
                for wake_up in finished.unblocked:
                    take(wake_up)
            self.finished.emit(finished)
            return finished.counted


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
