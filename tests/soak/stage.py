"""What a soak runs on: two Valkey servers, six processes of httpqueue, and the ways between them."""

import asyncio
import re
import signal
import socket
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from redis.asyncio import Redis
from redis.exceptions import RedisError

from httpqueue.clock import now_ms, sleep
from httpqueue.storage.embedded import _binary
from tests.soak.events import Log
from tests.soak.network import Way
from tests.soak.plan import ATTEMPT_TIMEOUT_MS, PARTS, SERVERS, TENANTS, WAYS
from tests.support.keys import PARTITIONS
from tests.support.processes import HTTPQUEUE, Process, started

LOOK_S: Final = 0.01
READY_S: Final = 90.0
"""A process that is not ready by then, with its servers there, never is."""
SETTINGS: Final = {
    "attempt_timeout": f"{ATTEMPT_TIMEOUT_MS}ms",
    "backoff_base": "200ms",
    "backoff_max": "4s",
    "max_attempts": 1_000,
    "retention_done": "120s",
    "horizon": "15s",
    "shutdown_grace": "3s",
    "egress": "private",
}
"""Faults are to meet everything, so retention and horizon are short."""
_LAST_SLOT: Final = 16_383


class Server:
    """A Valkey on its append-only file; with several partitions in cluster mode. It keeps its port."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self._directory = directory / name
        self._directory.mkdir(parents=True)
        self._ports = _free_ports()
        self._process: asyncio.subprocess.Process | None = None
        self.url = f"redis://127.0.0.1:{self._ports[0]}"
        self.client = Redis.from_url(self.url, socket_timeout=5)

    async def start(self) -> None:
        """Start it; it answers when this returns."""
        words = [word for name, value in self._options().items() for word in (f"--{name}", value)]
        self._process = await asyncio.create_subprocess_exec(
            _binary(), *words, stdin=asyncio.subprocess.DEVNULL
        )
        await self.until_answering()

    async def until_answering(self) -> None:
        """It has loaded its data and answers."""
        while not await self._is_ready():
            assert self._process is not None
            assert self._process.returncode is None, (self._directory / "valkey.log").read_text()[-1_000:]
            await sleep(LOOK_S)

    async def _is_ready(self) -> bool:
        try:
            await self.client.ping()
            if PARTITIONS.count == 1:
                return True
            info: Any = await self.client.execute_command("CLUSTER INFO")
            if info["cluster_slots_assigned"] == "0":
                slots = ("CLUSTER ADDSLOTSRANGE", 0, _LAST_SLOT)
                await self.client.execute_command(*slots)
            return bool(info["cluster_state"] == "ok")
        except (RedisError, OSError):
            return False

    def send_signal(self, number: signal.Signals) -> None:
        """Like kill."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    async def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)
        if self._process is not None:
            await self._process.wait()

    def _options(self) -> dict[str, str]:
        port, bus_port = self._ports
        options = {
            "bind": "127.0.0.1",
            "port": str(port),
            "dir": str(self._directory),
            "logfile": str(self._directory / "valkey.log"),
            "save": "",
            "appendonly": "yes",
            # What is in the file survives kill -9 without fsync, and others may keep the disk busy. Unlike
            # everysec, it is there before the server answers.
            "appendfsync": "no",
            "maxmemory-policy": "noeviction",
        }
        cluster = {
            "cluster-enabled": "yes",
            "cluster-port": str(bus_port),
            "cluster-config-file": "nodes.conf",
        }
        return options | (cluster if PARTITIONS.count > 1 else {})


class Part:
    """A place for one process of httpqueue, in which one after another lives, and its ways to the servers."""

    def __init__(self, name: str, directory: Path, ways: dict[str, Way], log: Log) -> None:
        self.name = name
        self.ways = ways
        """Server -> way."""
        self.process: Process | None = None
        self.url: str | None = None
        """Of its API, while it has one that is ready."""
        self.pid = 0
        self._directory = directory
        self._log = log
        self._life = AsyncExitStack()
        self._lives = 0
        self.is_wanted = False
        """Whether it should be running now."""

    async def start(self) -> None:
        """A new process; it is ready when this returns."""
        self._lives += 1
        servers = {"redis_url": self.ways["store"].url}
        if "queue" in self.ways:
            servers["broker_redis_url"] = self.ways["queue"].url
        mode = self.name.partition("-")[0]
        self.process = await self._life.enter_async_context(
            started(*HTTPQUEUE, mode, cwd=self._directory, log_format="json", **SETTINGS, **servers)
        )
        self.pid = self.process.pid
        self.is_wanted = True
        await self._until_ready(self.process)

    async def _until_ready(self, process: Process) -> None:
        try:
            async with asyncio.timeout(READY_S):
                while not any(event["event"] == "run.ready" for event in process.events()):
                    if not process.is_running:
                        return  # see `watch`
                    await sleep(LOOK_S)
        except TimeoutError:
            self._log.findings.append(f"{self.name} was not ready {READY_S:.0f} s after its start")
            return
        if self.name.startswith("api"):
            self.url = process.url

    def send_signal(self, number: signal.Signals) -> None:
        """Like kill."""
        if self.process is not None and self.process.is_running:
            self.process.send_signal(number)

    async def end(self, number: signal.Signals) -> None:
        """End the process; its output is kept."""
        self.is_wanted, self.url = False, None
        if self.process is None:
            return
        code = await self.process.end(number)
        if number == signal.SIGTERM and code != 0:
            self._log.findings.append(f"{self.name} ended with code {code} after SIGTERM")
        await self.bury()

    async def bury(self) -> None:
        """Keep the output of a process that has ended, and look through it."""
        process, self.process, self.url = self.process, None, None
        await self._life.aclose()
        if process is None:
            return
        (self._directory / f"{self.name}.{self._lives}.log").write_text("\n".join(process.stderr))
        for number, line in enumerate(process.stderr):
            if "Traceback" in line or re.search(r'"event": ?"worker\.bug"', line):
                text = " / ".join(process.stderr[number : number + 30])[-400:]
                self._log.findings.append(f"{self.name} (life {self._lives}) logged a bug: {text}")

    async def watch(self) -> None:
        """Start a process anew that ended though nobody ended it; say so."""
        while True:
            await sleep(0.2)
            process = self.process
            if self.is_wanted and process is not None and not process.is_running:
                code = await process.wait()
                if not self.is_wanted or self.process is not process:
                    continue
                last = process.stderr[-1][-300:] if process.stderr else ""
                after_s = (now_ms() - self._log.start_ms) / 1000
                self._log.findings.append(
                    f"{self.name} ended by itself {after_s:.1f} s after the start, code {code}: {last}"
                )
                await self.bury()
                await self.start()


class Stage:
    """All of it."""

    def __init__(self, directory: Path, log: Log) -> None:
        self._directory = directory
        self._log = log
        self._stack = AsyncExitStack()
        self.servers: dict[str, Server] = {}
        self.ways: dict[str, Way] = {}
        self.parts: dict[str, Part] = {}
        self.keys: dict[str, str] = {}
        """Tenant -> its API key."""

    async def __aenter__(self) -> Self:
        for name in SERVERS:
            server = self.servers[name] = Server(name, self._directory)
            self._stack.push_async_callback(server.kill)
            self._stack.push_async_callback(server.client.aclose)
            await server.start()
        for name in WAYS:
            to = name.partition(">")[2]
            self.ways[name] = await self._stack.enter_async_context(Way(self.servers[to].url))
        for name in PARTS:
            ways = {
                server: self.ways[f"{name}>{server}"] for server in SERVERS if f"{name}>{server}" in self.ways
            }
            self.parts[name] = Part(name, self._directory, ways, self._log)
            self._stack.push_async_callback(self.parts[name].end, signal.SIGKILL)
        for tenant in TENANTS:
            self.keys[tenant] = await self._new_key(tenant)
        await asyncio.gather(*(part.start() for part in self.parts.values()))
        watching = [asyncio.create_task(part.watch()) for part in self.parts.values()]
        self._stack.push_async_callback(_cancelled, watching)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def end(self) -> None:
        """End all processes as an operator does."""
        await asyncio.gather(*(part.end(signal.SIGTERM) for part in self.parts.values()))

    def part_of(self, pid: int) -> str | None:
        """The part whose process that is."""
        return next((name for name, part in self.parts.items() if part.pid == pid), None)

    async def _new_key(self, tenant: str) -> str:
        command = (*HTTPQUEUE, "keys", "create", "--application", tenant, "--scope", "write")
        settings = {"redis_url": self.servers["store"].url}
        async with started(*command, cwd=self._directory, **settings) as process:
            assert await process.wait() == 0, process.stderr
            return process.stdout[-1]


async def _cancelled(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError):
            await task


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]
