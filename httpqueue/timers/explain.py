"""Why a timer has not fired yet: a code and one sentence. Pure."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from httpqueue.timers.policies import ApplicationPolicy, DestinationPolicy
from httpqueue.timers.schedule import format_instant
from httpqueue.timers.timer import State, Timer

WORKER_SILENCE_MS: Final = 15_000
"""After this long without a sign of life, a worker counts as gone."""


class Code(StrEnum):
    """The reasons, for programs."""

    NOT_DUE = "not_due"
    BACKOFF = "backoff"
    PAUSED = "paused"
    NO_WORKER = "no_worker"
    BLOCKED = "blocked"
    WAITING = "waiting"
    STARTING = "starting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Facts:
    """What store and queue know about a timer; times in ms since the epoch."""

    timer: Timer
    now_ms: int
    application: ApplicationPolicy
    host: str
    destination: DestinationPolicy
    blocked_by: str | None = None
    """The id of the timer whose turn it is in the lane."""
    reserved_start_ms: int | None = None
    """When the destination's rate lets it start."""
    lease_end_ms: int | None = None
    is_in_line: bool = False


@dataclass(frozen=True, slots=True)
class Explanation:
    """The reason, as a code and a sentence; `details` has the figures and names in the sentence."""

    code: Code
    reason: str
    details: dict[str, Any] = field(default_factory=dict)


def explain(facts: Facts, *, worker_silence_ms: int | None) -> Explanation:
    """The first thing that holds the timer back. worker_silence_ms is None if no worker was ever seen."""
    timer = facts.timer
    if timer.state is not State.SCHEDULED:
        return _of_state(facts)
    due = format_instant(timer.due_ms)
    if timer.due_ms > facts.now_ms:
        return _of_future(facts, due)
    if facts.application.paused:
        return Explanation(
            Code.PAUSED,
            f"application {timer.name.application} is paused",
            {"application": timer.name.application},
        )
    if facts.destination.paused:
        return Explanation(Code.PAUSED, f"destination {facts.host} is paused", {"host": facts.host})
    if worker_silence_ms is None or worker_silence_ms > WORKER_SILENCE_MS:
        return _of_silence(worker_silence_ms)
    return _of_queue(facts) or Explanation(
        Code.STARTING, f"it has been due since {due} and is about to start"
    )


def _of_state(facts: Facts) -> Explanation:
    timer, attempt = facts.timer, facts.timer.last_attempt
    match timer.state:
        case State.RUNNING:
            if facts.lease_end_ms is not None and facts.lease_end_ms <= facts.now_ms:
                reason = f"attempt {timer.attempts} lost its worker and will be repeated"
            else:
                reason = f"attempt {timer.attempts} is running"
            return Explanation(Code.RUNNING, reason, {"attempt": timer.attempts})
        case State.DONE:
            return Explanation(Code.DONE, "its webhook was delivered")
        case State.CANCELLED:
            return Explanation(Code.CANCELLED, "it was cancelled before it was sent")
    error = attempt.error if attempt else None
    return Explanation(Code.FAILED, f"it has failed: {error}", {"error": error})


def _of_future(facts: Facts, due: str) -> Explanation:
    timer, attempt = facts.timer, facts.timer.last_attempt
    if timer.attempts and attempt:
        reason = f"attempt {timer.attempts} failed ({attempt.error}); the next one is due at {due}"
        return Explanation(Code.BACKOFF, reason, {"attempt": timer.attempts, "due": due})
    left_s = (timer.due_ms - facts.now_ms) / 1000
    return Explanation(Code.NOT_DUE, f"it is due at {due}, in {left_s:,.0f} s", {"due": due})


def _of_silence(silence_ms: int | None) -> Explanation:
    if silence_ms is None:
        return Explanation(Code.NO_WORKER, "no worker was ever seen: start `httpqueue worker`")
    reason = f"no worker was seen for {silence_ms / 1000:,.0f} s: start `httpqueue worker`"
    return Explanation(Code.NO_WORKER, reason, {"silence_ms": silence_ms})


def _of_queue(facts: Facts) -> Explanation | None:
    lane, host = facts.timer.spec.ordering_key, facts.host
    if facts.blocked_by is not None:
        reason = f"blocked by timer {facts.blocked_by}, which comes first under ordering key {lane}"
        return Explanation(Code.BLOCKED, reason, {"ordering_key": lane, "blocked_by": facts.blocked_by})
    if facts.reserved_start_ms is not None and facts.reserved_start_ms > facts.now_ms:
        turn = format_instant(facts.reserved_start_ms)
        rate = f"{facts.destination.rate:g} calls per second"
        reason = f"waiting until {turn}: destination {host} has a limit of {rate}"
        return Explanation(Code.WAITING, reason, {"host": host, "until": turn})
    if facts.is_in_line:
        limit = facts.destination.concurrency
        limited = (
            f"has a concurrency limit of {limit}" if limit else "is slow and uses its share of the workers"
        )
        return Explanation(Code.WAITING, f"waiting: destination {host} {limited}", {"host": host})
    return None
