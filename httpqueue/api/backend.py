"""What the API works on. run/ makes a Backend of the real parts, tests make one of fakes."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from httpqueue import clock
from httpqueue.storage.audit import Audit
from httpqueue.storage.jobs import Jobs
from httpqueue.storage.lookup import Lookup
from httpqueue.storage.policies import Policies
from httpqueue.storage.timers import Store
from httpqueue.webhooks.egress import Egress

NowMs = Callable[[], int]
"""The time in ms since the epoch."""
WorkerSilence = Callable[[], Awaitable[int | None]]
"""Ms since any worker was last seen; None when none was ever seen."""
EgressRules = Callable[[], Egress]
"""Gives the rules for where webhooks may go; raises UnavailableError while they are not known."""
Readiness = Callable[[], Awaitable[None]]
"""Returns when the process can work; raises UnavailableError with the reason when it cannot."""
Advance = Callable[[Callable[[int], int]], Awaitable[None]]
"""Moves the virtual clock and fires every timer that becomes due on the way.

Its argument takes the clock's time and returns the time to go to, both in ms since the epoch.
"""


@dataclass(frozen=True, slots=True)
class Backend:
    """The stores and functions that the handlers use."""

    store: Store
    lookup: Lookup
    policies: Policies
    jobs: Jobs
    readiness: Readiness
    worker_silence_ms: WorkerSilence
    retention_ms: int
    """How long the record of a cancelled timer is kept, if it and its application say nothing of it."""
    egress: EgressRules
    now_ms: NowMs = clock.now_ms
    advance: Advance | None = None
    """None without a virtual clock: the API then has no /clock."""
    audit: Audit | None = None
    """None: nothing is noted, and the API has no /audit."""
