"""The project around the code: what is in the repository, and what its files promise each other."""

import re
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from httpqueue import __version__

ROOT = Path(__file__).resolve().parents[2]
REQUIRED = {
    ".ci",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Dockerfile",
    "LICENSE",
    "Makefile",
    "README.md",
    "cmd",
    "docker-compose.yaml",
    "docs",
    "http-client.http",
    "httpqueue",
    "pyproject.toml",
    "requirements.lock",
    "tests",
}
OPTIONAL = {
    ".dockerignore",
    ".gitignore",
    ".pre-commit-config.yaml",
    "requirements-build.lock",
    "requirements-dev.lock",
}
MAKE_TARGETS = {
    "help",
    "install",
    "run",
    "test",
    "test-partitions",
    "test-faults",
    "lint",
    "check",
    "bench",
    "bench-quick",
    "soak",
    "docker-run",
    "coverage-report",
    "audit",
    "lock",
    "vendor",
    "openapi",
}
LOCKS = ["requirements-build.lock", "requirements.lock", "requirements-dev.lock"]
LOCKED = re.compile(
    r"(?P<name>[a-z0-9-]+)==(?P<version>\S+)(?: ; (?P<marker>[^\\]+))?(?: --hash=sha256:[0-9a-f]{64})+"
)
FOREIGN = re.compile(
    r"(?<![\w.])/(?:root|mnt|work|home/[a-z]+|Users/[a-z]+)/"  # paths that exist on one machine only
    r"|//(?:pypi|files\.pythonhosted|policies\.npmjs|policies\.yarnpkg|index\.docker)\b"
    r"|--(?:extra-)?index-url|--find-links"
)


@cache
def tracked() -> list[Path]:
    """Every file that git knows, relative to the root."""
    # In a container the clone may belong to someone else.
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [Path(name) for name in listing.split("\0") if name]


def project() -> dict[str, Any]:
    """pyproject.toml as it is parsed."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def locked(name: str) -> Iterator[str]:
    """The lock file's entries, each in one line and without comments."""
    text = re.sub(r"\s*\\\n\s*", " ", (ROOT / name).read_text())
    return (line for line in text.splitlines() if line and not line.lstrip().startswith("#"))


def test_top_level_holds_what_newcomers_expect_and_nothing_else() -> None:
    """Everything required is at the top level of the repository, and no surprise is."""
    names = {path.parts[0] for path in tracked()}
    assert names >= REQUIRED
    assert names <= REQUIRED | OPTIONAL


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_package_has_a_version_and_hashes_and_nothing_else(name: str) -> None:
    """So neither an index address, nor a path, nor an unhashed package can be in a lock file."""
    entries = list(locked(name))
    assert entries
    assert [entry for entry in entries if not LOCKED.fullmatch(entry)] == []


def versions(name: str) -> dict[str, set[str]]:
    """Package -> its locked versions; several when markers choose between them."""
    found: dict[str, set[str]] = {}
    for match in map(LOCKED.fullmatch, locked(name)):
        if match:
            found.setdefault(match["name"], set()).add(match["version"])
    return found


def test_the_locks_hold_what_pyproject_asks_for() -> None:
    """A dependency that was added or moved in pyproject.toml is in its lock file too (`make lock`)."""
    table = project()
    for name, requirements in (
        ("requirements-build.lock", table["build-system"]["requires"]),
        ("requirements.lock", table["project"]["dependencies"]),
        ("requirements-dev.lock", table["project"]["optional-dependencies"]["dev"]),
    ):
        pins = versions(name)
        for requirement in map(Requirement, requirements):
            found = pins.get(canonicalize_name(requirement.name), set())
            assert found, f"{name} lacks {requirement}"
            assert all(map(requirement.specifier.contains, found)), f"{name} has {found} for {requirement}"


def test_the_development_tools_are_locked_on_the_same_versions() -> None:
    """Tests run with the packages that users get."""
    development = versions("requirements-dev.lock")
    for package, pins in versions("requirements.lock").items():
        assert development[package] == pins


def test_no_file_names_a_registry_or_a_path_of_one_machine() -> None:
    """The repository is the same wherever it was made."""
    this = Path(__file__).relative_to(ROOT)
    found = [
        f"{path}: {match.group()}"
        for path in tracked()
        if path != this and "static" not in path.parts
        for match in FOREIGN.finditer((ROOT / path).read_text(errors="replace"))
    ]
    assert found == []


def test_cmd_is_no_package_and_its_scripts_are_short() -> None:
    """A package named cmd would shadow the standard library's; everything but the start is in httpqueue."""
    scripts = {path.name: path for path in (ROOT / "cmd").glob("*.py")}
    assert {"all.py", "api.py", "relay.py", "worker.py"} <= scripts.keys()
    assert "__init__.py" not in scripts
    for path in scripts.values():
        assert len(path.read_text().splitlines()) <= 10, path


def test_make_help_lists_every_target() -> None:
    """Each target has one line; what has none is not for users."""
    output = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    lines = [line.split(maxsplit=1) for line in output.splitlines() if not line.startswith("make")]
    assert {target for target, text in lines} == MAKE_TARGETS


def test_make_fetches_the_swagger_ui_that_the_package_holds() -> None:
    """`make vendor` changes nothing unless the Makefile names another version."""
    wanted = re.search(r"^SWAGGER_UI_VERSION = (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    held = (ROOT / "httpqueue/api/static/swagger-ui/VERSION").read_text().split()
    assert wanted
    assert held == ["swagger-ui-dist", wanted[1]]


def test_the_package_has_the_version_of_the_newest_change() -> None:
    """CHANGELOG.md's first heading with a number is this version."""
    heading = re.search(r"^## \[?v?(\d[^\s\]]*)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert heading
    assert heading[1] == __version__


def test_every_folder_of_code_is_a_package() -> None:
    """Setuptools finds packages by their __init__.py; the scripts are data of the package above them."""
    package = ROOT / "httpqueue"
    missing = [path.parent for path in package.rglob("*.py") if not (path.parent / "__init__.py").exists()]
    assert missing == []
    assert project()["tool"]["setuptools"]["package-data"]["httpqueue.storage"] == ["lua/*.lua"]
    assert {path.parent for path in package.rglob("*.lua")} == {package / "storage/lua"}


def test_continuous_integration_runs_the_readme_s_test_command_then_the_rest() -> None:
    """What is promised to a newcomer is what is checked."""
    script = ROOT / ".ci/run"
    assert script.stat().st_mode & 0o111
    lines = [line.strip() for line in script.read_text().splitlines()]
    commands = [line for line in lines if line.startswith("make")]
    assert commands == [
        "make test",
        "make test-partitions",
        'make test PYTHON="$system" VENV=.venv-system',
        "make lint",
        "make bench-quick",
    ]
    assert "make test" in (ROOT / "README.md").read_text()
