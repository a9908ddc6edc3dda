"""The calls in flight by host: slow hosts leave others their slots."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from httpqueue import clock
from httpqueue.worker.calls import MAX_SHARES, SLOW_S, Calls

SLOTS = 20


class Time:
    """Seconds that stand still."""

    now_s = 100.0


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    """What Calls takes for now."""
    time = Time()
    monkeypatch.setattr(clock, "monotonic_s", lambda: time.now_s)
    return time


def fill(calls: Calls, host: str, count: int) -> list[str]:
    """So many calls to that host; their names."""
    names = [f"{host}{n}" for n in range(count)]
    for name in names:
        calls.begin(host, name)
    return names


def test_slots_are_shared_by_who_comes_first(time: Time) -> None:
    """A host may have all of them, and hosts have any room, as long as calls are quick."""
    calls = Calls(SLOTS)
    fill(calls, "a", SLOTS)
    time.now_s += SLOW_S
    assert (calls.free(), calls.room()) == (0, {})


def test_a_slow_host_keeps_its_share_and_leaves_the_slots(time: Time) -> None:
    """Its calls no longer count, but it gets no more than there are slots."""
    calls = Calls(SLOTS)
    fill(calls, "a", SLOTS - 5)
    time.now_s += SLOW_S + 0.01
    assert (calls.free(), calls.room()) == (SLOTS, {"a": 5})
    fill(calls, "b", SLOTS)
    assert (calls.free(), calls.room()) == (0, {"a": 5})


def test_a_host_with_a_few_slow_calls_is_not_slow(time: Time) -> None:
    """What takes less than its share of the slots disturbs nobody."""
    calls = Calls(SLOTS)
    fill(calls, "a", SLOTS // MAX_SHARES - 1)
    time.now_s += 60
    assert (calls.free(), calls.room()) == (SLOTS - SLOTS // MAX_SHARES + 1, {})


def test_a_host_is_slow_until_its_old_calls_have_ended(time: Time) -> None:
    """What counts is the oldest."""
    calls = Calls(SLOTS)
    old = fill(calls, "a", 1)
    time.now_s += SLOW_S + 0.01
    for name in ("x", "y", "z", "u", "v"):
        calls.begin("a", name)
    assert calls.room() == {"a": SLOTS - 6}
    calls.end("a", old[0])
    assert calls.room() == {}


def test_many_slow_hosts_do_not_take_everything(time: Time) -> None:
    """Calls in flight are limited, however many hosts hang."""
    calls = Calls(SLOTS)
    for host in range(MAX_SHARES):
        fill(calls, str(host), SLOTS)
        time.now_s += SLOW_S + 0.01
    assert calls.free() == 0


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(0, 9), st.booleans(), st.floats(0, 1)))
)
def test_whatever_happens(steps: list[tuple[str, int, bool, float]]) -> None:
    """Within free and room, no host has more calls than slots, and all of them no more than their shares."""
    time = Time()
    calls = Calls(4)
    in_flight: set[tuple[str, str]] = set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "monotonic_s", lambda: time.now_s)
        for host, number, begins, seconds in steps:
            time.now_s += seconds
            call = (host, f"{host}{number}")
            if not begins:
                if call in in_flight:
                    in_flight.remove(call)
                    calls.end(*call)
            elif call not in in_flight and calls.free() > 0 and calls.room().get(host, 1) > 0:
                in_flight.add(call)
                calls.begin(*call)
            assert len(in_flight) <= 4 * MAX_SHARES
            assert all(sum(host == other for other, _ in in_flight) <= 4 for host in ("a", "b", "c"))
            assert calls.free() <= 4
            assert all(room >= 0 for room in calls.room().values())
    for call in in_flight:
        calls.end(*call)
    assert (calls.free(), calls.room()) == (4, {})
