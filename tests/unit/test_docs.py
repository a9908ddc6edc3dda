"""The documents say what the code does."""

import re
from pathlib import Path

import pytest

from httpqueue.runtime import metrics
from httpqueue.timers.timer import TRANSITIONS, State
from tests.support.processes import REPOSITORY

DOCUMENTS = sorted(
    path for path in (*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md")) if ".venv" not in path.parts
)


def test_the_state_diagram_is_the_codes() -> None:
    """Every arrow of docs/architecture.md is a transition of timer.TRANSITIONS, and the other way round."""
    text = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    [diagram] = re.findall(r"```mermaid\nstateDiagram-v2\n(.*?)```", text, re.DOTALL)
    arrows = re.findall(r"^\s*(\w+) --> (\w+):", diagram, re.MULTILINE)
    assert {(State(source), State(target)) for source, target in arrows} == TRANSITIONS
    assert "[*] --> scheduled: create" in diagram


def test_every_script_is_in_the_architecture() -> None:
    """A transition that is added or renamed is told."""
    text = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    for script in (REPOSITORY / "httpqueue" / "storage" / "lua").glob("*.lua"):
        if script.stem != "common":
            assert f"| {script.stem} |" in text


def test_every_module_has_a_place_in_the_architecture() -> None:
    """The page names all modules of the package."""
    text = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    for module in (REPOSITORY / "httpqueue").glob("[a-z]*.py"):
        assert re.search(rf"\b{module.stem}\b", text), module.stem


def test_the_metrics_of_the_operations_page_exist() -> None:
    """No alert is built on a name that nobody exports."""
    text = (REPOSITORY / "docs" / "operations.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(httpqueue_\w+?)(?:_total)?(?:\{.*?\})?`", text))
    exported = {metric._name for metric in vars(metrics).values() if hasattr(metric, "_name")}
    assert named
    assert named <= exported


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    """Every relative link is a file of the repository."""
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text(encoding="utf-8")):
        assert (document.parent / target).exists(), target
