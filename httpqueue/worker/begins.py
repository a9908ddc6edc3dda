"""Lets attempts begin: how many, in which order, and with a permit where their hosts have lines."""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final

from httpqueue import clock
from httpqueue.errors import UnavailableError
from httpqueue.timers.commands import Refusal, Refused, WakeUp
from httpqueue.worker.agenda import by_partition
from httpqueue.worker.attempts import Attempts, BeginCall, Running
from httpqueue.worker.away import Away
from httpqueue.worker.calls import Calls
from httpqueue.worker.claims import IDLE_S, Claims
from httpqueue.worker.permits import Permits, Wanted
from httpqueue.worker.slots import HOLD_S, ClaimLimit, Slots

MAX_CLAIM: Final = 500
PROBE_S: Final = 0.02
"""How long to claim nothing while all hosts are full to which the last wake-ups went."""


class Begins:
    """Claims wake-ups and begins their attempts, as many as there is room for."""

    def __init__(
        self,
        *,
        attempts: Attempts,
        claims: Claims,
        calls: Calls,
        permits: Permits,
        slots: Slots,
        away: Away,
    ) -> None:
        self._attempts = attempts
        self._claims = claims
        self._calls = calls
        self._permits = permits
        self._slots = slots
        self._lines = calls.lines
        self._away = away
        self._claim_limit = ClaimLimit(MAX_CLAIM)
        self._begin_calls: deque[BeginCall] = deque()
        self._put_off: list[BeginCall] = []
        """Calls of `begin` in partitions that are away."""
        self._last_hosts: frozenset[str] = frozenset()
        """The hosts of the last wake-ups that began."""
        self._full_since_s: float | None = None

    async def work(self) -> float:
        """Start what may start now. Returns for how many seconds there is nothing more to do."""
        await self._mark()  # these two: what is left of a round that failed
        await self._begin_all()
        await self._serve_lines()
        free = self._free()
        now_s = clock.monotonic_s()
        limit = min(free, self._claim_limit.size(self._lines.passing(now_s)))
        size = min(limit, self._room_of_last_hosts(now_s))
        self._calls.ahead.begin_trip(now_s)
        batch, idle_s = await self._claims.take(size)
        self._begin_calls += [
            self._attempts.begin_call(wake_ups) for wake_ups in by_partition(batch).values()
        ]
        await self._begin_all()
        if size:
            self._calls.ahead.end_trip(clock.monotonic_s())
        self._calls.is_awaited = (
            not size or size < free or self._lines.is_any_waiting or bool(self._attempts.finishes.behind)
        )
        if self._begin_calls:
            return 0
        if size:
            return idle_s
        if limit:
            return PROBE_S
        return HOLD_S if free else IDLE_S

    def give_up_all(self) -> list[WakeUp]:
        """Begin nothing more. Returns the wake-ups that were not begun; their permits are given back."""
        left_over = self._claims.take_all()
        # Perhaps these were begun, and nobody heard: then their leases end, and heal wakes them.
        for call in [*self._begin_calls, *self._put_off]:
            left_over += call.wake_ups
            for wake_up, host in call.permits.items():
                self._permits.give_back(host, wake_up)
        return left_over

    # --- how many ---

    def _free(self) -> int:
        """How many attempts may begin in one call."""
        return min(self._calls.free, MAX_CLAIM)

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

    # --- begin ---

    async def _begin_all(self) -> None:
        """Make all calls of `begin`, but for those of partitions that are away.

        The first that fails ends this: the others go on in the next round. It is repeated as it was, because
        its answer may have been lost. Then it may begin more than there is room for by now.
        """
        self._begin_calls.extendleft(reversed(self._put_off))
        self._put_off.clear()
        while self._begin_calls:
            call = self._begin_calls.popleft()
            if call.partition in self._away.partitions:
                self._put_off.append(call)
                continue
            room = None if call.permits else self._slots.room()
            try:
                answers = await self._attempts.begin(call, room)
            except Exception as error:  # noqa: BLE001 - whatever it is, the other partitions go on
                if isinstance(error, UnavailableError):
                    self._put_off.append(call)
                self._away.note("worker.begin", call.partition, error)
                break  # perhaps after a timeout: whether to stop, say, is looked at between rounds
            self._away.over("worker.begin", call.partition)
            if not call.permits:
                self._last_hosts = frozenset(each.begun.host for each in answers if isinstance(each, Running))
            await self._calls.start(answers)
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
                self._claims.hold(wake_up)
            else:
                if answer.refusal is Refusal.EARLY:
                    # The queue's clock is ahead of the store's, which decides: begin again when it is due.
                    loop = asyncio.get_running_loop()
                    loop.call_later(answer.wait_ms / 1000, self._claims.hold, wake_up)
                if host is not None:
                    self._permits.give_back(host, wake_up)
        if lines:
            await self._join_lines(lines)
        if not call.permits:
            now_s = clock.monotonic_s()
            in_vain = sum(len(each) for host, each in lines.items() if self._lines.is_passing(host, now_s))
            self._claim_limit.note_begun(len(call.wake_ups) - len(refused), in_vain)

    # --- lines ---

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
        await self._mark()

    async def _mark(self) -> None:
        """Mark timers that joined lines as waiting, but for those of partitions that are away."""
        for partition, error in (await self._permits.mark(self._away.partitions)).items():
            if error is None:
                self._away.over("worker.mark", partition)
            else:
                self._away.note("worker.mark", partition, error)
