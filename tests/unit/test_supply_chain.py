"""What httpqueue is made of and runs in: no pickle, an image without rights, locks that can be audited."""

import ast
import os
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.support.processes import REPOSITORY

CODE_IN_DATA: Final = {"pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
"""Modules that run code when they read data. Who can write to Redis would own the workers."""
SOURCES: Final = sorted((REPOSITORY / "httpqueue").rglob("*.py")) + sorted((REPOSITORY / "cmd").glob("*.py"))
SERIALIZERS: Final = {
    "serialize_job": "serializer",
    "deserialize_job": "deserializer",
    "deserialize_job_raw": "deserializer",
    "serialize_result": "serializer",
    "deserialize_result": "deserializer",
    "create_pool": "job_serializer",
}
"""What of arq uses pickle unless this argument says otherwise."""
COMPOSE: Final[dict[str, Any]] = yaml.safe_load((REPOSITORY / "docker-compose.yaml").read_text())


def code_in_data(source: str) -> set[str]:
    """The modules of CODE_IN_DATA that a piece of Python imports, in whatever way."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names):
                found |= {alias.name.partition(".")[0] for alias in names}
            case ast.ImportFrom(module, names):
                found |= {(module or "").partition(".")[0], *(alias.name for alias in names)}
            case ast.Call(
                ast.Name("__import__") | ast.Attribute(attr="import_module"), [ast.Constant(name), *_]
            ):
                found.add(str(name).partition(".")[0])
    return found & CODE_IN_DATA


def calls_with_pickle(source: str) -> list[str]:
    """The calls of arq's functions without a serializer of their own."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", None) or getattr(node.func, "attr", "")
            if name in SERIALIZERS and SERIALIZERS[name] not in {each.arg for each in node.keywords}:
                found.append(name)
    return found


def test_nothing_reads_data_that_may_be_code() -> None:
    """No module of ours imports pickle or its like."""
    assert len(SOURCES) > 100
    assert {path: found for path in SOURCES if (found := code_in_data(path.read_text()))} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import os, marshal as m",
        "from dill import loads",
        "from six.moves import cPickle",
        "def f():\n    __import__('shelve')",
        "importlib.import_module('pickle.tools')",
    ],
)
def test_each_way_to_import_one_is_seen(source: str) -> None:
    """So the test above can fail."""
    assert code_in_data(source)


def test_arq_never_uses_its_default_serializer() -> None:
    """Which is pickle (arq issue 225)."""
    found = {path: calls for path in SOURCES if (calls := calls_with_pickle(path.read_text()))}
    assert found == {}
    assert calls_with_pickle("a = serialize_job('f', (), {}, None, 0)") == ["serialize_job"]
    queue = (REPOSITORY / "httpqueue" / "storage" / "queue.py").read_text()
    assert "job_serializer = orjson.dumps" in queue
    assert "job_deserializer = orjson.loads" in queue
    stock = (REPOSITORY / "httpqueue" / "worker" / "arq_compat.py").read_text()
    assert "job_deserializer" in stock


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_no_service_has_rights_that_it_does_not_need(name: str) -> None:
    """Not root, nothing to write to but its volume and /tmp, no capability, no way to get one."""
    service = COMPOSE["services"][name]
    user, _, group = service["user"].partition(":")
    assert int(user) > 0
    assert int(group) > 0
    assert service["read_only"] is True
    assert service["tmpfs"] == ["/tmp"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "devices", "pid", "network_mode"} & service.keys()


def test_the_image_s_user_is_the_one_of_the_services() -> None:
    """And not root; it may write to its volume alone."""
    stage = (REPOSITORY / "Dockerfile").read_text().replace("\\\n", " ").rpartition("\nFROM ")[2]
    lines = stage.splitlines()
    [user] = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert user == "10001:10001"
    for name, service in COMPOSE["services"].items():
        if "build" in service:
            assert service["user"] == user, name
    made = lines.index(next(line for line in lines if "useradd" in line))
    assert made < lines.index(f"USER {user}") < lines.index("VOLUME /data")
    assert "--uid 10001" in lines[made]
    assert "--gid 10001" in lines[made]


def audit(tmp_path: Path, script: str | None) -> subprocess.CompletedProcess[str]:
    """`make audit` where pip-audit is this shell script, or where there is none."""
    if script is not None:
        (tmp_path / "pip-audit").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "pip-audit").chmod(0o755)
    paths = [str(tmp_path), *(path for path in os.defpath.split(os.pathsep) if path)]
    return subprocess.run(
        [str(REPOSITORY / ".ci" / "audit")],
        env={"PATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("script", "code", "said"),
    [
        (None, 0, "nothing was checked"),
        ("echo No known vulnerabilities found", 0, "requirements.lock: No known"),
        ('echo "ERROR: Could not connect to PyPI\'s vulnerability feed"; exit 1', 0, "no database of"),
        ("echo Found 1 known vulnerability in 1 package; exit 1", 1, "Found 1 known"),
        ("echo it cannot read the lock; exit 1", 1, "cannot read"),
    ],
)
def test_make_audit(tmp_path: Path, script: str | None, code: int, said: str) -> None:
    """It fails for a known vulnerability. When it cannot know, it says so in one line a lock file."""
    done = audit(tmp_path, script)
    assert (done.returncode, said in done.stdout, done.stderr) == (code, True, ""), done
    if code == 0:
        assert len(done.stdout.splitlines()) == (1 if script is None else 3)
