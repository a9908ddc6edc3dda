"""When to try again. Pure."""

from dataclasses import dataclass, replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

from msgspec import Struct

_MAX_EXPONENT: Final = 62  # beyond it every ceiling is max_ms, and a float would overflow


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff: how often, and how long between attempts; or a list of waits instead."""

    max_attempts: int = 10
    base_ms: int = 1_000
    max_ms: int = 3_600_000
    has_jitter: bool = True
    delays_ms: tuple[int, ...] = ()
    """The wait after each attempt, if given: one attempt more than waits."""


class RetryOptions(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a timer says of its retries; None leaves it to the settings."""

    max_attempts: int | None = None
    base_ms: int | None = None
    max_ms: int | None = None
    jitter: bool | None = None
    delays_ms: tuple[int, ...] | None = None

    def over(self, policy: RetryPolicy) -> RetryPolicy:
        """The policy with the timer's own wishes in their place."""
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
    """The longest wait after that attempt (numbered from 1): base, doubled each time, up to max."""
    return min(policy.max_ms, policy.base_ms << min(attempt - 1, _MAX_EXPONENT))


def backoff_ms(policy: RetryPolicy, attempt: int, jitter: float) -> int:
    """The wait after a failed attempt, jitter in [0, 1).

    Full jitter within each doubling: anywhere between the previous ceiling and this one, so that a
    herd spreads out and yet no wait is shorter than the one before it (docs/adr/0002).
    Without jitter it is the ceiling, and a list of waits is kept as it is.
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
    """Retry-After (RFC 9110 section 10.2.3: seconds or HTTP date) -> ms from now; None for garbage."""
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
    """The wait before the next attempt: the receiver's wish, kept within [backoff, max]."""
    wait = backoff_ms(policy, attempt, jitter)
    if retry_after_ms is None:
        return wait
    return max(wait, min(retry_after_ms, policy.max_ms))
