"""A server in cluster mode with all slots on one node.

It refuses every script and transaction that touches two slots, as a real cluster does. A plain client can use
it: there is no other node to be sent to.
"""

import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

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


def _spawn(directory: Path) -> tuple[subprocess.Popen[bytes], int]:
    port, bus_port = _free_ports()
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
