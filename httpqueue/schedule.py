"""When a timer is due: after a delay, or at an instant. Pure."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

MS_PER_S = 1000
MAX_DUE_MS = 253_402_300_799_999
"""9999-12-31T23:59:59.999Z, the last instant that RFC 3339 can write."""

_RFC3339 = re.compile(
    r"(\d{4}-\d{2}-\d{2})[Tt ](\d{2}:\d{2}):(\d{2})(?:\.(\d+))?([Zz]|[+-]\d{2}:[0-5]\d)", re.ASCII
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class After:
    """Due this long after the store accepted the timer."""

    delay_ms: int


@dataclass(frozen=True, slots=True)
class At:
    """Due at this instant, in ms since the epoch; one in the past is due at once."""

    fire_at_ms: int


Schedule = After | At


def parse_instant_ms(text: str) -> int:
    """RFC 3339 date-time with an offset -> ms since the epoch, further digits cut off.

    Raises ValueError with a sentence for the client.
    """
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError("must be RFC 3339 with an offset, such as 2030-01-01T00:00:00Z")
    date, minute, second, fraction, offset = match.groups()
    leap = second == "60"  # RFC 3339 section 5.7: the second after :59
    try:
        instant = datetime.fromisoformat(f"{date}T{minute}:{'59' if leap else second}{offset.upper()}")
        since_epoch = instant - _EPOCH + timedelta(seconds=leap)
    except ValueError as error:
        raise ValueError("is no date and time of the calendar") from error
    whole_ms = since_epoch // timedelta(milliseconds=1)
    return whole_ms + int((fraction or "0")[:3].ljust(3, "0"))


def format_instant(ms: int) -> str:
    """Ms since the epoch -> RFC 3339 in UTC with milliseconds: 2030-01-01T00:00:00.000Z."""
    instant = _EPOCH + timedelta(milliseconds=ms)
    return instant.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def time_left_s(due_ms: int, now_ms: int) -> int:
    """Whole seconds until due, rounded up; 0 when it is due."""
    return max(0, -((now_ms - due_ms) // MS_PER_S))
