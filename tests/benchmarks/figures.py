"""What a benchmark row says: figures with goals, and how several runs of it become one line. Pure."""

import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any


class LostError(Exception):
    """Something is wrong with what was measured: lost, early or twice."""


class MissingError(Exception):
    """The row cannot be measured here; the message says why."""


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound that a figure has to keep."""

    bound: float
    at_least: bool

    def is_met(self, value: float) -> bool:
        """Whether the value keeps it."""
        return value >= self.bound if self.at_least else value <= self.bound

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {number(self.bound)}"


def at_least(bound: float) -> Goal:
    """The more the better."""
    return Goal(bound, at_least=True)


def at_most(bound: float) -> Goal:
    """The less the better."""
    return Goal(bound, at_least=False)


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value; samples are what a distribution is drawn from."""

    label: str
    value: float
    unit: str
    goal: Goal | None = None
    samples: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the report; measure's docstring says what is measured and how."""

    name: str
    title: str
    measure: Callable[[Any], Awaitable[list[Figure]]]
    """Lab -> figures; raises LostError or MissingError."""
    setup: str = ""
    """What is at work: slots, hosts, applications."""
    most_runs: int | None = None
    """For a row that takes long."""

    @property
    def how(self) -> str:
        """The docstring, as one paragraph."""
        return " ".join((inspect.getdoc(self.measure) or "").split())


@dataclass(frozen=True, slots=True)
class Line:
    """A figure over all runs."""

    label: str
    unit: str
    goal: Goal | None
    values: Sequence[float]

    @property
    def median(self) -> float:
        """Of the runs."""
        return median(self.values)

    @property
    def spread(self) -> str:
        """The lowest and the highest run, or nothing when there was one run."""
        if len(self.values) == 1:
            return ""
        return f"{number(min(self.values))} to {number(max(self.values))}"

    @property
    def is_met(self) -> bool | None:
        """Whether the median keeps the goal; None when there is no goal."""
        return None if self.goal is None else self.goal.is_met(self.median)


@dataclass(slots=True)
class Result:
    """A row and what came of it."""

    row: Row
    runs: list[list[Figure]] = field(default_factory=list)
    missing: str | None = None
    broken: str | None = None

    def lines(self) -> list[Line]:
        """Its figures in their order; those that a run could not measure are left out of that run."""
        figures = {figure.label: figure for run in self.runs for figure in run}
        return [
            Line(label, figure.unit, figure.goal, [each.value for each in self._all(label)])
            for label, figure in figures.items()
        ]

    def samples(self, label: str) -> list[float]:
        """The samples of a figure, of all runs."""
        return [sample for figure in self._all(label) for sample in figure.samples]

    @property
    def misses(self) -> bool:
        """Whether a goal is missed."""
        return any(line.is_met is False for line in self.lines())

    def _all(self, label: str) -> list[Figure]:
        return [figure for run in self.runs for figure in run if figure.label == label]


def number(value: float) -> str:
    """A figure with no more digits than mean something: 12,345; 123; 12.3; 1.23."""
    size = abs(value)
    if size == int(size) or size >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def percentile(samples: Sequence[float], share: float) -> float:
    """The sample below which that share of them lies (nearest rank)."""
    ordered = sorted(samples)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]
