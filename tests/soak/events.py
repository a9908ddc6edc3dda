"""What happened in a soak: what clients asked and were told, what receivers got, which faults struck.

All times are ms since the epoch, by one clock: clients, receivers and faults are in one process.
"""

from dataclasses import dataclass, field
from typing import Final

from tests.soak.plan import ATTEMPT_TIMEOUT_MS, Kind

MARGIN_MS: Final = 500
"""An answer that is written so shortly before the attempt's deadline may be too late."""


@dataclass(slots=True)
class Timer:
    """A timer as its client knows it."""

    id: str
    application: str
    due_ms: list[int]
    """Of each version of its content. The body of a call says which version it is."""
    lane: str = ""
    is_recurring: bool = False
    asked_ms: int = 0
    """When its POST was sent first."""
    acknowledged_ms: int | None = None
    """When 200 or 201 came."""
    update_asked_ms: int | None = None
    updated_ms: int | None = None
    """When the change to version 1 was acknowledged."""
    cancel_asked_ms: int | None = None
    cancelled_ms: int | None = None
    """When its cancel was acknowledged."""
    cancel_refused: bool = False
    """The cancel's last answer was that it runs, has run or is archived."""


@dataclass(slots=True)
class Call:
    """A webhook as its receiver got it."""

    timer: str
    """From its path."""
    tenant: str
    """Whose receiver got it."""
    run: str
    """Its webhook-id: application:id:nonce:generation."""
    attempt: int
    version: int
    holder: str | None
    """The part that called. None: it was gone, or this system cannot tell."""
    arrived_ms: int
    started_s: int
    """Its webhook-timestamp."""
    answered_ms: int | None = None
    """When the receiver's answer was written. None: it hung, it reset, or the caller hung up."""
    status: int | None = None

    @property
    def application(self) -> str:
        """Of its webhook-id."""
        return self.run.partition(":")[0]

    @property
    def generation(self) -> int:
        """Of its webhook-id."""
        return int(self.run.rpartition(":")[2])

    @property
    def is_delivered(self) -> bool:
        """Whether it was answered with success, perhaps too late."""
        return self.status is not None and 200 <= self.status < 300

    @property
    def is_read_late(self) -> bool:
        """Whether its caller may have given up before the receiver, or the network, got to it.

        The attempt began within the second that started_s names, and its deadline is later.
        """
        return self.arrived_ms - self.started_s * 1000 >= ATTEMPT_TIMEOUT_MS

    def is_delivered_before(self, ms: int) -> bool:
        """Whether it was answered with success by then, and its caller surely still waited."""
        return (
            self.is_delivered
            and self.answered_ms is not None
            and self.answered_ms <= ms
            and self.answered_ms - self.started_s * 1000 < ATTEMPT_TIMEOUT_MS - MARGIN_MS
        )


@dataclass(frozen=True, slots=True)
class Struck:
    """A fault that was made."""

    kind: Kind
    target: str
    start_ms: int
    end_ms: int
    """When what was broken worked again: the process was ready, the server answered."""

    @property
    def lasted_ms(self) -> int:
        """How long."""
        return self.end_ms - self.start_ms


@dataclass(slots=True)
class Log:
    """All of a run."""

    start_ms: int = 0
    timers: dict[str, Timer] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    """In the order of their arrival."""
    struck: list[Struck] = field(default_factory=list)
    answers: dict[str, int] = field(default_factory=dict)
    """{operation and status, such as "POST 201": how often}."""
    findings: list[str] = field(default_factory=list)
    """What must not happen besides: an answer that makes no sense, a process that ended."""
    stalls: list[tuple[int, int]] = field(default_factory=list)
    """When this process itself stood still for a second or more."""
    end_ms: int = 0
