"""Which fault explains that a webhook was called twice. Pure.

Only what docs/architecture.md names: a worker that died, was frozen or was stopped between the call and its
`finish`, or that could not reach the store for so long that it lost its lease. A server that was away, lost
replies, lost scripts or a lost queue explain nothing.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from tests.soak.events import MARGIN_MS, Call, Struck
from tests.soak.plan import ATTEMPT_TIMEOUT_MS, Kind

DRIVER: Final = "driver"
"""The process of clients and receivers itself."""
LEASE_MS: Final = 20_000
BEAT_MS: Final = 5_000
RECONNECT_MS: Final = 5_000
"""How long a worker takes to notice that its connection works again."""
BEFORE_CALL_MS: Final = 1_000
"""From the `begin` of an attempt to the arrival of its call, at most."""
GRACE_MS: Final = 4_000
"""How long a process that was told to stop still calls, at most."""

LOSES_LEASE_MS: Final = LEASE_MS - BEAT_MS - RECONNECT_MS
"""A worker that is cut off from the store for so long may lose its leases."""
_AT_LEAST_MS: Final = {
    Kind.KILL: 0,
    Kind.TERM: 0,
    Kind.FREEZE: LOSES_LEASE_MS,
    Kind.CUT: LOSES_LEASE_MS,
    Kind.HALF_OPEN: LOSES_LEASE_MS,
}
"""Kind of fault -> how long it has to last. A shorter freeze may hide an answer until the deadline."""


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
    suspects = [*struck, *(Struck(Kind.HANG, DRIVER, *stall) for stall in stalls)]
    return next(
        (
            each
            for each in suspects
            if each.start_ms <= to_ms and _acts_until_ms(each) >= from_ms and _can_lose(each, first)
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


def _can_lose(fault: Struck, call: Call) -> bool:
    if fault.target == DRIVER:
        return _hides_answer(fault, call)
    part, _, server = fault.target.partition(">")
    # A process that is gone when its connection is looked at has no name.
    is_its_own = part == call.holder if call.holder else part.startswith("worker")
    if not is_its_own or server == "queue" or fault.kind not in _AT_LEAST_MS:
        return False
    is_hidden = fault.kind is Kind.FREEZE and _hides_answer(fault, call)
    return is_hidden or fault.lasted_ms >= _AT_LEAST_MS[fault.kind]


def _hides_answer(freeze: Struck, call: Call) -> bool:
    """Whether the call's deadline may be over when caller or receiver go on."""
    return freeze.end_ms >= call.started_s * 1000 + ATTEMPT_TIMEOUT_MS - MARGIN_MS
