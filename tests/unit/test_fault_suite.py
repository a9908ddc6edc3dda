"""The fault suite has every row of the fault plan, and docs/guarantees.md names tests that exist."""

import ast
import re
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
ROWS = range(1, 33)
GUARANTEES = REPOSITORY / "docs" / "guarantees.md"
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


@cache
def names_in(file: Path) -> frozenset[str]:
    """The names of its test functions."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    functions = (node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(each.name for each in functions if each.name.startswith("test_"))


def test_every_row_of_the_fault_plan_is_played() -> None:
    """Each test of a row begins with its number."""
    files = (REPOSITORY / "tests" / "faults").glob("test_*.py")
    names = [name for file in files for name in names_in(file)]
    numbers = {int(match[1]) for name in names if (match := re.match(r"test_row_(\d\d)_", name))}
    assert numbers == {*ROWS}


def test_every_guarantee_names_tests_that_exist() -> None:
    """And every row of its tables names at least one."""
    text = GUARANTEES.read_text(encoding="utf-8")
    named = NAMED.findall(text)
    assert named
    missing = [f"{file}::{name}" for file, name in named if name not in names_in(REPOSITORY / file)]
    assert missing == []
    rows = [line for line in text.splitlines() if line.startswith("| ") and "shown by" not in line]
    assert [line for line in rows if not NAMED.search(line)] == []
