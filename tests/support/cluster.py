"""A server in cluster mode with all slots on one node.

It refuses every script and transaction that touches two slots, as a real cluster does. A plain client can use
it: there is no other node to be sent to.
"""

import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, Self

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from httpqueue.clock import pause
from httpqueue.storage.embedded import EmbeddedValkey, _binary
from tests.support.keys import PARTITIONS

_TRIES: Final = 5
"""Somebody else may take a free port before the server does."""
_LAST_SLOT: Final = 16_383


@contextmanager
def cluster_node(directory: Path) -> Iterator[str]:
    """The URL of such a server, with its files in this directory. It ends with the context."""
    process, url = start_cluster_node(directory)
    try:
        yield url
    finally:
        process.kill()
        process.wait()


def start_cluster_node(directory: Path) -> tuple[subprocess.Popen[bytes], str]:
    """Start such a server; it serves all slots when this returns. Returns its process and its URL."""
    for _ in range(_TRIES):
        process, port = _spawn(directory)
        with closing(Redis(port=port)) as client:
            while process.poll() is None:
                try:
                    client.ping()
                except RedisConnectionError:
                    pause(0.002)
                else:
                    client.cluster("ADDSLOTSRANGE", 0, _LAST_SLOT)
                    while not _is_ok(client.cluster("INFO")):
                        pause(0.002)  # it takes some 2 s
                    return process, f"redis://127.0.0.1:{port}"
    raise AssertionError((directory / "cluster.log").read_text())


def _is_ok(info: Any) -> bool:
    return bool(info["cluster_state"] == "ok")


class ClusterNode:
    """Such a server, which a test may stop and start again: it keeps its URL, its slots and its data."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ports = _free_ports()
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"redis://127.0.0.1:{self._ports[0]}"

    def start(self) -> None:
        """Start it; it serves all slots when this returns."""
        self._directory.mkdir(exist_ok=True)
        self._process, port = _spawn(self._directory, self._ports)
        client: Any
        with closing(Redis(port=port, decode_responses=True)) as client:
            while True:
                try:
                    info = client.cluster("INFO")
                    if info["cluster_slots_assigned"] == "0":
                        client.cluster("ADDSLOTSRANGE", 0, _LAST_SLOT)
                    elif _is_ok(info):
                        return
                except RedisConnectionError:
                    assert self._process.poll() is None, (self._directory / "cluster.log").read_text()
                pause(0.002)

    def stop(self) -> None:
        """End it, if it runs."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def own_server(directory: Path) -> EmbeddedValkey | ClusterNode:
    """A server for one test, not yet started; with several partitions it is in cluster mode."""
    return EmbeddedValkey(directory) if PARTITIONS.count == 1 else ClusterNode(directory)


def _spawn(directory: Path, ports: tuple[int, int] | None = None) -> tuple[subprocess.Popen[bytes], int]:
    """ports: those of a server that keeps its data."""
    port, bus_port = ports or _free_ports()
    options = {
        "bind": "127.0.0.1",
        "port": str(port),
        "cluster-enabled": "yes",
        "cluster-port": str(bus_port),
        "cluster-config-file": f"nodes-{port}.conf",
        "dir": str(directory),
        "logfile": str(directory / "cluster.log"),
        "save": "",
        "appendonly": "yes" if ports else "no",
    }
    command = [_binary(), *(word for name, value in options.items() for word in (f"--{name}", value))]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL), port


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]
