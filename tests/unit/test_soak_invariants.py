"""The soak finds what is broken: each invariant with a log that breaks it, and with one that does not."""

from typing import Any

import pytest

from tests.soak.events import MARGIN_MS, Call, Log, Struck, Timer
from tests.soak.explain import GRACE_MS, LEASE_MS, LOSES_LEASE_MS, explain
from tests.soak.invariants import duplicates_in, violations
from tests.soak.plan import ATTEMPT_TIMEOUT_MS, Kind

DUE_MS = 60_000_000
"""A whole minute."""
MINUTE_MS = 60_000


def timer(name: str = "a", **changes: Any) -> Timer:
    """One that was acknowledged a second before it is due."""
    asked_ms = DUE_MS - 1_000
    facts: dict[str, Any] = {
        "due_ms": [DUE_MS],
        "asked_ms": asked_ms,
        "acknowledged_ms": asked_ms + 5,
    } | changes
    return Timer(name, "alpha", **facts)


def call(name: str = "a", after_ms: int = 3, *, status: int | None = 200, **changes: Any) -> Call:
    """One that came so long after DUE_MS and was answered 10 ms later."""
    at_ms = DUE_MS + after_ms
    generation = changes.pop("generation", 0)
    facts: dict[str, Any] = {
        "tenant": "alpha",
        "run": f"alpha:{name}:nonce:{generation}",
        "attempt": 1,
        "version": 0,
        "holder": "worker-1",
        "arrived_ms": at_ms,
        "started_s": at_ms // 1000,
        "answered_ms": None if status is None else at_ms + 10,
        "status": status,
    }
    return Call(timer=name, **(facts | changes))


def log_of(timers: list[Timer], calls: list[Call], *struck: Struck) -> Log:
    """What a soak would have written down."""
    return Log(timers={each.id: each for each in timers}, calls=calls, struck=list(struck))


def broken(log: Log) -> list[tuple[str, str]]:
    """(invariant, timer) of each violation."""
    return [(each.invariant, each.timer) for each in violations(log, duplicates_in(log))]


def strike(kind: Kind, target: str, after_ms: int, lasts_ms: int = 0) -> Struck:
    """A fault that began so long after DUE_MS."""
    return Struck(kind, target, DUE_MS + after_ms, DUE_MS + after_ms + lasts_ms)


def test_a_log_of_a_good_day_breaks_nothing() -> None:
    """Delivered, retried, changed, cancelled, ordered, recurring; and one that was never acknowledged."""
    timers = [
        timer("plain"),
        timer("retried"),
        timer("changed", due_ms=[DUE_MS, DUE_MS + 500], updated_ms=DUE_MS - 100),
        timer("cancelled", cancelled_ms=DUE_MS - 100),
        timer("cancelled between attempts", cancelled_ms=DUE_MS + 100),
        timer("unknown", acknowledged_ms=None),
        timer("first", lane="lane"),
        timer("second", lane="lane", due_ms=[DUE_MS + 1]),
        timer("cron", due_ms=[0], is_recurring=True, cancel_asked_ms=DUE_MS + MINUTE_MS + 1_000),
    ]
    calls = [
        call("plain"),
        call("retried", status=503),
        call("cancelled between attempts", status=500),
        call("first", status=None),
        call("cron"),
        call("changed", 501, version=1, generation=1),
        call("retried", 1_000, attempt=2),
        call("first", 6_000, attempt=2),
        call("second", 6_020),
        call("cron", MINUTE_MS, generation=1),
    ]
    assert broken(log_of(timers, calls)) == []


@pytest.mark.parametrize(
    ("timers", "calls", "invariant"),
    [
        pytest.param([timer()], [], "lost", id="never called"),
        pytest.param([timer()], [call(status=503)], "lost", id="called without success"),
        pytest.param(
            [timer(due_ms=[DUE_MS - 20, DUE_MS], updated_ms=DUE_MS - 5)],
            [call(after_ms=-10, status=500), call(after_ms=0, status=None, version=1, generation=1)],
            "lost",
            id="its change was never delivered",
        ),
        pytest.param([timer()], [call(after_ms=-1)], "early", id="a millisecond early"),
        pytest.param(
            [timer(due_ms=[DUE_MS, DUE_MS + 500], updated_ms=DUE_MS)],
            [call(after_ms=499, version=1)],
            "early",
            id="early after a change",
        ),
        pytest.param(
            [timer(due_ms=[0], is_recurring=True)],
            [call(), call(after_ms=MINUTE_MS - 1, generation=1)],
            "early",
            id="a recurring one runs twice in a minute",
        ),
        pytest.param(
            [timer(due_ms=[0], is_recurring=True)], [call(after_ms=-1)], "early", id="its first run is early"
        ),
        pytest.param(
            [timer()], [call(), call(after_ms=300)], "unexplained duplicate", id="same attempt twice"
        ),
        pytest.param(
            [timer()],
            [call(), call(after_ms=300, attempt=2)],
            "unexplained duplicate",
            id="again after its delivery",
        ),
        pytest.param(
            [timer()],
            [call(status=None), call(after_ms=300)],
            "unexplained duplicate",
            id="an attempt without an answer is made twice",
        ),
        pytest.param(
            [timer(updated_ms=DUE_MS + 100, due_ms=[DUE_MS, DUE_MS])],
            [call(), call(after_ms=300, generation=1, version=1)],
            "unexplained duplicate",
            id="changed after its delivery, and sent again",
        ),
        pytest.param(
            [timer(cancelled_ms=DUE_MS)], [call(after_ms=1)], "cancelled and sent", id="sent after its cancel"
        ),
        pytest.param(
            [timer(due_ms=[DUE_MS, DUE_MS], updated_ms=DUE_MS)],
            [call(after_ms=1, status=500), call(after_ms=50, version=1, generation=1)],
            "old content",
            id="sent in old content",
        ),
        pytest.param(
            [timer("b", lane="lane", due_ms=[DUE_MS + 1]), timer("a", lane="lane")],
            [call("b", 5), call("a", 6)],
            "order",
            id="the second one first",
        ),
        pytest.param(
            [timer("a", lane="lane"), timer("b", lane="lane", due_ms=[DUE_MS + 1])],
            [call("a", status=500), call("b", 20), call("a", 900, attempt=2)],
            "order",
            id="between the attempts of the first",
        ),
        pytest.param([timer()], [call(tenant="beta")], "foreign", id="to another tenant"),
        pytest.param([], [call()], "foreign", id="nobody posted it"),
        pytest.param(
            [timer(due_ms=[0], is_recurring=True)],
            [call(), call(after_ms=2 * MINUTE_MS, generation=2)],
            "lost",
            id="a run is left out",
        ),
        pytest.param(
            [timer(due_ms=[0], is_recurring=True, cancel_asked_ms=DUE_MS + 3 * MINUTE_MS)],
            [call()],
            "lost",
            id="a recurring one stopped",
        ),
    ],
)
def test_each_invariant_is_broken_by_its_log(timers: list[Timer], calls: list[Call], invariant: str) -> None:
    """And no other one is."""
    assert {name for name, _ in broken(log_of(timers, calls))} == {invariant}


def test_a_finding_breaks_the_soak() -> None:
    """A process that ended, a bug in a log."""
    log = log_of([], [])
    log.findings.append("worker-1 ended by itself")
    assert broken(log) == [("finding", "")]


def test_who_comes_late_to_his_lane_is_not_out_of_order() -> None:
    """It was acknowledged when its successor might have begun."""
    late = timer("a", lane="lane", acknowledged_ms=DUE_MS + 2)
    later = timer("b", lane="lane", due_ms=[DUE_MS + 1])
    assert broken(log_of([late, later], [call("b", 3), call("a", 4)])) == []


def test_a_duplicate_does_not_break_its_lane() -> None:
    """A second call of the first one, which a kill explains, may come when the second one has run."""
    timers = [timer("a", lane="lane"), timer("b", lane="lane", due_ms=[DUE_MS + 1])]
    calls = [call("a"), call("b", 30), call("a", 9_000)]
    assert broken(log_of(timers, calls, strike(Kind.KILL, "worker-1", 5))) == []


HIDES_ANSWER_MS = ATTEMPT_TIMEOUT_MS - MARGIN_MS
FIRST, AGAIN = call(), call(after_ms=LEASE_MS + 1_500, holder="worker-2")


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(strike(Kind.KILL, "worker-1", 2, 3_000), id="killed just before its call was seen"),
        pytest.param(strike(Kind.KILL, "worker-1", LEASE_MS, 0), id="killed within the lease"),
        pytest.param(strike(Kind.TERM, "worker-1", -500, 3_200), id="stopped, and calling still"),
        pytest.param(strike(Kind.FREEZE, "worker-1", 2, HIDES_ANSWER_MS), id="frozen past its deadline"),
        pytest.param(strike(Kind.CUT, "worker-1>store", -9_000, LOSES_LEASE_MS), id="cut off past its lease"),
        pytest.param(strike(Kind.HALF_OPEN, "worker-1>store", 10, LOSES_LEASE_MS), id="half open past it"),
    ],
)
def test_what_explains_a_duplicate(fault: Struck) -> None:
    """A fault that docs name, at the process that held the attempt or its way to the store, in the lease."""
    assert explain(FIRST, AGAIN, [fault]) == fault
    assert broken(log_of([timer()], [FIRST, AGAIN], fault)) == []


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(strike(Kind.KILL, "worker-2", 5), id="another worker was killed"),
        pytest.param(strike(Kind.KILL, "relay-1", 5), id="a relay was killed"),
        pytest.param(
            strike(Kind.KILL, "worker-1", -5_000, 5_500), id="killed before; this is the next process"
        ),
        pytest.param(strike(Kind.KILL, "worker-1", LEASE_MS + 100), id="killed after the lease"),
        pytest.param(strike(Kind.TERM, "worker-1", -GRACE_MS - 1_100, 20_000), id="stopped long before"),
        pytest.param(strike(Kind.FREEZE, "worker-1", 2, HIDES_ANSWER_MS - 3), id="frozen for a moment"),
        pytest.param(strike(Kind.CUT, "worker-1>store", 2, LOSES_LEASE_MS - 1), id="cut off for a moment"),
        pytest.param(strike(Kind.CUT, "worker-1>queue", 2, 25_000), id="cut off from the queue"),
        pytest.param(strike(Kind.CUT, "worker-2>store", 2, 25_000), id="another worker was cut off"),
        pytest.param(strike(Kind.SERVER_KILL, "store", 2, 25_000), id="the store was away"),
        pytest.param(strike(Kind.LOST_REPLY, "worker-1>store", 2), id="a reply was lost"),
        pytest.param(strike(Kind.FLUSHALL, "queue", 2), id="the queue was lost"),
        pytest.param(strike(Kind.HANG, "alpha", 2, 8_000), id="its receiver hung"),
    ],
)
def test_what_does_not_explain_a_duplicate(fault: Struck) -> None:
    """It stays a violation."""
    assert explain(FIRST, AGAIN, [fault]) is None
    assert broken(log_of([timer()], [FIRST, AGAIN], fault)) == [("unexplained duplicate", "a")]


def test_a_fault_after_the_second_call_explains_nothing() -> None:
    """It came too late, though the lease was not over."""
    assert explain(FIRST, call(after_ms=300), [strike(Kind.KILL, "worker-1", 301)]) is None


def test_a_caller_without_a_name_may_be_any_worker_but_nothing_else() -> None:
    """It was gone when its connection was looked at."""
    first = call(holder=None)
    assert explain(first, AGAIN, [strike(Kind.KILL, "worker-2", 5)])
    assert not explain(first, AGAIN, [strike(Kind.KILL, "api-1", 5)])


def test_receivers_that_stood_still_explain_a_duplicate() -> None:
    """Their answer came after the attempt's deadline, though they wrote down that it was at once."""
    again = call(after_ms=HIDES_ANSWER_MS + 10, attempt=2)
    assert explain(FIRST, again, [], [(DUE_MS - 10, DUE_MS + HIDES_ANSWER_MS)])
    assert not explain(FIRST, again, [], [(DUE_MS, DUE_MS + HIDES_ANSWER_MS - 1)])


def test_a_retry_that_overtakes_an_answer_is_no_duplicate() -> None:
    """The first call's answer was written after the retry had come: it was too late for the caller."""
    calls = [call(answered_ms=DUE_MS + 5_200), call(after_ms=5_100, attempt=2)]
    assert broken(log_of([timer()], calls)) == []


def test_a_call_that_was_read_after_its_retry_is_no_duplicate() -> None:
    """Its caller had given up. The same attempt twice is one all the same."""
    late = call(after_ms=11_000, started_s=DUE_MS // 1000)
    calls = [call(after_ms=10_500, attempt=2), late]
    assert broken(log_of([timer()], calls)) == []
    calls.append(call(after_ms=11_100, started_s=DUE_MS // 1000))
    assert broken(log_of([timer()], calls)) == [("unexplained duplicate", "a")]


def test_an_answer_that_was_too_late_for_its_caller_is_no_delivery() -> None:
    """The machine was busy, and the caller had given up."""
    late_ms = ATTEMPT_TIMEOUT_MS - MARGIN_MS + 1_000
    calls = [call(answered_ms=DUE_MS + late_ms), call(after_ms=late_ms + 100, attempt=2)]
    assert broken(log_of([timer()], calls)) == []
    calls[0].answered_ms = DUE_MS + late_ms - 2_000
    assert broken(log_of([timer()], calls)) == [("unexplained duplicate", "a")]


@pytest.mark.parametrize("change", [{"cancelled_ms": DUE_MS + 9_000}, {"updated_ms": DUE_MS + 9_000}])
def test_a_call_that_was_read_late_may_be_from_before_an_acknowledgement(change: dict[str, Any]) -> None:
    """Its caller had given up before the timer was cancelled or changed."""
    one = timer(due_ms=[DUE_MS, DUE_MS], **change)
    again = [call(after_ms=9_900, version=1, generation=1)] if "updated_ms" in change else []
    in_time = call(after_ms=9_500, started_s=DUE_MS // 1000, status=500)
    late = call(after_ms=10_000, started_s=DUE_MS // 1000, status=500)
    assert broken(log_of([one], [*again, in_time])) != []
    assert [
        name for name, _ in broken(log_of([one], [*again, late])) if name != "unexplained duplicate"
    ] == []
