"""Valkey servers that tests kill, freeze and restart on their data."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any, Final, Self

from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.exceptions import ConnectionError as RedisConnectionError

from httpqueue.clock import pause
from httpqueue.storage.embedded import _binary
from tests.support.keys import PARTITIONS

_LAST_SLOT: Final = 16_383


class Valkey:
    """One server. It writes every command to disk before it answers, unless it is not persistent.

    With several partitions it is in cluster mode, see tests/support/cluster.py.
    """

    def __init__(self, directory: Path, *, persistent: bool = True, **options: str) -> None:
        """options: of the server, with _ in the place of -."""
        self._directory = directory
        self._persistent = persistent
        self._options = {name.replace("_", "-"): value for name, value in options.items()}
        self._sockets = Path(tempfile.mkdtemp(prefix="valkey-"))  # the test's own path may be too long
        self._ports = _free_ports()
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"unix://{self._sockets}/valkey.sock"

    def start(self) -> None:
        """Start it; it answers when this returns."""
        self._directory.mkdir(parents=True, exist_ok=True)
        command = [_binary(), *(word for name, value in self._all_options() for word in (f"--{name}", value))]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        client: Any
        with closing(Redis.from_url(self.url, decode_responses=True)) as client:
            while not self._is_ready(client):
                assert self._process.poll() is None, (self._directory / "valkey.log").read_text()
                pause(0.005)

    def kill(self) -> None:
        """SIGKILL, as a power failure: what it has not written to disk is lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """SIGSTOP: its connections stay open, and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def copy_data(self, to: Path) -> None:
        """Copy what is on its disk, as a replica that lags behind."""
        self.freeze()
        shutil.copytree(self._directory, to)
        self.thaw()

    def take_data(self, of: Path) -> None:
        """Have that data at the next start, and nothing else."""
        shutil.rmtree(self._directory)
        shutil.copytree(of, self._directory)

    def lose_data(self) -> None:
        """Have no data at the next start."""
        shutil.rmtree(self._directory)

    def client(self) -> AsyncRedis:
        """A client to look into it."""
        client: AsyncRedis = AsyncRedis.from_url(self.url)
        return client

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self._sockets, ignore_errors=True)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def _is_ready(self, client: Any) -> bool:
        try:
            client.ping()
            if PARTITIONS.count == 1:
                return True
            info = client.cluster("INFO")
            if info["cluster_slots_assigned"] == "0":
                client.cluster("ADDSLOTSRANGE", 0, _LAST_SLOT)
            return bool(info["cluster_state"] == "ok")
        except RedisConnectionError:
            return False

    def _all_options(self) -> list[tuple[str, str]]:
        port, bus_port = self._ports
        options = {
            "port": "0",
            "unixsocket": self.url.removeprefix("unix://"),
            "dir": str(self._directory),
            "logfile": str(self._directory / "valkey.log"),
            "save": "",
            "appendonly": "yes" if self._persistent else "no",
            "appendfsync": "always",
            "enable-debug-command": "yes",
        }
        if PARTITIONS.count > 1:
            options |= {
                "bind": "127.0.0.1",
                "port": str(port),
                "cluster-enabled": "yes",
                "cluster-port": str(bus_port),
            }
        return list((options | self._options).items())


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]
