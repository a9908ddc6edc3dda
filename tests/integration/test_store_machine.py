"""Whatever happens in whatever order, the store and a model of it agree: no timer is lost or taken twice."""

import asyncio
from dataclasses import dataclass
from typing import ClassVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from redis.asyncio import Redis

from httpqueue import keys
from httpqueue.archive import Archive
from httpqueue.embedded import EmbeddedValkey
from httpqueue.outcome import Outcome
from httpqueue.store import Store
from httpqueue.timer import TRANSITIONS, Attempt, State
from httpqueue.transitions import Begun, Created, Creation, Cursor, Finish, Refusal, WakeUp
from tests.frozen import HOUR_MS, LEASE_MS, FrozenTime, new_timer, wake_up

NAMES = "abc"
IDS = st.sampled_from(NAMES)
MS = st.sampled_from([0, 1, LEASE_MS - 1, LEASE_MS])
OUTCOMES = st.sampled_from([Outcome.RETRY, Outcome.RETRY, Outcome.DELIVERED, Outcome.FAILED])


@dataclass
class Model:
    """A timer as it must be."""

    delay_ms: int
    due_ms: int
    state: State = State.SCHEDULED
    attempts: int = 0
    index_ms: int = 0
    """Its place in the due index while it is unfinished."""


class StoreMachine(RuleBasedStateMachine):
    """Rules are batches, applied to the store in one call and to the model one by one."""

    url: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.time = FrozenTime()
        self.redis = Redis.from_url(self.url)
        self.store = Store(self.redis, archive=Archive(self.redis, error_rate=1e-6), now=self.time)
        self.model: dict[str, Model] = {}
        self.archived: set[str] = set()
        self.outbox: list[WakeUp] = []
        self.begun: list[Begun] = []
        self.seen: dict[str, State] = {}
        self.runner.run(self.redis.flushall())

    def teardown(self) -> None:
        """Close what this example opened."""
        self.runner.run(self.redis.aclose())
        self.runner.close()

    @rule(batch=st.lists(st.tuples(IDS, MS), min_size=1, max_size=6))
    def create(self, batch: list[tuple[str, int]]) -> None:
        """New ones, the same again, and conflicting ones."""
        answers = self.runner.run(self.store.create([new_timer(*each) for each in batch]))
        assert answers == [self._create(*each) for each in batch]

    def _create(self, timer_id: str, delay_ms: int) -> Created:
        timer = self.model.get(timer_id)
        if timer is not None:
            same = timer.delay_ms == delay_ms
            return Created(Creation.EXISTS if same else Creation.CONFLICT, timer.due_ms)
        due_ms = self.time.now_ms + delay_ms
        self.model[timer_id] = Model(delay_ms, due_ms, index_ms=due_ms)
        self.seen.pop(timer_id, None)  # the id begins a new life
        self.outbox.append(WakeUp(f"default:{timer_id}", 0, due_ms))
        return Created(Creation.CREATED, due_ms)

    @rule(ms=MS)
    def advance(self, ms: int) -> None:
        """Time passes."""
        self.time.advance(ms)

    @rule(batch=st.lists(st.tuples(IDS, st.sampled_from([0, 0, 0, 0, 1])), min_size=1, max_size=6))
    def begin(self, batch: list[tuple[str, int]]) -> None:
        """Right, stale, early and duplicate wake-ups."""
        wake_ups = [wake_up(*each) for each in batch]
        answers = self.runner.run(self.store.begin(wake_ups, lease_ms=LEASE_MS))
        for (timer_id, generation), answer in zip(batch, answers, strict=True):
            refusal, wait_ms = self._begin(timer_id, generation)
            if isinstance(answer, Begun):
                timer = self.model[timer_id]
                assert refusal is None
                assert (answer.attempt, answer.due_ms) == (timer.attempts, timer.due_ms)
                assert answer.due_ms <= answer.started_ms == self.time.now_ms
                self.begun.append(answer)
            else:
                assert (answer.refusal, answer.wait_ms) == (refusal, wait_ms)

    def _begin(self, timer_id: str, generation: int) -> tuple[Refusal | None, int]:
        timer = self.model.get(timer_id)
        if timer is None:
            return Refusal.GONE, 0
        if generation:
            return Refusal.STALE, 0
        if timer.state in {State.DONE, State.FAILED}:
            return Refusal.FINISHED, 0
        wait_ms = timer.index_ms - self.time.now_ms
        if wait_ms > 0:
            return (Refusal.RUNNING, 0) if timer.state is State.RUNNING else (Refusal.EARLY, wait_ms)
        timer.state, timer.index_ms = State.RUNNING, self.time.now_ms + LEASE_MS
        timer.attempts += 1
        return None, 0

    @rule(data=st.data(), outcome=OUTCOMES, ms=MS, keep=st.booleans())
    def finish(self, data: st.DataObject, outcome: Outcome, ms: int, *, keep: bool) -> None:
        """Attempts of every age, in time or late, some told twice."""
        if not self.begun:
            return
        batch = data.draw(st.lists(st.sampled_from(self.begun), min_size=1, max_size=4))
        if outcome is not Outcome.RETRY:
            ms = HOUR_MS if keep else 0
        ends = [
            Finish(each.wake_up, each.attempt, outcome, ms, Attempt(each.started_ms, 0, 200))
            for each in batch
        ]
        assert self.runner.run(self.store.finish(ends)) == [self._finish(end) for end in ends]

    def _finish(self, end: Finish) -> bool:
        timer_id = end.wake_up.member.removeprefix("default:")
        timer = self.model.get(timer_id)
        if timer is None or (timer.state, timer.attempts) != (State.RUNNING, end.attempt):
            return False
        if end.outcome is Outcome.RETRY:
            timer.state, timer.due_ms = State.SCHEDULED, self.time.now_ms + end.ms
            timer.index_ms = timer.due_ms
            self.outbox.append(WakeUp(end.wake_up.member, 0, timer.due_ms))
            return True
        self.archived.add(timer_id)
        timer.state = State.DONE if end.outcome is Outcome.DELIVERED else State.FAILED
        if not end.ms:
            del self.model[timer_id]
        return True

    @rule(limit=st.integers(1, 4), ahead_ms=MS)
    def sweep(self, limit: int, ahead_ms: int) -> None:
        """Page by page, each unfinished timer up to there is found once."""
        found: list[WakeUp] = []
        cursor: Cursor | None = Cursor()
        while cursor is not None:
            page = self.runner.run(self.store.upcoming(cursor, ahead_ms=ahead_ms, limit=limit))
            found += page.wake_ups
            cursor = page.next
        until_ms = self.time.now_ms + ahead_ms
        expected = {name: due_ms for name, due_ms in self._index().items() if due_ms <= until_ms}
        assert len(found) == len(expected)
        assert {each.member: each.due_ms for each in found} == expected

    @rule(limit=st.integers(1, 20))
    def drain(self, limit: int) -> None:
        """Every change that needs a wake-up is in the outbox once, in order."""
        entries, _ = self.runner.run(self.store.read_outbox("relay", limit=limit, block_ms=1))
        assert [entry.wake_up for entry in entries] == self.outbox[:limit]
        if entries:
            self.runner.run(self.store.acknowledge(entries))
        del self.outbox[:limit]

    @rule(timer_id=IDS)
    def look_up(self, timer_id: str) -> None:
        """What finished once is archived, and nothing else is."""
        archived = self.runner.run(self.store.is_archived("default", timer_id))
        assert archived == (timer_id in self.archived)

    @invariant()
    def store_and_model_agree(self) -> None:
        """Every record, and the whole due index."""
        self.runner.run(self._compare())

    async def _compare(self) -> None:
        assert dict(await self.redis.zrange(keys.DUE, 0, -1, withscores=True)) == {
            name.encode(): due_ms for name, due_ms in self._index().items()
        }
        for timer_id in NAMES:
            found, timer = await self.store.get("default", timer_id), self.model.get(timer_id)
            assert (found is None) == (timer is None)
            if found and timer:
                stored = found.timer
                assert (stored.state, stored.attempts) == (timer.state, timer.attempts)
                assert (stored.due_ms, stored.generation) == (timer.due_ms, 0)
                self._see(timer_id, stored.state)

    def _index(self) -> dict[str, int]:
        unfinished = {State.SCHEDULED, State.RUNNING}
        return {
            f"default:{name}": timer.index_ms
            for name, timer in self.model.items()
            if timer.state in unfinished
        }

    def _see(self, timer_id: str, state: State) -> None:
        before = self.seen.get(timer_id, state)
        # a batch changes a timer once at most, so that each change is seen
        assert before is state or (before, state) in TRANSITIONS
        self.seen[timer_id] = state


def test_store_and_model_agree(valkey_server: EmbeddedValkey) -> None:
    """Nothing is lost, an id is accepted once, attempts are counted, and none begins early."""

    class Machine(StoreMachine):
        url = valkey_server.url

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=40,
            stateful_step_count=30,
            deadline=None,
            database=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
