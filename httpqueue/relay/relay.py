"""The relay: fills the queue from the store. Any number of relays may run, because all they do is idempotent.

forget  drops timers whose retention is over; it is the first, because it frees memory
drain   reads outbox entries, and puts wake-ups that are due soon into the queue
adopt   does the same for entries that a dead relay had read
promote puts wake-ups that have come near into the queue, application by application
heal    puts lost wake-ups again, and wakes timers that nothing else wakes
work    does jobs, such as the replay of very many timers: see relay/jobs.py

The passes run independently: one that fails does not stop the others. Each visits all partitions, and one
that is away does not stop the others either.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final
from uuid import uuid4

import structlog

from httpqueue import clock
from httpqueue.errors import UnavailableError
from httpqueue.relay.jobs import Jobs
from httpqueue.runtime.metrics import OUTBOX_UNREADABLE, WAKE_UPS_PUT
from httpqueue.runtime.outage import keep_doing, keep_listening
from httpqueue.storage.queue import Queue
from httpqueue.storage.storage import Storage
from httpqueue.storage.wake_ups import Look, Place
from httpqueue.timers.commands import OutboxEntry, WakeUp

SWEEP_S: Final = 2.0
"""The pause between two runs of a pass, in s. Drain does not wait for it: a new outbox entry wakes it."""
TOP_UP_S: Final = 0.05
"""The shortest pause of promote, in s: an application has more due than the queue may hold of it."""
FORGET_S: Final = 0.2
"""The pause of forget, in s, while timers expire."""
JOBS_S: Final = 0.5
"""The pause between two looks for jobs, in s."""
LAST_PASS_S: Final = 2.0
"""How long a relay that stops may take to put what it has read into the queue."""
GRACE_MS: Final = 10_000
"""When a timer is overdue by this much, its wake-up may be lost."""
ADOPT_AFTER_MS: Final = 30_000
"""When an outbox entry was read this long ago and not acknowledged, its relay is taken for dead."""
FORGET_RELAYS_S: Final = 60.0
"""The pause between two looks for killed relays, in s."""

POLICIES_S: Final = 10.0
"""How often heal compares the partitions' copies of policies, in s."""

log = structlog.get_logger()


class Relay:
    """One relay. Each pass can also be called by itself; all passes raise UnavailableError."""

    def __init__(self, *, storage: Storage, queue: Queue, horizon_ms: int, batch_size: int) -> None:
        self._store = storage.store
        self._hosts = storage.hosts
        self._wake_ups = storage.wake_ups
        self._outbox = storage.outbox
        self._retention = storage.retention
        self._policies = storage.policies
        self._policies_at_s = 0.0
        self._jobs = Jobs(storage)
        self._queue = queue
        self._partitions = storage.partitions.all
        self._horizon_ms = horizon_ms
        self._batch_size = batch_size
        self._consumer = uuid4().hex
        self._unfinished: dict[int, list[OutboxEntry]] = {}
        self._maybe_lost: set[int] = set()
        """Partitions of whose outboxes an answer may have been lost."""
        self._handed_out: dict[int, list[WakeUp]] = {}
        self._epochs: dict[int, str] = {}
        self._forget_relays_s = 0.0
        self._promote_pause_s = self._forget_pause_s = SWEEP_S
        self._rung = set(self._partitions)
        """Partitions whose outboxes may have new entries."""
        self._looking: asyncio.Future[list[Look]] | None = None
        self._bell = asyncio.Event()
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Run all passes until stop(). When Redis is away, wait for it."""
        if self._stopping.is_set():
            return
        # Nobody else gets soon what these two have read: entries are adopted, and wake-ups healed, later.
        careful = [
            self._keep_doing(self._drain_rung, "relay.drain", lambda: 0),
            self._keep_doing(self.promote, "relay.promote", lambda: _pause_s(self._promote_pause_s)),
        ]
        others = [
            self._keep_doing(self.forget, "relay.forget", lambda: _pause_s(self._forget_pause_s)),
            asyncio.create_task(
                keep_listening(self._outbox.listen, lambda each: self._ring({each}), "relay.listen")
            ),
            self._keep_doing(self.adopt, "relay.adopt", lambda: _pause_s(SWEEP_S)),
            self._keep_doing(self.heal, "relay.heal", lambda: _pause_s(SWEEP_S)),
            self._keep_doing(self.work, "relay.work", lambda: JOBS_S),
        ]
        try:
            await self._stopping.wait()
            await asyncio.wait(careful, timeout=LAST_PASS_S)
        finally:
            # In a task of its own: before Python 3.11.3, asyncio.timeout fails in a task that was cancelled.
            await asyncio.create_task(self._leave([*careful, *others]))

    def _keep_doing(
        self, one_pass: Callable[[], Awaitable[object]], part: str, pause_s: Callable[[], float]
    ) -> asyncio.Task[None]:
        return asyncio.create_task(keep_doing(one_pass, part, pause_s, self._stopping))

    async def stop(self) -> None:
        """End run(). What was read for the queue is still put into it. Other passes are cancelled."""
        self._stopping.set()
        self._bell.set()

    async def _leave(self, passes: Sequence[asyncio.Task[None]]) -> None:
        for each in passes:
            each.cancel()
        await asyncio.wait(passes)
        for partition in self._partitions:
            with suppress(UnavailableError):
                await self._outbox.leave(partition, self._consumer)

    def _ring(self, partitions: Collection[int]) -> None:
        self._rung |= {*partitions} & {*self._partitions}
        self._bell.set()

    async def _drain_rung(self) -> None:
        """Drain the outboxes that have new entries. Without any, wait for some; look at all every SWEEP_S."""
        if not self._rung and not self._stopping.is_set():
            self._bell.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(_pause_s(SWEEP_S)):
                    await self._bell.wait()
        if not self._rung:
            looks = await self._look()
            self._rung = {each for each in self._partitions if looks[each].has_entries}
        partitions, self._rung = self._rung, set()

        async def drain_one(partition: int) -> int:
            try:
                count = await self._drain_one(partition)
            except Exception:
                self._rung.add(partition)
                raise
            if count:
                self._rung.add(partition)  # until a read finds nothing: more may have come meanwhile
            return count

        await _all_of(partial(drain_one, partition) for partition in partitions)

    async def drain(self) -> int:
        """Act on new outbox entries. Returns how many. After an error, the next call acts on them again."""
        return await self._in_each(self._drain_one, self._partitions)

    async def _drain_one(self, partition: int) -> int:
        entries = self._unfinished.get(partition)
        if not entries:
            entries = await self._read(partition)
        self._unfinished[partition] = entries
        try:
            count = await self._act_on(partition, entries)
        except UnavailableError:
            raise
        except Exception:  # a bug must not keep the entries behind these waiting
            self._unfinished[partition] = []
            raise
        self._unfinished[partition] = []
        return count

    async def _read(self, partition: int) -> list[OutboxEntry]:
        """Read entries. After an error, read first what may have been lost with its answer."""
        are_lost = partition in self._maybe_lost
        self._maybe_lost.add(partition)
        entries = await self._outbox.read(partition, self._consumer, limit=self._batch_size, again=are_lost)
        if are_lost and entries:
            return entries
        self._maybe_lost.discard(partition)
        return await self._read(partition) if are_lost else entries

    async def adopt(self) -> int:
        """Act on outbox entries that a dead relay left. Returns how many."""

        async def adopt_in(partition: int) -> int:
            entries = await self._outbox.adopt(
                partition, self._consumer, idle_ms=ADOPT_AFTER_MS, limit=self._batch_size
            )
            return await self._act_on(partition, entries)

        now_s = clock.monotonic_s()
        if now_s >= self._forget_relays_s:
            await self._outbox.forget_relays(silent_ms=2 * ADOPT_AFTER_MS)
            self._forget_relays_s = now_s + FORGET_RELAYS_S
        looks = await self._look()
        return await self._in_each(adopt_in, [each for each in self._partitions if looks[each].has_entries])

    async def promote(self) -> int:
        """Put the wake-ups that the queue should have next. Returns how many it did not have yet.

        When the queue has lost its data, it is filled again from the beginning.
        """
        self._promote_pause_s = SWEEP_S
        looks, epochs = await asyncio.gather(self._look(), self._queue.epochs())

        async def promote_in(partition: int) -> int:
            epoch = epochs[partition]
            is_other = epoch != self._epochs.get(partition)
            if is_other and await self._wake_ups.start_over_for(partition, epoch):
                log.info("relay.refill", partition=partition, epoch=epoch)
            self._epochs[partition] = epoch
            has_work = looks[partition].has_near or self._handed_out.get(partition)
            return await self._promote_in(partition) if has_work else 0

        return await self._in_each(promote_in, self._partitions)

    async def _promote_in(self, partition: int) -> int:
        count = await self._put_handed_out(partition)
        start, complete_for_ms = 0, None
        while True:
            top_up = await self._wake_ups.top_up(
                partition, start, horizon_ms=self._horizon_ms, limit=self._batch_size
            )
            self._handed_out[partition] = top_up.wake_ups
            count += await self._put_handed_out(partition)
            if top_up.complete_for_ms is not None:
                known_ms = top_up.complete_for_ms if complete_for_ms is None else complete_for_ms
                complete_for_ms = min(top_up.complete_for_ms, known_ms)
            if top_up.next is None:
                break
            start = top_up.next
        if complete_for_ms is not None:
            self._promote_pause_s = min(self._promote_pause_s, max(TOP_UP_S, complete_for_ms / 2_000))
        return count

    async def heal(self) -> int:
        """Put lost wake-ups again. Returns how many."""
        looks = await self._look()
        in_partitions = [partial(self._heal_in, each) for each in self._partitions if looks[each].must_heal]
        healed = await _all_of([self._heal_policies, *in_partitions, self._heal_hosts])
        if healed:
            log.warning("relay.heal", count=healed)
        return healed

    async def _heal_policies(self) -> int:
        """Finish policies that somebody wrote half, every POLICIES_S. No wake-up was lost, so none counts."""
        now_s = clock.monotonic_s()
        if now_s >= self._policies_at_s:
            torn = await self._policies.mend()
            self._policies_at_s = now_s + POLICIES_S
            if torn:
                log.warning("relay.policies", applications=torn.applications, hosts=torn.hosts)
        return 0

    async def _heal_hosts(self) -> int:
        """Put the first wake-ups of lines that nobody serves. They are not lost, so they do not count."""
        hosts = await self._hosts.due_probes(limit=self._batch_size)
        for host, wake_ups in (await self._hosts.probe(hosts)).items():
            await self._put(await self._store.ready(host, wake_ups), by="heal")
        return 0

    async def _heal_in(self, partition: int) -> int:
        healed = 0
        place: Place | None = Place()
        while place is not None:
            overdue, place = await self._wake_ups.overdue(
                partition, place, by_ms=GRACE_MS, limit=self._batch_size
            )
            healed += await self._put_missing(overdue)
        # This comes second: the timers it wakes have no wake-up yet, and would look like lost ones.
        seen, is_all = 0, False
        while not is_all:  # all of them: the first ones may be of an application that is paused
            lost = await self._wake_ups.heal(partition, limit=self._batch_size, skip=seen)
            healed += await self._put_missing(lost.workers)
            await self._ask_hosts(lost.waiting)
            seen += len(lost.workers)
            is_all = len(lost.workers) < self._batch_size
        await self._retention.check_pointers(partition)
        return healed

    async def _ask_hosts(self, waiting: Sequence[tuple[str, WakeUp]]) -> None:
        """Wake timers of which their hosts do not know that they wait; the others wait on."""
        by_host: dict[str, list[WakeUp]] = {}
        for host, wake_up in waiting:
            by_host.setdefault(host, []).append(wake_up)
        for host, wake_ups in by_host.items():
            known = await self._hosts.are_waiting(host, wake_ups)
            await self._store.wait([each for each, is_known in zip(wake_ups, known, strict=True) if is_known])
            unknown = [each for each, is_known in zip(wake_ups, known, strict=True) if not is_known]
            await self._store.wake(unknown, are_unknown=True)

    async def forget(self) -> int:
        """Forget timers whose retention is over. Returns how many."""

        async def forget_in(partition: int) -> int:
            count = 0
            while forgotten := await self._retention.forget(partition, limit=self._batch_size):
                count += forgotten
            return count

        looks = await self._look()
        count = await self._in_each(forget_in, [each for each in self._partitions if looks[each].has_expired])
        self._forget_pause_s = FORGET_S if count else SWEEP_S
        return count

    async def work(self) -> int:
        """Do jobs until all are done or wait for something. Returns how many turns were made."""
        return await self._jobs.work()

    async def has_jobs(self) -> bool:
        """Whether any job has not ended, whoever works on it."""
        return await self._jobs.has_any()

    async def _look(self) -> list[Look]:
        """What there is to do in each partition. Passes that ask at the same time share one look."""
        if self._looking is None:
            look = self._wake_ups.look(horizon_ms=self._horizon_ms, overdue_ms=GRACE_MS)
            self._looking = asyncio.ensure_future(look)
            self._looking.add_done_callback(self._looked)
        return await asyncio.shield(self._looking)

    def _looked(self, look: "asyncio.Future[list[Look]]") -> None:
        self._looking = None
        if not look.cancelled():
            look.exception()  # whoever waits for it gets it; the one who asked may have been cancelled

    async def _in_each(self, one: Callable[[int], Awaitable[int]], partitions: Iterable[int]) -> int:
        """Do this in these partitions. One that is away stops no other."""
        return await _all_of(partial(one, partition) for partition in partitions)

    async def _act_on(self, partition: int, entries: Sequence[OutboxEntry]) -> int:
        if not entries:
            return 0
        wake_ups = [entry.wake_up for entry in entries if entry.wake_up]
        if wake_ups:
            admitted = await self._wake_ups.admit(partition, wake_ups, horizon_ms=self._horizon_ms)
            await self._put(admitted, by="drain")
        unreadable = len(entries) - len(wake_ups)
        if unreadable:
            OUTBOX_UNREADABLE.inc(unreadable)
            log.error("relay.unreadable", count=unreadable)
        await self._outbox.acknowledge(partition, entries)
        return len(entries)

    async def _put_handed_out(self, partition: int) -> int:
        """Put what top_up handed out. It does that once, so it is kept until the queue has taken it."""
        added = await self._put(self._handed_out.get(partition, []), by="promote")
        self._handed_out[partition] = []
        return added

    async def _put_missing(self, wake_ups: Sequence[WakeUp]) -> int:
        missing = await self._queue.missing(wake_ups) if wake_ups else []
        return await self._put(missing, by="heal")

    async def _put(self, wake_ups: Sequence[WakeUp], *, by: str) -> int:
        if not wake_ups:
            return 0
        added = await self._queue.put(wake_ups)
        WAKE_UPS_PUT.labels(by).inc(added)
        return added


async def _all_of(calls: Iterable[Callable[[], Awaitable[int]]]) -> int:
    """Make all calls and add up their answers. If some fail, raise the last error when all have been made."""
    count, problem = 0, None
    for call in calls:
        try:
            count += await call()
        except Exception as error:  # noqa: BLE001 - whatever it is, the others must go on
            problem = error
    if problem is not None:
        raise problem
    return count


def _pause_s(seconds: float) -> float:
    """So long, or until the next sweep, if that is sooner: all passes sweep at the same time."""
    return min(seconds, SWEEP_S - clock.monotonic_s() % SWEEP_S)
