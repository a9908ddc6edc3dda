"""Gets permits from hosts, and gives them back. A host with rules, or with a line, gives them in due order.

A worker that dies keeps no permit: it expires, and its timer returns to the host's line.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from httpqueue.errors import UnavailableError
from httpqueue.storage.hosts import Calls, Serve, Served
from httpqueue.storage.partitions import by_partition
from httpqueue.storage.queue import Queue
from httpqueue.storage.storage import Storage
from httpqueue.timers.commands import Finish, WakeUp
from httpqueue.worker.attempts import Running

LEASE_MS: Final = 20_000
"""How long a permit holds unless it is renewed."""
AT_ONCE_MS: Final = 1
Wanted = Mapping[str, tuple[Sequence[WakeUp], int]]
"""{host: (wake-ups that join its line, how many calls can start)}"""


class Permits:
    """The permits of one worker. Methods raise UnavailableError when a server is away."""

    def __init__(self, storage: Storage, queue: Queue) -> None:
        self._store = storage.store
        self._hosts = storage.hosts
        self._queue = queue
        self._ended: dict[str, list[WakeUp]] = {}
        self._refused: list[tuple[WakeUp, int]] = []
        """Wake-ups that joined lines and are not marked yet, and when they may start (0: nobody knows)."""
        self._calls: dict[str, Calls] = {}

    def note_finished(self, batch: Iterable[Finish]) -> None:
        """Note what these attempts say about their hosts, for `tell_health`."""
        for finish in batch:
            if finish.was_called:
                host, error = finish.begun.host, finish.attempt.error
                known = self._calls.get(host, Calls(delivered=False, failures=0, result=""))
                self._calls[host] = Calls(
                    known.delivered or error is None,
                    0 if error is None else known.failures + 1,
                    error or str(finish.attempt.status),
                )

    async def tell_health(self) -> None:
        """Tell the hosts how calls to them ended."""
        calls, self._calls = self._calls, {}
        await self._hosts.note_calls(calls)

    async def limits(self) -> dict[str, int]:
        """{host: how many calls it takes at once}, of those that limit that."""
        rules = await self._hosts.rules()
        return {host: rule.concurrency for host, rule in rules.items() if rule.concurrency is not None}

    def give_back(self, host: str, wake_up: WakeUp) -> None:
        """Note that a permit is no longer needed. The next `ask` gives it back."""
        self._ended.setdefault(host, []).append(wake_up)

    @property
    def ended(self) -> dict[str, int]:
        """{host: how many permits it has to get back}."""
        return {host: len(wake_ups) for host, wake_ups in self._ended.items()}

    async def ask(self, wanted: Wanted) -> list[Served]:
        """Give ended permits back, and ask for others. Afterwards call `mark`."""
        ended, self._ended = self._ended, {}
        requests = [
            Serve(host, ended.get(host, ()), *wanted.get(host, ((), 0)), lease_ms=LEASE_MS)
            for host in {**ended, **wanted}
        ]
        try:
            answers = await self._hosts.serve(requests)
        except BaseException:
            for host, wake_ups in ended.items():  # to give them back twice does no harm
                self._ended[host] = wake_ups + self._ended.get(host, [])
            raise
        self._refused += [each for served in answers for each in served.refused]
        return answers

    async def mark(self, away: Collection[int] = ()) -> dict[int, UnavailableError | None]:
        """Mark timers that got no permit as waiting in the store, but in the partitions that are away.

        If a rate holds them up, their wake-ups go into the queue for the time at which it lets them start.
        Returns {partition: why it failed there, or None}. The next call tries again what is left.
        """
        refused, self._refused = self._refused, []
        results: dict[int, UnavailableError | None] = {}

        async def mark_in(partition: int, part: Sequence[tuple[WakeUp, int]]) -> Sequence[object]:
            tickets = [replace(wake_up, due_ms=start_ms) for wake_up, start_ms in part if start_ms]
            is_marked = False
            try:
                if partition not in away:
                    await self._store.wait([wake_up for wake_up, _ in part])
                    if tickets:
                        await self._queue.put(tickets)
                    is_marked, results[partition] = True, None
            except UnavailableError as error:
                results[partition] = error
            finally:
                if not is_marked:
                    self._refused += part
            return part

        if refused:
            await by_partition(refused, lambda each: each[0].partition, mark_in)
        return results

    async def renew(self, held: Mapping[str, Sequence[WakeUp]]) -> None:
        """Renew permits, {host: wake-ups}."""
        await self._hosts.renew(held, LEASE_MS)

    async def leave(self) -> None:
        """Give everything back, and wake those who come next for other workers."""
        await self.mark()
        for served in await self.ask({}):
            if served.waiting:
                await self._queue.put(
                    [replace(each, due_ms=AT_ONCE_MS) for each in await self._hosts.release(served.host)]
                )


def permits_of(attempts: Sequence[Running]) -> dict[str, list[WakeUp]]:
    """{host: wake-ups} of those that have a permit."""
    held: dict[str, list[WakeUp]] = {}
    for running in attempts:
        if running.has_permit:
            held.setdefault(running.begun.host, []).append(running.begun.wake_up)
    return held
