"""When a timer is due: after a delay, at an instant, at a wall-clock time, or by cron. Pure.

A wall time is a local date and time without its zone. As a number (wall_ms, wall_s) it counts from the epoch
as if the zone were UTC, so the same arithmetic works for wall times and instants.
"""

import re
from datetime import UTC, datetime, timedelta, timezone
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

from msgspec import Struct

MS_PER_S = 1000
MAX_DUE_MS = 253_402_300_799_999
"""9999-12-31T23:59:59.999Z, the last instant that RFC 3339 can write."""

MIN_DUE_MS = -62_135_596_800_000
"""0001-01-01T00:00:00Z, the first instant of Python's calendar."""

_RFC3339 = re.compile(
    r"(\d{4}-\d{2}-\d{2})[Tt ](\d{2}:\d{2}):(\d{2})(?:\.(\d+))?([Zz]|[+-]\d{2}:[0-5]\d)?", re.ASCII
)
_NOT_IN_CALENDAR = "is no date and time of the calendar"
_DATE_LENGTH = len("2030-01-01")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Delay(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=0):
    """Due this long after the store has accepted the timer."""

    delay_ms: int


class Instant(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=1):
    """Due at this instant, in ms since the epoch. An instant in the past is due at once."""

    at_ms: int


class Local(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=2):
    """Due when the clocks of a zone show this time. Time and zone are stored as the client sent them."""

    local: str
    """Normalised by parse_local: 2030-01-01T09:00:00."""
    zone: str
    """IANA name."""


class Cron(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=3):
    """Due repeatedly, by the clocks of a zone."""

    expression: str
    """Checked and normalised by cron.check_cron."""
    zone: str = "UTC"
    """IANA name."""


Due = Delay | Instant
"""What the store needs to know: it adds a delay to its own time, because no other clock counts."""
Schedule = Due | Local | Cron
"""What the client sent. Stored as a JSON array with the tag first: [0, 60000]."""


def parse_instant_ms(text: str) -> int:
    """RFC 3339 date-time with an offset -> ms since the epoch; digits beyond the millisecond are cut off.

    Raises ValueError with a sentence for the client.
    """
    match = _RFC3339.fullmatch(text)
    if match is None or match[5] is None:
        raise ValueError("must be RFC 3339 with an offset, such as 2030-01-01T00:00:00Z")
    return _since_epoch_ms(match, match[5].upper())


def format_instant(ms: int) -> str:
    """Ms since the epoch -> RFC 3339 in UTC with milliseconds: 2030-01-01T00:00:00.000Z."""
    instant = _EPOCH + timedelta(milliseconds=ms)
    return instant.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def check_instant(ms: int) -> None:
    """Raise ValueError when format_instant cannot write this instant: it is in no year from 1 to 9999."""
    if not MIN_DUE_MS <= ms <= MAX_DUE_MS:
        raise ValueError("must be in the calendar's years 1 to 9999")


def has_offset(text: str) -> bool:
    """Whether a date-time has an offset. With an offset it is an instant, without one a local time."""
    return not set("Zz+-").isdisjoint(text[_DATE_LENGTH:])


def parse_local(text: str) -> str:
    """RFC 3339 date-time without its offset -> normalised: 2030-01-01T09:00:00, .mmm only where it is not 0.

    Digits beyond the millisecond are cut off. Raises ValueError with a sentence for the client.
    """
    match = _RFC3339.fullmatch(text)
    if match is None or match[5] is not None:
        raise ValueError("must be a local date and time without an offset, such as 2030-01-01T09:00:00")
    wall_ms = _since_epoch_ms(match, "Z")
    try:
        wall = _EPOCH + timedelta(milliseconds=wall_ms)
    except OverflowError as error:  # the leap second of the last year
        raise ValueError(_NOT_IN_CALENDAR) from error
    return wall.replace(tzinfo=None).isoformat(timespec="milliseconds").removesuffix(".000")


def local_ms(local: str, zone: str) -> int:
    """Instant, in ms since the epoch, at which the zone's clocks show a local time from parse_local.

    Follows the rules of wall_to_instant_ms. Near the ends of the calendar, the result may be
    outside it.
    Raises ValueError if the zone does not exist.
    """
    wall = datetime.fromisoformat(local).replace(tzinfo=UTC)
    return wall_to_instant_ms((wall - _EPOCH) // timedelta(milliseconds=1), zone_of(zone))


def format_local(ms: int, zone: str) -> str:
    """Ms since the epoch -> RFC 3339 with the zone's offset: 2030-01-01T09:00:00.000+01:00.

    In UTC if the zone is already in year 10000. Raises ValueError if the zone does not exist.
    """
    instant = _EPOCH + timedelta(milliseconds=ms)
    try:
        local = instant.astimezone(zone_of(zone))
        offset = local.utcoffset() or timedelta()
        # RFC 3339 offsets have no seconds; a few zones had some until 1972
        local = instant.astimezone(timezone(offset - offset % timedelta(minutes=1)))
    except OverflowError:
        return format_instant(ms)
    return local.isoformat(timespec="milliseconds")


def time_left_s(due_ms: int, now_ms: int) -> int:
    """Whole seconds until due, rounded up; 0 if due."""
    return max(0, -((now_ms - due_ms) // MS_PER_S))


@cache
def zone_of(name: str) -> ZoneInfo:
    """The IANA zone with this name. Raises ValueError with a sentence for the client."""
    if name not in _zone_names():
        raise ValueError("must be an IANA time zone such as Europe/Berlin")
    return ZoneInfo(name)


def wall_to_instant_ms(wall_ms: int, zone: ZoneInfo) -> int:
    """Instant at which the zone's clocks show a wall time.

    If the clocks skip the wall time, it is the first instant after the gap. If they show it twice, it is the
    first of the two instants. A later wall time never gives an earlier instant.
    """
    wall = (_EPOCH + timedelta(milliseconds=wall_ms)).replace(tzinfo=zone)
    # PEP 495: at a clock change, fold=0 gives the offset before it and fold=1 the offset after it
    before_s, after_s = _seconds(wall.utcoffset()), _seconds(wall.replace(fold=1).utcoffset())
    if before_s < after_s:
        wall_s = wall_ms // MS_PER_S
        return _change_s(zone, wall_s - after_s, wall_s - before_s) * MS_PER_S
    return wall_ms - before_s * MS_PER_S


def offset_s(zone: ZoneInfo, instant_s: int) -> int:
    """Seconds by which the zone is ahead of UTC. Raises OverflowError outside the years 1 to 9999."""
    return _seconds((_EPOCH + timedelta(seconds=instant_s)).astimezone(zone).utcoffset())


def first_change_s(zone: ZoneInfo, low_s: int, high_s: int) -> int | None:
    """The instant in (low_s, high_s] at which the zone's clocks change, or None.

    low_s and high_s are at most a few days apart, and clock changes at least a week. So there is at most one.
    """
    if offset_s(zone, low_s) == offset_s(zone, high_s):
        return None
    return _change_s(zone, low_s, high_s)


def _change_s(zone: ZoneInfo, low_s: int, high_s: int) -> int:
    """The only change in (low_s, high_s], found by bisection."""
    before_s = offset_s(zone, low_s)
    while high_s - low_s > 1:
        middle_s = (low_s + high_s) // 2
        if offset_s(zone, middle_s) == before_s:
            low_s = middle_s
        else:
            high_s = middle_s
    return high_s


@cache
def _zone_names() -> frozenset[str]:
    """Every zone except the names that have no meaning or depend on the machine."""
    return frozenset((available_timezones() | {"UTC"}) - {"Factory", "localtime", "posixrules"})


def _since_epoch_ms(match: re.Match[str], offset: str) -> int:
    """The groups of _RFC3339 -> ms since the epoch. The offset may move it outside the calendar."""
    date, minute, second, fraction, _ = match.groups()
    leap = second == "60"  # RFC 3339 section 5.7: the second after :59
    try:
        instant = datetime.fromisoformat(f"{date}T{minute}:{'59' if leap else second}{offset}")
        since_epoch = instant - _EPOCH + timedelta(seconds=leap)
    except ValueError as error:
        raise ValueError(_NOT_IN_CALENDAR) from error
    whole_ms = since_epoch // timedelta(milliseconds=1)
    return whole_ms + int((fraction or "0")[:3].ljust(3, "0"))


def _seconds(offset: timedelta | None) -> int:
    return (offset or timedelta()) // timedelta(seconds=1)
