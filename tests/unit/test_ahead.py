"""Which attempts begin ahead, and in which order their calls start."""

import pytest

from httpqueue.timers.commands import Begun, WakeUp
from httpqueue.timers.names import TimerName
from httpqueue.timers.schedule import Delay
from httpqueue.timers.spec import Spec
from httpqueue.worker.ahead import MOST, Ahead
from httpqueue.worker.attempts import Running
from httpqueue.worker.slots import Slots


def attempt(number: int, host: str = "h") -> Running:
    """An attempt that has begun."""
    wake_up = WakeUp(TimerName("a", str(number)), 0, 0)
    spec = Spec(f"http://{host}/", Delay(0))
    begun = Begun(wake_up, "", "", 20_000, 1, 0, due_ms=0, started_ms=0, spec=spec, host=host)
    return Running(begun, lease_end_s=20)


def measured(ended: int, *, trip_s: float = 0.01, round_s: float = 0.02, host_slots: int = 100) -> Slots:
    """Slots after one round in which so many calls ended."""
    slots = Slots(10_000, host_slots)
    ahead = Ahead(slots)
    ahead.end_trip(now_s=5)
    for number in range(ended):
        ahead.enter(attempt(number), 5)
        ahead.leave("h")
    ahead.begin_trip(now_s=5 + round_s - trip_s)
    ahead.end_trip(now_s=5 + round_s)
    return slots


def test_calls_start_in_the_order_of_their_attempts_and_never_too_many() -> None:
    """Two at once: the third starts when the first has ended."""
    ahead = Ahead(Slots(100, 2))
    first, second, third, fourth = (attempt(number) for number in range(4))
    assert [ahead.enter(each, 0) for each in (first, second, third, fourth)] == [True, True, False, False]
    assert ahead.leave("h") is third
    assert ahead.leave("h") is fourth
    assert ahead.leave("h") is None
    assert ahead.enter(attempt(5), 0)


def test_hosts_do_not_wait_for_each_other() -> None:
    """A full host keeps nobody from another one."""
    ahead = Ahead(Slots(100, 1))
    assert ahead.enter(attempt(1, "full"), 0)
    assert not ahead.enter(attempt(2, "full"), 0)
    assert ahead.enter(attempt(3, "free"), 0)


def test_as_many_begin_ahead_as_calls_end_during_two_trips() -> None:
    """100 calls in 20 ms, 10 ms a trip: 50 a trip, so 100 are wanted, and half the way is gone at once."""
    assert measured(100).ahead == {"h": 50}
    assert measured(100_000).ahead == {"h": MOST}
    assert measured(0).ahead == {}


def test_what_began_ahead_counts_against_the_cap_of_begin() -> None:
    """`begin` may start 50 more than calls may be in flight, and says so in the Room."""
    slots = measured(100)
    assert slots.room_of(["h"]) == 150 - (100 - 1) // 8
    room = slots.room()
    assert sum(room.take("a", "h") for _ in range(500)) == 150
    assert slots.calls_at_once("h") == 100


def test_a_host_that_hangs_soon_has_nothing_ahead() -> None:
    """Nothing ends, so what may begin ahead shrinks to nothing."""
    slots = measured(100)
    ahead = Ahead(slots)
    for now_s in range(100):
        ahead.begin_trip(now_s)
        ahead.end_trip(now_s + 0.5)
    assert slots.ahead == {}


def test_a_host_with_a_limit_of_its_own_gets_nothing_ahead() -> None:
    """It gives a permit for each call."""
    slots = Slots(100, 2)
    slots.caps = {"h": 1}
    ahead = Ahead(slots)
    ahead.enter(attempt(1), 0)
    ahead.leave("h")
    ahead.begin_trip(0)
    ahead.end_trip(1)
    assert slots.ahead == {}


def test_a_lowered_limit_holds_for_those_who_wait() -> None:
    """Two calls in flight, then one at once: the next starts when none is left."""
    slots = Slots(100, 2)
    ahead = Ahead(slots)
    waiting = attempt(3)
    assert [ahead.enter(each, 0) for each in (attempt(1), attempt(2), waiting)] == [True, True, False]
    slots.caps = {"h": 1}
    assert ahead.leave("h") is None
    assert ahead.leave("h") is waiting


@pytest.mark.parametrize("entered_s", [0.0, 1.0, 2.0])
def test_those_who_waited_long_are_taken_out(entered_s: float) -> None:
    """They entered at 1 s and 2 s."""
    ahead = Ahead(Slots(100, 1))
    early, late = attempt(1), attempt(2)
    ahead.enter(attempt(0), 0)
    ahead.enter(early, 1)
    ahead.enter(late, 2)
    taken = [each for each, since_s in ((early, 1), (late, 2)) if since_s <= entered_s]
    assert ahead.take_waiting(entered_s) == taken
    left = [each for each in (early, late) if each not in taken]
    assert ahead.leave("h") is (left[0] if left else None)


def test_one_that_was_lost_does_not_start() -> None:
    """It is removed while it waits. One whose call is in flight is not there."""
    ahead = Ahead(Slots(100, 1))
    calling, lost, last = attempt(1), attempt(2), attempt(3)
    for each in (calling, lost, last):
        ahead.enter(each, 0)
    assert ahead.remove(lost)
    assert not ahead.remove(calling)
    assert ahead.leave("h") is last
