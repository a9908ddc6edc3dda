"""Whatever happens in whatever order, the store and a model of it agree: no timer is lost or taken twice."""

import asyncio
from collections import Counter
from collections.abc import Coroutine
from dataclasses import replace
from math import inf
from typing import Any, ClassVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis.asyncio import Redis

from httpqueue.relay.relay import Relay
from httpqueue.storage.embedded import EmbeddedValkey
from httpqueue.storage.keys import name_of
from httpqueue.storage.queue import Queue, open_queue
from httpqueue.storage.storage import Storage
from httpqueue.storage.timers import Store
from httpqueue.timers.commands import Begun, Change, IfExists, WakeUp
from httpqueue.timers.names import TimerName
from httpqueue.timers.schedule import Delay
from httpqueue.timers.timer import FINISHED, TRANSITIONS, State
from httpqueue.webhooks.outcome import Outcome
from tests.support.frozen import LEASE_MS, TIMEOUT_MS, FrozenTime, finish_of, new_holder, new_timer, wake_up
from tests.support.keys import DUE, HELD, STORE, ended
from tests.support.store_model import LANES, UNFINISHED, BeginCall, StoreModel

NAMES = st.sampled_from(sorted(LANES))
MS = st.sampled_from([0, 1, LEASE_MS - 1, LEASE_MS])
OUTCOMES = st.sampled_from([Outcome.RETRY, Outcome.RETRY, Outcome.DELIVERED, Outcome.FAILED])
HOST = "receiver"
PLENTY = 99
ROUNDS = 60
"""In which everything must end, each of 4 s."""


class StoreMachine(RuleBasedStateMachine):
    """Rules are batches, applied to the store in one call and to the model one by one."""

    url: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.time = FrozenTime()
        self.redis = Redis.from_url(self.url)
        self.storage = Storage(self.redis, archive_error_rate=1e-6, now=self.time)
        self.store: Store = self.storage.store
        self.wanted = StoreModel(self.time)
        self.startable: set[WakeUp] = set()
        self.last_entry = "-"
        self.begun: list[Begun] = []
        self.calls: list[tuple[str, list[WakeUp]]] = []
        self.half_forgotten: list[list[bytes]] = []
        self.do(self._open())

    async def _open(self) -> None:
        await self.redis.flushall()
        async with open_queue(self.url) as queue:
            assert await self.storage.wake_ups.start_over_for(0, (await queue.epochs())[0])

    def do(self, call: Coroutine[Any, Any, Any]) -> Any:
        """Its answer."""
        return self.runner.run(call)

    def teardown(self) -> None:
        """Whatever happened, every timer comes to its end; then close what this example opened."""
        try:
            self.do(self._end_all())
        finally:
            self.do(self.redis.aclose())
            self.runner.close()

    # --- rules ---

    @initialize(delays=st.tuples(*[st.sampled_from([0, 0, 1])] * len(LANES)))
    def create_all(self, delays: tuple[int, ...]) -> None:
        """Otherwise most examples would ask for timers that do not exist."""
        self.create([(name, ms, IfExists.CONFLICT) for name, ms in zip(LANES, delays, strict=True)])
        self.advance(1)

    @rule(batch=st.lists(st.tuples(NAMES, MS, st.sampled_from(IfExists)), min_size=1, max_size=6))
    def create(self, batch: list[tuple[str, int, IfExists]]) -> None:
        """New ones, the same again, and others of the same id."""
        timers = [
            replace(new_timer(name, ms, ordering_key=LANES[name]), if_exists=if_exists)
            for name, ms, if_exists in batch
        ]
        answers = self.do(self.store.create(timers))
        assert answers == [self.wanted.create(*each) for each in batch]

    @rule(ms=st.sampled_from([0, 1, 1_001, 5_000, 5_001, LEASE_MS - 1, LEASE_MS]))
    def advance(self, ms: int) -> None:
        """Time passes, and nobody asks the store anything."""
        self.time.advance(ms)

    @rule(ms=st.sampled_from([9_999, 15_001, LEASE_MS, LEASE_MS + 1]))
    def advance_while_it_is_up(self, ms: int) -> None:
        """Time passes; somebody asks all the while."""
        while ms > 0:
            self.time.advance(min(ms, 4_000))
            ms -= 4_000
            self.wanted.asked()
            assert self.do(self.store.beat([])) == []

    @rule(
        batch=st.lists(st.tuples(NAMES, st.sampled_from([0, 0, 0, 0, 1])), min_size=1, max_size=6),
        room=st.sampled_from([PLENTY, PLENTY, 1, 0]),
    )
    def begin(self, batch: list[tuple[str, int]], room: int) -> None:
        """Right, stale, early, blocked and duplicate wake-ups, and too many for the worker."""
        wake_ups = [wake_up(name, self.wanted.generation(name) + newer) for name, newer in batch]
        holder = new_holder()
        self.calls.append((holder, wake_ups))
        self._begin(holder, wake_ups, room)

    @rule(room=st.sampled_from([PLENTY, PLENTY, 2, 0]))
    def begin_all(self, room: int) -> None:
        """All that there is, each with its right wake-up."""
        holder = new_holder()
        wake_ups = [wake_up(name, timer.generation) for name, timer in self.wanted.timers.items()]
        self.calls.append((holder, wake_ups))
        self._begin(holder, wake_ups, room)

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def begin_again(self, data: st.DataObject) -> None:
        """The answer to a call was lost: it is repeated, at once or much later."""
        self._begin(*data.draw(st.sampled_from(self.calls[-4:])), PLENTY)

    def _begin(self, holder: str, wake_ups: list[WakeUp], room: int) -> None:
        self.wanted.asked()
        rooms = {} if room == PLENTY else {HOST: room}
        answers = self.do(self.store.begin(wake_ups, holder=holder, timeout_ms=TIMEOUT_MS, room=rooms))
        call = BeginCall(holder, room)
        for wake, answer in zip(wake_ups, answers, strict=True):
            name = wake.name.id
            is_stale = wake.generation != self.wanted.generation(name)
            refusal, wait_ms = self.wanted.begin(name, call, is_stale=is_stale)
            if isinstance(answer, Begun):
                timer = self.wanted.timers[name]
                assert refusal is None
                assert (answer.attempt, answer.lost, answer.due_ms) == (
                    timer.attempts,
                    timer.lost,
                    timer.due_ms,
                )
                assert (answer.nonce, answer.holder, answer.lease_ms) == (timer.nonce, holder, LEASE_MS)
                assert answer.due_ms <= answer.started_ms == self.time.now_ms
                self.begun.append(answer)
            else:
                assert (answer.refusal, answer.wait_ms) == (refusal, wait_ms)

    @precondition(lambda self: self.running())
    @rule(data=st.data(), is_up=st.booleans(), is_alive=st.booleans(), again=st.booleans())
    def lose_a_worker(self, data: st.DataObject, *, is_up: bool, is_alive: bool, again: bool) -> None:
        """Or only its connection: its lease ends, others try to take over, then it comes back."""
        name = data.draw(st.sampled_from(self.running()))
        wake = wake_up(name, self.wanted.generation(name))
        if is_up:
            self.advance_while_it_is_up(LEASE_MS + 1)
        else:
            self.advance(LEASE_MS + 1)
        if is_alive:
            self.beat(data)
        self._begin(new_holder(), [wake], PLENTY)
        if again:
            self.advance_while_it_is_up(data.draw(st.sampled_from([15_000, 15_001])))
            self._begin(new_holder(), [wake], PLENTY)

    def running(self) -> list[str]:
        """The names of those that run."""
        return sorted(name for name, each in self.wanted.timers.items() if each.state is State.RUNNING)

    @precondition(lambda self: self.begun)
    @rule(data=st.data(), outcome=OUTCOMES, ms=MS, keep=st.booleans(), take=st.booleans())
    def finish(self, data: st.DataObject, outcome: Outcome, ms: int, *, keep: bool, take: bool) -> None:
        """Attempts of every age, in time or late, some told twice."""
        batch = self._attempts(data)
        if outcome is not Outcome.RETRY:
            ms = LEASE_MS if keep else 0
        ends = [finish_of(each, outcome, ms) for each in batch]
        finished = self.do(self.store.finish(ends, take_unblocked=take))
        assert finished.counted == [self.wanted.finish(end) for end in ends]
        for unblocked in finished.unblocked:
            timer = self.wanted.timers[unblocked.name.id]
            assert (timer.state, timer.generation) == (State.SCHEDULED, unblocked.generation)
            assert timer.due_ms <= self.time.now_ms
            self.startable.add(replace(unblocked, due_ms=timer.due_ms))  # told, though not the relay

    @precondition(lambda self: self.begun)
    @rule(data=st.data())
    def beat(self, data: st.DataObject) -> None:
        """Attempts that are alive, and some whose lease was lost."""
        batch = self._attempts(data)
        self.wanted.asked()
        assert self.do(self.store.beat(batch)) == [self.wanted.beat(each) for each in batch]

    @precondition(lambda self: self.begun)
    @rule(data=st.data(), may_be_sent=st.booleans())
    def hand_back(self, data: st.DataObject, *, may_be_sent: bool) -> None:
        """A worker stops; some of its attempts are another's by now."""
        batch = self._attempts(data)
        answers = self.do(self.store.hand_back([(each, may_be_sent) for each in batch]))
        assert answers == [self.wanted.hand_back(each, may_be_sent=may_be_sent) for each in batch]

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
        answers = self.do(self.store.change(changes))
        assert answers == [self.wanted.change(change) for change in changes]

    @rule(name=NAMES, ms=st.sampled_from([0, 1, LEASE_MS]), tag=st.sampled_from([None, None, "own", "other"]))
    def cancel(self, name: str, ms: int, tag: str | None) -> None:
        """Before it is sent, in flight, done, failed, gone."""
        version = self._version(name, tag)
        answer = self.do(self.store.cancel(TimerName("default", name), version=version, retention_ms=ms))
        assert answer == self.wanted.cancel(name, version, ms)

    @precondition(lambda self: self.failed())
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        """One that has failed."""
        self.cancel(data.draw(st.sampled_from(self.failed())), LEASE_MS, "own")

    def failed(self) -> list[str]:
        """The names of those that failed and are kept."""
        return sorted(
            name for name in LANES if (each := self.wanted.there(name)) and each.state is State.FAILED
        )

    @rule(limit=st.integers(1, 4))
    def forget(self, limit: int) -> None:
        """What is over goes, and nothing else."""
        over = self.wanted.over()[:limit]
        assert self.do(self.storage.retention.forget(limit=limit)) == len(over)
        for name in over:
            self.wanted.archive.add(name)
            del self.wanted.timers[name]

    @rule(limit=st.integers(1, 4))
    def forget_slowly(self, limit: int) -> None:
        """A relay dies when it has found what is over, or is only slow: it drops that later, or never."""
        found = self.do(self.storage.retention._expired(self.time.now_ms, limit))
        assert [member.decode().removeprefix("default:") for member in found] == self.wanted.over()[:limit]
        self.half_forgotten.append(found)

    @precondition(lambda self: self.half_forgotten)
    @rule()
    def forget_the_rest(self) -> None:
        """Timers that were created anew meanwhile stay."""
        members = self.half_forgotten.pop(0)
        names = [member.decode().removeprefix("default:") for member in members]
        gone = [name for name in names if name in self.wanted.over()]
        assert self.do(self.storage.retention.forget_these(members)) == len(gone)
        for name in gone:
            self.wanted.archive.add(name)
            del self.wanted.timers[name]

    @rule(limit=st.integers(1, 20))
    def drain(self, limit: int) -> None:
        """A relay takes what is in the outbox, and loses it."""
        entries = self.do(self.storage.outbox.read("relay", limit=limit, block_ms=1))
        assert all(entry.wake_up for entry in entries)
        if entries:
            self.do(self.storage.outbox.acknowledge(entries))

    @rule(ahead_ms=MS, limit=st.integers(1, 4))
    def top_up(self, ahead_ms: int, limit: int) -> None:
        """A relay takes what the queue should have next, and loses it; who is held is not among it."""
        found = self.do(self.storage.wake_ups.top_up(0, horizon_ms=ahead_ms, limit=limit)).wake_ups
        for each in found:
            timer = self.wanted.timers[each.name.id]
            assert timer.state is State.SCHEDULED
            assert (each.generation, each.due_ms) == (timer.generation, timer.due_ms)
            assert each.due_ms <= self.time.now_ms + ahead_ms
        assert len(found) == len(set(found)) <= limit

    @rule()
    def heal(self) -> None:
        """A relay finds those whose worker is lost, and tries lanes and lines."""
        self.wanted.asked()
        found = self.do(self.storage.wake_ups.heal(late_ms=0, limit=100))
        assert {each.name.id for each in found} == self.wanted.lost()
        for each in found:
            assert each.generation == self.wanted.generation(each.name.id)

    @rule(name=NAMES)
    def look_up(self, name: str) -> None:
        """What ended once and is over is archived, and nothing else is."""
        archived = self.do(self.store.is_archived(TimerName("default", name)))
        assert archived == self.wanted.is_archived(name)

    # --- what always holds ---

    @invariant()
    def store_and_model_agree(self) -> None:
        """Every record as a client sees it; no two timers have the same nonce."""
        self.do(self._compare())

    async def _compare(self) -> None:
        for name in LANES:
            found, timer = await self.store.get(TimerName("default", name)), self.wanted.there(name)
            assert (found is None) == (timer is None)
            if found and timer:
                timer.nonce = timer.nonce or found.timer.nonce
                assert (found.timer.version, found.timer.due_ms) == (timer.version, timer.due_ms)
                self._see(name, found.timer.state)
        nonces = [timer.nonce for timer in self.wanted.timers.values()]
        assert len(nonces) == len(set(nonces))

    @invariant()
    def indices_agree_with_records(self) -> None:
        """Due times, leases, retention and lanes: what the records say, and nothing else."""
        self.do(self._compare_indices())

    async def _compare_indices(self) -> None:
        model = self.wanted.timers.items()
        due, held = await self._index(DUE), await self._index(HELD)
        assert not due.keys() & held.keys()
        assert due | held == {name: timer.due_ms for name, timer in model if timer.state in UNFINISHED}
        assert await self._index(STORE.next) == ({"default": min(due.values())} if due else {})
        assert await self._index(STORE.running) == {
            name: timer.lease_end_ms for name, timer in model if timer.state is State.RUNNING
        }
        for state in FINISHED:
            assert await self._index(ended(state)) == {
                name: timer.due_ms for name, timer in model if timer.state is state
            }
        assert await self._index(STORE.retention) == {
            name: timer.kept_until_ms for name, timer in model if timer.state in FINISHED
        }
        for lane in ("lane", "other"):
            assert await self._index(f"{STORE.lanes}default:{lane}") == {
                name: -inf if timer.has_turn else timer.due_ms
                for name, timer in model
                if LANES[name] == lane and timer.state in UNFINISHED
            }

    @invariant()
    def somebody_sees_to_each(self) -> None:
        """Who runs is held; who could begin is due, or in a line that is tried again, as are the lanes."""
        self.do(self._compare_held())

    async def _compare_held(self) -> None:
        due, line = await self._index(DUE), await self._index(f"{STORE.lines}host:{HOST}")
        probes = await self._index(STORE.probes)
        for name, timer in self.wanted.timers.items():
            if timer.state is State.RUNNING:
                assert name not in due
            elif self.wanted.could_begin(name) and name not in due:
                assert name in line
                assert f"host:{HOST}" in probes
            elif timer.state is State.SCHEDULED and name not in due and name not in line:
                assert f"lane:default:{LANES[name]}" in probes
        assert line.keys() <= {n for n, each in self.wanted.timers.items() if each.state in UNFINISHED}
        assert all(at_ms <= self.time.now_ms + 10_000 for at_ms in probes.values())

    @invariant()
    def counts_are_what_a_scan_finds(self) -> None:
        """By application and state."""
        counts = self.do(self._counts())
        scan = Counter(f"default:{timer.state.letter}".encode() for timer in self.wanted.timers.values())
        assert {field: int(count) for field, count in counts.items()} == scan

    async def _counts(self) -> dict[bytes, bytes]:
        counts: dict[bytes, bytes] = await self.redis.hgetall(STORE.counts)
        return counts

    @invariant()
    def what_ended_is_remembered(self) -> None:
        """By its record, or by the archive."""
        for name in self.wanted.ended:
            assert name in self.wanted.timers or self.do(self.storage._archive.contains(f"default:{name}"))

    @invariant()
    def one_of_a_lane_runs(self) -> None:
        """At most."""
        running = [LANES[name] for name, timer in self.wanted.timers.items() if timer.state is State.RUNNING]
        lanes = [lane for lane in running if lane is not None]
        assert len(lanes) == len(set(lanes))

    @invariant()
    def the_relay_is_told(self) -> None:
        """Of everything that is new in what can begin: created, changed, to be retried, no longer held."""
        due = self.do(self._index(DUE))
        startable = {
            replace(wake_up(name, timer.generation), due_ms=timer.due_ms)
            for name, timer in self.wanted.timers.items()
            if name in due and self.wanted.could_begin(name)
        }
        entries = self.do(self.redis.xrange(STORE.outbox, self.last_entry))
        told = {
            WakeUp(name_of(fields[b"timer"]), int(fields[b"generation"]), int(fields[b"due"]))
            for _, fields in entries
        }
        if entries:
            self.last_entry = f"({entries[-1][0].decode()}"
        assert startable - self.startable <= told
        self.startable = startable

    # --- the end ---

    async def _end_all(self) -> None:
        """A relay and a worker that live: all timers are delivered, whatever was lost before and at first."""
        async with open_queue(self.url) as opened:
            queue = Queue(opened.redis, now=self.time)
            relay = Relay(storage=self.storage, queue=queue, horizon_ms=10_000, batch_size=3)
            for number in range(ROUNDS):
                if not await self._unfinished():
                    break
                while await relay.drain(block_ms=1):
                    pass
                await relay.promote()
                await relay.heal()
                wake_ups = (await queue.claim(100)).wake_ups if number else []
                if number == 1:
                    wake_ups = wake_ups[::2]  # the others are lost
                answers = await self.store.begin(wake_ups, holder=new_holder(), timeout_ms=TIMEOUT_MS)
                ends = [finish_of(each, Outcome.DELIVERED, 0) for each in answers if isinstance(each, Begun)]
                assert all((await self.store.finish(ends)).counted)
                self.time.advance(4_000)
            assert await self._unfinished() == []
            self.time.advance(LEASE_MS)
            await relay.forget()
        names = {key.partition(b":")[0] for key in await self._counts()}
        assert names == set()
        assert not await self.redis.exists(DUE, HELD, STORE.next, STORE.running, STORE.retention)
        assert not [key for key in await self.redis.keys() if key.startswith(STORE.records.encode())]

    async def _unfinished(self) -> list[bytes]:
        return [key for key in await self._counts() if key.endswith((b":s", b":r"))]

    # --- helpers ---

    def _attempts(self, data: st.DataObject) -> list[Begun]:
        """Some that are still their workers' own, and some that may not be."""
        one = st.sampled_from(self.begun[-8:])
        own = [each for each in self.begun if self.wanted.own(each)]
        if own:
            one = st.sampled_from(own) | one
        return data.draw(st.lists(one, min_size=1, max_size=4))

    def _version(self, name: str, tag: str | None) -> str | None:
        timer = self.wanted.timers.get(name)
        return timer.version if tag == "own" and timer else tag and "otherone.7.7.s"

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
