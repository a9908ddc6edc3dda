"""What the benchmark ran on, without saying whose it is: no host name, no paths."""

import os
import platform
import shutil
import subprocess
import tempfile
from importlib.metadata import version
from pathlib import Path

import orjson

from httpqueue import __version__, clock
from httpqueue.timers.schedule import format_instant
from tests.benchmarks.lab import server
from tests.benchmarks.rivals import node


async def describe() -> list[tuple[str, str]]:
    """(what, value) in the order in which people ask."""
    async with server() as on:
        valkey = (await on.redis.info("server")).get("valkey_version", "unknown")
    return [
        ("date", format_instant(clock.now_ms())[:10]),
        ("httpqueue", __version__),
        ("CPU", f"{_cpu_model()}, {os.cpu_count()} cores"),
        ("kernel", f"{platform.system()} {platform.release()}"),
        ("file system of the Valkey's data", _output("stat", "-f", "-c", "%T", tempfile.gettempdir())),
        ("Python", platform.python_version()),
        ("Valkey", f"{valkey}, append-only file, appendfsync always, for httpqueue and its rivals"),
        ("Node", _output("node", "--version")),
        ("rivals", _rivals()),
    ]


def _rivals() -> str:
    python = [f"{name} {version(name)}" for name in ("arq", "httpx", "starlette", "uvicorn", "redis")]
    manifest = orjson.loads(node.MANIFEST.read_bytes())
    return ", ".join([*python, *(f"{name} {pin}" for name, pin in manifest["dependencies"].items())])


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return _output("sysctl", "-n", "machdep.cpu.brand_string")
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _output(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return "not installed"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else "unknown"
