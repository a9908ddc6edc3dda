import time
from datetime import UTC, datetime
from email.utils import format_datetime, formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from httpqueue.timers.retry import (
    RetryOptions,
    RetryPolicy,
    backoff_ms,
    ceiling_ms,
    parse_retry_after_ms,
    retry_delay_ms,
)
from httpqueue.timers.schedule import MAX_DUE_MS

NOW_MS = 1_700_000_000_000

policies = st.builds(
    RetryPolicy,
    max_attempts=st.integers(1, 1_000),
    base_ms=st.integers(1, 10_000_000),
    max_ms=st.integers(1, 10_000_000_000),
)
attempts = st.integers(1, 10_000)
jitters = st.floats(0, 1, exclude_max=True)


def test_the_longest_wait_doubles_until_max() -> None:
    """1 s, 2 s, 4 s, ... 1 h by default."""
    policy = RetryPolicy()
    assert [ceiling_ms(policy, attempt) for attempt in (1, 2, 3, 4, 12, 13, 10_000)] == [
        1_000,
        2_000,
        4_000,
        8_000,
        2_048_000,
        3_600_000,
        3_600_000,
    ]


@pytest.mark.parametrize(
    ("attempt", "shortest", "longest"),
    [
        (1, 0, 1_000),
        (2, 1_000, 2_000),
        (3, 2_000, 4_000),
        (13, 2_048_000, 3_600_000),
        (14, 1_800_000, 3_600_000),
    ],
)
def test_jitter_spreads_a_wait_over_its_doubling(attempt: int, shortest: int, longest: int) -> None:
    """From the previous ceiling to this one; at the end over the upper half of max."""
    assert backoff_ms(RetryPolicy(), attempt, 0.0) == shortest
    assert longest - 2 <= backoff_ms(RetryPolicy(), attempt, 0.999_999_9) < longest


@given(policies, attempts, jitters)
def test_a_wait_is_never_negative_nor_beyond_max(policy: RetryPolicy, attempt: int, jitter: float) -> None:
    """Whatever the policy, even one whose base is beyond its max."""
    assert 0 <= backoff_ms(policy, attempt, jitter) <= ceiling_ms(policy, attempt) <= policy.max_ms


@given(policies, attempts, jitters, jitters)
def test_gaps_grow_until_max(policy: RetryPolicy, attempt: int, jitter: float, next_jitter: float) -> None:
    """However the dice fall, no wait is shorter than the one before it while the ceilings grow."""
    if ceiling_ms(policy, attempt + 1) > ceiling_ms(policy, attempt):
        assert backoff_ms(policy, attempt, jitter) <= backoff_ms(policy, attempt + 1, next_jitter)


@given(policies, attempts, jitters)
def test_the_last_waits_keep_half_of_max(policy: RetryPolicy, attempt: int, jitter: float) -> None:
    """Once the ceilings no longer grow, a herd still spreads out, and does not come back at once."""
    if ceiling_ms(policy, attempt + 1) == ceiling_ms(policy, attempt):
        assert backoff_ms(policy, attempt + 1, jitter) >= policy.max_ms // 2


@pytest.mark.parametrize(
    ("text", "expected_ms"),
    [
        ("7", 7_000),
        (" 120 ", 120_000),
        ("0", 0),
        (formatdate(NOW_MS / 1000 + 90, usegmt=True), 90_000),
        ("Tuesday, 14-Nov-23 22:14:50 GMT", 90_000),  # RFC 850, which RFC 9110 keeps
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
    ],
)
def test_retry_after_is_read(text: str, expected_ms: int) -> None:
    """Seconds, or any of the three HTTP dates; a past one means at once."""
    assert parse_retry_after_ms(text, NOW_MS) == expected_ms


@pytest.mark.parametrize("text", ["Tue Nov 14 22:14:50 2023", "Tue, 14 Nov 2023 22:14:50 -0000"])
def test_a_date_without_a_zone_is_utc(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asctime, which RFC 9110 keeps, and RFC 5322's -0000: the worker's own zone does not matter."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        wait_ms = parse_retry_after_ms(text, NOW_MS)
    time.tzset()
    assert wait_ms == 90_000


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        " ",
        "-1",
        "+7",
        "1.5",
        "7s",
        "NaN",
        "inf",
        "0x10",
        "1e3",
        "\u0667",
        "soon",
        "Tue, 99 Foo 2023",
        "Tue, 14 Nov 99999999999999999999 22:14:50 GMT",
    ],
)
def test_garbage_in_retry_after_is_ignored(text: str | None) -> None:
    """The backoff alone decides then."""
    assert parse_retry_after_ms(text, NOW_MS) is None


@given(st.text() | st.from_regex(r"[A-Z][a-z]{2}, \d+ [A-Z][a-z]{2} \d+ \d+:\d+:\d+ ?([+-]?\d+|GMT)?"))
def test_no_text_makes_retry_after_fail(text: str) -> None:
    """A receiver cannot end the worker with a header, and never asks for a wait in the past."""
    wait_ms = parse_retry_after_ms(text, NOW_MS)
    assert wait_ms is None or wait_ms >= 0


@given(st.from_regex(r"[1-9][0-9]{0,11}", fullmatch=True, alphabet="0123456789"))
def test_any_number_of_seconds_is_read(digits: str) -> None:
    """To the second, as far as any calendar goes."""
    assert parse_retry_after_ms(digits, NOW_MS) == int(digits) * 1000


@pytest.mark.parametrize("digits", [13, 5_000])
def test_an_absurd_number_of_seconds_is_beyond_all_calendars(digits: int) -> None:
    """Even one that Python refuses to turn into an int."""
    wait_ms = parse_retry_after_ms("9" * digits, NOW_MS)
    assert wait_ms is not None
    assert wait_ms > MAX_DUE_MS


@given(st.datetimes(datetime(1900, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001 - the bound is naive
def test_any_http_date_is_read(moment: datetime) -> None:
    """To the second; the past means at once."""
    moment = moment.replace(microsecond=0)
    expected_ms = max(0, int(moment.timestamp()) * 1000 - NOW_MS)
    assert parse_retry_after_ms(format_datetime(moment, usegmt=True), NOW_MS) == expected_ms


@given(policies, attempts, jitters, st.none() | st.integers(0, 10**18))
def test_the_receivers_wish_is_kept_within_backoff_and_max(
    policy: RetryPolicy, attempt: int, jitter: float, wish_ms: int | None
) -> None:
    """Never sooner than the backoff, never later than max, and in between as asked."""
    backoff = backoff_ms(policy, attempt, jitter)
    delay_ms = retry_delay_ms(policy, attempt, jitter, wish_ms)
    assert backoff <= delay_ms <= policy.max_ms
    if wish_ms is None:
        assert delay_ms == backoff
    elif backoff <= wish_ms <= policy.max_ms:
        assert delay_ms == wish_ms


# --- a timer's own wishes ---


def test_without_wishes_the_settings_count() -> None:
    """Each of them."""
    policy = RetryPolicy(max_attempts=3, base_ms=5, max_ms=7, has_jitter=False)
    assert RetryOptions().over(policy) == policy


@pytest.mark.parametrize(
    ("retry", "policy"),
    [
        (RetryOptions(max_attempts=1), RetryPolicy(1, 1_000, 60_000)),
        (RetryOptions(base_ms=0), RetryPolicy(10, 0, 60_000)),
        (RetryOptions(base_ms=70_000), RetryPolicy(10, 70_000, 70_000)),
        (RetryOptions(max_ms=500), RetryPolicy(10, 500, 500)),
        (RetryOptions(base_ms=3, max_ms=9), RetryPolicy(10, 3, 9)),
        (RetryOptions(jitter=False), RetryPolicy(10, 1_000, 60_000, has_jitter=False)),
        (RetryOptions(delays_ms=(1, 5, 3)), RetryPolicy(4, max_ms=5, delays_ms=(1, 5, 3))),
        (RetryOptions(delays_ms=()), RetryPolicy(1, max_ms=0)),
    ],
)
def test_a_wish_stands_in_the_place_of_its_setting(retry: RetryOptions, policy: RetryPolicy) -> None:
    """The others stay; base and max never cross, and a list of waits says how many attempts there are."""
    assert retry.over(RetryPolicy(max_attempts=10, base_ms=1_000, max_ms=60_000)) == policy


@given(policies, attempts, jitters)
def test_without_jitter_the_wait_is_the_ceiling(policy: RetryPolicy, attempt: int, jitter: float) -> None:
    """Whatever the dice say."""
    policy = RetryOptions(jitter=False, base_ms=policy.base_ms).over(policy)
    assert backoff_ms(policy, attempt, jitter) == ceiling_ms(policy, attempt)


@given(st.lists(st.integers(0, 10**9), min_size=1).map(tuple), jitters)
def test_a_list_of_waits_is_kept(delays_ms: tuple[int, ...], jitter: float) -> None:
    """To the millisecond, in its order, and the last one for whatever comes after."""
    policy = RetryOptions(delays_ms=delays_ms).over(RetryPolicy())
    numbers = range(1, policy.max_attempts)
    assert tuple(backoff_ms(policy, attempt, jitter) for attempt in numbers) == delays_ms
    assert backoff_ms(policy, 10_000, jitter) == delays_ms[-1]


def test_retry_after_stays_within_a_list_of_waits() -> None:
    """The longest one is the most that a receiver can ask for."""
    policy = RetryOptions(delays_ms=(1_000, 5_000)).over(RetryPolicy())
    assert retry_delay_ms(policy, 1, 0.5, 3_000) == 3_000
    assert retry_delay_ms(policy, 1, 0.5, 60_000) == 5_000
    assert retry_delay_ms(policy, 2, 0.5, 0) == 5_000
