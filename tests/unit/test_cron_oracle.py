"""Cron beside a second library, and beside a count of every minute where clocks change."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from croniter import croniter  # type: ignore[import-untyped]  # it has no annotations
from hypothesis import assume, example, given
from hypothesis import strategies as st

from httpqueue.timers.cron import check_cron, next_run_ms
from httpqueue.timers.schedule import Cron, local_ms

pytestmark = pytest.mark.no_cover  # other tests cover the same code, and coverage makes this thrice as slow

MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
WEEKDAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]
ZONES = (
    *(
        "Europe/Berlin",
        "Europe/London",
        "Europe/Dublin",
        "America/New_York",
        "America/St_Johns",
        "America/Havana",
    ),
    *(
        "America/Santiago",
        "America/Sao_Paulo",
        "America/Nuuk",
        "Africa/Casablanca",
        "Africa/Cairo",
        "Asia/Gaza",
    ),
    *(
        "Asia/Beirut",
        "Asia/Kathmandu",
        "Asia/Pyongyang",
        "Asia/Tehran",
        "Antarctica/Troll",
        "Australia/Lord_Howe",
    ),
    *("Pacific/Apia", "Pacific/Kwajalein", "Pacific/Chatham", "Pacific/Auckland", "America/Caracas", "UTC"),
)


def instant(ms: int) -> datetime:
    """Ms since the epoch -> UTC."""
    return EPOCH + timedelta(milliseconds=ms)


def in_ms(moment: datetime) -> int:
    """The inverse of instant."""
    return (moment - EPOCH) // timedelta(milliseconds=1)


def changes(zone: str, year: int) -> list[datetime]:
    """Every instant of a year at which a zone's clocks change, to the minute."""
    info = ZoneInfo(zone)
    found = []
    for day in (datetime(year, 1, 1, tzinfo=UTC) + n * DAY for n in range(365)):
        before = day.astimezone(info).utcoffset()
        if (day + DAY).astimezone(info).utcoffset() != before:
            minutes = (day + n * MINUTE for n in range(1441))
            found.append(next(m for m in minutes if m.astimezone(info).utcoffset() != before))
    return found


CHANGES = [
    (zone, change)
    for zone in ZONES
    for year in (1993, 2005, 2010, 2011, 2016, 2018, 2026, 2031)
    for change in changes(zone, year)
]


@st.composite
def fields(
    draw: st.DrawFn, low: int, high: int, names: list[str] | None = None
) -> tuple[str, frozenset[int]]:
    """A field of crontab(5), and the values it stands for."""

    def show(value: int) -> str:
        return (
            names[value - low] if names and value - low < len(names) and draw(st.booleans()) else str(value)
        )

    if draw(st.booleans()):
        return "*", frozenset(range(low, high + 1))
    terms, values = [], set[int]()
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        first = draw(st.integers(low, high - 1))
        last = draw(st.integers(first + 1, high))  # croniter takes 5-5 for every value
        step = draw(st.integers(1, high - low))
        text, meant = draw(
            st.sampled_from(
                [
                    (show(last), range(last, last + 1)),
                    (f"{show(first)}-{show(last)}", range(first, last + 1)),
                    (f"*/{step}", range(low, high + 1, step)),
                    (f"{show(first)}-{show(last)}/{step}", range(first, last + 1, step)),
                ]
            )
        )
        terms.append(text)
        values.update(meant)
    return ",".join(terms), frozenset(values)


class Expression:
    """A drawn expression and, apart from the code under test, which local minutes it means."""

    def __init__(self, drawn: tuple[tuple[str, frozenset[int]], ...]) -> None:
        self.text = " ".join(text for text, _ in drawn)
        self.minutes, self.hours, self.days, self.months, self.weekdays = (values for _, values in drawn)
        self.both_days = drawn[2][0].startswith("*") or drawn[4][0].startswith("*")
        self.hides_a_star = not self.both_days and (len(self.days) >= 31 or len(self.weekdays) >= 7)

    def __repr__(self) -> str:
        return self.text

    def has_day(self, day: date) -> bool:
        """Debian's crontab(5): either day field will do, unless one begins with a star."""
        of_month, of_week = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return day.month in self.months and (of_month and of_week if self.both_days else of_month or of_week)

    def matches(self, local: datetime) -> bool:
        """Whether a local minute is meant."""
        return local.minute in self.minutes and local.hour in self.hours and self.has_day(local.date())


STARS = st.just(("*", frozenset(range(60))))
WEEKDAY_FIELDS = fields(0, 6, WEEKDAYS)
EVERY_DAY = st.tuples(fields(0, 59), fields(0, 23) | STARS, STARS, STARS, STARS | WEEKDAY_FIELDS)
ANY_DAY = st.tuples(
    fields(0, 59), fields(0, 23), fields(1, 31), fields(1, 12, MONTHS) | STARS, WEEKDAY_FIELDS
)
INSTANTS = st.datetimes(datetime(1975, 1, 1), datetime(2099, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - bounds are naive


def runs_by_counting(expression: Expression, zone: str, start: datetime, end: datetime) -> list[datetime]:
    """The runs in (start, end], found by looking at every minute.

    In every hour: each minute whose local time matches. Otherwise: each matching local time at the first
    minute that shows it or, when none does, a later one.
    """
    info = ZoneInfo(zone)
    edge = start - 3 * DAY  # what was shown shortly before must not count as new
    minutes = [edge + n * MINUTE for n in range((end - edge) // MINUTE + 1)]
    shown = [minute.astimezone(info).replace(tzinfo=None) for minute in minutes]
    if len(expression.hours & set(range(24))) == 24:
        runs = {minute for minute, local in zip(minutes, shown, strict=True) if expression.matches(local)}
    else:
        runs, latest = set(), shown[0] - MINUTE
        for minute, local in zip(minutes, shown, strict=True):
            while latest < local:
                latest += MINUTE
                if expression.matches(latest):
                    runs.add(minute)
    return sorted(run for run in runs if run > start)


@given(st.sampled_from(CHANGES), EVERY_DAY.map(Expression) | ANY_DAY.map(Expression), st.integers(-1600, 200))
def test_nothing_is_skipped_or_repeated(
    zone_change: tuple[str, datetime], expression: Expression, offset_min: int
) -> None:
    """Around every change of a clock the runs are those that a count of all minutes finds."""
    zone, change = zone_change
    start = change + offset_min * MINUTE
    end = start + 2 * DAY
    expected = runs_by_counting(expression, zone, start, end)[:40]
    try:
        cron = Cron(check_cron(expression.text), zone)
    except ValueError:  # 31 April
        assert expected == []
        return
    found: list[datetime] = []
    ms = next_run_ms(cron, in_ms(start))
    while ms is not None and instant(ms) <= end and len(found) < 40:
        found.append(instant(ms))
        ms = next_run_ms(cron, ms)
    assert found == expected


@given(st.sampled_from(ZONES), INSTANTS, EVERY_DAY.map(Expression) | ANY_DAY.map(Expression))
def test_a_run_matches_its_fields(zone: str, after: datetime, expression: Expression) -> None:
    """In local time, or it stands at the end of a gap in which a matching minute was skipped."""
    try:
        cron = Cron(check_cron(expression.text), zone)
    except ValueError:
        return
    ms = next_run_ms(cron, in_ms(after))
    assert ms is not None
    run = instant(ms)
    assert run > after
    local = run.astimezone(ZoneInfo(zone)).replace(tzinfo=None)
    if not expression.matches(local):
        before = (run - timedelta(milliseconds=1)).astimezone(ZoneInfo(zone)).replace(tzinfo=None)
        skipped = [
            before.replace(second=0, microsecond=0) + n * MINUTE
            for n in range(1, (local - before) // MINUTE + 1)
        ]
        assert any(map(expression.matches, skipped))


@given(st.sampled_from(ZONES), INSTANTS, INSTANTS, EVERY_DAY.map(Expression))
def test_later_questions_have_later_answers(
    zone: str, one: datetime, other: datetime, expression: Expression
) -> None:
    """The first run after a later instant is never an earlier one."""
    cron = Cron(expression.text, zone)
    first, second = (next_run_ms(cron, in_ms(after)) for after in sorted((one, other)))
    assert first is not None
    assert second is not None
    assert first <= second
    assert (first == second) == (first > in_ms(max(one, other)))


def second_opinion(expression: str, after: datetime) -> datetime:
    """What croniter says, told to treat `*/2` in the day fields as Vixie's cron does."""
    following = croniter(expression, after, implement_cron_bug=True, max_years_between_matches=50)
    found = following.get_next(datetime)
    assert isinstance(found, datetime)
    return found


@given(INSTANTS, EVERY_DAY.map(Expression) | ANY_DAY.map(Expression))
@example(
    datetime(2097, 1, 1, tzinfo=UTC),
    Expression(
        (
            ("0", frozenset({0})),
            ("0", frozenset({0})),
            ("29", frozenset({29})),
            ("2", frozenset({2})),
            ("*", frozenset(range(7))),
        )
    ),
)
def test_croniter_in_utc(after: datetime, expression: Expression) -> None:
    """Both libraries agree where no clock changes. But croniter takes 0-6 for a star, unlike crontab(5)."""
    assume(not expression.hides_a_star)
    try:
        cron = Cron(check_cron(expression.text))
    except ValueError:
        return
    ms = next_run_ms(cron, in_ms(after))
    assert ms is not None
    assert instant(ms) == second_opinion(expression.text, after)


@given(st.sampled_from(ZONES), INSTANTS, EVERY_DAY.map(Expression))
def test_croniter_away_from_changes(zone: str, after: datetime, expression: Expression) -> None:
    """Both libraries agree in any zone whose clocks keep their offset from two days before to the run."""
    info = ZoneInfo(zone)
    ms = next_run_ms(Cron(expression.text, zone), in_ms(after))
    assert ms is not None
    run = instant(ms)
    days = [after - 2 * DAY + n * DAY for n in range((run - after) // DAY + 6)]
    assume(len({day.astimezone(info).utcoffset() for day in days}) == 1)
    assert run == second_opinion(expression.text, after.astimezone(info)).astimezone(UTC)


@given(st.sampled_from(CHANGES), st.integers(-1600, 1600), st.integers(0, 59_999))
def test_local_time_near_a_change(zone_change: tuple[str, datetime], offset_min: int, rest_ms: int) -> None:
    """A wall-clock timer is due at the first instant at which the clocks show its time, or have passed it."""
    zone, change = zone_change
    info = ZoneInfo(zone)
    wall = change.astimezone(info).replace(tzinfo=None, second=0) + offset_min * MINUTE
    wall += timedelta(milliseconds=rest_ms)
    due = instant(local_ms(wall.isoformat(timespec="milliseconds"), zone))
    shown = due.astimezone(info).replace(tzinfo=None)
    before = (due - timedelta(milliseconds=1)).astimezone(info).replace(tzinfo=None)
    assert before < wall <= shown
    assert wall == shown or abs(due - change) < 2 * DAY
    earlier = (change - 2 * DAY + n * MINUTE for n in range(4 * 1440))
    assert all(m >= due for m in earlier if m.astimezone(info).replace(tzinfo=None) >= wall)
