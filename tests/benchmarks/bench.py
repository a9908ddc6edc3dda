"""The benchmark: every goal, measured beside httpqueue's rivals, into docs/benchmarks.md."""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Final

from httpqueue.clock import monotonic_s
from httpqueue.runtime import logs
from tests.benchmarks import machine, plots, report
from tests.benchmarks.figures import LostError, MissingError, Result, Row, number
from tests.benchmarks.lab import Lab
from tests.benchmarks.rows import (
    drain,
    lateness,
    limits,
    memory,
    pending,
    post,
    scripts,
    sending,
    start,
    tenants,
    workers,
)
from tests.support.processes import REPOSITORY

MODULES: Final = (limits, drain, workers, sending, lateness, tenants, post, memory, scripts, pending, start)
ROWS: Final[tuple[Row, ...]] = tuple(chain.from_iterable(module.ROWS for module in MODULES))
RUNS: Final = 3
REPORT: Final = REPOSITORY / "docs" / "benchmarks.md"


def say(text: str = "") -> None:
    """Progress on the terminal."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def measure(row: Row, lab: Lab, runs: int) -> Result:
    """One row, run several times; a run that loses timers ends it."""
    result = Result(row)
    say(f"\n{row.title}  [{row.name}]")
    for run in range(1, min(runs, row.most_runs or runs) + 1):
        started_s = monotonic_s()
        try:
            figures = await row.measure(lab)
        except MissingError as error:
            result.missing = str(error)
            say(f"  not measured: {error}")
            break
        except (LostError, TimeoutError, OSError, RuntimeError, AssertionError) as error:
            result.broken = f"{type(error).__name__}: {error}"
            say(f"  BROKEN: {result.broken}")
            break
        result.runs.append(figures)
        text = ", ".join(f"{figure.label} {number(figure.value)} {figure.unit}" for figure in figures)
        say(f"  run {run}, {monotonic_s() - started_s:.0f} s: {text}")
    return result


def write(results: Sequence[Result], about: Sequence[tuple[str, str]], output: Path) -> None:
    """The report, and its pictures in a directory of its name beside it."""
    pictures = output.with_suffix("")
    drawn = plots.draw({result.row.name: result for result in results}, pictures)
    links = [(title, f"{pictures.name}/{file}") for title, file in drawn]
    output.write_text(report.page(results, about, links), encoding="utf-8")
    say(f"\nwritten: {output}")


async def run(options: argparse.Namespace) -> int:
    """Measure and report; returns 1 when something broke or lost timers."""
    started_s = monotonic_s()
    runs = options.runs or (1 if options.quick else RUNS)
    results = [await measure(row, Lab(quick=options.quick), runs) for row in options.rows]
    if not options.quick:
        say(f"\n{report.table(results)}")
    output = options.output or (REPORT if options.rows == list(ROWS) and not options.quick else None)
    if output:
        about = await machine.describe()
        write(results, about, output)
    broken = [result.row.name for result in results if result.broken]
    say(f"\n{monotonic_s() - started_s:.0f} s; broken: {', '.join(broken) or 'nothing'}")
    return 1 if broken else 0


def _rows(text: str) -> list[Row]:
    by_name = {row.name: row for row in ROWS}
    names = text.split(",")
    if unknown := [name for name in names if name not in by_name]:
        raise argparse.ArgumentTypeError(f"no row {unknown[0]}: there are {', '.join(by_name)}")
    return [by_name[name] for name in names]


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code; a goal that is missed is no failure."""
    parser = argparse.ArgumentParser(prog="bench.py", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="below two minutes: does it work at all?")
    parser.add_argument("--rows", type=_rows, default=list(ROWS), help="only these, e.g. drain,post")
    parser.add_argument("--runs", type=int, help=f"of each row (default {RUNS}, 1 with --quick)")
    parser.add_argument(
        "--output", type=Path, help="the report (default: docs/benchmarks.md, when all rows are measured)"
    )
    options = parser.parse_args(arguments)
    logs.configure(logs.LogFormat.AUTO, "error")  # not that a row's server has no append-only file
    return asyncio.run(run(options))


if __name__ == "__main__":
    sys.exit(main())
