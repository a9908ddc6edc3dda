"""Whatever happens in whatever order, the store and a model of it agree: no timer is lost or taken twice."""

import asyncio
from collections import Counter
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from math import inf
from typing import Any, ClassVar
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from msgspec.structs import replace as changed
from redis.asyncio import Redis

from httpqueue.relay.relay import Relay
from httpqueue.storage.partitions import Partitions
from httpqueue.storage.queue import open_queue
from httpqueue.storage.scripts import pack
from httpqueue.storage.storage import Storage
from httpqueue.storage.timers import Store
from httpqueue.timers.commands import Begun, Change, IfExists, Refused, WakeUp
from httpqueue.timers.names import DEFAULT_APPLICATION
from httpqueue.timers.policies import ApplicationPolicy, DestinationPolicy
from httpqueue.timers.room import Room
from httpqueue.timers.schedule import Delay
from httpqueue.timers.timer import FINISHED, TRANSITIONS, State
from httpqueue.webhooks.outcome import Outcome
from tests.support.frozen import LEASE_MS, TIMEOUT_MS, FrozenTime, finish_of, new_holder
from tests.support.store_model import (
    HOSTS,
    KEYS,
    LANES,
    UNFINISHED,
    BeginCall,
    Content,
    StoreModel,
    Wish,
    name_of,
)
from tests.support.store_player import Player
from tests.support.store_view import View, Viewer

NAMES = st.sampled_from(sorted(KEYS))
MS = st.sampled_from([0, 1, LEASE_MS - 1, LEASE_MS])
OUTCOMES = st.sampled_from([Outcome.RETRY, Outcome.RETRY, Outcome.DELIVERED, Outcome.FAILED])
ROOMS = st.sampled_from([inf, inf, inf, 1, 0])
WORKERS = st.sampled_from([0, 1])
RULES = st.sampled_from(
    [
        DestinationPolicy(),
        DestinationPolicy(concurrency=1),
        DestinationPolicy(concurrency=1),
        DestinationPolicy(concurrency=2),
        DestinationPolicy(rate=1.0),
        DestinationPolicy(rate=0.2, concurrency=2),
        DestinationPolicy(paused=True),
    ]
)
STEPS = st.sampled_from(["", "", "_forget", "_settle", "_settle_at", "_settle_at"])
"""Before which a relay dies while it forgets; the last one may also come late."""
POINTER_CHECK_MS = 60_000
WAIT_PROBE_MS = 60_000
PROBE_MS = 10_000
ROUNDS = 80
"""In which everything must end, each of 4 s."""


def room_for_hosts(calls: int) -> Room:
    """Plenty of slots, but so many calls to a host."""
    return Room(total=10_000, free=10_000, host_slots=calls, caps={}, few=0, few_to_host=0)


class DiedError(Exception):
    """A process dies here."""


async def die(*_: object, **__: object) -> None:
    """Instead of what it was about to do."""
    raise DiedError


class StoreMachine(RuleBasedStateMachine):
    """Rules are batches, applied to the store in one call and to the model one by one."""

    url: ClassVar[str]
    partitions: ClassVar[Partitions]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.time = FrozenTime()
        self.redis = Redis.from_url(self.url)
        self.storage = Storage(self.redis, archive_error_rate=1e-6, partitions=self.partitions, now=self.time)
        self.store: Store = self.storage.store
        self.wanted = StoreModel(self.time, self.partitions)
        self.viewer = Viewer(self.redis, self.partitions, KEYS)
        self.views: list[View] = []
        self.startable: set[WakeUp] = set()
        self.begun: list[Begun] = []
        self.calls: list[tuple[Player, str, list[WakeUp], dict[WakeUp, str]]] = []
        self.half_forgotten: list[tuple[int, list[bytes]]] = []
        self.late_settles: list[tuple[Any, ...]] = []
        self.latest_ms: float = 0
        """The latest due time so far."""
        self.stack = AsyncExitStack()
        self.do(self._open())

    async def _open(self) -> None:
        await self.redis.flushall()
        opened = open_queue(self.url, partitions=self.partitions, now=self.time)
        self.queue = await self.stack.enter_async_context(opened)
        for partition in self.partitions.all:
            epochs = await self.queue.epochs()
            assert await self.storage.wake_ups.start_over_for(partition, epochs[partition])
        self.relays = [
            Relay(storage=self.storage, queue=self.queue, horizon_ms=10_000, batch_size=3) for _ in range(2)
        ]
        self.players = [Player(self.storage, self.queue) for _ in range(2)]

    def do(self, call: Coroutine[Any, Any, Any]) -> Any:
        """Its answer."""
        return self.runner.run(call)

    def teardown(self) -> None:
        """Whatever happened, every timer comes to its end; then close what this example opened."""
        try:
            self.do(self._end_all())
        finally:
            self.do(self.stack.aclose())
            self.do(self.redis.aclose())
            self.runner.close()

    # --- create, change, cancel ---

    @initialize(
        delays=st.tuples(*[st.sampled_from([0, 0, 1])] * len(KEYS)), rules=st.tuples(*[RULES] * len(HOSTS))
    )
    def create_all(self, delays: tuple[int, ...], rules: tuple[DestinationPolicy, ...]) -> None:
        """Otherwise most examples would ask for timers that do not exist, and few would wait for a host."""
        for host, rules_of_host in zip(HOSTS, rules, strict=True):
            self.limit(host, rules_of_host)
        batch = [(name, ms, IfExists.CONFLICT) for name, ms in zip(KEYS, delays, strict=True)]
        self.create(batch, other=False)
        self.advance(1)

    @rule(
        batch=st.lists(st.tuples(NAMES, MS, st.sampled_from(IfExists)), min_size=1, max_size=6),
        other=st.sampled_from([False, False, True]),
    )
    def create(self, batch: list[tuple[str, int, IfExists]], *, other: bool) -> None:
        """New ones, the same again, and others of the same id, with the same ordering key or another."""
        wishes = [Wish(name, Content(ms, KEYS[name][other]), if_exists) for name, ms, if_exists in batch]
        answers = self.do(self.store.create([wish.new_timer for wish in wishes]))
        assert answers == [self.wanted.create(wish) for wish in wishes]

    @rule(names=st.sets(NAMES, min_size=1), other=st.booleans())
    def die_before_create(self, names: set[str], *, other: bool) -> None:
        """Only the pointers are there; nothing else ever comes of it."""
        wishes = [Wish(name, Content(0, KEYS[name][other]), IfExists.KEEP) for name in sorted(names)]
        with patch.multiple(self.store._creator, _create=die, _create_again=die), suppress(DiedError):
            self.do(self.store.create([wish.new_timer for wish in wishes]))

    @rule(
        batch=st.lists(
            st.tuples(
                NAMES,
                st.sets(st.sampled_from([State.SCHEDULED, *sorted(FINISHED)]), min_size=1),
                st.none() | MS,
                st.sampled_from([None, None, "own", "other"]),
                st.sampled_from([None, None, "own", "other"]),
            ),
            min_size=1,
            max_size=3,
        )
    )
    def change(self, batch: list[tuple[str, set[State], int | None, str | None, str | None]]) -> None:
        """Another due time, fired now, replayed, to another host, with another ordering key.

        With the version that the client has seen, or another.
        """
        changes, contents = [], []
        for name, states, delay_ms, tag, key in batch:
            timer = self.wanted.timers.get(name)
            lane = timer.lane if timer else None
            content = Content(0, lane if key == "own" else "else", is_changed=True) if key else None
            contents.append(content)
            changes.append(
                Change(
                    name_of(name),
                    frozenset(states),
                    self._version(name, tag),
                    spec=content and content.spec(name),
                    due=None if delay_ms is None else Delay(delay_ms),
                )
            )
        answers = self.do(self.store.change(changes))
        assert answers == [self.wanted.change(*each) for each in zip(changes, contents, strict=True)]

    @rule(name=NAMES, ms=st.sampled_from([0, 1, LEASE_MS]), tag=st.sampled_from([None, None, "own", "other"]))
    def cancel(self, name: str, ms: int, tag: str | None) -> None:
        """Before it is sent, in flight, done, failed, gone."""
        version = self._version(name, tag)
        answer = self.do(self.store.cancel(name_of(name), version=version, retention_ms=ms))
        assert answer == self.wanted.cancel(name, version, ms)

    @precondition(lambda self: self.failed())
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        """One that has failed."""
        self.cancel(data.draw(st.sampled_from(self.failed())), LEASE_MS, "own")

    @rule(
        names=st.sets(NAMES, min_size=1),
        states=st.sampled_from([{State.SCHEDULED}, {State.SCHEDULED}, {State.SCHEDULED, *FINISHED}]),
        ms=MS,
        meanwhile=st.sampled_from([None, None, "cancel", "fire"]),
        forgets=st.booleans(),
    )
    def end_many(
        self, names: set[str], states: set[State], ms: int, meanwhile: str | None, *, forgets: bool
    ) -> None:
        """As a job does that cancels or deletes; one of them may change after the job has read it."""
        timers = [
            self.do(self.store.get(name_of(name))).timer
            for name in sorted(names)
            if (timer := self.wanted.there(name)) and timer.state in states
        ]
        if meanwhile and timers:
            name = timers[0].name.id
            if meanwhile == "cancel":
                self.cancel(name, ms, None)
            else:
                self.change([(name, {State.SCHEDULED}, 0, None, None)])
            self.all_agrees()
        places = [self.wanted.timers[each.name.id].partition for each in timers]
        for partition in self.partitions.all:
            part = [each for each, place in zip(timers, places, strict=True) if place == partition]
            ended = self.wanted.end_many(part, states, 0 if forgets else ms)
            if forgets:
                assert self.do(self.store.delete_timers(partition, part, states=states)) == ended
                self.wanted.forget({each.name.id for each in part}, partition)
            else:
                items = [(each, ms) for each in part]
                assert self.do(self.store.end_timers(partition, items, states=states)) == ended

    def failed(self) -> list[str]:
        """The names of those that failed and are kept."""
        return sorted(
            name for name in KEYS if (each := self.wanted.there(name)) and each.state is State.FAILED
        )

    # --- time ---

    @rule(ms=st.sampled_from([0, 1, 1_001, 5_000, 5_001, LEASE_MS - 1, LEASE_MS, POINTER_CHECK_MS]))
    def advance(self, ms: int) -> None:
        """Time passes, and nobody asks the store anything."""
        self.time.advance(ms)

    @rule(ms=st.sampled_from([9_999, 15_001, LEASE_MS, LEASE_MS + 1]))
    def advance_while_it_is_up(self, ms: int) -> None:
        """Time passes; somebody asks all the while."""
        while ms > 0:
            self.time.advance(min(ms, 4_000))
            ms -= 4_000
            self.wanted.asked(self.partitions.all)
            for partition in self.partitions.all:
                self.do(self.store._leases._beat(partition, self.time.now_ms, pack([])))

    # --- workers ---

    @rule(
        worker=WORKERS,
        batch=st.lists(
            st.tuples(NAMES, st.sampled_from([0, 0, 0, 0, 1]), st.sampled_from([False, False, True])),
            min_size=1,
            max_size=6,
        ),
        room=ROOMS,
    )
    def begin(self, worker: int, batch: list[tuple[str, int, bool]], room: float) -> None:
        """Right, stale, early, blocked and duplicate wake-ups, and too many for the worker."""
        wake_ups = [
            self.wanted.wake_up(name, newer=newer, is_at_home=is_at_home) for name, newer, is_at_home in batch
        ]
        self._new_begin(self.players[worker], wake_ups, room)

    @rule(worker=WORKERS, room=ROOMS)
    def begin_all(self, worker: int, room: float) -> None:
        """All that there is, each with its right wake-up."""
        self._new_begin(
            self.players[worker], [self.wanted.wake_up(name) for name in self.wanted.timers], room
        )

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def begin_again(self, data: st.DataObject) -> None:
        """The answer to a call was lost: it is repeated, at once or much later."""
        self._begin(*data.draw(st.sampled_from(self.calls[-4:])))

    @precondition(lambda self: any(player.granted for player in self.players))
    @rule()
    def begin_granted(self) -> None:
        """Those who got permits begin with them."""
        for player in self.players:
            self._begin_granted(player)

    def _begin_granted(self, player: Player) -> None:
        if player.granted:
            permits, player.granted = player.granted, {}
            self._new_begin(player, list(permits), permits=permits)

    @rule(worker=WORKERS, want=st.sampled_from([1, 9]))
    def work(self, worker: int, want: int) -> None:
        """All these steps, one after the other, as they mostly go."""
        self.begin_all(worker, inf)
        self.ask_hosts(worker, want, dies=False)
        self._begin_granted(self.players[worker])

    def _new_begin(
        self,
        player: Player,
        wake_ups: list[WakeUp],
        room: float = inf,
        permits: dict[WakeUp, str] | None = None,
    ) -> None:
        call = (player, new_holder(), wake_ups, permits or {})
        self.calls.append(call)
        self._begin(*call, room=room)

    def _begin(
        self,
        player: Player,
        holder: str,
        wake_ups: list[WakeUp],
        permits: dict[WakeUp, str],
        *,
        room: float = inf,
    ) -> None:
        self.wanted.asked({wake_up.partition for wake_up in wake_ups})
        answers = self.do(
            self.store.begin(
                wake_ups,
                holder=holder,
                timeout_ms=TIMEOUT_MS,
                room=None if room == inf else room_for_hosts(int(room)),
                permits=permits,
            )
        )
        call = BeginCall(holder, room, permits)
        for wake, answer in zip(wake_ups, answers, strict=True):
            refusal, wait_ms = self.wanted.begin(wake, call)
            if isinstance(answer, Begun):
                assert refusal is None
                self._check_begun(answer, holder)
                self.begun.append(answer)
            else:
                assert (answer.refusal, answer.wait_ms) == (refusal, wait_ms)
        player.begun(answers, permits)

    def _check_begun(self, begun: Begun, holder: str) -> None:
        timer = self.wanted.timers[begun.wake_up.name.id]
        assert (begun.attempt, begun.lost, begun.due_ms) == (timer.attempts, timer.lost, timer.due_ms)
        assert (begun.nonce, begun.holder, begun.lease_ms) == (timer.nonce, holder, LEASE_MS)
        assert (begun.host, begun.spec.host) == (timer.host, timer.host)
        assert begun.due_ms <= begun.started_ms == self.time.now_ms

    @precondition(lambda self: any(player.is_to_serve() for player in self.players))
    @rule(
        worker=WORKERS, want=st.sampled_from([0, 1, 9, 9]), dies=st.sampled_from([False, False, False, True])
    )
    def ask_hosts(self, worker: int, want: int, *, dies: bool) -> None:
        """A worker gives permits back and asks for others; it may die before the store knows who waits."""
        self._check_granted(self.do(self.players[worker].serve(want, dies_before_wait=dies)))

    def _check_granted(self, answers: Sequence[Any]) -> None:
        for served in answers:
            self.wanted.hosts[served.host].grant(len(served.granted), self.time.now_ms)

    @rule(worker=WORKERS)
    def kill_a_worker(self, worker: int) -> None:
        """With all that it was asked, granted and doing."""
        self.players[worker].die()

    @precondition(lambda self: self.running())
    @rule(data=st.data(), is_up=st.booleans(), is_alive=st.booleans(), again=st.booleans())
    def lose_a_worker(self, data: st.DataObject, *, is_up: bool, is_alive: bool, again: bool) -> None:
        """Or only its connection: its lease ends, others try to take over, then it comes back."""
        name = data.draw(st.sampled_from(self.running()))
        wake = self.wanted.wake_up(name)
        if is_up:
            self.advance_while_it_is_up(LEASE_MS + 1)
        else:
            self.advance(LEASE_MS + 1)
        if is_alive:
            self.beat(data)
        self._new_begin(self.players[1], [wake])
        if again:
            self.advance_while_it_is_up(data.draw(st.sampled_from([15_000, 15_001])))
            self._new_begin(self.players[0], [wake])

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
            assert (timer.state, timer.generation, timer.partition) == (
                State.SCHEDULED,
                unblocked.generation,
                unblocked.partition,
            )
            assert timer.due_ms <= self.time.now_ms
            self.startable.add(replace(unblocked, due_ms=timer.due_ms))  # told, though not the relay
        for player in self.players:
            player.over(batch)

    @precondition(lambda self: self.begun)
    @rule(data=st.data())
    def beat(self, data: st.DataObject) -> None:
        """Attempts that are alive, and some whose lease was lost; permits likewise."""
        batch = self._attempts(data)
        self.wanted.asked({each.wake_up.partition for each in batch})
        assert self.do(self.store.beat(batch)) == [self.wanted.beat(each) for each in batch]
        for player in self.players:
            self.do(self.storage.hosts.renew(player.permits_of(batch), LEASE_MS))

    @precondition(lambda self: self.begun)
    @rule(data=st.data(), may_be_sent=st.booleans())
    def hand_back(self, data: st.DataObject, *, may_be_sent: bool) -> None:
        """A worker stops; some of its attempts are another's by now."""
        batch = self._attempts(data)
        answers = self.do(self.store.hand_back([(each, may_be_sent) for each in batch]))
        assert answers == [self.wanted.hand_back(each, may_be_sent=may_be_sent) for each in batch]
        for player in self.players:
            player.over(batch)

    # --- operators ---

    @rule(host=st.sampled_from(HOSTS), rules=RULES)
    def limit(self, host: str, rules: DestinationPolicy) -> None:
        """A host gets other rules."""
        self.do(self.storage.policies.set_destination(host, rules))
        self.wanted.hosts[host].set(rules, self.time.now_ms)
        self.wanted.hosts[host].is_limited = rules != DestinationPolicy()

    @rule(host=st.sampled_from(HOSTS), rules=RULES)
    def die_before_all_know_the_limit(self, host: str, rules: DestinationPolicy) -> None:
        """The host obeys the rules; the partitions do not know of them."""
        self.do(self.storage.hosts.set_rules(host, rules))
        self.wanted.hosts[host].set(rules, self.time.now_ms)

    @rule(is_paused=st.booleans())
    def pause(self, *, is_paused: bool) -> None:
        """The application, or resume it."""
        self._pause(is_paused=is_paused)

    def _pause(self, *, is_paused: bool) -> None:
        self.do(
            self.storage.policies.update_application(
                DEFAULT_APPLICATION, lambda policy: changed(policy, paused=is_paused)
            )
        )
        self.wanted.is_paused = is_paused

    # --- relays ---

    @rule(partition=st.integers(0, 3), limit=st.integers(1, 4))
    def forget(self, partition: int, limit: int) -> None:
        """What is over goes, and nothing else."""
        partition %= self.partitions.count
        over = self.wanted.over(partition)[:limit]
        assert self.do(self.storage.retention.forget(partition, limit=limit)) == len(over)
        self.wanted.forget(over, partition)

    @rule(partition=st.integers(0, 3), limit=st.integers(1, 4))
    def forget_slowly(self, partition: int, limit: int) -> None:
        """A relay dies when it has found what is over, or is only slow: it drops that later, or never."""
        partition %= self.partitions.count
        found = self.do(self.storage.retention._expired(partition, self.time.now_ms, limit))
        assert _ids(found) == self.wanted.over(partition)[:limit]
        if found:
            self.half_forgotten.append((partition, found))

    @precondition(lambda self: self.half_forgotten)
    @rule(step=STEPS)
    def forget_the_rest(self, step: str) -> None:
        """Timers that were created anew meanwhile stay; the relay may die before any of its steps."""
        self._forget_these(*self.half_forgotten.pop(0), step)

    @rule(
        name=NAMES,
        step=STEPS,
        meanwhile=st.sampled_from(["", "create"]),
        later=st.sampled_from(["", "create", "die"]),
        other=st.booleans(),
    )
    def forget_and_use_again(self, name: str, step: str, meanwhile: str, later: str, *, other: bool) -> None:
        """A name gets its next timer, or nearly, while a relay forgets the last one."""
        self.cancel(name, 0, None)
        self.all_agrees()
        timer = self.wanted.timers.get(name)
        if timer is None:
            return
        self.forget_slowly(timer.partition, 4)
        if meanwhile:
            self.create([(name, 0, IfExists.CONFLICT)], other=other)
        if self.half_forgotten:
            self._forget_these(*self.half_forgotten.pop(), step)
        self.all_agrees()
        if later == "create":
            self.create([(name, 0, IfExists.CONFLICT)], other=other)
        elif later:
            self.die_before_create({name}, other=other)
        if self.late_settles:
            self.settle_late()

    def _forget_these(self, partition: int, members: list[bytes], step: str) -> None:
        retention, names = self.storage.retention, _ids(members)
        if not step:
            forgotten = self.do(retention.forget_these(partition, members))
            assert forgotten == self.wanted.forget(names, partition)
            return
        instead = self._settle_later if step == "_settle_at" else die
        with patch.object(retention, step, instead), suppress(DiedError):
            self.do(retention.forget_these(partition, members))
        if step == "_forget":
            self.wanted.bury(names, partition)
        else:
            self.wanted.forget(names, partition)

    async def _settle_later(self, *args: Any) -> Any:
        """A relay is slow: it has seen what its pointers point to, and drops them when that has changed."""
        self.late_settles.append(args)
        raise DiedError  # as far as this call is concerned

    @precondition(lambda self: self.late_settles)
    @rule()
    def settle_late(self) -> None:
        """Pointers that were written anew meanwhile stay."""
        self.do(self.storage.retention._settle_at(*self.late_settles.pop(0)))

    @rule(partition=st.integers(0, 3), is_slow=st.booleans())
    def check_pointers(self, partition: int, *, is_slow: bool) -> None:
        """Those without a record go, as soon as nobody can be creating it any more."""
        retention = self.storage.retention
        settle = self._settle_later if is_slow else retention._settle_at
        with patch.object(retention, "_settle_at", settle), suppress(DiedError):
            self.do(retention.check_pointers(partition % self.partitions.count))

    @rule(relay=st.sampled_from(["one", "other"]), limit=st.integers(1, 20), dies=st.booleans())
    def drain(self, relay: str, limit: int, *, dies: bool) -> None:
        """A relay takes what is in the outbox, and loses it, or dies with it."""
        self.do(self._drain(relay, limit, dies=dies))

    async def _drain(self, relay: str, limit: int, *, dies: bool) -> None:
        outbox = self.storage.outbox
        for partition in self.partitions.all:
            adopted = await outbox.adopt(partition, relay, idle_ms=0, limit=limit)
            entries = adopted or await outbox.read(partition, relay, limit=limit)
            assert all(entry.wake_up and entry.wake_up.partition == partition for entry in entries)
            if entries and not dies:
                await outbox.acknowledge(partition, entries)

    @rule(partition=st.integers(0, 3), ahead_ms=MS, limit=st.integers(1, 4))
    def top_up(self, partition: int, ahead_ms: int, limit: int) -> None:
        """A relay takes what the queue should have next, and loses it; who is held is not among it."""
        partition %= self.partitions.count
        call = self.storage.wake_ups.top_up(partition, 0, horizon_ms=ahead_ms, limit=limit)
        found = self.do(call).wake_ups
        assert not (found and self.wanted.is_paused)
        for each in found:
            timer = self.wanted.timers[each.name.id]
            assert timer.state is State.SCHEDULED
            assert (each.generation, each.due_ms) == (timer.generation, timer.due_ms)
            assert each.partition == timer.partition == partition
            assert each.due_ms <= self.time.now_ms + ahead_ms
        assert len(found) == len(set(found)) <= limit

    @rule(asks=st.booleans(), probes=st.booleans())
    def heal(self, *, asks: bool, probes: bool) -> None:
        """A relay finds those whose worker is lost, tries lanes and lines, and asks hosts; or dies before."""
        self.wanted.asked(self.partitions.all)
        for partition in self.partitions.all:
            lost = self.do(self.storage.wake_ups.heal(partition, limit=100))
            assert {each.name.id for each in lost.workers} == self.wanted.lost(partition)
            for each in lost.workers:
                assert replace(each, due_ms=0) == self.wanted.wake_up(each.name.id)
            if asks:
                self.do(self.relays[0]._ask_hosts(lost.waiting))
        if probes:
            self.do(self._probe())

    @rule(name=NAMES)
    def look_up(self, name: str) -> None:
        """What ended once and is over is archived, and nothing else is."""
        assert self.do(self.store.is_archived(name_of(name))) == self.wanted.is_archived(name)

    # --- what always holds ---

    @invariant()
    def all_agrees(self) -> None:
        """The store, as clients see it and as it is, and the model."""
        self.do(self._look())
        self._records_are_found()
        self._indices_agree_with_records()
        self._somebody_sees_to_each()
        self._counts_are_what_a_scan_finds()
        self._one_of_a_lane_runs()
        self._the_relay_is_told()

    async def _look(self) -> None:
        """Every record as a client sees it; no two timers have the same nonce."""
        self.views, permits = await self.viewer.look()
        self.wanted.waiting = frozenset(name for view in self.views for name in view.indices["waiting"])
        for host, count in permits.items():
            self.wanted.hosts[host].see(count)
        for name in KEYS:
            found, timer = await self.store.get(name_of(name)), self.wanted.there(name)
            assert (found is None) == (timer is None)
            if found and timer:
                timer.nonce = timer.nonce or found.timer.nonce
                assert (found.timer.version, found.timer.due_ms) == (timer.version, timer.due_ms)
                self._see(name, found.timer.state)
        nonces = [timer.nonce for timer in self.wanted.timers.values() if timer.nonce]
        assert len(nonces) == len(set(nonces))
        for name in self.wanted.archive - self.wanted.remembered:
            home = self.wanted.home_of(name)
            assert await self.storage._archive.contains(home, f"{DEFAULT_APPLICATION}:{name}")
            self.wanted.remembered.add(name)  # bits are never unset

    def _records_are_found(self) -> None:
        """Each in its own partition alone, and from its home. A pointer points to a record or is young."""
        self.wanted.pointers = {}
        for partition, view in enumerate(self.views):
            assert view.records == {
                name for name, timer in self.wanted.timers.items() if timer.partition == partition
            }
            checks = view.indices["pointers"]
            for name, place in view.pointers.items():
                assert partition == self.wanted.home_of(name) != place
                assert name in self.views[place].records or name in checks
                self.wanted.pointers[name] = place, view.nonces[name]
            assert all(at_ms <= self.time.now_ms + POINTER_CHECK_MS for at_ms in checks.values())
            assert checks.keys() <= view.pointers.keys()
        for name, timer in self.wanted.timers.items():
            place, _ = self.wanted.pointers.get(name, (self.wanted.home_of(name), ""))
            assert place == timer.partition

    def _indices_agree_with_records(self) -> None:
        """Due times, leases, retention and lanes: what the records say, and nothing else."""
        for partition, view in enumerate(self.views):
            model = [each for each in self.wanted.timers.items() if each[1].partition == partition]
            due, held = view.indices["due"], view.indices["held"]
            assert not due.keys() & held.keys()
            assert due | held == {name: timer.due_ms for name, timer in model if timer.state in UNFINISHED}
            assert view.indices["next"] == ({DEFAULT_APPLICATION: min(due.values())} if due else {})
            assert view.indices["running"] == {
                name: timer.lease_end_ms for name, timer in model if timer.state is State.RUNNING
            }
            for state in FINISHED:
                assert view.indices[f"ended:{state.letter}"] == {
                    name: timer.due_ms for name, timer in model if timer.state is state
                }
            assert view.indices["retention"] == {
                name: timer.kept_until_ms for name, timer in model if timer.state in FINISHED
            }
            for lane in LANES:
                assert view.indices[f"lanes:{lane}"] == {
                    name: -inf if timer.has_turn else timer.due_ms
                    for name, timer in model
                    if timer.lane == lane and timer.state in UNFINISHED
                }
            assert not view.indices["set_aside"]

    def _somebody_sees_to_each(self) -> None:
        """Who runs is held. Who is held otherwise waits for its lane, application or host."""
        for name, timer in self.wanted.timers.items():
            index = self.views[timer.partition].indices
            line, waiting, probes = index["lines"], index["waiting"], index["probes"]
            if timer.state is State.RUNNING:
                assert name in index["held"]
            elif name in index["held"] and (self.wanted.could_begin(name) or timer.lane is None):
                assert name in waiting or (name in line and "application:default" in probes)
            elif name in index["held"] and name not in waiting:
                assert name in line or f"lane:default:{timer.lane}" in probes
        for view in self.views:
            due_ms = [self.time.now_ms, *view.indices["due"].values(), *view.indices["held"].values()]
            self.latest_ms = max(self.latest_ms, *due_ms)
            probes = view.indices["probes"]
            assert all(at_ms <= self.latest_ms + PROBE_MS for at_ms in probes.values())
            for lane in LANES:  # or many lanes that were cancelled would be probed in years
                assert view.indices[f"lanes:{lane}"] or f"lane:default:{lane}" not in probes
            waiting = view.indices["waiting"]
            assert all(at_ms <= self.time.now_ms + WAIT_PROBE_MS for at_ms in waiting.values())
            assert all(self.wanted.timers[name].state is State.SCHEDULED for name in waiting)
            line = view.indices["lines"]
            assert all(self.wanted.timers[name].state in UNFINISHED for name in line)

    def _counts_are_what_a_scan_finds(self) -> None:
        """By state; those that have not ended; the bytes of all records."""
        for partition, view in enumerate(self.views):
            timers = [each for each in self.wanted.timers.values() if each.partition == partition]
            assert view.counts == Counter(timer.state.letter for timer in timers)
            assert view.pending == sum(timer.state in UNFINISHED for timer in timers)
            assert view.bytes == sum(view.sizes.values())

    def _one_of_a_lane_runs(self) -> None:
        """At most."""
        running = [each.lane for each in self.wanted.timers.values() if each.state is State.RUNNING]
        lanes = [lane for lane in running if lane is not None]
        assert len(lanes) == len(set(lanes))

    def _the_relay_is_told(self) -> None:
        """Of everything that is new in what can begin: created, changed, to be retried, no longer held."""
        startable = {
            replace(self.wanted.wake_up(name), due_ms=timer.due_ms)
            for name, timer in self.wanted.timers.items()
            if name in self.views[timer.partition].indices["due"] and self.wanted.could_begin(name)
        }
        assert startable - self.startable <= {each for view in self.views for each in view.told}
        self.startable = startable

    # --- the end ---

    async def _end_all(self) -> None:
        """Relays and workers that live: all timers are delivered, whatever was lost before and at first.

        What was paused goes on, because a pause may last for ever.
        """
        await self.storage.policies.update_application(DEFAULT_APPLICATION, lambda _: ApplicationPolicy())
        for host, model in self.wanted.hosts.items():
            rules = changed(model.rules, paused=False)
            await self.storage.policies.set_destination(host, rules)
            model.set(rules, self.time.now_ms)
        for player in self.players:
            player.die()
        for number in range(ROUNDS):
            if not await self._unfinished():
                break
            relay = self.relays[number % 2]
            while await relay.drain():
                pass
            await relay.promote()
            await relay.heal()
            if number:
                await self._work(self.players[number % 2], is_lossy=number == 1)
            self.time.advance(4_000)
        assert await self._unfinished() == []
        self.time.advance(LEASE_MS)
        await self.relays[0].forget()
        self.time.advance(POINTER_CHECK_MS)
        await self.relays[1].heal()
        await self._nothing_is_left()

    async def _probe(self) -> None:
        """A relay wakes those whom hosts name, and tells hosts of those who do not wait any more."""
        hosts = self.storage.hosts
        for host, first in (await hosts.probe(await hosts.due_probes(limit=9))).items():
            await self.store.wake(await self.store.ready(host, first), are_unknown=False)

    async def _work(self, player: Player, *, is_lossy: bool) -> None:
        """Make all attempts that may start now."""
        claimed = [
            each
            for partition in self.partitions.all
            for each in (await self.queue.claim(partition, 100)).wake_ups
        ]
        await self._make(player, claimed[::2] if is_lossy else claimed, {})  # the others are lost
        while player.is_to_serve():
            self._check_granted(await player.serve(9))
            permits, player.granted = player.granted, {}
            if not permits:
                break
            await self._make(player, list(permits), permits)

    async def _make(self, player: Player, wake_ups: list[WakeUp], permits: dict[WakeUp, str]) -> None:
        answers: list[Begun | Refused] = await self.store.begin(
            wake_ups, holder=new_holder(), timeout_ms=TIMEOUT_MS, permits=permits
        )
        player.begun(answers, permits)
        begun = [each for each in answers if isinstance(each, Begun)]
        assert all(
            (await self.store.finish([finish_of(each, Outcome.DELIVERED, 0) for each in begun])).counted
        )
        player.over(begun)

    async def _unfinished(self) -> list[object]:
        """Timers that are to be made, lines and permits."""
        views, _ = await self.viewer.look()
        timers = [letter for view in views for letter in view.counts if letter in "sr"]
        return [
            *timers,
            *await self.redis.keys("hq:{host:*}:line"),
            *await self.redis.keys("hq:{host:*}:permits"),
        ]

    async def _nothing_is_left(self) -> None:
        for view in (await self.viewer.look())[0]:
            assert not [*view.counts, *view.records, *view.pointers]
            assert view.pending == view.bytes == 0
            index = view.indices
            for field in ("due", "held", "next", "running", "retention", "pointers", "waiting", "lines"):
                assert not index[field], field

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

    def _see(self, name: str, state: State) -> None:
        before = self.wanted.seen.get(name, state)
        # a batch changes a timer once at most, so that each change is seen
        assert before is state or (before, state) in TRANSITIONS
        self.wanted.seen[name] = state


def _ids(members: Sequence[bytes]) -> list[str]:
    return [member.decode().removeprefix(f"{DEFAULT_APPLICATION}:") for member in members]


@pytest.mark.parametrize(("count", "server"), [(1, "valkey_server"), (4, "cluster_url")])
def test_store_and_model_agree(count: int, server: str, request: pytest.FixtureRequest) -> None:
    """Nothing is lost or taken twice, attempts are counted, lanes keep their order, none begins early."""
    fixture = request.getfixturevalue(server)

    class Machine(StoreMachine):
        url = fixture if isinstance(fixture, str) else fixture.url
        partitions = Partitions(count)

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=30,
            stateful_step_count=50,
            deadline=None,
            database=None,
            phases=[Phase.generate],  # to shrink an example takes longer than a test may
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
