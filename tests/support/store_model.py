"""What the store must do, in plain Python: the oracle of the state machine."""

from dataclasses import dataclass

from httpqueue.timers.commands import (
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


@dataclass
class Model:
    """A timer as it must be."""

    delay_ms: int
    due_ms: int
    state: State = State.SCHEDULED
    generation: int = 0
    attempts: int = 0
    lease_end_ms: int = 0
    kept_until_ms: int = 0
    has_turn: bool = False
    """It began, and its lane waits for its end."""

    @property
    def version(self) -> str:
        """As clients see it."""
        return f"{self.generation}.{self.attempts}.{self.state.letter}"


class StoreModel:
    """Timers by id, and what becomes of them."""

    def __init__(self, time: FrozenTime) -> None:
        self.time = time
        self.timers: dict[str, Model] = {}
        self.archived: set[str] = set()
        self.seen: dict[str, State] = {}
        """The state in which each was seen last."""

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

    def begin(self, name: str, *, is_stale: bool) -> tuple[Refusal | None, int]:
        """Why it does not begin, and how much too early it is."""
        timer, now_ms = self.timers.get(name), self.time.now_ms
        if timer is None:
            return Refusal.GONE, 0
        if is_stale:
            return Refusal.STALE, 0
        is_lost = timer.state is State.RUNNING and timer.lease_end_ms <= now_ms
        if timer.state is not State.SCHEDULED and not is_lost:
            return REFUSALS[timer.state], 0
        if timer.due_ms > now_ms:
            return Refusal.EARLY, timer.due_ms - now_ms
        if self.is_blocked(name):
            return Refusal.BLOCKED, 0
        timer.state, timer.lease_end_ms, timer.has_turn = State.RUNNING, now_ms + LEASE_MS, True
        timer.attempts += 1
        return None, 0

    def finish(self, end: Finish) -> bool:
        """Whether the attempt was the timer's own."""
        name = end.wake_up.name.id
        timer = self.timers.get(name)
        own = (State.RUNNING, end.wake_up.generation, end.attempt.number)
        if timer is None or (timer.state, timer.generation, timer.attempts) != own:
            return False
        if isinstance(end.then, Retry):
            timer.state, timer.due_ms = State.SCHEDULED, self.time.now_ms + end.then.delay_ms
            return True
        assert isinstance(end.then, End)
        self.archived.add(name)
        self._end(name, end.then.state, end.then.retention_ms)
        return True

    def _end(self, name: str, state: State, ms: int) -> None:
        timer = self.timers[name]
        timer.state, timer.has_turn, timer.kept_until_ms = state, False, self.time.now_ms + ms
        if not ms:
            del self.timers[name]

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
        self.timers[change.name.id] = Model(timer.delay_ms, due_ms, generation=timer.generation + 1)
        return Changed(ChangeResult.CHANGED, timer.state, due_ms, timer.generation + 1)

    def cancel(self, name: str, version: str | None, ms: int) -> Changed:
        """The definite answer."""
        timer = self.there(name)
        if timer is None:
            return Changed(ChangeResult.GONE)
        if timer.state not in {State.SCHEDULED, State.FAILED}:
            return Changed(ChangeResult.OTHER_STATE, timer.state)
        if version not in {None, timer.version}:
            return Changed(ChangeResult.OTHER_VERSION, timer.state)
        before = timer.state
        if before is State.FAILED:
            del self.timers[name]
        else:
            self.archived.add(name)
            self._end(name, State.CANCELLED, ms)
        return Changed(ChangeResult.CHANGED, before, timer.due_ms, timer.generation)

    def there(self, name: str) -> Model | None:
        """The timer, unless its retention is over."""
        timer = self.timers.get(name)
        if timer and timer.state in FINISHED and timer.kept_until_ms <= self.time.now_ms:
            return None
        return timer

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
        """As soon as it is due."""
        timer = self.timers[name]
        if timer.state is State.RUNNING:
            return timer.lease_end_ms <= self.time.now_ms
        return timer.state is State.SCHEDULED and not self.is_blocked(name)
