"""Instants, delays and wall-clock times."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from httpqueue.timers.schedule import (
    MAX_DUE_MS,
    format_instant,
    format_local,
    has_offset,
    local_ms,
    parse_instant_ms,
    parse_local,
    time_left_s,
)

MIN_MS = -62_135_596_800_000  # 0001-01-01T00:00:00.000Z
INSTANTS = st.integers(MIN_MS, MAX_DUE_MS)
OFFSETS = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(INSTANTS)
@example(MIN_MS)
@example(-1)
@example(0)
@example(MAX_DUE_MS)
def test_round_trip(ms: int) -> None:
    """What is formatted reads as the same instant, and formats as the same text."""
    text = format_instant(ms)
    assert parse_instant_ms(text) == ms
    assert format_instant(parse_instant_ms(text)) == text


def test_format() -> None:
    """UTC with milliseconds, always in the same width."""
    assert format_instant(1_893_456_000_000) == "2030-01-01T00:00:00.000Z"
    assert format_instant(MIN_MS + 5) == "0001-01-01T00:00:00.005Z"


@given(st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31)), OFFSETS)  # noqa: DTZ001 - the offset comes with it
def test_same_instant_as_datetime(naive: datetime, offset: timezone) -> None:
    """Any offset, with digits beyond the millisecond cut off: the instant that datetime means."""
    moment = naive.replace(tzinfo=offset)
    expected = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    assert parse_instant_ms(moment.isoformat()) == expected


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:01.5Z", 1_500),
        ("1970-01-01T00:00:00.0019999999999999Z", 1),
        ("1970-01-01T00:00:00.1Z", 100),
        ("1970-01-01t00:00:00z", 0),
        ("1970-01-01 00:00:00Z", 0),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1969-12-31T18:30:00-05:30", 0),
        ("1970-01-01T00:00:00-00:00", 0),
        ("1970-01-01T23:59:00+23:59", 0),
        ("2024-02-29T00:00:00Z", 1_709_164_800_000),
        ("2016-12-31T23:59:60Z", 1_483_228_800_000),  # leap second: POSIX time counts it as the next one
        ("2016-12-31T23:59:60.250Z", 1_483_228_800_250),
        ("2016-12-31T15:59:60-08:00", 1_483_228_800_000),
        ("0001-01-01T00:00:00Z", MIN_MS),
        ("9999-12-31T23:59:59.999Z", MAX_DUE_MS),
        ("9999-12-31T23:59:59.999-01:00", MAX_DUE_MS + 3_600_000),  # its caller draws the line
    ],
)
def test_read(text: str, ms: int) -> None:
    """RFC 3339, sections 5.6 and 5.7."""
    assert parse_instant_ms(text) == ms


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tomorrow",
        "1893456000",
        "2030-01-01",
        "2030-01-01T00:00:00",
        "2030-01-01T00:00Z",
        "2030-01-01T00:00:00.Z",
        "2030-01-01T00:00:00,5Z",
        "2030-01-01T00:00:00+0100",
        "2030-01-01T00:00:00+01",
        "2030-01-01T00:00:00+01:60",
        "2030-01-01T00:00:00Z ",
        "2030-01-01T00:00:00Z\n",
        "20300101T000000Z",
        "2030-W01-1T00:00:00Z",
        "+2030-01-01T00:00:00Z",
        "２０３０-01-01T00:00:00Z",  # noqa: RUF001 - digits that int() would read
    ],
)
def test_other_formats(text: str) -> None:
    """What is not RFC 3339 is refused with an example of it."""
    with pytest.raises(ValueError, match=r"RFC 3339 .* such as 2030-01-01T00:00:00Z"):
        parse_instant_ms(text)


@pytest.mark.parametrize(
    "text",
    [
        "2030-02-29T00:00:00Z",
        "2030-13-01T00:00:00Z",
        "2030-00-01T00:00:00Z",
        "2030-01-00T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "2030-01-01T24:00:00Z",
        "2030-01-01T00:60:00Z",
        "2030-01-01T00:00:61Z",
        "2030-01-01T00:00:00+24:00",
    ],
)
def test_not_in_the_calendar(text: str) -> None:
    """What has the format but does not exist is refused with that reason."""
    with pytest.raises(ValueError, match="is no date and time of the calendar"):
        parse_instant_ms(text)


@given(st.text(st.sampled_from("0123456789-+:.TZtz "), max_size=40))
@example("2030-01-01T00:00:00Z")
@example("2030-01-01 00:00:00.123")
def test_nonsense(text: str) -> None:
    """Any text is read or refused by ValueError, and has_offset tells which of the two reads it."""
    for parse, with_offset in ((parse_instant_ms, True), (parse_local, False)):
        try:
            parse(text)
        except ValueError:
            continue
        assert has_offset(text) is with_offset


@pytest.mark.parametrize(
    ("due_ms", "seconds"), [(-5_000, 0), (0, 0), (1, 1), (999, 1), (1_000, 1), (1_001, 2), (3_600_000, 3_600)]
)
def test_time_left(due_ms: int, seconds: int) -> None:
    """Whole seconds, rounded up; none when it is due."""
    now_ms = 1_700_000_000_123
    assert time_left_s(now_ms + due_ms, now_ms) == seconds


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("2030-01-01T09:00:00", "2030-01-01T09:00:00"),
        ("2030-01-01 09:00:00", "2030-01-01T09:00:00"),
        ("2030-01-01t09:00:00.000999", "2030-01-01T09:00:00"),
        ("2030-01-01T09:00:00.5", "2030-01-01T09:00:00.500"),
        ("2030-01-01T09:00:00.0019999999999999", "2030-01-01T09:00:00.001"),
        ("2016-12-31T18:59:60", "2016-12-31T19:00:00"),  # leap second, in New York
        ("0001-01-01T00:00:00", "0001-01-01T00:00:00"),
        ("9999-12-31T23:59:59.999", "9999-12-31T23:59:59.999"),
    ],
)
def test_read_local(text: str, local: str) -> None:
    """Without an offset; one spelling for each time, which reads as itself."""
    assert parse_local(text) == local
    assert parse_local(local) == local


@pytest.mark.parametrize(
    "text",
    [
        *("", "9:00", "2030-01-01", "2030-01-01T09:00", "2030-01-01T09:00:00Z", "2030-01-01T09:00:00+01:00"),
        *("2030-01-01T09:00:00,5", "2030-01-01T09:00:00.", "2030-01-01T09:00:00 ", "2030-01-01T09:00:00\n"),
        *("2030-01-01T09:00:00[Europe/Berlin]", "２０３０-01-01T09:00:00"),  # noqa: RUF001 - digits that int() would read
    ],
)
def test_no_local_time(text: str) -> None:
    """Anything else is refused with an example."""
    message = "^must be a local date and time without an offset, such as 2030-01-01T09:00:00$"
    with pytest.raises(ValueError, match=message):
        parse_local(text)


@pytest.mark.parametrize(
    "text", ["2030-02-29T09:00:00", "2030-01-01T24:00:00", "0000-01-01T00:00:00", "9999-12-31T23:59:60"]
)
def test_local_time_not_in_the_calendar(text: str) -> None:
    """What has the format but does not exist is refused with that reason."""
    with pytest.raises(ValueError, match=r"^is no date and time of the calendar$"):
        parse_local(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *(
            ("2030-01-01T09:00:00Z", True),
            ("2030-01-01T09:00:00z", True),
            ("2030-01-01T09:00:00-05:00", True),
        ),
        *(("2030-01-01T09:00:00+0100", True), ("2030-01-01T09:00:00", False), ("2030-01-01", False)),
        *(("", False), ("tomorrow", False)),
    ],
)
def test_has_offset(text: str, *, expected: bool) -> None:
    """An offset counts even where its spelling is wrong, so that the message is about the offset."""
    assert has_offset(text) is expected


@pytest.mark.parametrize(
    ("local", "zone", "instant"),
    [
        ("2030-01-01T09:00:00", "UTC", "2030-01-01T09:00:00.000Z"),
        ("2030-01-01T09:00:00.250", "Europe/Berlin", "2030-01-01T08:00:00.250Z"),
        ("2030-07-01T09:00:00", "Europe/Berlin", "2030-07-01T07:00:00.000Z"),
        ("2030-01-01T09:00:00", "Asia/Kathmandu", "2030-01-01T03:15:00.000Z"),
        # gap: the instant at which it ends
        ("2026-03-29T01:59:59.999", "Europe/Berlin", "2026-03-29T00:59:59.999Z"),
        ("2026-03-29T02:00:00", "Europe/Berlin", "2026-03-29T01:00:00.000Z"),
        ("2026-03-29T02:30:00.250", "Europe/Berlin", "2026-03-29T01:00:00.000Z"),
        ("2026-03-29T03:00:00", "Europe/Berlin", "2026-03-29T01:00:00.000Z"),
        ("2026-10-04T02:15:00", "Australia/Lord_Howe", "2026-10-03T15:30:00.000Z"),
        ("2026-03-29T02:59:59", "Antarctica/Troll", "2026-03-29T01:00:00.000Z"),
        ("2011-12-30T12:00:00", "Pacific/Apia", "2011-12-30T10:00:00.000Z"),
        # overlap: the first of the two
        ("2026-10-25T02:00:00", "Europe/Berlin", "2026-10-25T00:00:00.000Z"),
        ("2026-10-25T02:59:59.999", "Europe/Berlin", "2026-10-25T00:59:59.999Z"),
        ("2026-10-25T03:00:00", "Europe/Berlin", "2026-10-25T02:00:00.000Z"),
        ("2010-11-07T00:00:30", "America/St_Johns", "2010-11-07T02:30:30.000Z"),
    ],
)
def test_local_time_to_instant(local: str, zone: str, instant: str) -> None:
    """As the zone's clocks show it: skipped times when the gap ends, repeated times at the first."""
    assert format_instant(local_ms(local, zone)) == instant


def test_local_time_at_the_ends_of_the_calendar() -> None:
    """The instant may lie outside of the calendar, its caller draws the line."""
    assert local_ms("9999-12-31T23:59:59.999", "Etc/GMT+12") == MAX_DUE_MS + 12 * 3_600_000
    assert local_ms("0001-01-01T00:00:00", "Etc/GMT-14") == MIN_MS - 14 * 3_600_000


@pytest.mark.parametrize(
    ("instant", "zone", "text"),
    [
        ("2030-01-01T00:00:00Z", "UTC", "2030-01-01T00:00:00.000+00:00"),
        ("2030-01-01T00:00:00.5Z", "Europe/Berlin", "2030-01-01T01:00:00.500+01:00"),
        ("2026-10-25T00:30:00Z", "Europe/Berlin", "2026-10-25T02:30:00.000+02:00"),
        ("2026-10-25T01:30:00Z", "Europe/Berlin", "2026-10-25T02:30:00.000+01:00"),
        ("2030-01-01T00:00:00Z", "America/St_Johns", "2029-12-31T20:30:00.000-03:30"),
        ("1970-01-01T00:00:00Z", "Africa/Monrovia", "1969-12-31T23:15:00.000-00:45"),  # clocks: 23:15:30
        ("9999-12-31T23:00:00Z", "Asia/Tokyo", "9999-12-31T23:00:00.000Z"),
    ],
)
def test_format_local(instant: str, zone: str, text: str) -> None:
    """With the zone's offset in whole minutes, and the same instant in any case."""
    assert format_local(parse_instant_ms(instant), zone) == text
    assert parse_instant_ms(text) == parse_instant_ms(instant)


@given(
    INSTANTS,
    st.sampled_from(["UTC", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "Pacific/Apia"]),
)
def test_local_round_trip(ms: int, zone: str) -> None:
    """What is formatted with an offset reads as the same instant."""
    assume(MIN_MS + 86_400_000 < ms < MAX_DUE_MS - 86_400_000)
    assert parse_instant_ms(format_local(ms, zone)) == ms


def test_unknown_zone() -> None:
    """A zone that is gone from the machine's data is a ValueError."""
    for convert in (
        lambda: local_ms("2030-01-01T09:00:00", "Mars/Olympus"),
        lambda: format_local(0, "localtime"),
    ):
        with pytest.raises(ValueError, match=r"^must be an IANA time zone such as Europe/Berlin$"):
            convert()
