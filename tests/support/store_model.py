"""What the store must do, in plain Python: the oracle of the state machine."""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from httpqueue.storage.partitions import Partitions
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
    NewTimer,
    Refusal,
    Retry,
    WakeUp,
)
from httpqueue.timers.names import DEFAULT_APPLICATION, TimerName
from httpqueue.timers.policies import DestinationPolicy
from httpqueue.timers.schedule import Delay
from httpqueue.timers.spec import Spec
from httpqueue.timers.timer import FINISHED, State, Timer
from tests.support.frozen import LEASE_MS, FrozenTime

KEYS: dict[str, tuple[str | None, str | None]] = {
    "a": (None, "lane"),
    "b": ("lane", None),
    "c": ("lane", "k"),
    "d": ("lane", "k"),
    "e": ("k", "lane"),
}
"""The usual ordering key of each name, and another one. With four partitions, most are away from home."""
LANES = ("lane", "k")
HOSTS = ("receiver", "second")
UNFINISHED = frozenset({State.SCHEDULED, State.RUNNING})
REFUSALS = {State.RUNNING: Refusal.RUNNING} | dict.fromkeys(FINISHED, Refusal.FINISHED)
SILENCE_MS = 5_000
"""The store was away when nobody has asked it for longer."""
GRACE_MS = 15_000
"""For so long after that, nobody takes a running timer over."""


def name_of(timer_id: str) -> TimerName:
    """Of the default application."""
    return TimerName(DEFAULT_APPLICATION, timer_id)


class Content(NamedTuple):
    """What a client says of a timer."""

    delay_ms: int
    key: str | None
    is_changed: bool = False
    """A client changed it later: it goes to the other host."""

    def host(self, timer_id: str) -> str:
        """Where the timer of this id goes."""
        return HOSTS[(timer_id in "ce") != self.is_changed]

    def spec(self, timer_id: str) -> Spec:
        """The same for the store."""
        return Spec(f"http://{self.host(timer_id)}/", Delay(self.delay_ms), ordering_key=self.key)


class Wish(NamedTuple):
    """A timer that a client posts."""

    timer_id: str
    content: Content
    if_exists: IfExists

    @property
    def new_timer(self) -> NewTimer:
        """The same for the store."""
        return NewTimer(name_of(self.timer_id), self.content.spec(self.timer_id), self.if_exists)


@dataclass
class Model:
    """A timer as it must be."""

    content: Content
    due_ms: int
    partition: int
    host: str
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
    def lane(self) -> str | None:
        """Its ordering key."""
        return self.content.key

    @property
    def version(self) -> str:
        """As clients see it."""
        return f"{self.nonce}.{self.generation}.{self.attempts}.{self.state.letter}"


@dataclass
class BeginCall:
    """A begin call: what it has begun so far, and to how many calls each host has room in each partition."""

    holder: str
    room: float = inf
    permits: Collection[WakeUp] = ()
    begun: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._left: dict[tuple[int, str], float] = defaultdict(lambda: self.room)

    def take(self, partition: int, host: str) -> bool:
        """Whether there is room for one more."""
        has_room = self._left[partition, host] >= 1
        self._left[partition, host] -= has_room
        return has_room


@dataclass
class HostModel:
    """The rules of a host, and what they allow."""

    rules: DestinationPolicy = field(default_factory=DestinationPolicy)
    is_limited: bool = False
    """The partitions know that it has rules."""
    since_ms: int = 0
    granted: int = 0
    """Permits since then."""
    most: float = inf
    """Permits at a time; more than the concurrency as long as there were more when it was lowered."""

    def set(self, rules: DestinationPolicy, now_ms: int) -> None:
        """From now on."""
        if rules != self.rules:
            self.rules, self.since_ms, self.granted, self.most = rules, now_ms, 0, inf

    def grant(self, count: int, now_ms: int) -> None:
        """The host gave so many permits: it had to be allowed to."""
        self.granted += count
        assert not (count and self.rules.paused)
        if self.rules.rate is not None:
            assert self.granted <= (now_ms - self.since_ms) * self.rules.rate / 1_000 + 1.001

    def see(self, permits: int) -> None:
        """So many are there now."""
        assert permits <= self.most
        if self.rules.concurrency is not None:
            self.most = max(self.rules.concurrency, permits)


class StoreModel:
    """Timers by id, and what becomes of them."""

    def __init__(self, time: FrozenTime, partitions: Partitions) -> None:
        self.time = time
        self.partitions = partitions
        self.timers: dict[str, Model] = {}
        self.archive: set[str] = set()
        """Names whose bits are set."""
        self.remembered: set[str] = set()
        """Those of them that were looked for."""
        self.seen: dict[str, State] = {}
        """The state in which each was seen last."""
        self.hosts = {host: HostModel() for host in HOSTS}
        self.is_paused = False
        self.waiting: frozenset[str] = frozenset()
        """Names that the store says wait for their hosts."""
        self.pointers: dict[str, tuple[int, str]] = {}
        """Where the store says that a name's timer is, or was to be, and its nonce."""
        self._last_call_ms: dict[int, int] = defaultdict(int)
        self._up_since_ms: dict[int, int] = defaultdict(int)

    def place_of(self, timer_id: str, key: str | None) -> int:
        """The partition of such a timer."""
        return self.partitions.place_of(name_of(timer_id), key)

    def home_of(self, timer_id: str) -> int:
        """The partition that its name hashes to."""
        return self.partitions.home_of(name_of(timer_id))

    def create(self, wish: Wish) -> Created:  # noqa: PLR0911 - as many as there are answers
        """New, the same again, kept, replaced or refused."""
        name, content, if_exists = wish
        timer, due_ms = self.there(name), self.time.now_ms + content.delay_ms
        place = self.place_of(name, content.key)
        if timer is None:
            return self._create_anew(name, content, place)
        is_same_place = timer.partition == place
        if is_same_place and if_exists is IfExists.CONFLICT and timer.content == content:
            return Created(Creation.EXISTS, timer.due_ms, timer.state)
        if if_exists is IfExists.KEEP:
            return Created(Creation.KEPT, timer.due_ms, timer.state)
        if timer.lane != content.key:
            return Created(Creation.OTHER_LANE, timer.due_ms)
        if if_exists is IfExists.CONFLICT:
            return Created(Creation.CONFLICT, timer.due_ms)
        if timer.state is State.RUNNING:
            return Created(Creation.RUNNING, timer.due_ms)
        is_finished = timer.state is not State.SCHEDULED
        wanted = {
            IfExists.REPLACE: True,
            IfExists.EARLIEST: is_finished or due_ms < timer.due_ms,
            IfExists.LATEST: is_finished or due_ms > timer.due_ms,
        }
        if not wanted[if_exists]:
            return Created(Creation.KEPT, timer.due_ms, timer.state)
        self.timers[name] = self._new(name, content, due_ms, generation=timer.generation + 1)
        self.seen.pop(name, None)  # a batch may replace what it has just created
        return Created(Creation.REPLACED, due_ms)

    def _create_anew(self, name: str, content: Content, place: int) -> Created:
        over = self.timers.get(name)
        other, nonce = self.pointers.get(name, (place, ""))
        if over is not None and over.partition != place:
            self.archive.add(name)  # it is forgotten first
            del self.timers[name]
            if nonce == over.nonce:
                other = place
        if other != place:
            return Created(Creation.OTHER_LANE, 0)  # somebody may be creating it there just now
        due_ms = self.time.now_ms + content.delay_ms
        self.timers[name] = self._new(name, content, due_ms)
        self.seen.pop(name, None)  # the id begins a new life
        self.pointers.pop(name, None)
        if place != self.home_of(name):
            self.pointers[name] = place, ""
        return Created(Creation.CREATED, due_ms)

    def _new(self, name: str, content: Content, due_ms: int, generation: int = 0) -> Model:
        return Model(
            content, due_ms, self.place_of(name, content.key), content.host(name), generation=generation
        )

    def begin(self, wake_up: WakeUp, call: BeginCall) -> tuple[Refusal | None, int]:
        """Why it does not begin, and how much too early it is."""
        name = wake_up.name.id
        timer, now_ms = self.timers.get(name), self.time.now_ms
        if timer is None or timer.partition != wake_up.partition:
            return Refusal.GONE, 0
        if timer.generation != wake_up.generation:
            return Refusal.STALE, 0
        is_repeated = timer.state is State.RUNNING and timer.holder == call.holder and name not in call.begun
        if not is_repeated:
            refusal = self._refusal(wake_up, call)
            if refusal is not None:
                return refusal, timer.due_ms - now_ms if refusal is Refusal.EARLY else 0
            timer.lost += timer.state is State.RUNNING
            timer.attempts += timer.state is State.SCHEDULED
            timer.state, timer.holder, timer.has_turn = State.RUNNING, call.holder, True
        timer.lease_end_ms = now_ms + LEASE_MS
        call.begun.add(name)
        return None, 0

    def _refusal(self, wake_up: WakeUp, call: BeginCall) -> Refusal | None:
        name = wake_up.name.id
        timer = self.timers[name]
        is_taken_over = timer.state is State.RUNNING and name not in call.begun and self.is_lost(name)
        if timer.state is not State.SCHEDULED and not is_taken_over:
            return REFUSALS[timer.state]
        if timer.due_ms > self.time.now_ms:
            return Refusal.EARLY
        if self.is_paused:
            return Refusal.PAUSED
        if self.is_blocked(name):
            return Refusal.BLOCKED
        if wake_up in call.permits:
            return None
        needs_permit = self.hosts[timer.host].is_limited or name in self.waiting
        return None if not needs_permit and call.take(timer.partition, timer.host) else Refusal.NEEDS_PERMIT

    def asked(self, partitions: Collection[int]) -> None:
        """Begin, beat or heal was called there: the store is up, and has been since ..."""
        now_ms = self.time.now_ms
        for partition in partitions:
            if self._last_call_ms[partition] + SILENCE_MS < now_ms:
                self._last_call_ms[partition] = self._up_since_ms[partition] = now_ms
            elif self._last_call_ms[partition] + 1_000 < now_ms:
                self._last_call_ms[partition] = now_ms

    def is_lost(self, name: str) -> bool:
        """Whether its worker is."""
        timer = self.timers[name]
        return self.time.now_ms > max(timer.lease_end_ms, self._up_since_ms[timer.partition] + GRACE_MS)

    def lost(self, partition: int) -> set[str]:
        """What heal finds: the lease is over, and there was time to say that it is not."""
        if self.time.now_ms <= self._up_since_ms[partition] + GRACE_MS:
            return set()
        return {
            name
            for name, timer in self.timers.items()
            if timer.partition == partition
            and timer.state is State.RUNNING
            and timer.lease_end_ms <= self.time.now_ms
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

    def change(self, change: Change, content: Content | None) -> Changed:
        """The definite answer. content: that of the change's spec."""
        timer = self.there(change.name.id)
        if timer is None:
            return Changed(ChangeResult.GONE)
        if timer.state not in change.states:
            return Changed(ChangeResult.OTHER_STATE, timer.state)
        if change.version not in {None, timer.version}:
            return Changed(ChangeResult.OTHER_VERSION, timer.state)
        if content is not None and content.key != timer.lane:
            return Changed(ChangeResult.OTHER_LANE, timer.state)
        due_ms = timer.due_ms
        if change.due is not None:
            assert isinstance(change.due, Delay)
            due_ms = self.time.now_ms + change.due.delay_ms
        after = self._new(change.name.id, content or timer.content, due_ms, timer.generation + 1)
        after.nonce = timer.nonce
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

    def end_many(self, timers: Collection[Timer], states: Collection[State], ms: int) -> int:
        """End those that are as they were read. Returns how many were."""
        count = 0
        for read in timers:
            timer = self.there(read.name.id)
            if timer is None or timer.state not in states or timer.version != read.version:
                continue
            count += 1
            if timer.state in FINISHED:
                timer.kept_until_ms = self.time.now_ms
            else:
                self._end(read.name.id, State.CANCELLED, ms)
        return count

    def there(self, name: str) -> Model | None:
        """The timer, unless its retention is over."""
        timer = self.timers.get(name)
        return None if timer and self.is_over(timer) else timer

    def is_over(self, timer: Model) -> bool:
        """Whether it has ended and its retention, too."""
        return timer.state in FINISHED and timer.kept_until_ms <= self.time.now_ms

    def over(self, partition: int) -> list[str]:
        """The names of those there whose retention is over, in the order in which they are forgotten."""
        found = [
            name
            for name, timer in self.timers.items()
            if timer.partition == partition and self.is_over(timer)
        ]
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
        key = self.timers[name].lane
        lane = [
            (0 if timer.has_turn else timer.due_ms, other)
            for other, timer in self.timers.items()
            if key and timer.lane == key and timer.state in UNFINISHED
        ]
        return bool(lane) and min(lane)[1] != name

    def could_begin(self, name: str) -> bool:
        """As soon as it is due, as far as its lane is concerned."""
        return self.timers[name].state is State.SCHEDULED and not self.is_blocked(name)

    def wake_up(self, name: str, *, newer: int = 0, is_at_home: bool = False) -> WakeUp:
        """That of the timer that has the id, or of a later generation, or what would be one in its home."""
        timer = self.timers.get(name)
        partition = self.home_of(name) if timer is None or is_at_home else timer.partition
        return WakeUp(name_of(name), self.generation(name) + newer, partition=partition)

    def bury(self, names: Collection[str], partition: int) -> None:
        """A relay puts those into the archive that are not at home, before it forgets them."""
        self.archive.update(name for name in names if self.home_of(name) != partition)

    def forget(self, names: Collection[str], partition: int) -> int:
        """Forget those of them that are over. Returns how many."""
        gone = [name for name in self.over(partition) if name in names]
        self.bury(names, partition)
        self.archive.update(gone)
        for name in gone:
            del self.timers[name]
        return len(gone)
