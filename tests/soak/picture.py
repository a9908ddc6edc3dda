"""The report's picture: lateness over time, and the faults under it, as SVG."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Final

import matplotlib as mpl
from matplotlib.figure import Figure

from tests.soak.events import Log
from tests.soak.plan import Kind
from tests.soak.recovery import Delivery

SIZE_INCHES: Final = (10.0, 7.0)
SHORTEST_BAR: Final = 0.004
"""Of the whole width: a fault of an instant must be seen, too."""
WORST: Final = "#d1242f"
USUAL: Final = "#1f6feb"
FAULT: Final = "#8b949e"
STEPS: Final = 900
"""Points of a curve, at most."""


def draw(log: Log, delivered: Sequence[Delivery], file: Path) -> None:
    """Write the picture. delivered: see recovery.deliveries."""
    mpl.rcParams["svg.hashsalt"] = "httpqueue"  # the same figures give the same file
    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    curves = lateness_curves(log, delivered)
    above.plot(curves.minutes, curves.worst_ms, color=WORST, linewidth=0.8, label="latest")
    above.plot(curves.minutes, curves.median_ms, color=USUAL, linewidth=0.8, label="median")
    above.set_yscale("log")
    above.set_ylabel("lateness of first calls, ms")
    above.legend(loc="upper right")
    above.grid(visible=True, axis="y", linewidth=0.3)
    kinds = [kind for kind in Kind if any(each.kind is kind for each in log.struck)]
    width = SHORTEST_BAR * (log.end_ms - log.start_ms) / 60_000
    for row, kind in enumerate(kinds):
        bars = [
            ((each.start_ms - log.start_ms) / 60_000, max(each.lasted_ms / 60_000, width))
            for each in log.struck
            if each.kind is kind
        ]
        below.broken_barh(bars, (row - 0.4, 0.8), color=FAULT)
    below.set_yticks(range(len(kinds)), [str(kind) for kind in kinds], fontsize=7)
    below.invert_yaxis()
    below.set_xlabel("minutes since the start")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Date": None})


class Curves:
    """Lateness over time, in steps of equal length."""

    def __init__(self) -> None:
        self.minutes: list[float] = []
        self.worst_ms: list[float] = []
        self.median_ms: list[float] = []


def lateness_curves(log: Log, delivered: Sequence[Delivery]) -> Curves:
    """The latest and the median delivery of each step, by due time. A log scale has no 0: it is 1."""
    step_ms = max((log.end_ms - log.start_ms) // STEPS, 1_000)
    steps: dict[int, list[int]] = defaultdict(list)
    for each in delivered:
        steps[(each.due_ms - log.start_ms) // step_ms].append(max(each.late_ms, 1))
    curves = Curves()
    for step, late_ms in sorted(steps.items()):
        curves.minutes.append((step + 0.5) * step_ms / 60_000)
        curves.worst_ms.append(max(late_ms))
        curves.median_ms.append(median(late_ms))
    return curves
