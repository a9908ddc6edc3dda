"""`make run` where Python is of no use says so in one line, and leaves nothing half made."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

TOO_OLD = """
import sys
sys.version_info = (3, 9, 2, "final", 0)
exec(sys.argv[sys.argv.index("-c") + 1])
"""

NO_VENV = """
import os, sys
if "-c" in sys.argv:
    exec(sys.argv[sys.argv.index("-c") + 1])
else:
    os.makedirs(sys.argv[-1] + "/bin")  # as Debian's does before it finds that ensurepip is missing
    sys.exit("The virtual environment was not created successfully because ensurepip is not\\navailable.")
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with what `make run` reads, and an environment as if no make ran these tests."""
    for name in ("Makefile", "pyproject.toml", "requirements-build.lock", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    for variable in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES", "PYTHON"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


def interpreter(directory: Path, code: str) -> Path:
    """An executable that takes Python's arguments."""
    path = directory / "python-stub"
    path.write_text(f"#!{sys.executable}{code}")
    path.chmod(0o755)
    return path


def make_run(project: Path, python: Path) -> str:
    """Run `make run` with this interpreter, which must fail: all that it printed."""
    process = subprocess.run(
        ["make", "run", f"PYTHON={python}"],
        cwd=project,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=60,
    )
    assert process.returncode != 0
    return process.stdout


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        (TOO_OLD, "httpqueue needs Python 3.11 or newer (found 3.9.2)"),
        (NO_VENV, "-m venv does not work here"),
    ],
    ids=["too old", "no venv"],
)
def test_an_interpreter_of_no_use_is_one_line_that_says_what_to_install(
    project: Path, code: str, problem: str
) -> None:
    """Neither Make's own error nor a traceback comes on top, and there is no .venv afterwards."""
    output = make_run(project, interpreter(project, code))
    assert len(output.splitlines()) == 1, output
    assert problem in output
    assert "apt install python3 python3-venv" in output
    assert not (project / ".venv").exists()


def test_a_missing_interpreter_is_one_line_too(project: Path) -> None:
    """The line names the command that was tried."""
    output = make_run(project, project / "no-such-python")
    assert len(output.splitlines()) == 1, output
    assert f"{project}/no-such-python does not run" in output
    assert not (project / ".venv").exists()
