"""A primary, a replica and three Sentinels on free loopback ports, as people run Redis with failover."""

import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Final

from redis import Redis
from redis.exceptions import RedisError

from httpqueue.clock import pause
from httpqueue.storage.embedded import _binary

NAME: Final = "timers"
DOWN_AFTER_MS: Final = 1_000


class Trio:
    """Two servers and three Sentinels that watch them."""

    def __init__(self, directory: Path, *, needs_replica: bool) -> None:
        """needs_replica: the primary takes writes only while it has a replica."""
        self._directory = directory
        self._needs_replica = needs_replica
        self.servers = [_free_port(), _free_port()]
        self._sentinels = [_free_port() for _ in range(3)]
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    @property
    def url(self) -> str:
        """What HTTPQUEUE_REDIS_URL has to be."""
        return f"redis+sentinel://{','.join(f'127.0.0.1:{port}' for port in self._sentinels)}/{NAME}"

    def start(self) -> None:
        """Start all of them; when this returns, each Sentinel knows the others and the replica."""
        primary, replica = self.servers
        self._start_server(primary)
        self._start_server(replica, replicaof=f"127.0.0.1 {primary}")
        until(lambda: info(replica)["master_link_status"] == "up")
        for port in self._sentinels:
            config = self._directory / f"sentinel-{port}.conf"
            config.write_text(
                f"port {port}\nbind 127.0.0.1\ndir {self._directory}\nlogfile {config}.log\n"
                f"sentinel monitor {NAME} 127.0.0.1 {primary} 2\n"
                f"sentinel down-after-milliseconds {NAME} {DOWN_AFTER_MS}\n"
                f"sentinel failover-timeout {NAME} 5000\n"
            )
            self._processes[port] = subprocess.Popen(
                [_binary(), str(config), "--sentinel"], stdin=subprocess.DEVNULL
            )
        until(lambda: all(self._knows_all(port) for port in self._sentinels))

    def stop(self) -> None:
        """Kill all of them."""
        for process in self._processes.values():
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()

    def kill(self, port: int) -> None:
        """Kill the server on this port."""
        self._processes[port].kill()
        self._processes[port].wait()

    def restart(self, port: int) -> None:
        """Start a killed server again. The Sentinels make it a replica, in some 10 s."""
        self._start_server(port)

    def freeze(self, port: int) -> None:
        """Let it answer nobody, but keep its connections."""
        self._processes[port].send_signal(signal.SIGSTOP)

    def thaw(self, port: int) -> None:
        """Let it go on."""
        self._processes[port].send_signal(signal.SIGCONT)

    def failover(self) -> None:
        """Make the replica the primary; nobody dies, and connections stay."""
        with _client(self._sentinels[0]) as sentinel:
            sentinel.execute_command("SENTINEL", "FAILOVER", NAME)

    def until_primary(self, port: int) -> None:
        """Wait until the server on this port is the primary, and a Sentinel says so."""
        until(lambda: info(port)["role"] == "master")
        with _client(self._sentinels[0]) as sentinel:
            until(lambda: sentinel.sentinel_get_master_addr_by_name(NAME) == ("127.0.0.1", port))

    def _start_server(self, port: int, **more: str) -> None:
        options = {
            "port": str(port),
            "bind": "127.0.0.1",
            "dir": str(self._directory),
            "logfile": str(self._directory / f"server-{port}.log"),
            "dbfilename": f"{port}.rdb",
            "save": "",
            "repl-diskless-sync-delay": "0",
            "repl-ping-replica-period": "1",
            **({"min-replicas-to-write": "1", "min-replicas-max-lag": "2"} if self._needs_replica else {}),
            **more,
        }
        command = [_binary(), *(word for name, value in options.items() for word in (f"--{name}", value))]
        self._processes[port] = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        until(lambda: info(port)["role"] in {"master", "slave"})

    def _knows_all(self, port: int) -> bool:
        with _client(port) as sentinel:
            state = sentinel.sentinel_master(NAME)
            return bool(state["num-other-sentinels"] == 2 and state["num-slaves"] == 1)


@contextmanager
def sentinel_trio(directory: Path, *, needs_replica: bool = False) -> Iterator[Trio]:
    """Two servers and three Sentinels, ready; killed at the end."""
    trio = Trio(directory, needs_replica=needs_replica)
    with ExitStack() as stack:
        stack.callback(trio.stop)
        trio.start()
        yield trio


def info(port: int) -> Any:
    """What the server on this port says about replication."""
    with _client(port) as client:
        return client.info("replication")


@contextmanager
def _client(port: int) -> Iterator[Any]:
    with closing(Redis(port=port, decode_responses=True, socket_timeout=1)) as client:
        yield client


def until(is_so: Callable[[], bool]) -> None:
    """Ask until the answer is yes. A server that does not answer yet says no."""
    while True:
        try:
            if is_so():
                return
        except (RedisError, OSError, KeyError):
            pass
        pause(0.01)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port
