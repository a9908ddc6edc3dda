"""Computes when to try again. Pure."""

from dataclasses import dataclass, replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

from msgspec import Struct

_MAX_EXPONENT: Final = 62  # with larger exponents the ceiling is max_ms anyway


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often to try, and how long to wait: exponential backoff, or a list of waits (ms)."""

    max_attempts: int = 10
    base_ms: int = 1_000
    max_ms: int = 3_600_000
    has_jitter: bool = True
    delays_ms: tuple[int, ...] = ()
    """If given, the wait after each attempt. There is one attempt more than there are waits."""


class RetryOptions(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A timer's own retry options. None: as the settings say."""

    max_attempts: int | None = None
    base_ms: int | None = None
    max_ms: int | None = None
    jitter: bool | None = None
    delays_ms: tuple[int, ...] | None = None

    def over(self, policy: RetryPolicy) -> RetryPolicy:
        """The policy, with these options in place of its values."""
        if self.delays_ms is not None:
            return RetryPolicy(
                len(self.delays_ms) + 1, max_ms=max(self.delays_ms, default=0), delays_ms=self.delays_ms
            )
        base_ms = policy.base_ms if self.base_ms is None else self.base_ms
        max_ms = max(policy.max_ms, base_ms) if self.max_ms is None else self.max_ms
        return replace(
            policy,
            max_attempts=self.max_attempts or policy.max_attempts,
            base_ms=min(base_ms, max_ms),
            max_ms=max_ms,
            has_jitter=policy.has_jitter if self.jitter is None else self.jitter,
        )


def ceiling_ms(policy: RetryPolicy, attempt: int) -> int:
    """The most to wait after an attempt (numbered from 1), in ms: base_ms, doubled each time up to max_ms."""
    return min(policy.max_ms, policy.base_ms << min(attempt - 1, _MAX_EXPONENT))


def backoff_ms(policy: RetryPolicy, attempt: int, jitter: float) -> int:
    """The wait after a failed attempt (numbered from 1), in ms. jitter: random, in [0, 1).

    The wait is random, between the previous ceiling and this one (0 to 1 s, 1 to 2 s, 2 to 4 s, ...). So
    timers that failed together spread out, and while waits grow none is shorter than the one before it
    (docs/adr/0002).
    Without has_jitter, the wait is the ceiling. A list of waits is used unchanged.
    """
    if policy.delays_ms:
        return policy.delays_ms[min(attempt, len(policy.delays_ms)) - 1]
    ceiling = ceiling_ms(policy, attempt)
    if not policy.has_jitter:
        return ceiling
    floor = ceiling_ms(policy, attempt - 1) if attempt > 1 else 0
    if floor == ceiling:  # the waits no longer grow: spread over the last doubling
        floor = ceiling // 2
    return floor + int((ceiling - floor) * jitter)


def parse_retry_after_ms(text: str | None, now_ms: int) -> int | None:
    """Retry-After (RFC 9110 section 10.2.3: seconds or a date) -> ms from now. None if invalid or absent."""
    if text is None:
        return None
    text = text.strip()
    if text.isascii() and text.isdecimal():
        return int(text[:12]) * 1000
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    if moment.tzinfo is None:  # "-0000": UTC by RFC 5322
        moment = moment.replace(tzinfo=UTC)
    return max(0, int(moment.timestamp() * 1000) - now_ms)


def retry_delay_ms(policy: RetryPolicy, attempt: int, jitter: float, retry_after_ms: int | None) -> int:
    """The wait before the next attempt, in ms: Retry-After, but not below the backoff or above max_ms."""
    wait = backoff_ms(policy, attempt, jitter)
    if retry_after_ms is None:
        return wait
    return max(wait, min(retry_after_ms, policy.max_ms))
