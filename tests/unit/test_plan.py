"""What becomes of a timer after an attempt."""

from dataclasses import replace
from typing import Any

import pytest

from httpqueue.timers.commands import Begun, End, Finish, Recur, Retry, WakeUp
from httpqueue.timers.names import TimerName
from httpqueue.timers.policies import ApplicationPolicy
from httpqueue.timers.retry import RetryOptions, RetryPolicy
from httpqueue.timers.schedule import MAX_DUE_MS, Cron, Delay, parse_instant_ms
from httpqueue.timers.spec import SKIP, SKIP_GRACE_MS, Callback, Retention, Spec
from httpqueue.timers.timer import Attempt, State
from httpqueue.webhooks.message import NOT_CALLED, Fault, Response, SendError
from httpqueue.worker.callback import callback_of
from httpqueue.worker.plan import KEPT_RESPONSE_BYTES, MAX_LOST, AttemptPolicy, finish_of, reason_not_to_call
from tests.support.frozen import HOUR_MS, T0_MS

NAME = TimerName("app", "a")
POLICY = AttemptPolicy(
    RetryPolicy(max_attempts=3, base_ms=1_000, has_jitter=False), retention_done_ms=10, retention_failed_ms=20
)
LATE_MS = 250
TOOK_MS = 40
OK = Response(200)
BUSY = Response(503)
REFUSED = Response(404)
MIDNIGHT_MS = parse_instant_ms("2027-01-16T00:00:00Z")
"""The first one after T0_MS."""
CRON = Cron("0 0 * * *")


def begun(
    number: int = 1,
    *,
    lost: int = 0,
    late_ms: int = LATE_MS,
    application: ApplicationPolicy | None = None,
    **spec: Any,
) -> Begun:
    """An attempt that started at T0_MS."""
    return Begun(
        WakeUp(NAME, 2),
        nonce="nonce",
        holder="worker.1",
        lease_ms=20_000,
        attempt=number,
        lost=lost,
        due_ms=T0_MS - late_ms,
        started_ms=T0_MS,
        spec=Spec("http://receiver/", **{"schedule": Delay(0), **spec}),
        host="receiver",
        policy=application or ApplicationPolicy(),
    )


def ended(attempt: Begun, result: Response | SendError, policy: AttemptPolicy = POLICY) -> Finish:
    """What the store is told."""
    return finish_of(attempt, result, policy, duration_ms=TOOK_MS, jitter=0.5)


# --- retry, recur, end ---


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_delivered_one_ends(number: int) -> None:
    """In whichever attempt it was."""
    assert ended(begun(number), OK).then == End(State.DONE, 10)


@pytest.mark.parametrize("number", [1, 3])
def test_a_refused_one_ends(number: int) -> None:
    """Without another attempt."""
    assert ended(begun(number), REFUSED).then == End(State.FAILED, 20)


@pytest.mark.parametrize(("number", "delay_ms"), [(1, 1_000), (2, 2_000)])
def test_a_failed_attempt_is_made_again(number: int, delay_ms: int) -> None:
    """After the backoff."""
    assert ended(begun(number), BUSY).then == Retry(delay_ms)


def test_the_receiver_may_ask_for_more_time() -> None:
    """Retry-After counts from when the answer was there."""
    assert ended(begun(), Response(503, retry_after="7")).then == Retry(7_000)
    date = "Fri, 15 Jan 2027 08:00:09 GMT"
    assert ended(begun(), Response(503, retry_after=date)).then == Retry(9_000 - TOOK_MS)


def test_the_last_attempt_ends_it() -> None:
    """And says how many there were."""
    finish = ended(begun(3), BUSY)
    assert finish.then == End(State.FAILED, 20)
    assert finish.attempt.error == "HTTP 503; gave up after 3 attempts"


def test_a_timers_own_wishes_come_first() -> None:
    """In the number of attempts and their waits, and in the time for one."""
    attempt = begun(3, retry=RetryOptions(delays_ms=(5, 6, 7)), timeout_ms=1_234)
    assert ended(attempt, BUSY).then == Retry(7)
    assert ended(begun(retry=RetryOptions(max_attempts=1)), BUSY).then == End(State.FAILED, 20)
    assert POLICY.timeout_ms_of(attempt) == 1_234
    assert POLICY.timeout_ms_of(begun()) == POLICY.timeout_ms


@pytest.mark.parametrize("result", [OK, REFUSED])
def test_a_recurring_timer_goes_on(result: Response) -> None:
    """However its run ended; a retry is not the end of one."""
    assert ended(begun(schedule=CRON), result).then == Recur(MIDNIGHT_MS)
    assert ended(begun(schedule=CRON), BUSY).then == Retry(1_000)
    assert ended(begun(3, schedule=CRON), BUSY).then == Recur(MIDNIGHT_MS)


def test_runs_that_passed_meanwhile_are_left_out() -> None:
    """The next run is after the end of the attempt and after this one's due time, whichever is later."""
    overslept = begun(schedule=Cron("* * * * *"), late_ms=HOUR_MS)
    assert ended(overslept, OK).then == Recur(T0_MS + 60_000)
    slow = finish_of(begun(schedule=Cron("* * * * *")), OK, POLICY, duration_ms=60_000, jitter=0)
    assert slow.then == Recur(T0_MS + 120_000)
    ahead = begun(schedule=CRON, late_ms=T0_MS - MIDNIGHT_MS)
    assert ended(ahead, OK).then == Recur(MIDNIGHT_MS + 24 * HOUR_MS)


@pytest.mark.parametrize(("result", "state", "ms"), [(OK, State.DONE, 10), (REFUSED, State.FAILED, 20)])
def test_an_unknown_zone_ends_the_timer(result: Response, state: State, ms: int) -> None:
    """As on a machine whose tables are older; so does the end of the calendar."""
    assert ended(begun(schedule=Cron("@daily", "Mars/Olympus")), result).then == End(state, ms)
    last = replace(begun(schedule=CRON), due_ms=MAX_DUE_MS, started_ms=MAX_DUE_MS)
    assert ended(last, result).then == End(state, ms)


# --- the webhook is not called ---


def test_a_timer_is_called_as_a_rule() -> None:
    """However late it is, in any of its attempts."""
    assert all(reason_not_to_call(begun(number, late_ms=10**9)) is None for number in (1, 2, 3))


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("schedule", [Delay(0), CRON])
def test_a_timer_that_loses_its_workers(number: int, schedule: Delay | Cron) -> None:
    """It is not called a fourth time in one attempt: its run has failed, of which its host knows nothing."""
    attempt = begun(number, lost=MAX_LOST, schedule=schedule)
    error = reason_not_to_call(attempt)
    assert error is not None
    assert error.fault is Fault.LOST_WORKER
    finish = ended(attempt, error)
    assert finish.then == (Recur(MIDNIGHT_MS) if schedule is CRON else End(State.FAILED, 20))
    assert not finish.was_called
    assert finish.attempt.error == "3 workers were lost in this attempt"


def test_a_lost_worker_costs_no_attempt() -> None:
    """A timer that has one attempt is called in it, although a worker was lost there before."""
    once = RetryOptions(max_attempts=1)
    assert all(reason_not_to_call(begun(lost=lost, retry=once)) is None for lost in range(MAX_LOST))


@pytest.mark.parametrize(("past_due", "most_ms"), [(SKIP, SKIP_GRACE_MS), (7_000, 7_000), (0, 0)])
def test_past_due(past_due: str | int, most_ms: int) -> None:
    """One that is too late is not called and has failed; once it was called, it is called again."""
    assert reason_not_to_call(begun(late_ms=most_ms, past_due=past_due)) is None
    late = begun(late_ms=most_ms + 1, past_due=past_due)
    error = reason_not_to_call(late)
    assert error is not None
    assert error.fault is Fault.PAST_DUE
    finish = ended(late, error)
    assert (finish.then, finish.was_called) == (End(State.FAILED, 20), False)
    assert reason_not_to_call(replace(late, attempt=2)) is None
    cron = begun(late_ms=most_ms + 1, past_due=past_due, schedule=CRON)
    assert ended(cron, error).then == Recur(MIDNIGHT_MS)


@pytest.mark.parametrize("fault", Fault)
def test_a_host_that_was_not_called_is_not_blamed(fault: Fault) -> None:
    """Only what it did counts for its health."""
    assert ended(begun(), SendError(fault, "x")).was_called is (fault not in NOT_CALLED)
    assert ended(begun(), BUSY).was_called


# --- how long it is kept ---


@pytest.mark.parametrize(
    ("timer", "application", "done_ms", "failed_ms"),
    [
        (None, None, 10, 20),
        (None, ApplicationPolicy(retention_done_ms=3), 3, 20),
        (None, ApplicationPolicy(retention_failed_ms=4), 10, 4),
        (Retention(1, 2), ApplicationPolicy(retention_done_ms=3, retention_failed_ms=4), 1, 2),
        (Retention(done_ms=1), ApplicationPolicy(retention_done_ms=3, retention_failed_ms=4), 1, 4),
        (Retention(failed_ms=2), None, 10, 2),
        (Retention(0, 0), ApplicationPolicy(retention_done_ms=3, retention_failed_ms=4), 0, 0),
    ],
)
def test_retention(
    timer: Retention | None, application: ApplicationPolicy | None, done_ms: int, failed_ms: int
) -> None:
    """The timer's own, else its application's, else that of the settings; each part for itself."""
    attempt = begun(retention=timer, application=application)
    assert ended(attempt, OK).then == End(State.DONE, done_ms)
    assert ended(attempt, REFUSED).then == End(State.FAILED, failed_ms)


# --- who is told ---


@pytest.mark.parametrize("schedule", [Delay(0), CRON])
@pytest.mark.parametrize(("result", "state"), [(OK, State.DONE), (REFUSED, State.FAILED)])
@pytest.mark.parametrize("on", [("done",), ("failed",), ("done", "failed")])
def test_the_callback_goes_with_the_end(
    schedule: Delay | Cron, result: Response, state: State, on: tuple[str, ...]
) -> None:
    """Of a run, too; with the waits and the timeout of the settings."""
    policy = replace(POLICY, callback_timeout_ms=77, callback_delays_ms=(8, 9))
    attempt = begun(schedule=schedule, callback=Callback("http://told/", on=on))
    finish = ended(attempt, result, policy)
    expected = callback_of(
        attempt, finish.attempt, state, retry=RetryOptions(delays_ms=(8, 9)), timeout_ms=77
    )
    assert (expected is not None) is (state.value in on)
    assert not isinstance(finish.then, Retry)
    assert finish.then.callback == expected


def test_a_retry_is_told_to_nobody() -> None:
    """It is no end."""
    assert ended(begun(callback=Callback("http://told/")), BUSY).then == Retry(1_000)


# --- the log ---


def test_the_attempt_as_it_is_kept() -> None:
    """With its number, its lateness, and the first KiB of the answer, whatever bytes it has."""
    finish = ended(begun(2), Response(503, excerpt=b"\xff" + b"x" * 2_000))
    assert finish.begun.wake_up == WakeUp(NAME, 2)
    assert finish.attempt == Attempt(
        started_ms=T0_MS,
        lateness_ms=LATE_MS,
        status=503,
        error="HTTP 503",
        duration_ms=TOOK_MS,
        response="\ufffd" + "x" * (KEPT_RESPONSE_BYTES - 1),
        number=2,
        generation=2,
    )


def test_an_attempt_without_an_answer() -> None:
    """Says why, and has no status."""
    attempt = ended(begun(), SendError(Fault.TIMEOUT, "no answer within 20 s")).attempt
    assert (attempt.status, attempt.error, attempt.response) == (None, "no answer within 20 s", "")
