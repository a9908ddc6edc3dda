"""Timers that wait for their host or application: how tests fill, serve and read lines."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import merge

from redis.asyncio import Redis

from httpqueue.relay.relay import Relay
from httpqueue.storage.queue import Queue
from httpqueue.storage.storage import Storage
from httpqueue.storage.timers import Store
from httpqueue.timers.commands import Begun, Finished, Refusal, Refused, WakeUp
from httpqueue.timers.names import DEFAULT_APPLICATION
from httpqueue.webhooks.outcome import Outcome
from httpqueue.worker.agenda import by_partition
from httpqueue.worker.permits import Permits, Wanted
from httpqueue.worker.slots import Lines, Slots
from tests.support import frozen
from tests.support.frozen import (
    HOUR_MS,
    FrozenTime,
    acknowledge,
    claim,
    finish_of,
    new_timer,
    pass_time,
    read_outbox,
    wake_up,
)
from tests.support.keys import PARTITIONS, Everywhere

HOST = "receiver"
PLENTY = 10_000
"""More slots than any test needs."""


@dataclass
class Answers:
    """How wake-ups fared, by their timers' ids; and who else began, because it was its turn."""

    begun: dict[str, Begun] = field(default_factory=dict)
    """In the order in which they began."""
    waits: dict[str, int] = field(default_factory=dict)
    """Who waits for its host -> when the host's rate lets it start, ms since the epoch; 0: nobody knows."""
    refused: dict[str, Refusal] = field(default_factory=dict)
    """Who was refused for another reason."""

    def note(self, answers: Iterable[Begun | Refused]) -> dict[str, list[WakeUp]]:
        """Add answers of begin. Returns those that need a permit: {host: wake-ups}."""
        lines: dict[str, list[WakeUp]] = {}
        for answer in answers:
            if isinstance(answer, Begun):
                self.begun[answer.wake_up.name.id] = answer
            elif answer.refusal is Refusal.NEEDS_PERMIT:
                lines.setdefault(answer.host, []).append(answer.wake_up)
            else:
                self.refused[answer.wake_up.name.id] = answer.refusal
        return lines


class Player:
    """A worker that goes the way of worker/engine.py step by step, with its parts, and calls nobody."""

    def __init__(self, storage: Storage, queue: Queue, slots: Slots | None = None) -> None:
        self.store = storage.store
        self.queue = queue
        self.permits = Permits(storage, queue)
        self._slots = slots or Slots(PLENTY, PLENTY)
        self._lines = Lines(self._slots)
        self._hosts: dict[WakeUp, str] = {}
        """Who has a permit, and of which host."""

    async def begin(self, wake_ups: Iterable[str | WakeUp]) -> Answers:
        """Begin these, or let them wait for their hosts; and begin whoever got a permit."""
        answers = Answers()
        asking = [wake_up(each) if isinstance(each, str) else each for each in wake_ups]
        lines: dict[str, list[WakeUp]] = {}
        for part in by_partition(asking).values():  # one by one, for a Room is for one call of the script
            began = Answers()
            for host, each in began.note(
                await frozen.begin(self.store, part, room=self._slots.room())
            ).items():
                lines.setdefault(host, []).extend(each)
            self._count(answers, began)
        wants = self._slots.share(
            [(host, each[0].name.application, len(each)) for host, each in lines.items()]
        )
        await self._ask(
            {host: (each, want) for (host, each), want in zip(lines.items(), wants, strict=True)}, answers
        )
        return answers

    async def serve(self) -> Answers:
        """Give permits back, and begin the first of the lines that this worker knows."""
        answers = Answers()
        await self._ask({host: ((), want) for host, want in self._lines.to_serve(PLENTY, 0)}, answers)
        return answers

    async def finish(
        self, attempts: Mapping[str, Begun], outcome: Outcome = Outcome.DELIVERED, ms: int = HOUR_MS
    ) -> Finished:
        """End attempts, as `Answers.begun` has them. The next call gives their permits back.

        Not those of attempts that are another worker's by now: their permits are, too.
        """
        finishes = [finish_of(begun, outcome, ms) for begun in attempts.values()]
        finished = await self.store.finish(finishes)
        self.permits.note_finished(finishes)
        for begun, is_own in zip(attempts.values(), finished.counted, strict=True):
            self._slots.end(begun.wake_up.name.application, begun.host)
            if is_own:
                self._give_back(begun.wake_up)
        return finished

    async def _ask(self, wanted: Wanted, answers: Answers) -> None:
        if not wanted and not self.permits.ended:
            return
        granted = []
        for served in await self.permits.ask(wanted):
            answers.waits |= {each.name.id: start_ms for each, start_ms in served.refused}
            granted += served.granted
            self._hosts |= dict.fromkeys(served.granted, served.host)
            first = served.first.name.application if served.first else ""
            self._lines.note_line(served.host, served.waiting, first, 0)
        await self.permits.mark()
        if granted:
            began = Answers()
            assert not began.note(await frozen.begin(self.store, granted, permits=granted))
            self._count(answers, began)
            for each in granted:
                if each.name.id not in began.begun:
                    self._give_back(each)

    def _count(self, answers: Answers, began: Answers) -> None:
        """Add these to the answers, and to the calls in flight."""
        answers.begun |= began.begun
        answers.refused |= began.refused
        for begun in began.begun.values():
            self._slots.begin(begun.wake_up.name.application, begun.host)

    def _give_back(self, each: WakeUp) -> None:
        host = self._hosts.pop(each, None)
        if host is not None:
            self.permits.give_back(host, each)


class Stage:
    """Store, queue, relay and two workers, in a test's own time."""

    def __init__(self, storage: Storage, queue: Queue, time: FrozenTime) -> None:
        self.storage = storage
        self.store = storage.store
        self.hosts = storage.hosts
        self.policies = storage.policies
        self.queue = queue
        self.time = time
        self.relay = Relay(storage=storage, queue=queue, horizon_ms=HOUR_MS, batch_size=9)
        self.player = self.new_player()
        self.other = self.new_player()

    def new_player(self, slots: Slots | None = None) -> Player:
        """Another worker."""
        return Player(self.storage, self.queue, slots)

    async def claimed(self) -> list[str]:
        """Whose wake-ups are due in the queue, in alphabetical order; they are taken out."""
        return sorted(each.name.id for each in await claim(self.queue))

    async def pass_time(self, ms: int) -> None:
        """Let that much time pass while the store is up."""
        await pass_time(self.store, self.time, ms)


async def create(store: Store, names: Iterable[str]) -> None:
    """Timers to HOST, each due a millisecond before the next, the last one now."""
    names = list(names)
    await store.create([new_timer(name, number - len(names) + 1) for number, name in enumerate(names)])


async def woken(store: Store) -> list[str]:
    """Of whom the relay was told since the last call. In due order if each partition told it in due order."""
    entries = await read_outbox(store)
    await acknowledge(store, entries)
    told: Sequence[WakeUp] = [entry.wake_up for entry in entries if entry.wake_up]
    parts = [[each for each in told if each.partition == partition] for partition in PARTITIONS.all]
    return [each.name.id for each in merge(*parts, key=lambda each: each.due_ms)]


async def waiting(redis: Redis) -> list[str]:
    """Everybody who waits for a host or a paused application, by due time; they are all held."""
    everywhere = Everywhere(redis)
    lines = await everywhere.zset("lines", DEFAULT_APPLICATION)
    names = {member.partition(":")[2] for member in {**lines, **await everywhere.zset("waiting")}}
    held = [name for name in await everywhere.zset("held", DEFAULT_APPLICATION) if name in names]
    assert len(held) == len(names)
    return held


async def no_line_is_left(redis: Redis) -> bool:
    """Nobody waits anywhere, and nobody has a permit."""
    everywhere = Everywhere(redis)
    hosts = await redis.keys("hq:{host:*}:line") + await redis.keys("hq:{host:*}:permits")
    return not hosts and not await everywhere.zcard("waiting") and not await redis.keys("hq:{*}:line:*")
