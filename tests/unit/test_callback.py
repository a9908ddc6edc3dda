"""What a callback is: a timer of its own, and what it says."""

from typing import Any

import pytest
from msgspec.structs import replace

from httpqueue.timers.commands import Begun, WakeUp
from httpqueue.timers.credentials import MASK
from httpqueue.timers.names import TimerName
from httpqueue.timers.retry import RetryOptions
from httpqueue.timers.schedule import Cron, Delay, Instant, Local, Schedule
from httpqueue.timers.spec import Callback, Spec
from httpqueue.timers.timer import Attempt, State
from httpqueue.worker.callback import callback_of, describe, finished_timer

NAME = TimerName("app", "a")
RETRY = RetryOptions(delays_ms=(1_000, 5_000, 30_000))
ATTEMPT = Attempt(1_800_000_000_250, 250, 200, number=3, generation=2)
SPEC = Spec("http://receiver/{id}", Delay(1_000), callback=Callback("http://told/{id}?a={id}", {"x-a": "1"}))


def told(
    spec: Spec = SPEC, attempt: Attempt = ATTEMPT, state: State = State.DONE, nonce: str = "wPL3xQ0"
) -> Any:
    """The callback of app:a."""
    begun = Begun(
        wake_up=WakeUp(NAME, attempt.generation),
        nonce=nonce,
        holder="worker:call",
        lease_ms=20_000,
        attempt=attempt.number,
        lost=0,
        due_ms=attempt.due_ms,
        started_ms=attempt.started_ms,
        spec=spec,
        host="receiver",
    )
    return callback_of(begun, attempt, state, retry=RETRY, timeout_ms=10_000)


def test_it_is_a_timer_of_the_same_application_due_at_once() -> None:
    """With the callback's URL, headers, waits and timeout, without a callback, lane or labels of its own."""
    spec = replace(SPEC, ordering_key="k", labels={"team": "blue"}, past_due="skip", headers={"x-b": "2"})
    timer = told(spec)
    assert timer.name == TimerName("app", "a~callback-wPL3xQ0-2")
    assert timer.spec == Spec(
        "http://told/a?a=a",
        Delay(0),
        headers={"x-a": "1"},
        body=timer.spec.body,
        retry=RETRY,
        timeout_ms=10_000,
    )


def test_no_callback_of_a_timer_without_one() -> None:
    """So that a callback has none."""
    assert told(replace(SPEC, callback=None)) is None
    assert told(told().spec) is None


@pytest.mark.parametrize("on", [(), ("done",), ("failed",), ("done", "failed")])
@pytest.mark.parametrize("state", [State.DONE, State.FAILED])
def test_on_says_which_ends_are_told(on: tuple[str, ...], state: State) -> None:
    """Its words are states."""
    spec = replace(SPEC, callback=Callback("http://told/", on=on))
    assert (told(spec, state=state) is not None) is (state.value in on)


def test_ends_of_one_id_differ() -> None:
    """Another generation, or another life of the id, even in the same ms (issue 11, defect 13)."""
    lives = (told(), told(attempt=replace(ATTEMPT, generation=3)), told(nonce="wPL3xQ1"))
    assert len({callback.name for callback in lives}) == 3


@pytest.mark.parametrize(
    ("schedule", "described"),
    [
        (Delay(5), {"schedule_at": "2027-01-15T08:00:00.000Z"}),
        (Instant(0), {"schedule_at": "1970-01-01T00:00:00.000Z"}),
        (
            Local("2030-07-01T09:00:00", "Europe/Berlin"),
            {"schedule_at": "2030-07-01T07:00:00.000Z", "timezone": "Europe/Berlin"},
        ),
        (Cron("@daily", "Asia/Tokyo"), {"schedule": "@daily", "timezone": "Asia/Tokyo"}),
    ],
)
def test_schedules_in_the_words_of_schedule_rs(schedule: Schedule, described: dict[str, str]) -> None:
    """`schedule_at` of what runs once, `schedule` of what recurs."""
    assert describe(schedule, ATTEMPT.due_ms) == described


def test_an_error_and_labels_are_told_if_there_are_any() -> None:
    """`last_error` is missing otherwise, as in schedule-rs."""
    plain = finished_timer(NAME, SPEC, ATTEMPT, State.DONE)
    assert not {"last_error", "labels"} & plain.keys()
    failed = replace(ATTEMPT, status=None, error="no answer")
    spec = replace(SPEC, labels={"team": "blue"})
    full = finished_timer(NAME, spec, failed, State.FAILED)
    assert (full["last_error"], full["last_status"], full["labels"]) == ("no answer", None, {"team": "blue"})


def test_a_callback_has_no_credentials_of_its_timer() -> None:
    """They are for the timer's receiver; and whoever reads the callback, a timer itself, would see them."""
    spec = replace(SPEC, headers={"Authorization": "Bearer token", "x-b": "2"})
    told = finished_timer(NAME, spec, ATTEMPT, State.DONE)
    assert told["request"]["headers"] == {"Authorization": MASK, "x-b": "2"}
