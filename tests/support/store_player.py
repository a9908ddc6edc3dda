"""A worker, step by step, that makes calls with permits of hosts. What it holds is lost when it dies."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from httpqueue.storage.hosts import Hosts, Serve, Served
from httpqueue.storage.keys import wake_up_id
from httpqueue.storage.queue import Queue
from httpqueue.storage.storage import Storage
from httpqueue.timers.commands import Begun, Refusal, Refused, WakeUp
from tests.support.frozen import LEASE_MS


@dataclass
class Player:
    """What a worker knows. `attempts` are those that it has begun with a permit."""

    storage: Storage
    queue: Queue
    asking: dict[str, list[WakeUp]] = field(default_factory=dict)
    granted: dict[WakeUp, str] = field(default_factory=dict)
    attempts: dict[str, tuple[str, WakeUp]] = field(default_factory=dict)
    ended: dict[str, list[WakeUp]] = field(default_factory=dict)
    lines: set[str] = field(default_factory=set)

    @property
    def hosts(self) -> Hosts:
        """Whom it asks."""
        return self.storage.hosts

    def die(self) -> None:
        """Another one takes its place, which knows nothing."""
        self.asking, self.granted, self.attempts, self.ended, self.lines = {}, {}, {}, {}, set()

    def is_to_serve(self) -> bool:
        """Whether it has something to say to a host."""
        return bool(self.asking or self.ended or self.lines)

    async def serve(self, want: int, *, dies_before_wait: bool = False) -> list[Served]:
        """Give permits back and ask for others; then note in the store who has to wait."""
        requests = [
            Serve(host, self.ended.get(host, ()), self.asking.get(host, ()), want, LEASE_MS)
            for host in sorted({*self.asking, *self.ended, *self.lines})
        ]
        answers = await self.hosts.serve(requests)
        for request, served in zip(requests, answers, strict=True):
            named = [wake_up_id(each) for each in [*served.granted, *(each for each, _ in served.refused)]]
            assert len(named) == len(set(named))
            assert {wake_up_id(each) for each in request.asking} <= set(named)
            assert len(served.granted) <= want
        if dies_before_wait:
            self.die()
            return answers
        refused = [each for served in answers for each in served.refused]
        await self.storage.store.wait([each for each, _ in refused])
        await self.queue.put([replace(each, due_ms=start_ms) for each, start_ms in refused if start_ms])
        self.asking, self.ended = {}, {}
        self.lines = {served.host for served in answers if served.waiting}
        self.granted.update({each: served.host for served in answers for each in served.granted})
        return answers

    def begun(self, answers: Sequence[Begun | Refused], permits: dict[WakeUp, str]) -> None:
        """Note what a begin call with these permits answered."""
        for answer in answers:
            wake_up = answer.wake_up
            host = permits.get(wake_up)
            if isinstance(answer, Refused):
                if answer.refusal is Refusal.NEEDS_PERMIT:
                    asking = self.asking.setdefault(answer.host, [])
                    if wake_up not in asking:
                        asking.append(wake_up)
                elif host is not None:
                    self.ended.setdefault(host, []).append(wake_up)
            elif host is not None:
                self.attempts[key_of(answer)] = (host, wake_up)

    def over(self, attempts: Sequence[Begun]) -> None:
        """These attempts are over: their permits go back."""
        for begun in attempts:
            if permit := self.attempts.pop(key_of(begun), None):
                self.ended.setdefault(permit[0], []).append(permit[1])

    def permits_of(self, attempts: Sequence[Begun]) -> dict[str, list[WakeUp]]:
        """{host: wake-ups} of those of them that have a permit."""
        found: dict[str, list[WakeUp]] = {}
        for begun in attempts:
            if permit := self.attempts.get(key_of(begun)):
                found.setdefault(permit[0], []).append(permit[1])
        return found


def key_of(begun: Begun) -> str:
    """What tells an attempt from all others."""
    return f"{begun.holder}:{begun.wake_up.name}"
