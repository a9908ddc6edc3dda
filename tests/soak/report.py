"""The report of a soak, as Markdown. Pure."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tests.soak.events import Call, Log, Struck, Timer
from tests.soak.invariants import Duplicate, Violation
from tests.soak.plan import Plan
from tests.soak.recovery import LATE_MS, Blamed, Delivery

_PROMISES: Final = (
    ("sent after its cancel was acknowledged", "cancelled and sent"),
    ("sent in old content after its change was acknowledged", "old content"),
    ("out of order within an ordering key", "order"),
    ("sent to another tenant", "foreign"),
    ("other findings: a process that ended, a bug in a log, an answer of 500", "finding"),
)
"""What a line of the result says, and the invariant that it counts."""
_HEAD: Final = """# Reliability report

`make soak` wrote this page. It ran httpqueue under load while it killed, froze and cut off its parts and
servers. Two API processes, two relays, two workers; store and queue on two Valkey servers; two tenants, each
with a receiver of its own. What counts is what the receivers wrote down, not httpqueue's own figures.

Load and faults are drawn from a seed, so you can repeat the run:
"""
SHOWN_DUPLICATES: Final = 40
SHOWN_VIOLATIONS: Final = 10
"""Of each invariant."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a run showed."""

    plan: Plan
    log: Log
    violations: Sequence[Violation]
    duplicates: Sequence[Duplicate]
    deliveries: Sequence[Delivery]
    late: Sequence[tuple[Delivery, Struck | None]]
    blamed: Sequence[Blamed]
    machine: Sequence[tuple[str, str]]

    def count(self, *invariants: str) -> int:
        """How many violations of these."""
        return sum(each.invariant in invariants for each in self.violations)


def page(verdict: Verdict, picture: str) -> str:
    """The whole page; picture is its path from the page."""
    plan, log = verdict.plan, verdict.log
    return "\n".join(
        [
            _HEAD,
            f"```sh\nmake soak MINUTES={plan.minutes:g} RATE={plan.rate} SEED={plan.seed}\n```\n",
            "## Result\n",
            *_result(verdict),
            f"\n![Lateness over time, and the faults]({picture})\n",
            "Lateness is the arrival of a timer's first call minus the time at which it could be made: due,",
            "acknowledged, and with its predecessor of the same ordering key over.\n",
            "## Faults\n",
            *_faults(verdict),
            "\n## Webhooks that were sent twice\n",
            *_duplicates(verdict),
            "\n## What is broken\n",
            *_violations(verdict),
            "\n## What clients asked\n",
            "| answer | times |\n|---|---|",
            *(f"| {name} | {times:,} |" for name, times in sorted(log.answers.items())),
            "\n## The machine\n",
            "| | |\n|---|---|",
            *(f"| {what} | {value} |" for what, value in verdict.machine),
            "",
        ]
    )


def summary(verdict: Verdict) -> str:
    """For the terminal."""
    return "\n".join([*_result(verdict), "", *_faults(verdict), "", *_violations(verdict)])


def _result(verdict: Verdict) -> list[str]:
    log, timers = verdict.log, list(verdict.log.timers.values())
    late_ms = sorted(each.late_ms for each in verdict.deliveries)
    unexplained = sum(each.fault is None for each in verdict.duplicates)
    unexplained_late = [each for each, fault in verdict.late if fault is None]
    latest = f", at most {max(each.late_ms for each in unexplained_late):,} ms" if unexplained_late else ""
    return [
        "| | |\n|---|---|",
        f"| minutes | {verdict.plan.minutes:g} |",
        f"| timers posted and acknowledged | {_acknowledged(timers):,} of {len(timers):,} |",
        f"| of them ordered, changed, cancelled, recurring | {_kinds(timers)} |",
        f"| webhooks that receivers got | {len(log.calls):,} |",
        f"| faults | {len(log.struck):,} |",
        f"| **lost** | **{verdict.count('lost')}** |",
        f"| **early** | **{verdict.count('early')}** |",
        f"| **sent twice without a reason** | **{unexplained}** |",
        f"| sent twice, and a fault explains it | {len(verdict.duplicates) - unexplained} |",
        *(f"| **{what}** | **{verdict.count(invariant)}** |" for what, invariant in _PROMISES),
        f"| calls that were read too late for their callers | {_read_late(log):,} |",
        f"| lateness: median, 99 %, latest | {', '.join(_at(late_ms, share) for share in (0.5, 0.99, 1))} |",
        f"| later than {LATE_MS} ms without a fault nearby | {len(unexplained_late):,}{latest} |",
    ]


def _read_late(log: Log) -> int:
    return sum(call.is_read_late for call in log.calls)


def _acknowledged(timers: Sequence[Timer]) -> int:
    return sum(timer.acknowledged_ms is not None for timer in timers)


def _kinds(timers: Sequence[Timer]) -> str:
    counts = (
        sum(bool(timer.lane) for timer in timers),
        sum(timer.updated_ms is not None for timer in timers),
        sum(timer.cancelled_ms is not None for timer in timers),
        sum(timer.is_recurring for timer in timers),
    )
    return ", ".join(f"{count:,}" for count in counts)


def _at(values: Sequence[int], share: float) -> str:
    value = values[min(int(len(values) * share), len(values) - 1)] if values else 0
    return f"{value:,} ms"


def _faults(verdict: Verdict) -> list[str]:
    return [
        "| fault | how many | webhooks later than 1 s | the last of them after the fault's end | latest |",
        "|---|---|---|---|---|",
        *(
            f"| {each.kind} | {each.count} | {each.late:,} | "
            + (f"{each.worst_ms / 1000:.1f} s | {each.latest_ms / 1000:.1f} s |" if each.late else "| |")
            for each in verdict.blamed
        ),
    ]


def _duplicates(verdict: Verdict) -> list[str]:
    if not verdict.duplicates:
        return ["None."]
    start_ms = verdict.log.start_ms
    kinds = Counter(str(each.fault.kind) if each.fault else "nothing" for each in verdict.duplicates)
    lines = [
        "Explained by: " + ", ".join(f"{kind} ({count})" for kind, count in kinds.most_common()) + ".\n",
        "| timer | first call | second call | the fault that explains it |\n|---|---|---|---|",
    ]
    for each in verdict.duplicates[:SHOWN_DUPLICATES]:
        fault = "**none**"
        if each.fault:
            fault = f"{each.fault.kind} of {each.fault.target}, {_span(each.fault, start_ms)}"
        first, again = _call(each.first, start_ms), _call(each.again, start_ms)
        lines.append(f"| {each.again.timer} | {first} | {again} | {fault} |")
    if len(verdict.duplicates) > SHOWN_DUPLICATES:
        lines.append(f"\nAnd {len(verdict.duplicates) - SHOWN_DUPLICATES} more.")
    return lines


def _call(call: Call, start_ms: int) -> str:
    answer = f"answered {call.status}" if call.status else "not answered"
    return f"{_s(call.arrived_ms, start_ms)}, {call.holder or 'a worker'}, {answer}"


def _span(fault: Struck, start_ms: int) -> str:
    return f"{_s(fault.start_ms, start_ms)} to {_s(fault.end_ms, start_ms)}"


def _s(ms: int, start_ms: int) -> str:
    return f"{(ms - start_ms) / 1000:.2f} s"


def _violations(verdict: Verdict) -> list[str]:
    if not verdict.violations:
        return ["Nothing."]
    lines = []
    for invariant in dict.fromkeys(each.invariant for each in verdict.violations):
        its = [each for each in verdict.violations if each.invariant == invariant]
        lines += [
            f"- {invariant}{f': {each.timer}' if each.timer else ''}: {each.text}"
            for each in its[:SHOWN_VIOLATIONS]
        ]
        if len(its) > SHOWN_VIOLATIONS:
            lines.append(f"- {invariant}: {len(its) - SHOWN_VIOLATIONS:,} more")
    return lines
