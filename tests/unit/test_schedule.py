"""Instants and delays."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from httpqueue.schedule import MAX_DUE_MS, format_instant, parse_instant_ms, time_left_s

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
def test_nonsense(text: str) -> None:
    """Any text is read or refused by ValueError."""
    try:
        parse_instant_ms(text)
    except ValueError:
        return


@pytest.mark.parametrize(
    ("due_ms", "seconds"), [(-5_000, 0), (0, 0), (1, 1), (999, 1), (1_000, 1), (1_001, 2), (3_600_000, 3_600)]
)
def test_time_left(due_ms: int, seconds: int) -> None:
    """Whole seconds, rounded up; none when it is due."""
    now_ms = 1_700_000_000_123
    assert time_left_s(now_ms + due_ms, now_ms) == seconds
