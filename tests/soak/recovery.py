"""How late webhooks were, and which fault made them late. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tests.soak.events import Call, Log, Struck
from tests.soak.invariants import by_timer, lanes_of
from tests.soak.plan import TENANTS, Kind

LATE_MS: Final = 1_000
"""Who is later needs a fault that explains it."""

HEALED_MS: Final = {
    Kind.KILL: 32_000,
    Kind.TERM: 5_000,
    Kind.FREEZE: 32_000,
    Kind.CUT: 32_000,
    Kind.DELAY: 5_000,
    Kind.HALF_OPEN: 32_000,
    Kind.LOST_REPLY: 12_000,
    Kind.SERVER_KILL: 35_000,
    Kind.SERVER_FREEZE: 35_000,
    Kind.CLIENT_KILL: 12_000,
    Kind.SCRIPT_FLUSH: 5_000,
    Kind.FLUSHALL: 12_000,
    Kind.MAXMEMORY: 12_000,
    Kind.HANG: 12_000,
    Kind.RESET: 5_000,
    Kind.STATUS_500: 5_000,
    Kind.STATUS_503: 5_000,
}
"""Kind of fault -> how long after its end webhooks may still be late by it: "What heals what" in
docs/architecture.md, and a sweep. After an outage of the store nobody takes over for 15 s."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """The first call of a timer, or of a version of it."""

    timer: str
    application: str
    due_ms: int
    """When it could have been made at the earliest: due, acknowledged, and its predecessor delivered."""
    arrived_ms: int

    @property
    def late_ms(self) -> int:
        """Its lateness; a call may be there before its POST is answered."""
        return max(self.arrived_ms - self.due_ms, 0)


@dataclass(frozen=True, slots=True)
class Blamed:
    """What one kind of fault did."""

    kind: Kind
    count: int
    late: int
    """How many webhooks were late because of it."""
    worst_ms: int
    """How long after the end of a fault the last of them came."""
    latest_ms: int
    """The greatest lateness."""


def deliveries(log: Log) -> list[Delivery]:
    """Of all timers that are not recurring, in the order of their arrival."""
    calls = by_timer(log.calls)
    ready = _ready_in_lanes(log, calls)
    found = []
    for name, timer in log.timers.items():
        if timer.is_recurring:
            continue
        for version, due_ms in enumerate(timer.due_ms):
            first = next((call for call in calls.get(name, ()) if call.version == version), None)
            acknowledged_ms = timer.acknowledged_ms if version == 0 else timer.updated_ms
            if first is not None and acknowledged_ms is not None:
                earliest_ms = max(due_ms, acknowledged_ms, ready.get(name, 0))
                found.append(Delivery(name, timer.application, earliest_ms, first.arrived_ms))
    return sorted(found, key=lambda each: each.arrived_ms)


def _ready_in_lanes(log: Log, calls: Mapping[str, Sequence[Call]]) -> dict[str, int]:
    """Timer -> when all that came before it in its lane were over."""
    ready: dict[str, int] = {}
    for members in lanes_of(log.timers).values():
        over_ms = 0
        for timer in members:
            ready[timer.id] = over_ms
            answered = [call.answered_ms or call.arrived_ms for call in calls.get(timer.id, ())]
            over_ms = max([over_ms, timer.cancelled_ms or 0, *answered])
    return ready


def blame(late: Iterable[Delivery], struck: Sequence[Struck]) -> list[tuple[Delivery, Struck | None]]:
    """For each late delivery the fault that made it late. None: none did.

    Of the faults that there were between its due time and its arrival, the first; else the last one before,
    if its effects may have lasted until then.
    """
    in_order = sorted(struck, key=lambda each: each.start_ms)
    return [(each, _blamed(each, in_order)) for each in late]


def _blamed(delivery: Delivery, in_order: Sequence[Struck]) -> Struck | None:
    before = [
        fault
        for fault in in_order
        if fault.start_ms <= delivery.arrived_ms and _may_delay(fault, delivery.application)
    ]
    during = [fault for fault in before if fault.end_ms >= delivery.due_ms]
    healing = [fault for fault in before if fault.end_ms + HEALED_MS[fault.kind] >= delivery.due_ms]
    if during:
        return during[0]
    return max(healing, key=lambda fault: fault.end_ms, default=None)


def _may_delay(fault: Struck, application: str) -> bool:
    """What an API has acknowledged does not need it any more, and a receiver delays its own tenant alone."""
    if fault.target in TENANTS:
        return fault.target == application
    return not fault.target.startswith("api")


def worst(blamed: Iterable[tuple[Delivery, Struck | None]], struck: Sequence[Struck]) -> list[Blamed]:
    """For each kind of fault that was made: how many, and its worst recovery."""
    by_kind: dict[Kind, list[tuple[Delivery, Struck]]] = defaultdict(list)
    for delivery, fault in blamed:
        if fault is not None:
            by_kind[fault.kind].append((delivery, fault))
    counts = [(kind, sum(each.kind is kind for each in struck)) for kind in Kind]
    return [
        Blamed(
            kind,
            count,
            len(by_kind[kind]),
            max((max(each.arrived_ms - fault.end_ms, 0) for each, fault in by_kind[kind]), default=0),
            max((each.late_ms for each, _ in by_kind[kind]), default=0),
        )
        for kind, count in counts
        if count
    ]
