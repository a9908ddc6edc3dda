"""Why a timer has not fired yet: the first thing that holds it up."""

from dataclasses import replace
from typing import Any

import pytest

from httpqueue.timers.explain import WORKER_SILENCE_MS, Code, Explanation, Facts, explain
from httpqueue.timers.names import TimerName
from httpqueue.timers.policies import ApplicationPolicy, DestinationPolicy
from httpqueue.timers.schedule import Delay
from httpqueue.timers.spec import Spec
from httpqueue.timers.timer import Attempt, State, Timer
from tests.support.frozen import T0_MS

TIMER = Timer(
    TimerName("app", "a"),
    "nonce",
    State.SCHEDULED,
    0,
    0,
    T0_MS,
    Spec("http://h/", Delay(0), ordering_key="k"),
)
FACTS = Facts(TIMER, T0_MS, ApplicationPolicy(), "h", DestinationPolicy())
FAILED = Attempt(T0_MS - 5_000, 0, 503, "HTTP 503")


def why(silence_ms: int | None = 0, timer: dict[str, Any] | None = None, **facts: Any) -> Explanation:
    """The explanation when facts and timer are like that."""
    return explain(
        replace(FACTS, timer=replace(TIMER, **(timer or {})), **facts), worker_silence_ms=silence_ms
    )


def test_not_due() -> None:
    """Says when it will be, and how long that is."""
    explanation = why(timer={"due_ms": T0_MS + 90_000})
    assert explanation.code is Code.NOT_DUE
    assert explanation.reason == "it is due at 2027-01-15T08:01:30.000Z, in 90 s"
    assert explanation.details == {"due": "2027-01-15T08:01:30.000Z"}


def test_in_backoff() -> None:
    """Says after which attempt and what it gave."""
    explanation = why(timer={"due_ms": T0_MS + 1_000, "attempts": 1, "log": (FAILED,)})
    assert explanation.code is Code.BACKOFF
    assert (
        explanation.reason == "attempt 1 failed (HTTP 503); the next one is due at 2027-01-15T08:00:01.000Z"
    )


def test_between_two_runs_it_is_not_in_backoff() -> None:
    """The attempts of earlier runs are in its log, but this one had none."""
    assert why(timer={"due_ms": T0_MS + 1_000, "log": (FAILED,)}).code is Code.NOT_DUE


@pytest.mark.parametrize(
    ("facts", "code", "part"),
    [
        ({"application": ApplicationPolicy(paused=True)}, Code.PAUSED, "application app is paused"),
        ({"destination": DestinationPolicy(paused=True)}, Code.PAUSED, "destination h is paused"),
        ({"silence_ms": None}, Code.NO_WORKER, "no worker was ever seen"),
        ({"silence_ms": 90_000}, Code.NO_WORKER, "no worker was seen for 90 s"),
        ({"blocked_by": "b"}, Code.BLOCKED, "blocked by timer b, which comes first under ordering key k"),
        (
            {"reserved_start_ms": T0_MS + 2_000, "destination": DestinationPolicy(rate=0.5)},
            Code.WAITING,
            "until 2027-01-15T08:00:02.000Z: destination h has a limit of 0.5 calls per second",
        ),
        (
            {"is_in_line": True, "destination": DestinationPolicy(concurrency=3)},
            Code.WAITING,
            "destination h has a concurrency limit of 3",
        ),
        ({"is_in_line": True}, Code.WAITING, "destination h is slow and uses its share of the workers"),
        ({}, Code.STARTING, "about to start"),
        ({"reserved_start_ms": T0_MS}, Code.STARTING, "about to start"),
    ],
)
def test_due_but_held_up(facts: dict[str, Any], code: Code, part: str) -> None:
    """One code and one sentence for each reason."""
    explanation = why(**facts)
    assert explanation.code is code
    assert part in explanation.reason


def test_the_first_reason_counts() -> None:
    """What an operator has to lift first: pause, then workers, then lane, then line."""
    held: dict[str, Any] = {
        "application": ApplicationPolicy(paused=True),
        "destination": DestinationPolicy(paused=True, concurrency=1),
        "silence_ms": None,
        "blocked_by": "b",
        "is_in_line": True,
    }
    lifted: list[tuple[str, Any]] = [
        ("application", ApplicationPolicy()),
        ("destination", DestinationPolicy(concurrency=1)),
        ("silence_ms", 0),
        ("blocked_by", None),
        ("is_in_line", False),
    ]
    codes = []
    for name, value in lifted:
        codes.append(why(**held).code)
        held[name] = value
    assert codes == [Code.PAUSED, Code.PAUSED, Code.NO_WORKER, Code.BLOCKED, Code.WAITING]
    assert why(**held).code is Code.STARTING


def test_what_is_not_due_is_not_said_to_be_paused() -> None:
    """It would not fire anyway."""
    paused = ApplicationPolicy(paused=True)
    assert why(timer={"due_ms": T0_MS + 1}, application=paused).code is Code.NOT_DUE


def test_a_worker_may_be_silent_for_a_while() -> None:
    """It says that it lives only now and then."""
    assert why(WORKER_SILENCE_MS).code is Code.STARTING
    assert why(WORKER_SILENCE_MS + 1).code is Code.NO_WORKER


@pytest.mark.parametrize(
    ("timer", "facts", "code", "reason"),
    [
        (
            {"state": State.RUNNING, "attempts": 2},
            {"lease_end_ms": T0_MS + 1},
            Code.RUNNING,
            "attempt 2 is running",
        ),
        (
            {"state": State.RUNNING, "attempts": 2},
            {"lease_end_ms": T0_MS},
            Code.RUNNING,
            "attempt 2 lost its worker and will be repeated",
        ),
        ({"state": State.DONE}, {}, Code.DONE, "its webhook was delivered"),
        ({"state": State.CANCELLED}, {}, Code.CANCELLED, "it was cancelled before it was sent"),
        ({"state": State.FAILED, "log": (FAILED,)}, {}, Code.FAILED, "it has failed: HTTP 503"),
        ({"state": State.FAILED}, {}, Code.FAILED, "it has failed: None"),
    ],
)
def test_its_state_says_it_all(timer: dict[str, Any], facts: dict[str, Any], code: Code, reason: str) -> None:
    """Whatever else may be so."""
    explanation = why(None, timer, application=ApplicationPolicy(paused=True), **facts)
    assert (explanation.code, explanation.reason) == (code, reason)
