"""A seed says everything that a soak does."""

from collections import Counter

import pytest

from tests.soak.plan import CALM_END_MS, TENANTS, Fault, Kind, draw


def test_a_seed_gives_the_same_plan_again() -> None:
    """Another seed gives another one, and another rate the same faults."""
    assert draw(7, minutes=1, rate=20) == draw(7, minutes=1, rate=20)
    assert draw(7, minutes=1, rate=20).orders != draw(8, minutes=1, rate=20).orders
    assert draw(7, minutes=1, rate=20).faults != draw(8, minutes=1, rate=20).faults
    assert draw(7, minutes=1, rate=20).faults == draw(7, minutes=1, rate=40).faults


def test_half_an_hour_covers_what_the_report_needs() -> None:
    """100,000 timers of all kinds and 200 faults, each kind at several targets, some longer than a lease."""
    plan = draw(7, minutes=30, rate=60)
    assert len(plan.orders) >= 100_000
    assert len({order.id for order in plan.orders}) == len(plan.orders)
    assert {order.application for order in plan.orders} == set(TENANTS)
    for count in (
        sum(bool(order.lane) for order in plan.orders),
        sum(order.update_at_ms is not None for order in plan.orders),
        sum(order.cancel_at_ms is not None for order in plan.orders),
        sum(order.batch >= 0 for order in plan.orders),
    ):
        assert count > 5_000
    assert sum(order.is_recurring for order in plan.orders) > 50

    assert len(plan.faults) >= 200
    assert set(Counter(fault.kind for fault in plan.faults)) == set(Kind)
    assert sum(fault.for_ms > 20_000 for fault in plan.faults) >= 3
    for kind in {Kind.KILL, Kind.FREEZE}:
        assert len({fault.target for fault in plan.faults if fault.kind is kind}) >= 4


@pytest.mark.parametrize("seed", range(20))
def test_faults_of_one_target_do_not_overlap(seed: int) -> None:
    """What ends one must not end another; and all are over before the load is."""
    plan = draw(seed, minutes=5, rate=1)
    last: dict[str, Fault] = {}
    for fault in plan.faults:
        before = last.get(fault.target)
        assert before is None or before.at_ms + before.for_ms <= fault.at_ms
        assert fault.at_ms + fault.for_ms <= plan.end_ms - CALM_END_MS
        last[fault.target] = fault
    assert [fault.at_ms for fault in plan.faults] == sorted(fault.at_ms for fault in plan.faults)


def test_two_minutes_meet_almost_every_kind() -> None:
    """As continuous integration runs it."""
    assert len({fault.kind for fault in draw(1, minutes=2, rate=60).faults}) >= 12


def test_timers_of_a_lane_are_posted_in_the_order_of_their_due_times() -> None:
    """So each may wait for the one before it."""
    lanes: dict[tuple[str, str], int] = {}
    for order in draw(1, minutes=3, rate=60).orders:
        if order.lane:
            assert order.due_ms >= lanes.get((order.application, order.lane), 0)
            lanes[order.application, order.lane] = order.due_ms
