"""The worker: claims due wake-ups in batches and makes their attempts.

When a worker dies between claim and begin, its wake-ups are lost; the relay's heal pass puts them again.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final
from uuid import uuid4

import structlog

from httpqueue import clock
from httpqueue.errors import UnavailableError
from httpqueue.runtime.metrics import WAKE_UPS_UNREADABLE
from httpqueue.runtime.outage import Outage, keep_listening
from httpqueue.runtime.part import run_until
from httpqueue.storage.queue import Queue
from httpqueue.timers.commands import Finish, Finished, Refusal, Refused, WakeUp
from httpqueue.worker.agenda import Agenda, by_partition
from httpqueue.worker.ahead import Ahead
from httpqueue.worker.attempts import BEAT_S, Attempts, BeginCall, Running
from httpqueue.worker.permits import AT_ONCE_MS, Permits, Wanted, permits_of
from httpqueue.worker.slots import HOLD_S, ClaimLimit, Lines, Slots

IDLE_S: Final = 2.0
"""The longest sleep in s. A lost wake message delays a timer by no more than this."""
ALIVE_S: Final = 5
"""Seconds between two notes that this worker is alive."""
HOSTS_S: Final = 0.5
"""Seconds between two talks about hosts: how calls to them ended, and which rules they have."""
MAX_CLAIM: Final = 500
PROBE_S: Final = 0.02
"""How long to claim nothing while all hosts are full to which the last wake-ups went."""
GATHER_S: Final = 0.001
"""Under load, the worker waits this long, so that one claim fills several free slots."""
MAX_UNFINISHED: Final = 4
"""Unfinished attempts per slot: when there are more, as when the store is away, no attempt begins."""
FLUSH_S: Final = 2.0
"""After the grace time, how long a worker that stops waits for the store to take ended attempts."""
MAX_BEAT: Final = 500
"""The most attempts in one call of `beat`."""

log = structlog.get_logger()


class Worker:
    """Claims, begins and finishes many timers at a time. `slots` says how many calls it may make at once."""

    def __init__(
        self, *, attempts: Attempts, queue: Queue, permits: Permits, slots: Slots, grace_s: float
    ) -> None:
        self._attempts = attempts
        self._finishes = attempts.finishes
        self._queue = queue
        self._permits = permits
        self._slots = slots
        self._lines = Lines(slots)
        self._ahead = Ahead(slots)
        self._claim_limit = ClaimLimit(MAX_CLAIM)
        self._agenda = Agenda(queue.partitions)
        self._max_unfinished = slots.free * MAX_UNFINISHED
        self._grace_s = grace_s
        self._outage = Outage("worker.claim")
        self._stopping = asyncio.Event()
        self._wake = asyncio.Event()
        self._settled = asyncio.Event()
        self._held: list[WakeUp] = []
        self._begin_calls: deque[BeginCall] = deque()
        self._last_hosts: frozenset[str] = frozenset()
        """The hosts of the last wake-ups that began."""
        self._full_since_s: float | None = None
        self._is_full = False  # whether something waits for a call to end
        self._name = uuid4().hex
        self._noted_s = 0.0
        self._running: dict[int, Running] = {}
        """Attempts whose end the store does not know yet. The key is id(running.begun)."""
        self._to_call: deque[Running] = deque()
        self._is_calling = False
        self._late: list[Running] = []
        """Attempts whose lease was too short for their call when its turn came."""

    async def run(self) -> None:
        """Claim wake-ups and make attempts until stop(). When a server is away, wait for it."""
        self._finishes.hand_unblocked_to(self._hold)
        self._finishes.told.listen(self._told)
        helpers = [
            asyncio.create_task(each)
            for each in (
                keep_listening(self._queue.listen, self._look_into, "worker.listen"),
                self._beat(),
                self._talk_about_hosts(),
                self._finishes.run(),
            )
        ]
        for helper in helpers:
            helper.add_done_callback(lambda _: self._wake.set())
        try:
            while not self._stopping.is_set():
                for helper in helpers:
                    if helper.done():
                        await helper  # raises: without it, a worker would go on and tell nobody how calls end
                await self._round()
            await self._wind_down()
        finally:
            await self._give_up_attempts()
            for helper in helpers:
                helper.cancel()

    async def stop(self) -> None:
        """Claim no more, give back wake-ups that were not begun, and give calls the grace time to end."""
        self._stopping.set()
        self._wake.set()

    async def _wind_down(self) -> None:
        """Give back wake-ups that were not begun. Wait for attempts in flight, at most the grace time."""
        self._finishes.hand_unblocked_to(None)
        with suppress(UnavailableError):
            await self._give_back_waiting(clock.monotonic_s())
        left_over, self._held = self._held, []
        for call in self._begin_calls:  # perhaps they were begun: then their leases end, and heal wakes them
            left_over += call.wake_ups
            for wake_up, host in call.permits.items():
                self._permits.give_back(host, wake_up)
        if left_over:
            with suppress(UnavailableError):
                await self._queue.put([replace(wake_up, due_ms=AT_ONCE_MS) for wake_up in left_over])
        with suppress(TimeoutError):
            async with asyncio.timeout(self._grace_s):
                while self._running:
                    self._settled.clear()
                    if self._permits.ended:  # others may wait for them
                        with suppress(UnavailableError):
                            await self._permits.leave()
                    await self._settled.wait()

    async def _give_up_attempts(self) -> None:
        """Hand back attempts that outlast the grace time, so that another worker makes them at once."""
        in_flight = [running for running in self._running.values() if not running.is_answered]
        for running in in_flight:
            self._attempts.drop(running)
        # The store must hear of answered calls, or their webhooks would be called again.
        await asyncio.wait({asyncio.create_task(self._finishes.drain())}, timeout=FLUSH_S)
        # In a task of its own: this one may have been cancelled.
        await asyncio.create_task(self._hand_back(in_flight))

    async def _hand_back(self, in_flight: Sequence[Running]) -> None:
        with suppress(UnavailableError):
            if in_flight:
                await self._give_back(in_flight)
                called = sum(running.is_called for running in in_flight)
                log.info("worker.handed_back", count=len(in_flight), called=called)
            await self._permits.leave()
            await self._permits.tell_health()

    async def _round(self) -> None:
        """Claim and begin what is due, then sleep until there is more to do."""
        self._wake.clear()
        if self._stopping.is_set():  # stop() may have set _wake just before it was cleared
            return
        try:
            idle_s = await self._work()
            await self._say_alive()
        except Exception as error:  # noqa: BLE001 - no part dies of an error
            if self._begin_calls and not isinstance(error, UnavailableError):
                self._begin_calls.popleft()  # it may be the culprit; what it began is begun again
            await run_until(self._stopping, self._outage.wait(error))
            return
        self._outage.over()
        if idle_s:
            await self._sleep(idle_s)
        if self._is_full:
            await clock.sleep(GATHER_S)

    def _free(self) -> int:
        """How many attempts may start. A slot is free again at the answer, before the finish."""
        if self._finishes.is_behind:  # ended attempts first
            return 0
        return max(0, min(self._slots.free, self._max_unfinished - len(self._running), MAX_CLAIM))

    async def _work(self) -> float:
        """Start what may start now. Returns for how many seconds there is nothing more to do."""
        await self._permits.mark()  # these two: what is left of a round that failed
        await self._begin_all()
        await self._serve_lines()
        free = self._free()
        now_s = clock.monotonic_s()
        limit = min(free, self._claim_limit.size(self._lines.passing(now_s)))
        size = min(limit, self._room_of_last_hosts(now_s))
        self._ahead.begin_trip(now_s)
        idle_s = await self._claim(size)
        batch, self._held = self._held[:size], self._held[size:]
        self._begin_calls += [
            self._attempts.begin_call(wake_ups) for wake_ups in by_partition(batch).values()
        ]
        await self._begin_all()
        if size:
            self._ahead.end_trip(clock.monotonic_s())
        self._is_full = not size or size < free or self._lines.is_any_waiting
        if size:
            return 0 if self._held else idle_s
        if limit:
            return PROBE_S
        return HOLD_S if free else IDLE_S

    def _room_of_last_hosts(self, now_s: float) -> int:
        """How many calls the hosts take to which the last wake-ups went. The next ones may well go there.

        When they have taken none for PROBE_S, look whether the next ones go to other hosts.
        """
        room = self._slots.room_of(self._last_hosts)
        if room:
            self._full_since_s = None
            ahead = sum(self._slots.ahead.get(host, 0) for host in self._last_hosts)
            return room if room >= ahead // 2 else 0  # fewer at a time would cost more, and the others last
        if self._full_since_s is None:
            self._full_since_s = now_s
        elif now_s - self._full_since_s >= PROBE_S:
            self._last_hosts = frozenset()
            return self._slots.free
        return 0

    async def _claim(self, size: int) -> float:
        """Hold so many wake-ups, if so many are due. Returns in how many seconds the next one is due."""
        while len(self._held) < size:
            now_s = clock.monotonic_s()
            partition = self._agenda.take(now_s)
            if partition is None:
                return self._agenda.idle_s(now_s)
            wait_s = 0.0
            try:
                claim = await self._queue.claim(partition, size - len(self._held))
                wait_s = IDLE_S if claim.wait_ms is None else min(claim.wait_ms / 1000, IDLE_S)
            finally:
                self._agenda.note(partition, now_s + wait_s)
            for job in claim.unreadable:
                WAKE_UPS_UNREADABLE.inc()
                log.error("worker.unreadable", job=job)
            self._held += claim.wake_ups
        return 0

    async def _begin_all(self) -> None:
        """Make all calls of `begin`. One whose answer is lost stays the first, and is repeated."""
        while self._begin_calls:
            call = self._begin_calls[0]
            room = None if call.permits else self._slots.room()
            answers = await self._attempts.begin(call, room)
            self._begin_calls.popleft()
            if not call.permits:
                self._last_hosts = frozenset(each.begun.host for each in answers if isinstance(each, Running))
            await self._start(answers)
            await self._handle_refusals(call, [each for each in answers if isinstance(each, Refused)])

    async def _handle_refusals(self, call: BeginCall, refused: Sequence[Refused]) -> None:
        """See to wake-ups that started no attempt, but should do so later."""
        lines: dict[str, list[WakeUp]] = {}
        for answer in refused:
            wake_up, host = answer.wake_up, call.permits.get(answer.wake_up)
            if answer.refusal is Refusal.NEEDS_PERMIT:
                lines.setdefault(answer.host, []).append(wake_up)
            elif answer.refusal is Refusal.LATER and host is not None:
                self._begin_calls.append(self._attempts.begin_call([wake_up], {wake_up: host}))
            elif answer.refusal is Refusal.LATER:
                self._hold(wake_up)
            else:
                if answer.refusal is Refusal.EARLY:
                    # The queue's clock is ahead of the store's, which decides: begin again when it is due.
                    loop = asyncio.get_running_loop()
                    loop.call_later(answer.wait_ms / 1000, self._hold, wake_up)
                if host is not None:
                    self._permits.give_back(host, wake_up)
        if lines:
            await self._join_lines(lines)
        if not call.permits:
            now_s = clock.monotonic_s()
            in_vain = sum(len(each) for host, each in lines.items() if self._lines.is_passing(host, now_s))
            self._claim_limit.note_begun(len(call.wake_ups) - len(refused), in_vain)

    async def _join_lines(self, lines: dict[str, list[WakeUp]]) -> None:
        """Let wake-ups wait for their hosts, {host: wake-ups}, and start those whose turn it is already."""
        wants = self._slots.share(
            [(host, wake_ups[0].name.application, len(wake_ups)) for host, wake_ups in lines.items()]
        )
        await self._ask(
            {host: (wake_ups, want) for (host, wake_ups), want in zip(lines.items(), wants, strict=True)}
        )

    async def _serve_lines(self) -> None:
        """Give permits back, and get others for the first timers of the lines that this worker knows."""
        ended = self._permits.ended
        wants = dict(self._lines.to_serve(self._free(), clock.monotonic_s()))
        others = [(host, "", count) for host, count in ended.items() if host not in wants]
        if others:  # somebody may wait there, although this worker does not know
            wants.update(zip((host for host, _, _ in others), self._slots.share(others), strict=True))
        if wants:
            await self._ask({host: ((), want) for host, want in wants.items()})
            await self._begin_all()

    async def _ask(self, wanted: Wanted) -> None:
        """Ask hosts for permits. Those who got one are begun next."""
        answers = await self._permits.ask(wanted)
        now_s = clock.monotonic_s()
        host_of = {wake_up: served.host for served in answers for wake_up in served.granted}
        # They come first, so that the room of the other calls is what these leave.
        self._begin_calls.extendleft(
            self._attempts.begin_call(wake_ups, {each: host_of[each] for each in wake_ups})
            for wake_ups in by_partition(host_of).values()
        )
        for served in answers:
            application = served.first.name.application if served.first else ""
            self._lines.note_line(served.host, served.waiting, application, now_s)
            self._lines.note_served(served.host, len(served.granted), now_s)
        await self._permits.mark()

    async def _start(self, answers: Sequence[Running | Refused]) -> None:
        """Call the webhooks of attempts that have begun, those that began ahead when their turn comes."""
        now_s = clock.monotonic_s()
        for running in answers:
            if not isinstance(running, Refused):
                self._running[id(running.begun)] = running
                self._slots.begin(running.begun.wake_up.name.application, running.begun.host)
                if self._ahead.enter(running, now_s):
                    self._to_call.append(running)
        self._call_all()
        late, self._late = self._late, []
        with suppress(UnavailableError):  # if this fails, their leases end
            await self._give_back(late)

    def _call_all(self) -> None:
        """Call webhooks. A call may end at once, and make room for the next: a loop, lest it nest."""
        if self._is_calling:
            return
        self._is_calling = True
        try:
            while self._to_call:
                running = self._to_call.popleft()
                if self._attempts.has_time(running):
                    self._attempts.start(running, self._answered)
                else:
                    del self._running[id(running.begun)]
                    self._late.append(running)
                    self._leave(running)
        finally:
            self._is_calling = False

    def _leave(self, running: Running) -> None:
        """The attempt's call has ended, or will not be made: the next one has its place."""
        self._free_slot(running)
        following = self._ahead.leave(running.begun.host)
        if following is not None:
            self._to_call.append(following)

    def _free_slot(self, running: Running) -> None:
        self._slots.end(running.begun.wake_up.name.application, running.begun.host)

    def _answered(self, running: Running) -> None:
        if self._is_full:
            self._wake.set()
        self._leave(running)
        self._lines.note_end(running.begun.host, clock.monotonic_s())
        if running.has_bug:
            del self._running[id(running.begun)]
        self._call_all()

    def _told(self, told: tuple[Sequence[Finish], Finished]) -> None:
        """The store knows how these attempts ended: forget them."""
        self._permits.note_finished(told[0])
        for finish, is_counted in zip(told[0], told[1].counted, strict=True):
            running = self._running.pop(id(finish.begun), None)
            if running is not None and is_counted:  # else another worker has the timer, and its permit
                self._give_back_permit(running)
        if self._is_full:
            self._wake.set()
        if not self._running:
            self._settled.set()

    async def _give_back_waiting(self, since_s: float) -> None:
        """Hand back attempts that have waited for their call since before that time: their host is slow."""
        waiting = self._ahead.take_waiting(since_s)
        for running in waiting:
            del self._running[id(running.begun)]
            self._free_slot(running)
        await self._give_back(waiting)

    async def _give_back(self, attempts: Sequence[Running]) -> None:
        """Hand attempts back, and their permits, unless another worker has timer and permit by now."""
        if attempts:
            for running, is_own in zip(attempts, await self._attempts.hand_back(attempts), strict=True):
                if is_own:
                    self._give_back_permit(running)

    def _give_back_permit(self, running: Running) -> None:
        if running.has_permit:
            self._permits.give_back(running.begun.host, running.begun.wake_up)
            self._wake.set()
            self._settled.set()

    async def _beat(self) -> None:
        """Renew the leases of all attempts every BEAT_S, and drop attempts that were lost."""
        outage = Outage("worker.beat")
        pause_s = BEAT_S
        while True:
            await clock.sleep(pause_s)
            pause_s = BEAT_S
            now_s = clock.monotonic_s()
            everyone = list(self._running.values())
            for first in range(0, len(everyone), MAX_BEAT):
                part = [
                    each for each in everyone[first : first + MAX_BEAT] if id(each.begun) in self._running
                ]
                try:
                    self._drop(await self._attempts.beat(part) if part else ())
                    await self._permits.renew(permits_of(part))
                    await self._give_back_waiting(now_s - BEAT_S)
                except Exception as error:  # noqa: BLE001 - no part dies of an error
                    await outage.wait(error)
                    pause_s = 0  # as soon as the store is back, nobody takes over for some seconds only
                else:
                    outage.over()

    def _drop(self, lost: Sequence[Running]) -> None:
        """Stop making attempts that no longer belong to this worker."""
        for running in lost:
            if self._running.pop(id(running.begun), None) is not None and not running.is_answered:
                log.warning("attempt.lost", attempt=str(running))
                self._attempts.drop(running)
                if self._ahead.remove(running):
                    self._free_slot(running)
                else:
                    self._leave(running)
                self._wake.set()
        self._call_all()
        if not self._running:
            self._settled.set()

    async def _talk_about_hosts(self) -> None:
        """Tell hosts how calls to them ended, and learn how many each lets this worker make at most.

        What is told while the store is away is lost: it is for people.
        """
        outage = Outage("worker.hosts")
        while True:
            try:
                await self._permits.tell_health()
                self._slots.caps = await self._permits.limits()
            except Exception as error:  # noqa: BLE001 - no part dies of an error
                await outage.wait(error)
            else:
                outage.over()
            await clock.sleep(HOSTS_S)

    def _hold(self, wake_up: WakeUp) -> None:
        self._held.append(wake_up)
        self._wake.set()

    async def _say_alive(self) -> None:
        now_s = clock.monotonic_s()
        if now_s - self._noted_s >= ALIVE_S or not self._noted_s:
            await self._queue.note_worker(self._name)
            self._noted_s = now_s

    async def _sleep(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()

    def _look_into(self, partition: int) -> None:
        self._agenda.wake(partition)
        self._wake.set()
