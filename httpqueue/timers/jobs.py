"""Jobs: work on very many timers, done in small steps. Pure. storage/jobs.py keeps them, relays do them."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from msgspec import Struct

from httpqueue.timers.policies import ApplicationPolicy
from httpqueue.timers.timer import State, Timer

KEPT_MS: Final = 7 * 24 * 3_600_000
"""How long the record of an ended job can be read."""


class JobKind(StrEnum):
    """What a job does with the timers of its application."""

    REPLAY = "replay"
    """Schedules failed timers again, due now."""
    CANCEL = "cancel"
    """Cancels scheduled timers."""
    RESUME = "resume"
    """Wakes the timers that became due during a pause."""
    DELETE = "delete"
    """Ends all timers, and forgets them and the application's policy."""


class JobState(StrEnum):
    """A job is CANCELLING from when it was cancelled until the relay that works on it has heard of that."""

    WAITING = "waiting"
    RUNNING = "running"
    CANCELLING = "cancelling"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


SOLE: Final = frozenset({JobKind.RESUME, JobKind.DELETE})
"""Of these an application has one open job at most: a second one would do the same."""


class Selection(Struct, frozen=True, omit_defaults=True):
    """Which timers a job is about: those that meet all conditions. Times are ms since the epoch."""

    label: str | None = None
    """name:value."""
    host: str | None = None
    due_from_ms: int = 0
    due_to_ms: int | None = None
    """Inclusive, like due_from_ms."""

    def matches(self, timer: Timer) -> bool:
        """Whether the timer has the label and the host. Its due time is looked up in an index."""
        if self.label is not None:
            name, _, value = self.label.partition(":")
            if timer.spec.labels.get(name) != value:
                return False
        return self.host is None or timer.spec.host == self.host


class JobSpec(Struct, frozen=True, omit_defaults=True):
    """What a client asked for."""

    kind: JobKind
    application: str
    selection: Selection = Selection()
    dry_run: bool = False
    """Count the timers that match, and change none."""
    retention_ms: int = 0
    """How long cancelled timers are kept if neither they nor their application say."""

    def retention_of(self, timer: Timer, policy: ApplicationPolicy) -> int:
        """How long this timer is kept after the job has cancelled it, in ms."""
        for retention in (timer.spec.retention, policy.retention):
            if retention is not None and retention.done_ms is not None:
                return retention.done_ms
        return self.retention_ms


class Cursor(Struct, frozen=True, array_like=True):
    """Where a job goes on: in this partition, behind the timer (due_ms, id).

    has_found: whether it has found any timer since it began at the first partition.
    """

    partition: int = 0
    due_ms: int = 0
    id: str = ""
    has_found: bool = False


BEGINNING: Final = Cursor()


@dataclass(frozen=True, slots=True)
class Job:
    """A job, and how far it has come. Times are ms since the epoch, by the store's clock.

    total: how many timers there were to look at when it began; it is only an estimate, because timers end and
    come meanwhile. done: how many were looked at. matched: how many of those met the conditions. changed: how
    many of those the job changed.
    """

    id: str
    spec: JobSpec
    state: JobState
    created_ms: int
    cursor: Cursor = BEGINNING
    total: int | None = None
    done: int = 0
    matched: int = 0
    changed: int = 0
    started_ms: int | None = None
    ended_ms: int | None = None
    error: str | None = None


STATES_OF: Final = {
    JobKind.REPLAY: frozenset({State.FAILED}),
    JobKind.CANCEL: frozenset({State.SCHEDULED}),
    JobKind.DELETE: frozenset({State.SCHEDULED, State.DONE, State.FAILED, State.CANCELLED}),
}
"""The states of the timers that such a job changes."""
