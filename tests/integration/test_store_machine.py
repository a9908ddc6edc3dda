"""Whatever happens in whatever order, the store and a model of it agree: no timer is lost or taken twice."""

import asyncio
from collections import Counter
from dataclasses import replace
from math import inf
from typing import ClassVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from redis.asyncio import Redis

from httpqueue.storage.archive import Archive
from httpqueue.storage.embedded import EmbeddedValkey
from httpqueue.storage.keys import name_of
from httpqueue.storage.timers import Store
from httpqueue.timers.commands import (
    Begun,
    Change,
    IfExists,
    Position,
    WakeUp,
)
from httpqueue.timers.names import TimerName
from httpqueue.timers.schedule import Delay
from httpqueue.timers.timer import FINISHED, TRANSITIONS, State
from httpqueue.webhooks.outcome import Outcome
from tests.support.frozen import LEASE_MS, FrozenTime, finish_of, new_timer, outbox_of, wake_up
from tests.support.keys import STORE
from tests.support.store_model import LANES, UNFINISHED, StoreModel

NAMES = st.sampled_from(sorted(LANES))
MS = st.sampled_from([0, 1, LEASE_MS - 1, LEASE_MS])
OUTCOMES = st.sampled_from([Outcome.RETRY, Outcome.RETRY, Outcome.DELIVERED, Outcome.FAILED])


class StoreMachine(RuleBasedStateMachine):
    """Rules are batches, applied to the store in one call and to the model one by one."""

    url: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.time = FrozenTime()
        self.redis = Redis.from_url(self.url)
        self.store = Store(self.redis, archive=Archive(self.redis, error_rate=1e-6), now=self.time)
        self.wanted = StoreModel(self.time)
        self.startable: set[WakeUp] = set()
        self.last_entry = "-"
        self.begun: list[Begun] = []
        self.runner.run(self.redis.flushall())

    def teardown(self) -> None:
        """Close what this example opened."""
        self.runner.run(self.redis.aclose())
        self.runner.close()

    # --- rules ---

    @rule(batch=st.lists(st.tuples(NAMES, MS, st.sampled_from(IfExists)), min_size=1, max_size=6))
    def create(self, batch: list[tuple[str, int, IfExists]]) -> None:
        """New ones, the same again, and others of the same id."""
        timers = [
            replace(new_timer(name, ms, ordering_key=LANES[name]), if_exists=if_exists)
            for name, ms, if_exists in batch
        ]
        answers = self.runner.run(self.store.create(timers))
        assert answers == [self.wanted.create(*each) for each in batch]

    @rule(ms=MS)
    def advance(self, ms: int) -> None:
        """Time passes."""
        self.time.advance(ms)

    @rule(batch=st.lists(st.tuples(NAMES, st.sampled_from([0, 0, 0, 0, 1])), min_size=1, max_size=6))
    def begin(self, batch: list[tuple[str, int]]) -> None:
        """Right, stale, early, blocked and duplicate wake-ups."""
        wake_ups = [wake_up(name, self.wanted.generation(name) + newer) for name, newer in batch]
        answers = self.runner.run(self.store.begin(wake_ups, lease_ms=LEASE_MS))
        for (name, newer), answer in zip(batch, answers, strict=True):
            refusal, wait_ms = self.wanted.begin(name, is_stale=newer > 0)
            if isinstance(answer, Begun):
                timer = self.wanted.timers[name]
                assert refusal is None
                assert (answer.attempt, answer.due_ms) == (timer.attempts, timer.due_ms)
                assert answer.due_ms <= answer.started_ms == self.time.now_ms
                self.begun.append(answer)
            else:
                assert (answer.refusal, answer.wait_ms) == (refusal, wait_ms)

    @rule(data=st.data(), outcome=OUTCOMES, ms=MS, keep=st.booleans())
    def finish(self, data: st.DataObject, outcome: Outcome, ms: int, *, keep: bool) -> None:
        """Attempts of every age, in time or late, some told twice."""
        if not self.begun:
            return
        batch = data.draw(st.lists(st.sampled_from(self.begun[-8:]), min_size=1, max_size=4))
        if outcome is not Outcome.RETRY:
            ms = LEASE_MS if keep else 0
        ends = [finish_of(each, outcome, ms) for each in batch]
        finished = self.runner.run(self.store.finish(ends))
        assert finished.counted == [self.wanted.finish(end) for end in ends]

    @rule(
        batch=st.lists(
            st.tuples(
                NAMES,
                st.sets(st.sampled_from([State.SCHEDULED, *sorted(FINISHED)]), min_size=1),
                st.none() | MS,
                st.sampled_from([None, None, "own", "other"]),
            ),
            min_size=1,
            max_size=3,
        )
    )
    def change(self, batch: list[tuple[str, set[State], int | None, str | None]]) -> None:
        """Another due time, fired now, replayed: with the version that the client has seen, or another."""
        changes = [
            Change(
                TimerName("default", name),
                frozenset(states),
                self._version(name, tag),
                due=None if delay_ms is None else Delay(delay_ms),
            )
            for name, states, delay_ms, tag in batch
        ]
        answers = self.runner.run(self.store.change(changes))
        assert answers == [self.wanted.change(change) for change in changes]

    @rule(name=NAMES, ms=st.sampled_from([0, 1, LEASE_MS]), tag=st.sampled_from([None, None, "own", "other"]))
    def cancel(self, name: str, ms: int, tag: str | None) -> None:
        """Before it is sent, in flight, done, failed, gone."""
        version = self._version(name, tag)
        answer = self.runner.run(
            self.store.cancel(TimerName("default", name), version=version, retention_ms=ms)
        )
        assert answer == self.wanted.cancel(name, version, ms)

    @rule(limit=st.integers(1, 4))
    def forget(self, limit: int) -> None:
        """What is over goes, and nothing else."""
        over = [name for name in self.wanted.timers if self.wanted.there(name) is None]
        assert self.runner.run(self.store.forget(limit=limit)) == min(limit, len(over))
        while self.runner.run(self.store.forget(limit=limit)):
            pass
        for name in over:
            del self.wanted.timers[name]

    @rule(limit=st.integers(1, 4), ahead_ms=MS)
    def sweep(self, limit: int, ahead_ms: int) -> None:
        """Page by page, each timer that could begin is found once."""
        found = self.runner.run(self._upcoming(limit, ahead_ms))
        until_ms = self.time.now_ms + ahead_ms
        expected = [
            wake_up(name, timer.generation)
            for name, timer in self.wanted.timers.items()
            if timer.due_ms <= until_ms and self.wanted.could_begin(name)
        ]
        assert sorted((each.name, each.generation) for each in found) == sorted(
            (each.name, each.generation) for each in expected
        )

    async def _upcoming(self, limit: int, ahead_ms: int) -> list[WakeUp]:
        found: list[WakeUp] = []
        position: Position | None = Position()
        while position is not None:
            page = await self.store.upcoming(position, ahead_ms=ahead_ms, limit=limit)
            assert not page.waiting
            found += page.wake_ups
            position = page.next
        return found

    @rule(limit=st.integers(1, 20))
    def drain(self, limit: int) -> None:
        """The relay takes what is in the outbox."""
        entries, _ = self.runner.run(outbox_of(self.store).read("relay", limit=limit, block_ms=1))
        assert all(entry.wake_up for entry in entries)
        if entries:
            self.runner.run(outbox_of(self.store).acknowledge(entries))

    @rule(name=NAMES)
    def look_up(self, name: str) -> None:
        """What finished once is archived, and nothing else is."""
        archived = self.runner.run(self.store.is_archived(TimerName("default", name)))
        assert archived == (name in self.wanted.archived)

    # --- what always holds ---

    @invariant()
    def store_and_model_agree(self) -> None:
        """Every record as a client sees it."""
        self.runner.run(self._compare())

    async def _compare(self) -> None:
        for name in LANES:
            found, timer = await self.store.get(TimerName("default", name)), self.wanted.there(name)
            assert (found is None) == (timer is None)
            if found and timer:
                assert (found.timer.version, found.timer.due_ms) == (timer.version, timer.due_ms)
                self._see(name, found.timer.state)

    @invariant()
    def indices_agree_with_records(self) -> None:
        """Due times, leases, retention and lanes: what the records say, and nothing else."""
        self.runner.run(self._compare_indices())

    async def _compare_indices(self) -> None:
        model = self.wanted.timers.items()
        assert await self._index(STORE.due) == {
            name: timer.due_ms for name, timer in model if timer.state in UNFINISHED
        }
        assert await self._index(STORE.running) == {
            name: timer.lease_end_ms for name, timer in model if timer.state is State.RUNNING
        }
        finished = {name: timer for name, timer in model if timer.state in FINISHED}
        assert await self._index(STORE.finished) == {name: each.due_ms for name, each in finished.items()}
        assert await self._index(STORE.retention) == {
            name: each.kept_until_ms for name, each in finished.items()
        }
        for lane in ("lane", "other"):
            assert await self._index(f"{STORE.lanes}default:{lane}") == {
                name: -inf if timer.has_turn else timer.due_ms
                for name, timer in model
                if LANES[name] == lane and timer.state in UNFINISHED
            }

    @invariant()
    def counts_are_what_a_scan_finds(self) -> None:
        """By application and state."""
        counts = self.runner.run(self.redis.hgetall(STORE.counts))
        scan = Counter(f"default:{timer.state.letter}".encode() for timer in self.wanted.timers.values())
        assert {field: int(count) for field, count in counts.items()} == scan

    @invariant()
    def one_of_a_lane_runs(self) -> None:
        """At most."""
        running = [LANES[name] for name, timer in self.wanted.timers.items() if timer.state is State.RUNNING]
        lanes = [lane for lane in running if lane is not None]
        assert len(lanes) == len(set(lanes))

    @invariant()
    def no_wake_up_is_lost(self) -> None:
        """What could begin now is found in the due index, whatever became of its outbox entry."""
        found = {wake_up.name.id for wake_up in self.runner.run(self._upcoming(100, 0))}
        for name, timer in self.wanted.timers.items():
            if timer.due_ms <= self.time.now_ms and self.wanted.could_begin(name):
                assert name in found

    @invariant()
    def the_relay_is_told(self) -> None:
        """Of everything that is new in what can begin: created, changed, to be retried, no longer blocked."""
        startable = {
            replace(wake_up(name, timer.generation), due_ms=timer.due_ms)
            for name, timer in self.wanted.timers.items()
            if timer.state is State.SCHEDULED and self.wanted.could_begin(name)
        }
        entries = self.runner.run(self.redis.xrange(STORE.outbox, self.last_entry))
        told = {
            WakeUp(name_of(fields[b"timer"]), int(fields[b"generation"]), int(fields[b"due"]))
            for _, fields in entries
        }
        if entries:
            self.last_entry = f"({entries[-1][0].decode()}"
        assert startable - self.startable <= told
        self.startable = startable

    # --- helpers ---

    def _version(self, name: str, tag: str | None) -> str | None:
        timer = self.wanted.timers.get(name)
        return timer.version if tag == "own" and timer else tag and "7.7.s"

    async def _index(self, key: str) -> dict[str, float]:
        entries = await self.redis.zrange(key, 0, -1, withscores=True)
        return {member.decode().removeprefix("default:"): score for member, score in entries}

    def _see(self, name: str, state: State) -> None:
        before = self.wanted.seen.get(name, state)
        # a batch changes a timer once at most, so that each change is seen
        assert before is state or (before, state) in TRANSITIONS
        self.wanted.seen[name] = state


def test_store_and_model_agree(valkey_server: EmbeddedValkey) -> None:
    """Nothing is lost or taken twice, attempts are counted, lanes keep their order, none begins early."""

    class Machine(StoreMachine):
        url = valkey_server.url

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=40,
            stateful_step_count=50,
            deadline=None,
            database=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
