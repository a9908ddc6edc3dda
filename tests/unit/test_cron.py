"""What cron accepts and refuses, and when it runs where clocks change."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from httpqueue.timers.cron import check_cron, check_zone, first_due, next_run_ms
from httpqueue.timers.schedule import (
    MAX_DUE_MS,
    Cron,
    Delay,
    Due,
    Instant,
    Local,
    Schedule,
    format_instant,
    format_local,
    parse_instant_ms,
)

MINUTE_MS = 60_000
DAY_MS = 24 * 60 * MINUTE_MS


def runs(expression: str, zone: str, after: str, count: int) -> str:
    """The next runs as local times without the year: 03-29T03:00+02:00."""
    cron = Cron(check_cron(expression), check_zone(zone))
    ms = parse_instant_ms(after)
    found = []
    for _ in range(count):
        following_ms = next_run_ms(cron, ms)
        assert following_ms is not None
        assert following_ms > ms
        ms = following_ms
        text = format_local(ms, zone)
        assert text[16:23] == ":00.000"
        found.append(text[5:16] + text[23:])
    return " ".join(found)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("0 9 * * *", "01-01T09:00 01-02T09:00"),
        ("*/20 * * * *", "01-01T00:20 01-01T00:40 01-01T01:00"),
        ("5/20 4 * * *", "01-01T04:05 01-01T04:25 01-01T04:45 01-02T04:05"),
        ("0 9-17/4,20 * * *", "01-01T09:00 01-01T13:00 01-01T17:00 01-01T20:00"),
        ("0 0 * jan,DEC Mon-fri/2", "01-02T00:00 01-05T00:00 01-07T00:00"),
        ("0 0 * * 7", "01-04T00:00"),
        ("0 0 * * 0", "01-04T00:00"),
        ("0 0 13 * FRI", "01-02T00:00 01-09T00:00 01-13T00:00"),  # one or the other
        ("0 0 */13 * FRI", "02-27T00:00"),  # with a star: one and the other, on 1st, 14th and 27th
        ("0 0 L * *", "01-31T00:00 02-28T00:00"),
        ("0 0 * * MON#2", "01-12T00:00"),
        ("0 0 29 2 *", "02-29T00:00 02-29T00:00"),
        ("@hourly", "01-01T01:00 01-01T02:00"),
        ("@daily", "01-02T00:00"),
        ("@midnight", "01-02T00:00"),
        ("@weekly", "01-04T00:00 01-11T00:00"),
        ("@monthly", "02-01T00:00"),
        ("@yearly", "01-01T00:00"),
        ("@Annually", "01-01T00:00"),
    ],
)
def test_expressions(expression: str, expected: str) -> None:
    """Fields, names in any case, ranges, steps, lists and macros mean what crontab(5) says."""
    assert runs(expression, "UTC", "2026-01-01T00:00:00Z", len(expected.split())) == " ".join(
        f"{text}+00:00" for text in expected.split()
    )


def test_leap_years() -> None:
    """2100 has no 29 February, and 29 February on a Sunday can take 40 years."""
    for expression, zone, after, expected in (
        ("0 0 29 2 *", "UTC", "2097-01-01T00:00:00Z", "2104-02-29T00:00:00.000+00:00"),
        ("0 0 29 2 */7", "UTC", "2088-03-01T00:00:00Z", "2128-02-29T00:00:00.000+00:00"),
        ("0 * 29 2 */7", "Asia/Kathmandu", "2088-03-01T00:00:00Z", "2128-02-29T00:00:00.000+05:45"),
    ):
        run_ms = next_run_ms(Cron(check_cron(expression), zone), parse_instant_ms(after))
        assert run_ms is not None
        assert format_local(run_ms, zone) == expected


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ("2026-01-01T00:00:00.000Z", "2026-01-01T00:01:00.000Z"),
        ("2026-01-01T00:00:59.999Z", "2026-01-01T00:01:00.000Z"),
        ("2026-01-01T00:01:00.001Z", "2026-01-01T00:02:00.000Z"),
        ("1969-12-31T23:58:59.999Z", "1969-12-31T23:59:00.000Z"),
    ],
)
def test_strictly_after(after: str, expected: str) -> None:
    """A run at the very instant is over; one a millisecond later is not."""
    for expression in ("* * * * *", "* 0,23 * * *"):
        run_ms = next_run_ms(Cron(expression), parse_instant_ms(after))
        assert run_ms is not None
        assert format_instant(run_ms) == expected


BERLIN_SPRING = "2026-03-29T00:30:00Z"  # half an hour before 02:00 becomes 03:00
BERLIN_AUTUMN = "2026-10-24T22:30:00Z"  # 00:30; at 03:00 it becomes 02:00


@pytest.mark.parametrize(
    ("expression", "zone", "after", "expected"),
    [
        ("30 2 * * *", "Europe/Berlin", BERLIN_SPRING, "03-29T03:00+02:00 03-30T02:30+02:00"),
        ("0 2 * * *", "Europe/Berlin", BERLIN_SPRING, "03-29T03:00+02:00 03-30T02:00+02:00"),
        ("30 2 29 3 *", "Europe/Berlin", BERLIN_SPRING, "03-29T03:00+02:00 03-29T02:30+02:00"),
        ("0 */2 * * *", "Europe/Berlin", BERLIN_SPRING, "03-29T03:00+02:00 03-29T04:00+02:00"),
        # several skipped times, and one at the end of the gap, are one run
        ("0,30 2 * * *", "Europe/Berlin", BERLIN_SPRING, "03-29T03:00+02:00 03-30T02:00+02:00"),
        ("*/15 2 * * *", "Europe/Berlin", BERLIN_SPRING, "03-29T03:00+02:00 03-30T02:00+02:00"),
        ("30 2,3 * * *", "Europe/Berlin", BERLIN_SPRING, "03-29T03:00+02:00 03-29T03:30+02:00"),
        ("0 2,3 * * *", "Europe/Berlin", BERLIN_SPRING, "03-29T03:00+02:00 03-30T02:00+02:00"),
        ("59 1 * * *", "Europe/Berlin", BERLIN_SPRING, "03-29T01:59+01:00 03-30T01:59+02:00"),
        # 02:00 becomes 02:30
        ("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T12:00:00Z", "10-04T02:30+11:00 10-05T02:15+11:00"),
        # 01:00 becomes 03:00
        ("59 1,2 * * *", "Antarctica/Troll", "2026-03-28T12:00:00Z", "03-29T03:00+02:00 03-30T01:59+02:00"),
        # midnight itself is skipped
        ("0 0 * * *", "Africa/Cairo", "2026-04-23T12:00:00Z", "04-24T01:00+03:00 04-25T00:00+03:00"),
        # the whole of 30 December is skipped
        (
            "0 9 * * *",
            "Pacific/Apia",
            "2011-12-29T20:00:00Z",
            "12-31T00:00+14:00 12-31T09:00+14:00 01-01T09:00+14:00",
        ),
        # clocks of Morocco go forward at the end of Ramadan
        ("30 2 * * *", "Africa/Casablanca", "2026-03-21T12:00:00Z", "03-22T03:00+01:00 03-23T02:30+01:00"),
        # 00:01 became 01:01
        ("30 0 * * *", "America/St_Johns", "2010-03-13T12:00:00Z", "03-14T01:01-02:30 03-15T00:30-02:30"),
    ],
)
def test_gap(expression: str, zone: str, after: str, expected: str) -> None:
    """A job whose time the clocks skip runs once, at the first instant after the gap."""
    assert runs(expression, zone, after, len(expected.split())) == expected


@pytest.mark.parametrize(
    ("expression", "zone", "after", "expected"),
    [
        ("30 2 * * *", "Europe/Berlin", BERLIN_AUTUMN, "10-25T02:30+02:00 10-26T02:30+01:00"),
        ("0 2 * * *", "Europe/Berlin", BERLIN_AUTUMN, "10-25T02:00+02:00 10-26T02:00+01:00"),
        ("0 3 * * *", "Europe/Berlin", BERLIN_AUTUMN, "10-25T03:00+01:00 10-26T03:00+01:00"),
        ("0 */2 * * *", "Europe/Berlin", BERLIN_AUTUMN, "10-25T02:00+02:00 10-25T04:00+01:00"),
        (
            "*/30 2 * * *",
            "Europe/Berlin",
            BERLIN_AUTUMN,
            "10-25T02:00+02:00 10-25T02:30+02:00 10-26T02:00+01:00",
        ),
        # asked while it is 02:15 for the second time
        ("30 2 * * *", "Europe/Berlin", "2026-10-25T01:15:00Z", "10-26T02:30+01:00"),
        ("0 2,3 * * *", "Europe/Berlin", "2026-10-25T01:15:00Z", "10-25T03:00+01:00"),
        # 02:00 becomes 01:30
        ("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T12:00:00Z", "04-05T01:45+11:00 04-06T01:45+10:30"),
        ("30 2 * * *", "Africa/Casablanca", "2026-02-14T12:00:00Z", "02-15T02:30+01:00 02-16T02:30+00:00"),
        # 00:01 became 23:01 of the day before
        ("0 0 * * *", "America/St_Johns", "2010-11-06T12:00:00Z", "11-07T00:00-02:30 11-08T00:00-03:30"),
    ],
)
def test_overlap(expression: str, zone: str, after: str, expected: str) -> None:
    """A job whose time the clocks show twice runs once, the first time."""
    assert runs(expression, zone, after, len(expected.split())) == expected


@pytest.mark.parametrize("expression", ["*/15 * * * *", "0-59/15 0-23 * * *", "0,15,30,45 */1 * * *"])
@pytest.mark.parametrize("after", [BERLIN_SPRING, BERLIN_AUTUMN])
def test_every_hour_follows_real_time(expression: str, after: str) -> None:
    """What runs in every hour, however it is written, keeps its interval when the clocks change."""
    cron = Cron(expression, "Europe/Berlin")
    after_ms = parse_instant_ms(after)
    found = [after_ms]
    while len(found) < 24:
        run_ms = next_run_ms(cron, found[-1])
        assert run_ms is not None
        found.append(run_ms)
    assert {later - earlier for earlier, later in pairwise(found)} == {15 * MINUTE_MS}


def test_every_hour_on_some_days() -> None:
    """The rest of Saturday comes back with the clocks, and Sunday begins twice."""
    after = "2010-11-07T02:15:00Z"  # 23:45 at St John's; at 00:01 it becomes 23:01
    assert (
        runs("*/30 * * * SUN", "America/St_Johns", after, 3)
        == "11-07T00:00-02:30 11-07T00:00-03:30 11-07T00:30-03:30"
    )
    assert runs("*/30 * * * SAT", "America/St_Johns", after, 2) == "11-06T23:30-03:30 11-13T00:00-03:30"


def test_every_hour_of_a_day_beyond_changes() -> None:
    """The first hour of that day counts, whichever offset the clocks had when it was asked."""
    assert (
        runs("0 * 1 7 *", "Europe/Berlin", "2026-01-01T00:00:00Z", 2) == "07-01T00:00+02:00 07-01T01:00+02:00"
    )
    assert runs("0 * 1 12 *", "Europe/Berlin", "2026-07-02T00:00:00Z", 1) == "12-01T00:00+01:00"


def test_every_hour_of_a_day_that_was_skipped() -> None:
    """There is nothing to follow: it waits for the next such day."""
    after = "2011-12-29T20:00:00Z"
    assert runs("0 * 30 12 *", "Pacific/Apia", after, 1) == "12-30T00:00+14:00"


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "Etc/GMT+12", "Europe/Berlin"])
@pytest.mark.parametrize("expression", ["0 0 1 1 *", "59 23 31 12 *", "0 * 1 1 *", "* * * * *"])
def test_end_of_the_calendar(zone: str, expression: str) -> None:
    """No run after the year 9999, in no zone."""
    cron = Cron(expression, zone)
    assert next_run_ms(cron, MAX_DUE_MS) is None
    assert next_run_ms(cron, MAX_DUE_MS + DAY_MS) is None
    ms: int | None = MAX_DUE_MS - 30 * MINUTE_MS
    for _ in range(32):
        ms = ms if ms is None else next_run_ms(cron, ms)
    assert ms is None


@pytest.mark.parametrize(
    ("expression", "normalised"),
    [
        (" 0\t9  * * mon-FRI\n", "0 9 * * mon-FRI"),
        (" @Daily ", "@Daily"),
        ("*/60 */24 * * *", "*/60 */24 * * *"),
    ],
)
def test_white_space(expression: str, normalised: str) -> None:
    """The expression is kept as it was given, with single blanks."""
    assert check_cron(expression) == normalised


FIVE = r"^must have five fields \(minute, hour, day of month, month, day of week\)"
NEVER = "^must match a day that exists: this one would never run, as on 30 February$"
OTHER_DAY = r"^must have \* in its other day field beside L or #$"


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("", rf"{FIVE}, such as 0 9 \* \* MON-FRI$"),
        ("* * * *", rf"{FIVE}, such as"),
        ("0 0 0 * * * 2030", rf"{FIVE}, such as"),
        ("tomorrow", rf"{FIVE}, such as"),
        ("*/5 * * * * *", f"{FIVE}: seconds are not supported$"),
        ("@reboot", "^must name a time: @reboot is not supported, a timer without cron runs once$"),
        ("@every 5m", "^must be five fields or one of @yearly, @annually, @monthly, .*, @hourly$"),
        ("@", "^must be five fields or one of @yearly"),
        (
            "60 * * * *",
            r"^must have its minute in 0-59: values, ascending ranges, steps such as \*/2, or lists",
        ),
        ("*/0 * * * *", "^must have its minute in 0-59"),
        ("x * * * *", "^must have its minute in 0-59"),
        ("1,, * * * *", "^must have its minute in 0-59"),
        ("-1 * * * *", "^must have its minute in 0-59"),
        ("* 24 * * *", "^must have its hour in 0-23"),
        ("* 5-4 * * *", "^must have its hour in 0-23: values, ascending ranges"),
        ("* 5-5/2 * * *", "^must have its hour in 0-23: values, ascending ranges"),
        ("* * 0 * *", "^must have its day of month in 1-31"),
        ("* * 32 * *", "^must have its day of month in 1-31"),
        ("* * ? * *", "^must have its day of month in 1-31"),
        ("* * * 13 *", "^must have its month in 1-12 or JAN-DEC"),
        ("* * * JANUARY *", "^must have its month in 1-12 or JAN-DEC"),
        ("* * * * 8", "^must have its day of week in 0-7 or SUN-SAT"),
        ("* * * * FRI-MON", "^must have its day of week in 0-7 or SUN-SAT: values, ascending ranges"),
        ("* * * * MON#6", "^must have its day of week in 0-7 or SUN-SAT"),
        ("*/90 * * * *", "^must have steps of at most 60 in its minute: a step ends with the field$"),
        ("0 */25 * * *", "^must have steps of at most 24 in its hour"),
        ("0 0 1-5,*/32 * *", "^must have steps of at most 31 in its day of month"),
        ("0 0 1 */13 *", "^must have steps of at most 12 in its month"),
        ("0 0 * * 1/8", "^must have steps of at most 7 in its day of week"),
        ("0 0 31 2 *", NEVER),
        ("0 0 30 2 *", NEVER),
        ("0 0 31 FEB,4,6,9,NOV */2", NEVER),
        ("0 0 */31 * MON#2", OTHER_DAY),
        ("0 0 lw * */7", OTHER_DAY),
        ("0 0 1 * 5l", OTHER_DAY),
        ("٣ * * * *", "^must be ASCII: digits 0-9 and English names such as MON or JAN$"),
        ("０ * * * *", "^must be ASCII"),  # noqa: RUF001 - digits that int() would read
        ("0\u00a00 * * *", "^must be ASCII"),
        ("0," * 124 + "0 * * * *", "^must have at most 256 characters$"),
    ],
)
def test_refused(expression: str, message: str) -> None:
    """What is wrong is named, with what to write instead."""
    with pytest.raises(ValueError, match=message):
        check_cron(expression)


def test_longest_expression() -> None:
    """256 characters are read."""
    expression = "0," * 123 + "00 * * * *"
    assert len(expression) == 256
    assert check_cron(expression) == expression


FIELD = st.text(st.sampled_from("0123456789*/-,#LWlw@?.MONSUNJAN\x00"), min_size=1, max_size=6)


@given(st.lists(FIELD | st.just("*"), min_size=5, max_size=5).map(" ".join) | st.text(max_size=20))
def test_nonsense(expression: str) -> None:
    """Any text is refused by ValueError, or runs within 50 years."""
    try:
        cron = Cron(check_cron(expression))
    except ValueError:
        return
    after_ms = parse_instant_ms("2088-03-01T00:00:00Z")
    run_ms = next_run_ms(cron, after_ms)
    assert run_ms is not None
    assert after_ms < run_ms < after_ms + 50 * 366 * DAY_MS


@pytest.mark.parametrize("expression", ["0 0 */31 * MON#2", "0 * */31 * MON#2"])
def test_unchecked_expression_that_never_runs(expression: str) -> None:
    """The search ends all the same."""
    assert next_run_ms(Cron(expression), 0) is None


@pytest.mark.parametrize("expression", ["0 0 30 2 *", "61 * * * *", "* *"])
def test_unchecked_expression_that_is_none(expression: str) -> None:
    """A damaged record is a ValueError, not cronsim's own error."""
    with pytest.raises(ValueError, match=r"is no cron expression|must have five fields"):
        next_run_ms(Cron(expression), 0)


@pytest.mark.parametrize(
    "zone", ["UTC", "Europe/Berlin", "Etc/GMT+5", "America/Argentina/Buenos_Aires", "EST"]
)
def test_zones(zone: str) -> None:
    """IANA names are kept."""
    assert check_zone(zone) == zone


@pytest.mark.parametrize(
    "zone",
    [
        *(
            "",
            " ",
            "Berlin",
            "europe/berlin",
            "Europe/Berlin ",
            "Europe",
            "CEST",
            "+01:00",
            "UTC+1",
            "Mars/Olympus",
        ),
        *("/etc/localtime", "/usr/share/zoneinfo/Europe/Berlin", "../UTC", "Europe/../UTC", "Europe//Berlin"),
        *("localtime", "posixrules", "Factory", "posix/UTC", "right/UTC", "tzdata.zi", "zone.tab"),
        *("UTC\x00", "\ud800", "Европа/Берлин", "Z" * 10_000),
    ],
)
def test_unknown_zones(zone: str) -> None:
    """Anything else is refused with an example, and never read as a path."""
    with pytest.raises(ValueError, match=r"^must be an IANA time zone such as Europe/Berlin$"):
        check_zone(zone)
    with pytest.raises(ValueError, match=r"^must be an IANA time zone such as Europe/Berlin$"):
        next_run_ms(Cron("@daily", zone), 0)


# --- when a new timer is due ---


@pytest.mark.parametrize(
    ("schedule", "due"),
    [
        (Delay(0), Delay(0)),
        (Delay(5_000), Delay(5_000)),
        (Instant(1), Instant(1)),
        (Local("1970-01-02T01:00:00", "Europe/Berlin"), Instant(DAY_MS)),
        (Local("1970-01-01T00:00:00", "UTC"), Instant(1)),  # the scripts know no instant before
        (Local("0001-01-01T00:00:00", "Asia/Tokyo"), Instant(1)),
        (Cron("0 * * * *"), Instant(2 * 60 * MINUTE_MS)),
        (Cron("0 0 * * *", "Europe/Berlin"), Instant(23 * 60 * MINUTE_MS)),
    ],
)
def test_first_due(schedule: Schedule, due: Due) -> None:
    """Only a cron asks what time it is, and runs strictly after it; a delay stays one until it is stored."""
    assert first_due(schedule, now_ms=60 * MINUTE_MS) == due
    if not isinstance(schedule, Cron):
        assert first_due(schedule, now_ms=0) == due


def test_a_cron_beyond_the_calendar_is_due_at_its_end() -> None:
    """Nobody will be there to see it."""
    assert first_due(Cron("0 0 * * *"), MAX_DUE_MS - 1) == Instant(MAX_DUE_MS)


@pytest.mark.parametrize("schedule", [Cron("@daily", "Nowhere"), Local("2030-01-01T00:00:00", "Nowhere")])
def test_first_due_in_no_zone(schedule: Schedule) -> None:
    """The API has refused it."""
    with pytest.raises(ValueError, match="IANA"):
        first_due(schedule, 0)
