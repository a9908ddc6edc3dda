"""When to try again. Pure."""

from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

_MAX_EXPONENT: Final = 62  # beyond it every ceiling is max_ms, and a float would overflow


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff: how often, and how long between attempts."""

    max_attempts: int = 10
    base_ms: int = 1_000
    max_ms: int = 3_600_000


def ceiling_ms(policy: RetryPolicy, attempt: int) -> int:
    """The longest wait after that attempt (numbered from 1): base, doubled each time, up to max."""
    return min(policy.max_ms, policy.base_ms << min(attempt - 1, _MAX_EXPONENT))


def backoff_ms(policy: RetryPolicy, attempt: int, jitter: float) -> int:
    """The wait after a failed attempt, jitter in [0, 1).

    Full jitter within each doubling: anywhere between the previous ceiling and this one, so that a
    herd spreads out and yet no wait is shorter than the one before it (docs/adr/0002).
    """
    ceiling = ceiling_ms(policy, attempt)
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
    return min(max(wait, retry_after_ms), policy.max_ms)
