"""httpqueue as its users run it: real processes, told by environment variables, heard by their output."""

import asyncio
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson

from tests.support.keys import PARTITIONS

REPOSITORY = Path(__file__).resolve().parents[2]
HTTPQUEUE = (str(Path(sys.executable).with_name("httpqueue")),)
"""The installed command."""


class Process:
    """A started process; its output is read all the time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.stdout: list[str] = []
        self.stderr: list[str] = []
        self._process = process
        self._change = asyncio.Event()
        self._readers = [
            asyncio.create_task(self._read(process.stdout, self.stdout)),
            asyncio.create_task(self._read(process.stderr, self.stderr)),
        ]

    @property
    def pid(self) -> int:
        """Of the process itself, not of a shell."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended; it may be stopped."""
        return self._process.returncode is None

    @property
    def url(self) -> str:
        """Where its API listens, from its greeting."""
        [url] = re.findall(r"(http://\S+)/timers$", "\n".join(self.stdout), re.MULTILINE)
        return str(url)

    def events(self) -> list[dict[str, Any]]:
        """What it logged so far."""
        return [orjson.loads(line) for line in self.stderr if line.startswith("{")]

    async def until_event(self, name: str) -> dict[str, Any]:
        """The first log entry of that name, as soon as it is there."""
        async with asyncio.timeout(60):
            while True:
                self._change.clear()
                for event in self.events():
                    if event["event"] == name:
                        return event
                if self._process.returncode is not None:
                    raise AssertionError(f"it ended: {self.stderr}")
                await self._change.wait()

    async def until_told(self, words: str) -> None:
        """As soon as these words are in its output."""
        async with asyncio.timeout(60):
            while not any(words in line for line in [*self.stdout, *self.stderr]):
                self._change.clear()
                if self._process.returncode is not None:
                    raise AssertionError(f"it ended: {self.stderr}")
                await self._change.wait()

    async def until_ready(self) -> None:
        """Its server is checked, and its greeting, if it has one, is out."""
        await self.until_event("run.ready")

    def send_signal(self, number: signal.Signals) -> None:
        """Like kill."""
        self._process.send_signal(number)

    async def wait(self) -> int:
        """Its exit code; all of its output is there then."""
        async with asyncio.timeout(60):
            code = await self._process.wait()
            await asyncio.gather(*self._readers)
        return code

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it and return its exit code."""
        if self._process.returncode is None:
            self.send_signal(number)
        return await self.wait()

    async def _read(self, stream: asyncio.StreamReader | None, lines: list[str]) -> None:
        while stream and (line := await stream.readline()):
            lines.append(line.decode().rstrip("\n"))
            self._change.set()
        self._change.set()


@asynccontextmanager
async def started(*command: str, cwd: Path | None = None, **settings: object) -> AsyncIterator[Process]:
    """A process with these settings (HTTPQUEUE_ is put before their names); killed at the end if need be.

    It has as many partitions as the tests.
    """
    variables = [f"HTTPQUEUE_{name.upper()}={value}" for name, value in settings.items()]
    process = await asyncio.create_subprocess_exec(
        "env",
        "HTTPQUEUE_HOST=127.0.0.1",
        "HTTPQUEUE_PORT=0",
        f"HTTPQUEUE_PARTITIONS={PARTITIONS.count}",
        *variables,
        *command,
        cwd=cwd,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    running = Process(process)
    try:
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        await running.wait()
