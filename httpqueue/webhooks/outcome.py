"""Decides what an attempt meant: response or error -> delivered, retry or failed. Pure."""

from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import Final

from httpqueue.timers.retry import RetryPolicy, parse_retry_after_ms, retry_delay_ms
from httpqueue.timers.spec import Spec
from httpqueue.webhooks.message import Fault, Response, SendError


class Outcome(StrEnum):
    """What an attempt meant."""

    DELIVERED = "delivered"
    RETRY = "retry"
    FAILED = "failed"


_PASSING_FAULTS: Final = frozenset({Fault.TIMEOUT, Fault.CONNECTION, Fault.DNS, Fault.UNSIGNED})


@dataclass(frozen=True, slots=True)
class Verdict:
    """An outcome, the status or error behind it, and how long a RETRY waits (ms; else 0)."""

    outcome: Outcome
    status: int | None
    error: str | None
    delay_ms: int = 0


def is_past_due(spec: Spec, lateness_ms: int) -> bool:
    """Whether the first attempt is so late that the timer does not want it to be made."""
    most_ms = spec.most_lateness_ms
    return most_ms is not None and lateness_ms > most_ms


def of_status(status: int) -> Outcome:
    """2xx: delivered. 429 and 5xx except 501: retry. Everything else, redirects included: failed."""
    if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        return Outcome.DELIVERED
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return Outcome.RETRY
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR and status != HTTPStatus.NOT_IMPLEMENTED:
        return Outcome.RETRY
    return Outcome.FAILED


def of_fault(fault: Fault) -> Outcome:
    """Timeout, connection and DNS errors, and what a worker cannot sign: retry. Others: failed."""
    return Outcome.RETRY if fault in _PASSING_FAULTS else Outcome.FAILED


def judge(
    result: Response | SendError, *, attempt: int, policy: RetryPolicy, jitter: float, now_ms: int
) -> Verdict:
    """Judge the result of an attempt (numbered from 1). After the last attempt, a retry becomes failed.

    jitter: random, in [0, 1). now_ms: the time of the answer, for a Retry-After that is a date.
    """
    if isinstance(result, Response):
        outcome, status = of_status(result.status), result.status
        error = None if outcome is Outcome.DELIVERED else f"HTTP {status}"
        retry_after_ms = parse_retry_after_ms(result.retry_after, now_ms)
    else:
        outcome, status, error, retry_after_ms = of_fault(result.fault), None, result.message, None
    if outcome is not Outcome.RETRY:
        return Verdict(outcome, status, error)
    if attempt >= policy.max_attempts:
        return Verdict(Outcome.FAILED, status, f"{error}; gave up after {attempt} attempts")
    return Verdict(outcome, status, error, retry_delay_ms(policy, attempt, jitter, retry_after_ms))
