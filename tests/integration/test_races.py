"""An update or a cancel that races the timer's own firing: one definite answer, and one call that agrees."""

import asyncio
import random
import secrets
from collections import Counter
from dataclasses import dataclass, field

import pytest

from httpqueue.storage.queue import Queue
from httpqueue.storage.record import decode_record
from httpqueue.storage.timers import Store
from httpqueue.timers.commands import Change, Changed, ChangeResult, Creation, NewTimer
from httpqueue.timers.names import DEFAULT_APPLICATION, TimerName
from httpqueue.timers.schedule import Delay
from httpqueue.timers.spec import Spec
from httpqueue.timers.timer import State
from tests.support.keys import Everywhere
from tests.support.pipeline import Pipeline, running
from tests.support.receiver import Receiver

pytestmark = pytest.mark.no_cover  # other tests cover the same code, and coverage makes this thrice as slow

RACES = 10_000
AT_ONCE = 500
SPREAD_MS = 500
"""Within which the timers of a batch are due: about as long as it takes to change them."""
CLIENTS = 8
SCHEDULED = frozenset({State.SCHEDULED})
HOUR_MS = 3_600_000


@dataclass
class Races:
    """Who races, and what must have come of it."""

    store: Store
    url: str
    chance: random.Random
    expected: dict[str, str | None] = field(default_factory=dict)
    """Timer -> the only body it may have been sent with; None: it may not have been sent."""
    answers: Counter[str] = field(default_factory=Counter)
    first_versions: dict[str, str] = field(default_factory=dict)

    def spec(self, body: str, delay_ms: int = 0) -> Spec:
        """Content that tells by its body which one it is."""
        return Spec(f"{self.url}/{body}", Delay(delay_ms), body=body)

    async def create(self, names: list[str]) -> None:
        """Due at random within the next milliseconds, each with its old content."""
        created = await self.store.create(
            [
                NewTimer(
                    TimerName(DEFAULT_APPLICATION, name), self.spec("old", self.chance.randrange(SPREAD_MS))
                )
                for name in names
            ]
        )
        assert {each.creation for each in created} == {Creation.CREATED}
        self.expected.update(dict.fromkeys(names, "old"))
        timers = [TimerName(DEFAULT_APPLICATION, name) for name in names]
        # all at once, because they are due in a moment
        everywhere = Everywhere(self.store._redis)
        records = await asyncio.gather(*(everywhere.get(timer.id) for timer in timers))
        for timer, record in zip(timers, records, strict=True):
            self.first_versions[timer.id] = f"{decode_record(timer, record).nonce}.0.0.s"

    async def race(self, name: str) -> None:
        """One of the ways in which a client may come in between."""
        await self.chance.choice([self.put, self.patch, self.cancel, self.duel])(name)

    async def put(self, name: str) -> None:
        """Other content, due at once."""
        change = Change(TimerName(DEFAULT_APPLICATION, name), SCHEDULED, spec=self.spec("new"), due=Delay(0))
        await self._change(change, "new")

    async def patch(self, name: str) -> None:
        """Other content, due as before, if it is still the version that was read."""
        change = Change(
            TimerName(DEFAULT_APPLICATION, name), SCHEDULED, self.first_versions[name], self.spec("new")
        )
        await self._change(change, "new")

    async def duel(self, name: str) -> None:
        """Two clients that have read the same version: at most one of them may write."""
        bodies = ("left", "right")
        changes = [
            Change(
                TimerName(DEFAULT_APPLICATION, name), SCHEDULED, self.first_versions[name], self.spec(body)
            )
            for body in bodies
        ]
        won = await asyncio.gather(*(self._change(*each) for each in zip(changes, bodies, strict=True)))
        assert sum(won) <= 1

    async def cancel(self, name: str) -> None:
        """Not at all any more."""
        changed = await self.store.cancel(
            TimerName(DEFAULT_APPLICATION, name), version=None, retention_ms=HOUR_MS
        )
        if self._note("cancel", changed):
            self.expected[name] = None

    async def _change(self, change: Change, body: str) -> bool:
        [changed] = await self.store.change([change])
        is_changed = self._note("change", changed)
        if is_changed:
            self.expected[change.name.id] = body
        return is_changed

    def _note(self, wish: str, changed: Changed) -> bool:
        self.answers[f"{wish} {changed.result}"] += 1
        if changed.result is ChangeResult.OTHER_STATE:
            assert changed.state in {State.RUNNING, State.DONE}
        else:
            assert changed.result in {ChangeResult.CHANGED, ChangeResult.OTHER_VERSION}
        return changed.result is ChangeResult.CHANGED


async def client(races: Races, names: list[str]) -> None:
    """One of those that share the names."""
    while names:
        await races.race(names.pop())


async def batch(races: Races, pipeline: Pipeline, first: int) -> None:
    """So many timers at once, until each of them is at its end."""
    names = [str(number) for number in range(first, first + AT_ONCE)]
    await races.create(names)
    races.chance.shuffle(names)
    async with asyncio.TaskGroup() as clients:
        for _ in range(CLIENTS):
            clients.create_task(client(races, names))
    await pipeline.until_all_finished()


async def test_10_000_races(store: Store, queue: Queue) -> None:
    """What was answered to the client is what the receiver got, exactly once: nothing lost, nothing twice."""
    seed = secrets.randbits(32)
    print(f"seed {seed}")  # noqa: T201 - shown when the test fails
    async with Receiver() as receiver, running(store, queue) as pipeline:
        races = Races(store, receiver.url, random.Random(seed))
        for first in range(0, RACES, AT_ONCE):
            await batch(races, pipeline, first)
    sent = Counter(
        ((request.header("webhook-id") or "").split(":")[1], request.body.decode())
        for request in receiver.requests
        if request.path == f"/{request.body.decode()}"
    )
    assert sent == Counter((name, body) for name, body in races.expected.items() if body is not None)
    for outcome in ("change changed", "change state", "change version", "cancel changed", "cancel state"):
        assert races.answers[outcome] > RACES / 50, f"these were no races: {races.answers}"
