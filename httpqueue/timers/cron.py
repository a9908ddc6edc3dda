"""When a cron timer runs next. cronsim finds local times, and this module turns them into instants. Pure.

cronsim gets no time zone, because it repeats and loses runs when clocks change (docs/adr/0007). A job with
fixed hours runs once for each of its wall times. A job in every hour follows real time.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from httpqueue.timers.schedule import (
    MAX_DUE_MS,
    MS_PER_S,
    Cron,
    Delay,
    Due,
    Instant,
    Schedule,
    first_change_s,
    local_ms,
    offset_s,
    wall_to_instant_ms,
    zone_of,
)

MAX_EXPRESSION_LENGTH: Final = 256

_MACROS: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_FIELDS: Final = (
    ("minute", "0-59", 60),
    ("hour", "0-23", 24),
    ("day of month", "1-31", 31),
    ("month", "1-12 or JAN-DEC", 12),
    ("day of week", "0-7 or SUN-SAT", 7),
)
"""Name, values and the longest useful step."""
_FIVE: Final = "must have five fields (minute, hour, day of month, month, day of week)"
_STEP_OF_ONE: Final = re.compile(r"\b(\w+)-\1/", re.IGNORECASE)
"""Such as 5-5/2, which cronsim reads as 5/2."""
_HOURS_OF_DAY: Final = 24
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_WINDOW_S: Final = 2 * 24 * 3600
"""Longer than any two offsets of a zone differ, shorter than the time between two clock changes."""


def check_zone(name: str) -> str:
    """Return the name of an IANA time zone. Raises ValueError with a sentence for the client."""
    zone_of(name)
    return name


def check_cron(expression: str) -> str:
    """Five fields or a macro such as @daily -> the same with single blanks.

    Raises ValueError with a sentence for the client, also for an expression that would never run. Every other
    expression runs at least every 40 years (29 February on one weekday); cronsim looks 50 years ahead.
    """
    if len(expression) > MAX_EXPRESSION_LENGTH:
        raise ValueError(f"must have at most {MAX_EXPRESSION_LENGTH} characters")
    if not expression.isascii():
        raise ValueError("must be ASCII: digits 0-9 and English names such as MON or JAN")
    normalised = " ".join(expression.split())
    fields = _five_fields(normalised)
    for index, field in enumerate(fields):
        _check_field(index, field)
    if "*" not in (days := fields[2::2]) and re.search("[L#]", "".join(days), re.IGNORECASE):
        raise ValueError("must have * in its other day field beside L or #")
    try:
        CronSim(" ".join(fields), _EPOCH)
    except CronSimError:  # each field alone was right
        raise ValueError(
            "must match a day that exists: this one would never run, as on 30 February"
        ) from None
    return normalised


def first_due(schedule: Schedule, now_ms: int) -> Due:
    """When a new timer is due; now_ms is the store's time. Only a cron needs it.

    A cron without another run in the calendar is due at the end of the calendar.
    """
    match schedule:
        case Delay() | Instant():
            return schedule
        case Cron():
            run_ms = next_run_ms(schedule, now_ms)
            return Instant(MAX_DUE_MS if run_ms is None else run_ms)
    return Instant(max(local_ms(schedule.local, schedule.zone), 1))


def next_run_ms(cron: Cron, after_ms: int) -> int | None:
    """The first run after an instant, in ms since the epoch; None when there is none in the calendar.

    Raises ValueError for an expression that check_cron refuses, or a zone that check_zone refuses.
    """
    zone = zone_of(cron.zone)
    after_s = after_ms // MS_PER_S
    try:
        simulation = CronSim(" ".join(_five_fields(cron.expression)), _EPOCH)
        find = _next_in_real_time_s if len(simulation.hours) == _HOURS_OF_DAY else _next_on_the_clock_s
        run_s = find(simulation, zone, after_s)
    except CronSimError as error:
        raise ValueError(f"is no cron expression: {error}") from error
    except OverflowError:  # past year 9999
        return None
    return None if run_s is None or run_s * MS_PER_S > MAX_DUE_MS else run_s * MS_PER_S


def _next_on_the_clock_s(simulation: CronSim, zone: ZoneInfo, after_s: int) -> int | None:
    """A job with fixed hours: one run for each wall time, and one for all wall times in a gap."""
    simulation.dt = _wall(after_s + offset_s(zone, after_s))
    for wall in simulation:
        run_s = wall_to_instant_ms(_count_s(wall) * MS_PER_S, zone) // MS_PER_S
        if run_s > after_s:  # false while the clocks show an hour for the second time
            return run_s
    return None


def _next_in_real_time_s(simulation: CronSim, zone: ZoneInfo, after_s: int) -> int | None:
    """A job in every hour: it runs whenever the clocks show one of its wall times, even for the second time.

    Searches from one clock change to the next. Between them the offset of the zone is constant.
    """
    start_s = after_s + 1
    while True:
        offset = offset_s(zone, start_s)
        simulation.dt = _wall(start_s + offset - 1)
        wall = next(simulation, None)
        if wall is None:
            return None
        run_s = _count_s(wall) - offset
        end_s = min(run_s, start_s + _WINDOW_S)
        change_s = first_change_s(zone, start_s, end_s)
        if change_s is None and end_s == run_s:
            return run_s
        # offsets differ by less than the window, so no run can come earlier than this
        start_s = change_s or max(end_s, run_s - _WINDOW_S)


def _five_fields(expression: str) -> list[str]:
    """The fields of an expression or a macro. Raises ValueError unless there are five."""
    if expression.startswith("@"):
        macro = expression.lower()
        if macro == "@reboot":
            raise ValueError("must name a time: @reboot is not supported, a timer without cron runs once")
        if macro not in _MACROS:
            raise ValueError(f"must be five fields or one of {', '.join(_MACROS)}")
        return _MACROS[macro].split()
    fields = expression.split()
    if len(fields) == len(_FIELDS) + 1:
        raise ValueError(f"{_FIVE}: seconds are not supported")
    if len(fields) != len(_FIELDS):
        raise ValueError(f"{_FIVE}, such as 0 9 * * MON-FRI")
    return fields


def _check_field(index: int, field: str) -> None:
    """Raise ValueError when cronsim cannot read a field, or would ignore its step."""
    name, values, longest = _FIELDS[index]
    alone = ["*"] * len(_FIELDS)
    alone[index] = field
    try:
        CronSim(" ".join(alone), _EPOCH)
        read = not _STEP_OF_ONE.search(field)
    except CronSimError:
        read = False
    if not read:
        raise ValueError(
            f"must have its {name} in {values}: values, ascending ranges, steps such as */2, or lists of them"
        )
    if any(int(step) > longest for step in re.findall(r"/(\d+)", field)):
        raise ValueError(f"must have steps of at most {longest} in its {name}: a step ends with the field")


def _wall(count_s: int) -> datetime:
    return _EPOCH + timedelta(seconds=count_s)


def _count_s(wall: datetime) -> int:
    return (wall - _EPOCH) // timedelta(seconds=1)
