"""How bench.py talks to its receiver and its load generator, each a process of its own.

One JSON object a line: a command on standard input, its answer on standard output. The process ends when
its input does.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import orjson

from tests.support.processes import REPOSITORY

Command = dict[str, Any]
Handler = Callable[[Command], Awaitable[Any]]

_MAX_LINE_BYTES: Final = 1 << 28


async def serve(handler: Handler) -> None:
    """Answer commands until standard input ends."""
    reader = asyncio.StreamReader(limit=_MAX_LINE_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while line := await reader.readline():
        sys.stdout.buffer.write(orjson.dumps(await handler(orjson.loads(line))) + b"\n")
        sys.stdout.buffer.flush()


class Remote:
    """The other end of serve()."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def ask(self, **command: Any) -> Any:
        """Send a command and return its answer; RuntimeError when the process ended instead."""
        if self._process.stdin is None or self._process.stdout is None:
            raise TypeError("started without pipes")
        self._process.stdin.write(orjson.dumps(command) + b"\n")
        await self._process.stdin.drain()
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a process of the benchmark ended (exit code {await self._process.wait()})")
        return orjson.loads(line)


@asynccontextmanager
async def remote(module: str) -> AsyncIterator[Remote]:
    """The module, run as a process that serves commands; killed at the end if need be."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        cwd=REPOSITORY,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=_MAX_LINE_BYTES,
    )
    try:
        yield Remote(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
