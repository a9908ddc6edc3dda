"""The arguments and answers of the store's transitions, as values. Pure."""

from dataclasses import dataclass, field
from enum import StrEnum

from httpqueue.timers.names import TimerName
from httpqueue.timers.policies import ApplicationPolicy
from httpqueue.timers.schedule import Schedule
from httpqueue.timers.spec import Spec
from httpqueue.timers.timer import Attempt, State, Timer


class IfExists(StrEnum):
    """What create does when the id is taken by another timer."""

    CONFLICT = "conflict"
    KEEP = "keep"
    REPLACE = "replace"
    EARLIEST = "earliest"
    LATEST = "latest"


@dataclass(frozen=True, slots=True)
class NewTimer:
    """A timer to be stored."""

    name: TimerName
    spec: Spec
    if_exists: IfExists = IfExists.CONFLICT
    idempotency_key: str | None = None
    """Its hash, see names.hash_of_key: the same request with the same key gets the same answer."""


class Creation(StrEnum):
    """What create did: stored it, found the same one, kept or replaced another one, or refused."""

    CREATED = "created"
    EXISTS = "exists"
    KEPT = "kept"
    REPLACED = "replaced"
    CONFLICT = "conflict"
    RUNNING = "running"
    OTHER_LANE = "lane"
    """Refused: the timer has another ordering key, which cannot be replaced."""
    REUSED = "reused"
    """Refused: another request had the same Idempotency-Key."""
    RATE = "rate"
    """Refused: the application has posted too many in a second. wait_ms: try again after that."""
    PENDING = "pending"
    """Refused: the application has as many timers that have not ended as it may have."""
    BYTES = "bytes"
    """Refused: the application's timers take as many bytes as they may."""
    FULL = "full"
    """Refused: all applications together have as many timers as there may be (`max_pending`)."""
    DELETED = "deleted"
    """Refused: a job is deleting the application."""


@dataclass(frozen=True, slots=True)
class Created:
    """The answer to a NewTimer. due_ms and state: those of the timer that now has the id."""

    creation: Creation
    due_ms: int
    state: State = State.SCHEDULED
    is_repeated: bool = False
    """Whether this is what was answered before to the same request with the same Idempotency-Key."""
    wait_ms: int = 0


@dataclass(frozen=True, slots=True)
class Change:
    """Change a timer if it is in one of `states` and has this version (None: any)."""

    name: TimerName
    states: frozenset[State]
    version: str | None = None
    spec: Spec | None = None
    """None: keep the spec."""
    due: Schedule | None = None
    """None: keep the due time."""


class ChangeResult(StrEnum):
    """What change or cancel did. All but CHANGED mean: nothing."""

    CHANGED = "changed"
    GONE = "gone"
    OTHER_STATE = "state"
    OTHER_VERSION = "version"
    OTHER_LANE = "lane"
    """It has another ordering key, which cannot be changed."""


@dataclass(frozen=True, slots=True)
class Changed:
    """The answer to a Change or a cancel. state: the timer's state before (None: it is gone)."""

    result: ChangeResult
    state: State | None = None
    due_ms: int = 0
    version: str = ""
    """The new version after a change; the version before after a cancel."""


@dataclass(frozen=True, slots=True)
class Found:
    """A timer, and when it was read: the store's time in ms since the epoch."""

    timer: Timer
    now_ms: int


@dataclass(frozen=True, slots=True)
class WakeUp:
    """A timer's name and generation, and when to wake it, in ms since the epoch.

    partition: where the timer is in the store.
    """

    name: TimerName
    generation: int
    due_ms: int = 0
    partition: int = 0


@dataclass(frozen=True, slots=True)
class Begun:
    """An attempt that has begun. It belongs to its worker until the lease ends."""

    wake_up: WakeUp
    nonce: str
    """The timer's nonce."""
    holder: str
    """Names the worker and the `begin` call. finish, beat and hand_back must give it."""
    lease_ms: int
    """The length of the lease, which starts when `begin` is called."""
    attempt: int
    """The number of the attempt, from 1."""
    lost: int
    """How many workers were already lost in this attempt."""
    due_ms: int
    started_ms: int
    """When the attempt started, by the store's clock, in ms since the epoch."""
    spec: Spec
    host: str
    policy: ApplicationPolicy = field(default_factory=ApplicationPolicy)
    """The policy of the timer's application."""
    can_sign: bool = True
    """False: the application has secrets, but this process has not the key to read them."""


class Refusal(StrEnum):
    """Why `begin` starts no attempt: see lua/begin.lua. LATER: the answer is full, ask again."""

    GONE = "gone"
    STALE = "stale"
    FINISHED = "finished"
    RUNNING = "running"
    UNREADABLE = "unreadable"
    EARLY = "early"
    BLOCKED = "blocked"
    PAUSED = "paused"
    NEWER = "newer"
    NEEDS_PERMIT = "permit"
    LATER = "later"


@dataclass(frozen=True, slots=True)
class Refused:
    """A wake-up that starts no attempt.

    wait_ms: in how many ms an EARLY timer is due. host: whose permit a timer needs.
    """

    wake_up: WakeUp
    refusal: Refusal
    wait_ms: int = 0
    host: str = ""


@dataclass(frozen=True, slots=True)
class Retry:
    """The timer is tried again after delay_ms."""

    delay_ms: int


@dataclass(frozen=True, slots=True)
class Recur:
    """A run of a recurring timer ended. The next run is due at next_due_ms, since the epoch."""

    next_due_ms: int
    callback: NewTimer | None = None
    """The callback, a timer that is stored in the same transaction."""


@dataclass(frozen=True, slots=True)
class End:
    """The timer ended. state: DONE or FAILED. Its record is kept for retention_ms (0: not at all)."""

    state: State
    retention_ms: int
    callback: NewTimer | None = None
    """The callback, a timer that is stored in the same transaction."""


@dataclass(frozen=True, slots=True)
class Finish:
    """How an attempt ended, and what becomes of its timer."""

    begun: Begun
    attempt: Attempt
    then: Retry | Recur | End
    was_called: bool = True
    """Whether the webhook was called. If not, the attempt says nothing about the host."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The answer to several Finishes.

    counted: for each, whether it was written down; False when the attempt no longer belongs to its worker.
    unblocked: timers that may start now because of them. known: for each that is not counted, whether an
    earlier call has ended it; its answer may have been lost.
    """

    counted: list[bool]
    unblocked: list[WakeUp]
    known: list[bool]


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """An outbox entry. If it cannot be read, wake_up is None and `fields` has what was stored."""

    entry_id: bytes
    wake_up: WakeUp | None
    fields: dict[bytes, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a list of timers: right behind the timer of this name, due at due_ms."""

    due_ms: int
    name: TimerName


@dataclass(frozen=True, slots=True)
class TimerPage:
    """Some timers, ordered by due time. `next`: where the next page begins (None: there is none).

    now_ms: the store's time, in ms since the epoch.
    """

    timers: list[Timer]
    next: Position | None
    now_ms: int
