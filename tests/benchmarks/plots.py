"""The report's pictures, as SVG."""

from collections import Counter
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.benchmarks.figures import Result

SIZE_INCHES: Final = (7.0, 3.2)
OWN: Final = "#1f6feb"
OTHER: Final = "#8b949e"
CURVES: Final = (
    ("lateness", "500/s, p50", "500/s, 3 s ahead"),
    ("lateness", "2,000/s, p50", "2,000/s, 3 s ahead"),
    ("burst", "lateness, p50", "2,200/s, without delay"),
)
"""Row, the figure that has the samples, and what the curve is called."""
SHOWN_SHARE: Final = 0.999
"""The latest thousandth would squeeze the rest."""


def draw(results: Mapping[str, Result], directory: Path) -> list[tuple[str, str]]:
    """Write the pictures whose rows were measured -> (title, file name)."""
    directory.mkdir(parents=True, exist_ok=True)
    mpl.rcParams["svg.hashsalt"] = "httpqueue"  # the same figures give the same file
    drawn = []
    for name, title, plot in (
        ("drain", "Drain: webhooks/s, 20,000 timers due together", _drain),
        ("lateness", "Lateness: share of webhooks that came within so many ms", _lateness),
        ("memory", "Memory: bytes in Valkey a timer", _memory),
    ):
        if name not in results or not results[name].runs:
            continue
        figure = Figure(figsize=SIZE_INCHES, layout="constrained")
        plot(figure.subplots(), results)
        figure.savefig(directory / f"{name}.svg", metadata={"Date": None})
        drawn.append((title, f"{name}.svg"))
    return drawn


def _drain(axes: Axes, results: Mapping[str, Result]) -> None:
    lines = [line for line in results["drain"].lines() if line.unit == "webhooks/s"]
    medians = [line.median for line in lines]
    below = [line.median - min(line.values) for line in lines]
    above = [max(line.values) - line.median for line in lines]
    colors = [OWN if line.label.startswith("httpqueue") else OTHER for line in lines]
    bars = axes.barh([line.label for line in lines], medians, xerr=[below, above], color=colors)
    axes.bar_label(bars, fmt="{:,.0f}", padding=4)
    axes.margins(x=0.15)
    axes.invert_yaxis()
    axes.set_xlabel("webhooks/s (median, lowest and highest run)")


def _lateness(axes: Axes, results: Mapping[str, Result]) -> None:
    for row, label, name in CURVES:
        samples = results[row].samples(label) if row in results else []
        if not samples:
            continue
        counts = sorted(Counter(samples).items())
        shares = [total / len(samples) for total in accumulate(count for _, count in counts)]
        shown = sum(share <= SHOWN_SHARE for share in shares)
        late_ms = [late for late, _ in counts[:shown]]
        axes.step(late_ms, shares[:shown], where="post", label=name)
    axes.set_xlabel("arrival minus due, ms (without the latest thousandth)")
    axes.set_ylabel("share of webhooks")
    axes.legend(loc="lower right")


def _memory(axes: Axes, results: Mapping[str, Result]) -> None:
    lines = results["memory"].lines()
    bars = axes.barh([line.label for line in lines], [line.median for line in lines], color=OWN)
    axes.bar_label(bars, fmt="{:,.0f}", label_type="center", color="white")
    for position, line in enumerate(lines):
        if line.goal:
            axes.vlines(line.goal.bound, position - 0.4, position + 0.4, color="black")
    axes.invert_yaxis()
    axes.set_xlabel("bytes (black: the goal)")
