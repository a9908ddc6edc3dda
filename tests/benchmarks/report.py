"""The report: results as text, for docs/benchmarks.md and the terminal."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.benchmarks.figures import Result, number

NOTES: Final = Path(__file__).with_name("notes.md")
_HEAD: Final = """# Benchmarks

`make bench` wrote this page: its figures are those of one run on one machine. What counts are the ratios
between httpqueue and its rivals, measured side by side; the absolute figures are a guide. Load generator,
receiver, Valkey and all processes share the machine's cores.
"""


def table(results: Sequence[Result]) -> str:
    """A line a figure: goal, median, lowest and highest run, verdict."""
    lines = ["| | goal | median | lowest to highest | verdict |", "|---|---|---|---|---|"]
    for result in results:
        why = result.missing or (f"BROKEN: {result.broken}" if result.broken else "")
        setup = f" ({result.row.setup})" if result.row.setup else ""
        lines.append(f"| **{result.row.title}**{setup} | | | | {why} |")
        for line in result.lines():
            verdict = {None: "", True: "met", False: "**missed**"}[line.is_met]
            goal = "" if line.goal is None else f"{line.goal} {line.unit}"
            lines.append(
                f"| {line.label} | {goal} | {number(line.median)} {line.unit} | {line.spread} | {verdict} |"
            )
    return "\n".join(lines)


def page(
    results: Sequence[Result], machine: Sequence[tuple[str, str]], pictures: Sequence[tuple[str, str]]
) -> str:
    """The whole page; pictures are (title, path from the page)."""
    rows = [result.row for result in results]
    notes = read_notes(NOTES.read_text(encoding="utf-8"))
    return "\n".join(
        [
            _HEAD,
            "## Results\n",
            table(results),
            "",
            *(f"![{title}]({path})\n" for title, path in pictures),
            "## Rows that miss\n",
            *_misses(results, notes),
            "## How each row is measured\n",
            *(f"- **{row.title}** (`--rows {row.name}`). {row.how}" for row in rows),
            "\n## The machine\n",
            "| | |\n|---|---|",
            *(f"| {what} | {value} |" for what, value in machine),
            "",
        ]
    )


def read_notes(text: str) -> dict[str, str]:
    """Row name -> what somebody wrote about it: the text below its heading `## <name>`."""
    _, *sections = re.split(r"^## ", text, flags=re.MULTILINE)
    parts = (section.partition("\n") for section in sections)
    return {name.strip(): body.strip() for name, _, body in parts}


def _misses(results: Sequence[Result], notes: dict[str, str]) -> list[str]:
    missed = [result.row for result in results if result.misses]
    if not missed:
        return ["None.\n"]
    return [f"### {row.title}\n\n{notes.get(row.name, 'Not explained yet.')}\n" for row in missed]
