"""Installs the rivals in JavaScript, once, outside the repository."""

import asyncio
import shutil
from pathlib import Path
from typing import Final

from tests.benchmarks.figures import MissingError

SOURCE: Final = Path(__file__).with_name("bullmq")
MANIFEST: Final = SOURCE / "package.json"
"""Pins the versions."""
CACHE: Final = Path.home() / ".cache" / "httpqueue-bench" / "bullmq"


async def command(script: str) -> list[str]:
    """What runs a script of bullmq/; MissingError without Node, or when packages cannot be installed."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise MissingError("Node and npm are not installed: not compared with BullMQ")
    manifest = MANIFEST.read_bytes()
    installed = CACHE / "installed.json"
    CACHE.mkdir(parents=True, exist_ok=True)
    if not installed.exists() or installed.read_bytes() != manifest:
        (CACHE / "package.json").write_bytes(manifest)
        await _install(npm)
        installed.write_bytes(manifest)
    copy = CACHE / script  # beside node_modules, where Node looks for its imports
    copy.write_bytes((SOURCE / script).read_bytes())
    return [node, str(copy)]


async def _install(npm: str) -> None:
    process = await asyncio.create_subprocess_exec(
        npm,
        "install",
        "--no-package-lock",
        "--no-audit",
        "--no-fund",
        cwd=CACHE,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await process.communicate()
    if process.returncode:
        reason = errors.decode().strip().splitlines()
        raise MissingError(f"npm cannot install BullMQ ({reason[0] if reason else 'no reason given'})")
