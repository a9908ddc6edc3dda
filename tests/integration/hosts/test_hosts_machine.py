"""Workers that die at every step, rules that change, relays that look: no line wedges, nobody is lost.

The timers and the queue are plain Python here: what a partition and arq would keep. The host is real.
"""

import asyncio
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, field, replace
from math import floor, inf
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis.asyncio import Redis

from httpqueue.errors import UnavailableError
from httpqueue.storage.embedded import EmbeddedValkey
from httpqueue.storage.hosts import PROBE_MS, Hosts, Serve, Served
from httpqueue.storage.keys import parse_wake_up_id, wake_up_id
from httpqueue.timers.commands import WakeUp
from httpqueue.timers.policies import DestinationPolicy
from tests.support.frozen import LEASE_MS, FrozenTime, wake_up
from tests.support.hosts import HOST, KEYS, of_all

WORKERS = range(3)
CATCH_UP_MS = 1_000
ROUNDS = 200
"""In which everything must end, each of 4 s."""
POLICIES = st.builds(
    DestinationPolicy,
    paused=st.sampled_from([False, False, False, True]),
    rate=st.sampled_from([None, None, 0.5, 3, 20]),
    concurrency=st.sampled_from([None, 1, 2, 5]),
)
DEATHS = st.sampled_from([None] * 8 + ["before it serves", "before the index", "before it acts", "begun"])


@dataclass
class Timer:
    """What its partition knows of it."""

    wake_up: WakeUp
    waits: bool = False
    """It is marked as waiting at its host."""
    worker: int | None = None
    lease_end_ms: int = 0
    is_done: bool = False
    told_ms: int = 0
    """When the queue got its wake-up last."""


@dataclass
class Worker:
    """What it remembers."""

    permits: dict[WakeUp, int] = field(default_factory=dict)
    """Wake-ups that were granted, with the ends of their leases as the worker counts them."""
    ended: list[WakeUp] = field(default_factory=list)
    """To be told to the host."""


class HostMachine(RuleBasedStateMachine):
    """One host, and everybody who wants to call it."""

    url: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.time = FrozenTime()
        self.redis = Redis.from_url(self.url)
        self.hosts = Hosts(self.redis, now=self.time)
        self.policy = DestinationPolicy()
        self.timers: dict[WakeUp, Timer] = {}
        self.by_name: dict[str, WakeUp] = {}
        self.queue: dict[WakeUp, int] = {}
        self.workers = {number: Worker() for number in WORKERS}
        self.starts: list[int] = []
        """When calls were granted under these rules."""
        self.last_paced_ms: float = -inf
        """When one was granted last while there was a rate."""
        self.do(self.redis.flushall())

    def do(self, call: Coroutine[Any, Any, Any]) -> Any:
        """Its answer."""
        return self.runner.run(call)

    def teardown(self) -> None:
        """Whatever happened, every timer comes to its end; then close what this example opened."""
        try:
            self._end_all()
        finally:
            self.do(self.redis.aclose())
            self.runner.close()

    # --- timers, queue, time ---

    @rule(count=st.integers(1, 8), ms=st.sampled_from([0, 0, -5_000, 3_000]))
    def create(self, count: int, ms: int) -> None:
        """Timers that are due now, were due, or will be."""
        for _ in range(count):
            due_ms = self.time.now_ms + ms
            new = replace(wake_up(f"t{len(self.timers)}"), due_ms=due_ms)
            self.timers[new], self.by_name[new.name.id] = Timer(new), new
            self._put(new, due_ms)

    @rule(ms=st.sampled_from([1, 50, 334, 1_000, 2_000, PROBE_MS, LEASE_MS - 1, LEASE_MS]))
    def advance(self, ms: int) -> None:
        """Time passes."""
        self.time.advance(ms)

    @rule(share=st.sampled_from([1, 2, 3]))
    @precondition(lambda self: self.queue)
    def lose_wake_ups(self, share: int) -> None:
        """The queue's server or a worker loses what it had."""
        self.queue = dict(list(self.queue.items())[::share][1:])

    # --- workers ---

    @rule(
        number=st.sampled_from(WORKERS),
        limit=st.integers(0, 8),
        want=st.integers(0, 8),
        death=DEATHS,
    )
    def work(self, number: int, limit: int, want: int, death: str | None) -> None:
        """A worker claims wake-ups, tells what has ended, gets permits, and begins. It may die anywhere."""
        worker = self.workers[number]
        claimed = self._claim(limit)
        asking = [each for each in claimed if not self.timers[each].is_done and not self._runs(each)]
        if death == "before it serves":
            self._die(number)
            return
        served = self._serve(worker, asking, want, dies=death == "before the index")
        if served is None or death == "before it acts":
            self._die(number)
            return
        for refused, start_ms in served.refused:
            each = self._known(refused)
            self.timers[each].waits = True
            if start_ms:
                assert start_ms > self.time.now_ms
                self._put(each, start_ms)
        for each in served.granted:
            self._begin(number, self._known(each))
        if death == "begun":
            self._die(number)

    @rule(number=st.sampled_from(WORKERS), count=st.integers(1, 4))
    def finish(self, number: int, count: int) -> None:
        """Calls of a worker end. It tells the host when it works next."""
        worker = self.workers[number]
        for each in list(worker.permits)[:count]:
            if worker.permits.pop(each) <= self.time.now_ms:
                continue  # it is no longer the worker's own, which drops it
            self.timers[each].is_done = True
            worker.ended.append(each)

    @rule(number=st.sampled_from(WORKERS))
    def beat(self, number: int) -> None:
        """A worker renews the leases of its calls, here and in their partitions."""
        worker = self.workers[number]
        own = [each for each, lease_end_ms in worker.permits.items() if lease_end_ms > self.time.now_ms]
        worker.permits = dict.fromkeys(own, self.time.now_ms + LEASE_MS)
        for each in own:
            self.timers[each].lease_end_ms = self.time.now_ms + LEASE_MS
        self.do(self.hosts.renew({HOST: own}, LEASE_MS))

    @rule(number=st.sampled_from(WORKERS))
    def die(self, number: int) -> None:
        """While it calls."""
        self._die(number)

    # --- operators, cancels, relays ---

    @rule(policy=POLICIES, dies=st.booleans())
    def set_rules(self, policy: DestinationPolicy, dies: bool) -> None:  # noqa: FBT001 - by Hypothesis
        """The API may die before it wakes anybody."""
        self.do(self.hosts.set_rules(HOST, policy))
        if policy != self.policy:
            self.policy, self.starts = policy, []
        if not dies:
            self._wake(self.do(self.hosts.release(HOST)))

    @rule(data=st.data(), dies=st.booleans())
    @precondition(lambda self: self._open())
    def cancel(self, data: st.DataObject, dies: bool) -> None:  # noqa: FBT001 - by Hypothesis
        """A timer that does not run. The API may die before it takes it out of the line."""
        one = data.draw(st.sampled_from(self._open()))
        if not self._runs(one):
            self.timers[one].is_done = True
            if not dies:
                self.do(self.hosts.leave(HOST, [one]))

    @rule()
    def relay(self) -> None:
        """What a relay's heal pass does: for the partition, and for the host."""
        self._heal()

    @invariant()
    def permits_are_kept_for_all_that_run(self) -> None:
        """Unless its lease has ended, a worker's permit is in the host's slot."""
        stored = {self._read(each) for each in self.do(self.redis.zrange(KEYS.permits, 0, -1))}
        for worker in self.workers.values():
            live = {each for each, lease_end_ms in worker.permits.items() if lease_end_ms > self.time.now_ms}
            assert live <= stored

    # --- the end ---

    def _end_all(self) -> None:
        """All workers die; one that lives, and a relay, bring everything to its end."""
        for number in WORKERS:
            self._die(number)
        calm = replace_pause(self.policy)
        self.set_rules(calm, dies=True)
        for _ in range(ROUNDS):
            if not self._open():
                break
            self._heal()
            for _ in range(3):
                self.work(0, limit=100, want=100, death=None)
                self.finish(0, count=100)
            self.time.advance(4_000)
        assert self._open() == []
        for _ in range(5):
            self.work(0, limit=100, want=100, death=None)
            self.finish(0, count=100)
            self.time.advance(LEASE_MS)
            self._heal()
        assert self.do(self.redis.exists(KEYS.line, KEYS.permits)) == 0
        assert self.do(self.hosts.due_probes(10)) == []

    # --- helpers ---

    def _serve(self, worker: Worker, asking: list[WakeUp], want: int, *, dies: bool) -> Served | None:
        """None: the worker died before the host was in the index."""
        ended, worker.ended = worker.ended, []
        line, free = self._expected_line(asking, ended)
        request = Serve(HOST, ended=ended, asking=asking, want=want, lease_ms=LEASE_MS)
        note_lines = self.hosts._note_lines
        if dies:
            self.hosts._note_lines = _die_instead  # type: ignore[method-assign, assignment]
        try:
            [served] = self.do(self.hosts.serve([request]))
        except UnavailableError:
            served = None
        finally:
            self.hosts._note_lines = note_lines  # type: ignore[method-assign]
        assert isinstance(served, Served | None)
        left = self._line()
        taken = len(line) - len(left)
        # The first got permits, and the order of the others is kept.
        assert left == [name for name in line if name not in free[:taken]]
        self._check_limits(taken, want, len(free))
        if served is not None:
            assert [self._name(each) for each in served.granted] == free[:taken]
            assert served.waiting == len(left)
        return served

    def _expected_line(self, asking: list[WakeUp], ended: list[WakeUp]) -> tuple[list[str], list[str]]:
        """The names in the line before anybody gets a permit, in their order; and those without a permit."""
        scores = dict(self.do(self.redis.zrange(KEYS.line, 0, -1, withscores=True)))
        permits = dict(self.do(self.redis.zrange(KEYS.permits, 0, -1, withscores=True)))
        for each in map(self._member, ended):
            if permits.pop(each, None) is None:
                scores.pop(each, None)
        expired = {each for each, lease_end_ms in permits.items() if lease_end_ms <= self.time.now_ms}
        scores |= dict.fromkeys(expired, 0)
        for wanted in asking:
            each = self._member(wanted)
            scores[each] = min(scores.get(each, inf), wanted.due_ms)
        line = sorted(scores, key=lambda each: (scores[each], each))
        free = [each for each in line if each not in permits or each in expired]
        return [self._name(self._read(each)) for each in line], [
            self._name(self._read(each)) for each in free
        ]

    def _check_limits(self, taken: int, want: int, free: int) -> None:
        """As many of those without a permit got one as the rules allow; nobody waits for nothing."""
        policy, now_ms = self.policy, self.time.now_ms
        live = self.do(self.redis.zcount(KEYS.permits, f"({now_ms}", "inf"))
        assert live == self.do(self.redis.zcard(KEYS.permits))
        assert taken <= want
        if taken:
            assert not policy.paused
            assert live <= (policy.concurrency or inf)
        self.starts += [now_ms] * taken
        if policy.rate is not None:
            for first, start_ms in enumerate(self.starts[:-1]):
                most = floor((now_ms - start_ms + CATCH_UP_MS + 0.01) * policy.rate / 1000) + 1
                assert len(self.starts) - first <= most
        room = min(want, (policy.concurrency or inf) - live + taken)
        if policy.rate is None and not policy.paused:
            assert taken == min(max(room, 0), free)
        elif policy.rate is not None:
            self.last_paced_ms = now_ms if taken else self.last_paced_ms
            if not policy.paused and free > taken and taken < room:
                assert now_ms - self.last_paced_ms < 1000 / policy.rate

    def _begin(self, number: int, granted: WakeUp) -> None:
        """What `begin` of the partition does."""
        timer, worker = self.timers[granted], self.workers[number]
        if timer.is_done or self._runs(granted):
            worker.ended.append(granted)
            return
        timer.waits, timer.worker, timer.lease_end_ms = False, number, self.time.now_ms + LEASE_MS
        worker.permits[granted] = timer.lease_end_ms

    def _heal(self) -> None:
        now_ms = self.time.now_ms
        for each in self._open():
            timer = self.timers[each]
            if each in self.queue or self._runs(each) or now_ms < timer.told_ms + PROBE_MS:
                continue
            if timer.waits and self.do(self.hosts.are_waiting(HOST, [each])) == [True]:
                continue
            timer.waits = False
            self._put(each, now_ms)
        self._wake(of_all(self.do(self.hosts.probe(self.do(self.hosts.due_probes(10))))))

    def _claim(self, limit: int) -> list[WakeUp]:
        due = sorted((ms, each.name.id) for each, ms in self.queue.items() if ms <= self.time.now_ms)[:limit]
        claimed = [self.by_name[name] for _, name in due]
        for each in claimed:
            del self.queue[each]
        return claimed

    def _put(self, each: WakeUp, ms: int) -> None:
        self.queue[each] = min(ms, self.queue.get(each, ms))
        self.timers[each].told_ms = max(ms, self.time.now_ms)

    def _wake(self, wake_ups: Iterable[WakeUp]) -> None:
        for each in wake_ups:
            self._put(self._known(each), self.time.now_ms)

    def _die(self, number: int) -> None:
        self.workers[number] = Worker()

    def _runs(self, each: WakeUp) -> bool:
        timer = self.timers[each]
        return not timer.is_done and timer.worker is not None and timer.lease_end_ms > self.time.now_ms

    def _open(self) -> list[WakeUp]:
        return [each for each, timer in self.timers.items() if not timer.is_done]

    def _line(self) -> list[str]:
        return [self._name(self._read(each)) for each in self.do(self.redis.zrange(KEYS.line, 0, -1))]

    def _known(self, each: WakeUp) -> WakeUp:
        return self.by_name[each.name.id]

    def _read(self, member: bytes) -> WakeUp:
        found = parse_wake_up_id(member.decode())
        assert found is not None
        return self._known(found)

    @staticmethod
    def _name(each: WakeUp) -> str:
        return each.name.id

    @staticmethod
    def _member(each: WakeUp) -> bytes:
        return wake_up_id(each).encode()


async def _die_instead(*_: object) -> None:
    raise UnavailableError("died")


def replace_pause(policy: DestinationPolicy) -> DestinationPolicy:
    """The same rules, without a pause and with a rate that lets a test end."""
    rate = None if policy.rate is None else max(policy.rate, 3)
    return DestinationPolicy(rate=rate, concurrency=policy.concurrency)


@pytest.mark.timeout(600)
def test_no_line_wedges_and_nobody_is_lost(valkey_server: EmbeddedValkey) -> None:
    """Limits and order are kept at every call, and at last everybody has been called or was cancelled."""

    class Machine(HostMachine):
        url = valkey_server.url

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=60,
            stateful_step_count=50,
            deadline=None,
            database=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
