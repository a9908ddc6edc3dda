"""What must hold in a soak, judged by what clients and receivers wrote down. Pure."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from tests.soak.events import Call, Log, Struck, Timer
from tests.soak.explain import explain

MINUTE_MS: Final = 60_000


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that must not happen."""

    invariant: str
    timer: str
    text: str


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A call that another one had made unnecessary."""

    first: Call
    """It was delivered, or it is the same attempt."""
    again: Call
    fault: Struck | None
    """What explains it. None: nothing does."""


def violations(log: Log, duplicates: Sequence[Duplicate]) -> list[Violation]:
    """All invariants that are broken. duplicates: see duplicates_in."""
    calls = by_timer(log.calls)
    return [
        *_lost(log.timers, calls),
        *_early(log.timers, calls),
        *_unexplained(duplicates),
        *_cancelled(log.timers, calls),
        *_changed(log.timers, calls),
        *_disordered(log.timers, calls, {id(each.again) for each in duplicates}),
        *_stopped_recurring(log.timers, calls),
        *_foreign(log.timers, log.calls),
        *(Violation("finding", "", text) for text in log.findings),
    ]


def by_timer(calls: Iterable[Call]) -> dict[str, list[Call]]:
    """Timer -> its calls, in the order of their arrival."""
    grouped: dict[str, list[Call]] = defaultdict(list)
    for call in calls:
        grouped[call.timer].append(call)
    return grouped


# --- each acknowledged timer is delivered ---


def lost(timers: Mapping[str, Timer], calls: Mapping[str, Sequence[Call]]) -> list[Timer]:
    """Timers that were acknowledged and not delivered in their last acknowledged version."""
    return [timer for timer in timers.values() if _is_lost(timer, calls.get(timer.id, ()))]


def _is_lost(timer: Timer, calls: Sequence[Call]) -> bool:
    if timer.acknowledged_ms is None or timer.is_recurring or timer.cancelled_ms is not None:
        return False
    wanted = 0 if timer.updated_ms is None else 1
    return not any(call.is_delivered and call.version >= wanted for call in calls)


def _lost(timers: Mapping[str, Timer], calls: Mapping[str, Sequence[Call]]) -> Iterable[Violation]:
    for timer in lost(timers, calls):
        got = len(calls.get(timer.id, ()))
        yield Violation(
            "lost", timer.id, f"acknowledged at {timer.acknowledged_ms}; {got} calls, none delivered"
        )


# --- no call is early ---


def _early(timers: Mapping[str, Timer], calls: Mapping[str, Sequence[Call]]) -> Iterable[Violation]:
    for name, timer in timers.items():
        earliest_of = _recurring_due(calls.get(name, ()), timer) if timer.is_recurring else _due_of(timer)
        for call in calls.get(name, ()):
            early_ms = earliest_of(call) - call.arrived_ms
            if early_ms > 0:
                yield Violation("early", name, f"{early_ms} ms before it was due (run {call.run})")


def _due_of(timer: Timer) -> Callable[[Call], int]:
    return lambda call: timer.due_ms[min(call.version, len(timer.due_ms) - 1)]


def _recurring_due(calls: Sequence[Call], timer: Timer) -> Callable[[Call], int]:
    """When the run of a call was due at the earliest: the first minute after the run before it started."""
    due: dict[str, int] = {}
    before_ms = timer.asked_ms
    for call in calls:
        if call.run not in due:
            due[call.run] = next_minute_ms(before_ms)
            before_ms = max(call.started_s * 1000, due[call.run])
    return lambda call: due[call.run]


def next_minute_ms(ms: int) -> int:
    """The first whole minute after that."""
    return (ms // MINUTE_MS + 1) * MINUTE_MS


# --- no call is made twice without a reason ---


def duplicates_in(log: Log) -> list[Duplicate]:
    """All calls that came after the timer's delivery, or whose attempt had been made already."""
    found = []
    for name, calls in by_timer(log.calls).items():
        timer = log.timers.get(name)
        for group in _runs(calls) if timer and timer.is_recurring else (calls,):
            for index, call in enumerate(group):
                first = _made_unnecessary_by(call, group[:index])
                if first is not None:
                    found.append(Duplicate(first, call, explain(first, call, log.struck, log.stalls)))
    return found


def _runs(calls: Sequence[Call]) -> Iterable[Sequence[Call]]:
    runs: dict[str, list[Call]] = defaultdict(list)
    for call in calls:
        runs[call.run].append(call)
    return runs.values()


def _made_unnecessary_by(call: Call, before: Sequence[Call]) -> Call | None:
    """The latest of the calls before it that was delivered, or that was the same attempt or a later one."""
    for other in reversed(before):
        if call.is_read_late and other.run == call.run and other.attempt > call.attempt:
            continue  # its caller had given up, and made the other one instead
        if other.is_delivered_before(call.arrived_ms):
            return other
        if other.run == call.run and other.attempt >= call.attempt:
            return other
        if other.generation > call.generation:
            return other
    return None


def _unexplained(duplicates: Sequence[Duplicate]) -> Iterable[Violation]:
    for each in duplicates:
        if each.fault is None:
            gap_ms = each.again.arrived_ms - each.first.arrived_ms
            yield Violation(
                "unexplained duplicate",
                each.again.timer,
                f"attempt {each.first.attempt} of {each.first.run} by {each.first.holder} "
                f"at {each.first.arrived_ms}, answered {each.first.status} at {each.first.answered_ms}; "
                f"attempt {each.again.attempt} of {each.again.run} by {each.again.holder} {gap_ms} ms later",
            )


# --- what was acknowledged is final ---


def _cancelled(timers: Mapping[str, Timer], calls: Mapping[str, Sequence[Call]]) -> Iterable[Violation]:
    for name, timer in timers.items():
        for call in calls.get(name, ()):
            if timer.cancelled_ms is not None and _is_after(call, timer.cancelled_ms):
                late_ms = call.arrived_ms - timer.cancelled_ms
                yield Violation("cancelled and sent", name, f"{late_ms} ms after its cancel was acknowledged")


def _is_after(call: Call, ms: int) -> bool:
    """A call that was read so late that its caller may have given up before is none."""
    return call.arrived_ms > ms and not call.is_read_late


def _changed(timers: Mapping[str, Timer], calls: Mapping[str, Sequence[Call]]) -> Iterable[Violation]:
    for name, timer in timers.items():
        for call in calls.get(name, ()):
            if timer.updated_ms is not None and call.version == 0 and _is_after(call, timer.updated_ms):
                late_ms = call.arrived_ms - timer.updated_ms
                yield Violation("old content", name, f"{late_ms} ms after its change was acknowledged")


# --- timers of one ordering key come one after another ---


def _disordered(
    timers: Mapping[str, Timer], calls: Mapping[str, Sequence[Call]], duplicates: set[int]
) -> Iterable[Violation]:
    for (_, lane), members in lanes_of(timers).items():
        came = [
            (timer, [call for call in calls.get(timer.id, ()) if _counts(call, duplicates)])
            for timer in members
        ]
        for (timer, own), (later, its) in pairwise([pair for pair in came if pair[1]]):
            # Its successor may have begun before it was there.
            was_there = timer.acknowledged_ms is not None and timer.acknowledged_ms <= later.due_ms[0]
            if was_there and own[-1].arrived_ms > its[0].arrived_ms:
                yield Violation(
                    "order",
                    later.id,
                    f"called {own[-1].arrived_ms - its[0].arrived_ms} ms before the last call of {timer.id}, "
                    f"which comes first in {lane}",
                )


def _counts(call: Call, duplicates: set[int]) -> bool:
    return id(call) not in duplicates and not call.is_read_late


def lanes_of(timers: Mapping[str, Timer]) -> dict[tuple[str, str], list[Timer]]:
    """(application, ordering key) -> its timers in the order of their due times."""
    lanes: dict[tuple[str, str], list[Timer]] = defaultdict(list)
    for timer in timers.values():
        if timer.lane:
            lanes[timer.application, timer.lane].append(timer)
    for members in lanes.values():
        members.sort(key=lambda timer: timer.due_ms[0])
    return lanes


# --- recurring timers go on ---

RUN_MS: Final = 2 * MINUTE_MS
"""A run may be missed while one before it is late, but not for longer than this without a fault's end."""


def _stopped_recurring(
    timers: Mapping[str, Timer], calls: Mapping[str, Sequence[Call]]
) -> Iterable[Violation]:
    """Each run that began is delivered, and none is left out in the numbers of runs."""
    for name, timer in timers.items():
        if not timer.is_recurring or timer.acknowledged_ms is None:
            continue
        own = calls.get(name, ())
        generations = {call.generation for call in own}
        delivered = {call.generation for call in own if call.is_delivered}
        last = max(generations, default=-1)
        missing = set(range(last)) - delivered
        if missing:
            yield Violation("lost", name, f"runs {sorted(missing)} were not delivered")
        until_ms = timer.cancel_asked_ms
        since_ms = max((call.arrived_ms for call in own), default=timer.acknowledged_ms)
        if until_ms is not None and until_ms - since_ms > RUN_MS:
            yield Violation(
                "lost", name, f"no run in the {(until_ms - since_ms) / 1000:.0f} s before its end"
            )


# --- tenants get their own ---


def _foreign(timers: Mapping[str, Timer], calls: Iterable[Call]) -> Iterable[Violation]:
    for call in calls:
        timer = timers.get(call.timer)
        if timer is None:
            yield Violation("foreign", call.timer, "nobody posted it")
        elif not timer.application == call.application == call.tenant:
            yield Violation(
                "foreign", call.timer, f"of {timer.application}, sent as {call.application} to {call.tenant}"
            )
