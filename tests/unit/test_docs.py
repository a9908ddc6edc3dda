"""The documents say what the code does."""

import ast
import re
from pathlib import Path

import pytest

from httpqueue.runtime import metrics
from httpqueue.timers.timer import TRANSITIONS, State
from tests.support.processes import REPOSITORY

DOCUMENTS = sorted(
    path for path in (*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md")) if ".venv" not in path.parts
)
PACKAGE = REPOSITORY / "httpqueue"
ARCHITECTURE = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
COMMON = {"clock", "errors"}
"""What every module may import."""


def test_the_state_diagram_is_the_codes() -> None:
    """Every arrow of docs/architecture.md is a transition of timer.TRANSITIONS, and the other way round."""
    [diagram] = re.findall(r"```mermaid\nstateDiagram-v2\n(.*?)```", ARCHITECTURE, re.DOTALL)
    arrows = re.findall(r"^\s*(\w+) --> (\w+):", diagram, re.MULTILINE)
    assert {(State(source), State(target)) for source, target in arrows} == TRANSITIONS
    assert "[*] --> scheduled: create" in diagram


def test_every_script_is_in_the_architecture() -> None:
    """A transition that is added or renamed is told."""
    scripts = {script.stem for script in (PACKAGE / "storage" / "lua").glob("*.lua")} - {"common"}
    assert scripts
    assert {name for name in scripts if f"| {name} |" not in ARCHITECTURE} == set()


def packages() -> set[str]:
    """The packages and modules right in httpqueue/, but those that every module may import."""
    names = {
        path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    return names - {"__init__", "__main__"} - COMMON


def imports_of(path: Path) -> set[str]:
    """The packages that a module imports."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    names = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.split(".")[1] for name in names if name.startswith("httpqueue.")}


def test_the_picture_of_the_packages_is_what_they_import() -> None:
    """Each arrow is an import, each import an arrow, and each package has its sentence."""
    [picture] = re.findall(r"```mermaid\nflowchart TD\n(.*?)```", ARCHITECTURE, re.DOTALL)
    arrows = set(re.findall(r"^\s*(\w+) --> (\w+)$", picture, re.MULTILINE))
    imports = {
        (package, target)
        for package in packages()
        for path in [PACKAGE / f"{package}.py", *(PACKAGE / package).rglob("*.py")]
        if path.exists()
        for target in imports_of(path) - {package} - COMMON
    }
    assert arrows == imports
    assert set(re.findall(r"^\| `(\w+)` \|", ARCHITECTURE, re.MULTILINE)) == packages()


def test_every_function_and_file_of_the_walk_is_there() -> None:
    """`Class.method` in `file`, as the page's tables write it."""
    places = re.findall(r"`([\w.]+)` in `([\w/.]+)`", ARCHITECTURE)
    assert len(places) >= 10
    for name, file in places:
        tree = ast.parse((PACKAGE / file).read_text(encoding="utf-8"))
        for part in name.split("."):
            found = [node for node in tree.body if getattr(node, "name", None) == part]
            assert found, f"{name} in {file}"
            tree = found[0]
    for file in re.findall(r"`((?:\w+/)+\w+\.(?:py|lua))`", ARCHITECTURE):
        assert (PACKAGE / file).exists() or (REPOSITORY / file).exists(), file


def test_the_metrics_of_the_operations_page_exist() -> None:
    """No alert is built on a name that nobody exports."""
    text = (REPOSITORY / "docs" / "operations.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(httpqueue_\w+?)(?:_total)?(?:\{.*?\})?`", text))
    exported = {metric._name for metric in vars(metrics).values() if hasattr(metric, "_name")}
    assert named
    assert named <= exported


def test_the_tests_that_the_operations_page_names_exist() -> None:
    """A promise whose test is gone is none."""
    text = (REPOSITORY / "docs" / "operations.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)`", text)
    assert named
    assert [path for path in named if not (REPOSITORY / path).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    """Every relative link is a file of the repository."""
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text(encoding="utf-8")):
        assert (document.parent / target).exists(), target
