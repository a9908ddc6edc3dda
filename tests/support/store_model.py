"""What the store must do, in plain Python: the oracle of the state machine."""

from dataclasses import dataclass, field

from httpqueue.timers.commands import (
    Begun,
    Change,
    Changed,
    ChangeResult,
    Created,
    Creation,
    End,
    Finish,
    IfExists,
    Refusal,
    Retry,
)
from httpqueue.timers.schedule import Delay
from httpqueue.timers.timer import FINISHED, State
from tests.support.frozen import LEASE_MS, FrozenTime

LANES: dict[str, str | None] = {"a": None, "b": "lane", "c": "lane", "d": "lane", "e": "other"}
UNFINISHED = frozenset({State.SCHEDULED, State.RUNNING})
REFUSALS = {State.RUNNING: Refusal.RUNNING} | dict.fromkeys(FINISHED, Refusal.FINISHED)
SILENCE_MS = 5_000
"""The store was away when nobody has asked it for longer."""
GRACE_MS = 15_000
"""For so long after that, nobody takes a running timer over."""


@dataclass
class Model:
    """A timer as it must be."""

    delay_ms: int
    due_ms: int
    state: State = State.SCHEDULED
    generation: int = 0
    attempts: int = 0
    lost: int = 0
    holder: str = ""
    lease_end_ms: int = 0
    kept_until_ms: int = 0
    has_turn: bool = False
    """It began, and its lane waits for its end."""
    nonce: str = ""
    """Drawn by the store: known as soon as the timer was seen."""

    @property
    def version(self) -> str:
        """As clients see it."""
        return f"{self.nonce}.{self.generation}.{self.attempts}.{self.state.letter}"


@dataclass
class BeginCall:
    """A begin call: what it has begun so far, and for how many the worker has room."""

    holder: str
    room: int
    begun: set[str] = field(default_factory=set)


class StoreModel:
    """Timers by id, and what becomes of them."""

    def __init__(self, time: FrozenTime) -> None:
        self.time = time
        self.timers: dict[str, Model] = {}
        self.archive: set[str] = set()
        """Names whose bits are set."""
        self.ended: set[str] = set()
        """Names of timers that have ended once."""
        self.seen: dict[str, State] = {}
        """The state in which each was seen last."""
        self._last_call_ms = self._up_since_ms = 0

    def create(self, name: str, delay_ms: int, if_exists: IfExists) -> Created:
        """New, the same again, kept, replaced or refused."""
        timer, due_ms = self.there(name), self.time.now_ms + delay_ms
        if timer is None:
            self.timers[name] = Model(delay_ms, due_ms)
            self.seen.pop(name, None)  # the id begins a new life
            return Created(Creation.CREATED, due_ms)
        if if_exists is IfExists.CONFLICT:
            same = timer.delay_ms == delay_ms
            return Created(Creation.EXISTS if same else Creation.CONFLICT, timer.due_ms)
        if if_exists is IfExists.KEEP:
            return Created(Creation.KEPT, timer.due_ms)
        if timer.state is State.RUNNING:
            return Created(Creation.RUNNING, timer.due_ms)
        is_finished = timer.state is not State.SCHEDULED
        wanted = {
            IfExists.REPLACE: True,
            IfExists.EARLIEST: is_finished or due_ms < timer.due_ms,
            IfExists.LATEST: is_finished or due_ms > timer.due_ms,
        }
        if not wanted[if_exists]:
            return Created(Creation.KEPT, timer.due_ms)
        self.timers[name] = Model(delay_ms, due_ms, generation=timer.generation + 1)
        self.seen.pop(name, None)  # a batch may replace what it has just created
        return Created(Creation.REPLACED, due_ms)

    def begin(self, name: str, call: BeginCall, *, is_stale: bool) -> tuple[Refusal | None, int]:
        """Why it does not begin, and how much too early it is."""
        timer, now_ms = self.timers.get(name), self.time.now_ms
        if timer is None:
            return Refusal.GONE, 0
        if is_stale:
            return Refusal.STALE, 0
        is_repeated = timer.state is State.RUNNING and timer.holder == call.holder and name not in call.begun
        if not is_repeated:
            refusal = self._refusal(name, call)
            if refusal is not None:
                return refusal, timer.due_ms - now_ms if refusal is Refusal.EARLY else 0
            timer.lost += timer.state is State.RUNNING
            timer.attempts += timer.state is State.SCHEDULED
            timer.state, timer.holder, timer.has_turn = State.RUNNING, call.holder, True
            call.room -= 1
        timer.lease_end_ms = now_ms + LEASE_MS
        call.begun.add(name)
        return None, 0

    def _refusal(self, name: str, call: BeginCall) -> Refusal | None:
        timer = self.timers[name]
        is_taken_over = timer.state is State.RUNNING and name not in call.begun and self.is_lost(name)
        if timer.state is not State.SCHEDULED and not is_taken_over:
            return REFUSALS[timer.state]
        if timer.due_ms > self.time.now_ms:
            return Refusal.EARLY
        if self.is_blocked(name):
            return Refusal.BLOCKED
        return Refusal.WAITING if call.room < 1 else None

    def asked(self) -> None:
        """Begin, beat or heal was called: the store is up, and has been since ..."""
        now_ms = self.time.now_ms
        if self._last_call_ms + SILENCE_MS < now_ms:
            self._last_call_ms = self._up_since_ms = now_ms
        elif self._last_call_ms + 1_000 < now_ms:
            self._last_call_ms = now_ms

    def is_lost(self, name: str) -> bool:
        """Whether its worker is."""
        timer = self.timers[name]
        return self.time.now_ms > max(timer.lease_end_ms, self._up_since_ms + GRACE_MS)

    def lost(self) -> set[str]:
        """What heal finds: the lease is over, and there was time to say that it is not."""
        if self.time.now_ms <= self._up_since_ms + GRACE_MS:
            return set()
        return {
            name
            for name, timer in self.timers.items()
            if timer.state is State.RUNNING and timer.lease_end_ms <= self.time.now_ms
        }

    def beat(self, begun: Begun) -> bool:
        """Whether the attempt is the worker's own."""
        timer = self.own(begun)
        if timer is None:
            return False
        timer.lease_end_ms = self.time.now_ms + LEASE_MS
        return True

    def hand_back(self, begun: Begun, *, may_be_sent: bool) -> bool:
        """Whether the attempt was the worker's own."""
        timer = self.own(begun)
        if timer is None:
            return False
        timer.state, timer.holder = State.SCHEDULED, ""
        timer.attempts -= 1
        timer.lost += may_be_sent
        return True

    def finish(self, end: Finish) -> bool:
        """Whether the attempt was the timer's own."""
        timer = self.own(end.begun)
        if timer is None:
            return False
        timer.holder, timer.lost = "", 0
        if isinstance(end.then, Retry):
            timer.state, timer.due_ms = State.SCHEDULED, self.time.now_ms + end.then.delay_ms
            return True
        assert isinstance(end.then, End)
        self._end(end.begun.wake_up.name.id, end.then.state, end.then.retention_ms)
        return True

    def own(self, begun: Begun) -> Model | None:
        """The timer, if the attempt is still the worker's."""
        timer = self.timers.get(begun.wake_up.name.id)
        if timer is None or timer.state is not State.RUNNING:
            return None
        return timer if (timer.nonce, timer.holder) == (begun.nonce, begun.holder) else None

    def _end(self, name: str, state: State, ms: int) -> None:
        timer = self.timers[name]
        timer.state, timer.has_turn, timer.kept_until_ms = state, False, self.time.now_ms + ms
        self.ended.add(name)

    def change(self, change: Change) -> Changed:
        """The definite answer."""
        timer = self.there(change.name.id)
        if timer is None:
            return Changed(ChangeResult.GONE)
        if timer.state not in change.states:
            return Changed(ChangeResult.OTHER_STATE, timer.state)
        if change.version not in {None, timer.version}:
            return Changed(ChangeResult.OTHER_VERSION, timer.state)
        due_ms = timer.due_ms
        if change.due is not None:
            assert isinstance(change.due, Delay)
            due_ms = self.time.now_ms + change.due.delay_ms
        after = Model(timer.delay_ms, due_ms, generation=timer.generation + 1, nonce=timer.nonce)
        self.timers[change.name.id] = after
        return Changed(ChangeResult.CHANGED, timer.state, due_ms, after.version)

    def cancel(self, name: str, version: str | None, ms: int) -> Changed:
        """The definite answer."""
        timer = self.there(name)
        if timer is None:
            return Changed(ChangeResult.GONE)
        if timer.state not in {State.SCHEDULED, State.FAILED}:
            return Changed(ChangeResult.OTHER_STATE, timer.state)
        if version not in {None, timer.version}:
            return Changed(ChangeResult.OTHER_VERSION, timer.state)
        changed = Changed(ChangeResult.CHANGED, timer.state, timer.due_ms, timer.version)
        if timer.state is State.FAILED:
            timer.kept_until_ms = self.time.now_ms
        else:
            self._end(name, State.CANCELLED, ms)
        return changed

    def there(self, name: str) -> Model | None:
        """The timer, unless its retention is over."""
        timer = self.timers.get(name)
        return None if timer and self.is_over(timer) else timer

    def is_over(self, timer: Model) -> bool:
        """Whether it has ended and its retention, too."""
        return timer.state in FINISHED and timer.kept_until_ms <= self.time.now_ms

    def over(self) -> list[str]:
        """The names of those whose retention is over, in the order in which they are forgotten."""
        found = [name for name, timer in self.timers.items() if self.is_over(timer)]
        return sorted(found, key=lambda name: (self.timers[name].kept_until_ms, name))

    def is_archived(self, name: str) -> bool:
        """Whether a client is told so."""
        timer = self.timers.get(name)
        return (timer is not None and self.is_over(timer)) or name in self.archive

    def generation(self, name: str) -> int:
        """Of the timer that has the id."""
        return self.timers[name].generation if name in self.timers else 0

    def is_blocked(self, name: str) -> bool:
        """Whether another timer of its lane comes first."""
        lane = [
            (0 if timer.has_turn else timer.due_ms, other)
            for other, timer in self.timers.items()
            if LANES[other] and LANES[other] == LANES[name] and timer.state in UNFINISHED
        ]
        return bool(lane) and min(lane)[1] != name

    def could_begin(self, name: str) -> bool:
        """As soon as it is due, as far as its lane is concerned."""
        return self.timers[name].state is State.SCHEDULED and not self.is_blocked(name)
