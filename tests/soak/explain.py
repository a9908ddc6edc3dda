"""Which fault explains that a webhook was called twice. Pure.

Only what docs/architecture.md names: a worker that died, was frozen or was stopped between the call and its
`finish`, or that could not reach the store for so long that it lost its lease. A server that was away, lost
replies, lost scripts or a lost queue explain nothing.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from tests.soak.events import Call, Struck
from tests.soak.plan import ATTEMPT_TIMEOUT_MS, Kind

LEASE_MS: Final = 20_000
BEAT_MS: Final = 5_000
RECONNECT_MS: Final = 5_000
"""How long a worker takes to notice that its connection works again."""
BEFORE_CALL_MS: Final = 1_000
"""From the `begin` of an attempt to the arrival of its call, at most."""
LONGEST_ANSWER_MS: Final = 1_500
"""How long a receiver takes at most, see plan.py."""
GRACE_MS: Final = 4_000
"""How long a process that was told to stop still calls, at most."""

LOSES_LEASE_MS: Final = LEASE_MS - BEAT_MS - RECONNECT_MS
"""A worker that is cut off from the store for so long may lose its leases."""
LOSES_ANSWER_MS: Final = ATTEMPT_TIMEOUT_MS - LONGEST_ANSWER_MS - 500
"""A worker that is frozen for so long may find the attempt's deadline before the answer."""

_AT_LEAST_MS: Final = {
    Kind.KILL: 0,
    Kind.TERM: 0,
    Kind.FREEZE: min(LOSES_ANSWER_MS, LOSES_LEASE_MS),
    Kind.CUT: LOSES_LEASE_MS,
    Kind.HALF_OPEN: LOSES_LEASE_MS,
}
"""Kind of fault -> how long it has to last."""


def explain(
    first: Call, again: Call, struck: Iterable[Struck], stalls: Sequence[tuple[int, int]] = ()
) -> Struck | None:
    """The fault that explains a second call. None: there is none.

    It struck the worker that made the first call, or its way to the store, while that worker held the
    attempt: from just before the first call until its lease was over or the second call came.
    stalls: when the receivers themselves stood still; an answer of theirs may have come too late.
    """
    from_ms = first.arrived_ms - BEFORE_CALL_MS
    to_ms = min(again.arrived_ms, first.arrived_ms + LEASE_MS)
    suspects = [*struck, *(Struck(Kind.HANG, "driver", *stall) for stall in stalls)]
    return next(
        (
            each
            for each in suspects
            if each.start_ms <= to_ms and _acts_until_ms(each) >= from_ms and _can_lose(each, first.holder)
        ),
        None,
    )


def _acts_until_ms(fault: Struck) -> int:
    """A fault that ends a process ends with it: the next process in its place is not struck."""
    match fault.kind:
        case Kind.KILL:
            return fault.start_ms
        case Kind.TERM:
            return min(fault.end_ms, fault.start_ms + GRACE_MS)
        case _:
            return fault.end_ms


def _can_lose(fault: Struck, holder: str | None) -> bool:
    if fault.target == "driver":
        return fault.lasted_ms >= LOSES_ANSWER_MS
    part, _, server = fault.target.partition(">")
    # A process that is gone when its connection is looked at has no name.
    is_its_own = part == holder if holder else part.startswith("worker")
    at_least_ms = _AT_LEAST_MS.get(fault.kind)
    return is_its_own and server != "queue" and at_least_ms is not None and fault.lasted_ms >= at_least_ms
