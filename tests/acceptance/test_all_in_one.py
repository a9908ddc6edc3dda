"""`httpqueue`, everything in one process with the embedded server, as a newcomer meets it."""

import asyncio
import os
import select
import signal
import socket
import sys
from pathlib import Path

import httpx
import pytest

from httpqueue import __version__
from httpqueue.clock import now_ms
from httpqueue.timers.schedule import parse_instant_ms
from tests.support.pipeline import assert_growing
from tests.support.processes import HTTPQUEUE, started
from tests.support.receiver import Receiver, Reply, hang

PENDING = 500


async def post(client: httpx.AsyncClient, **timer: object) -> dict[str, str]:
    """POST /timers -> its answer."""
    response = await client.post("/timers", json=timer)
    assert response.status_code == 201, response.text
    answer: dict[str, str] = response.json()
    return answer


async def until_status(client: httpx.AsyncClient, timer_id: str, status: str) -> dict[str, object]:
    """GET again and again until the timer is in that state: a client has no better way yet."""
    async with asyncio.timeout(30):
        while True:
            answer: dict[str, object] = (await client.get(f"/timers/{timer_id}")).json()
            if answer["status"] == status:
                return answer


@pytest.mark.parametrize(("retention", "last"), [("1h", "done"), ("0", "archived")])
async def test_a_timer_fires_on_time_and_get_says_so(tmp_path: Path, retention: str, last: str) -> None:
    """Scheduled, then done, or archived at once without retention."""
    async with Receiver() as receiver, started(*HTTPQUEUE, cwd=tmp_path, retention_done=retention) as process:
        await process.until_ready()
        async with httpx.AsyncClient(base_url=process.url, timeout=60) as client:
            answer = await post(client, url=f"{receiver.url}/{{id}}", seconds=1)
            scheduled = (await client.get(f"/timers/{answer['id']}")).json()
            assert (scheduled["status"], scheduled["time_left"], scheduled["attempts"]) == ("scheduled", 1, 0)
            [request] = await receiver.wait_for(1)
            assert request.path == f"/{answer['id']}"
            assert request.arrived_ms >= parse_instant_ms(answer["due"])
            finished = await until_status(client, answer["id"], last)
        assert finished["time_left"] == 0
        assert finished.get("archived") == (True if last == "archived" else None)
        assert await process.end(signal.SIGINT) == 0
    assert (tmp_path / ".httpqueue").is_dir()


async def test_kill_9_loses_nothing(tmp_path: Path) -> None:
    """All 500 pending timers fire after the restart, the earliest due first; no server is left behind."""
    async with Receiver() as receiver:
        async with started(*HTTPQUEUE, cwd=tmp_path) as process:
            await process.until_ready()
            soon_s, later_s = now_ms() / 1000 + 4, now_ms() / 1000 + 8
            timers = [
                {"url": f"{receiver.url}/{n}", "fire_at": later_s if n % 2 else soon_s}
                for n in range(PENDING)
            ]
            async with httpx.AsyncClient(base_url=process.url, timeout=60) as client:
                response = await client.post("/timers/batch", json={"timers": timers})
                assert {result["status"] for result in response.json()["results"]} == {201}
            server_end = os.pidfd_open(int((tmp_path / ".httpqueue" / "valkey.pid").read_text()))
            await process.end(signal.SIGKILL)
        await asyncio.get_running_loop().run_in_executor(None, until_ended, server_end)
        assert receiver.requests == []
        async with started(*HTTPQUEUE, cwd=tmp_path) as process:
            await process.until_ready()
            requests = await receiver.wait_for(PENDING)
            assert await process.end() == 0
    assert len({request.path for request in requests}) == PENDING
    order = [int(request.path[1:]) % 2 for request in requests]
    assert order == sorted(order)


def until_ended(pidfd: int) -> None:
    """A pidfd becomes readable when its process ends."""
    readable, _, _ = select.select([pidfd], [], [], 30)
    os.close(pidfd)
    assert readable


async def test_a_restart_keeps_every_timer(tmp_path: Path) -> None:
    """Ctrl-C, start again: the timer is there and fires."""
    async with Receiver() as receiver:
        async with started(*HTTPQUEUE, cwd=tmp_path) as process:
            await process.until_ready()
            async with httpx.AsyncClient(base_url=process.url, timeout=60) as client:
                await post(client, id="kept", url=receiver.url, seconds=3)
            assert await process.end(signal.SIGINT) == 0
            assert not any("Traceback" in line for line in process.stderr)
        async with started(*HTTPQUEUE, cwd=tmp_path) as process:
            await receiver.wait_for(1)


async def test_retries_are_seen_by_get(tmp_path: Path) -> None:
    """503 twice, then 200: three attempts; 404: one, failed."""
    async with Receiver() as receiver, started(*HTTPQUEUE, cwd=tmp_path, backoff_base="50ms") as process:
        receiver.answer(Reply(503), Reply(503), Reply(200), path="/flaky")
        receiver.answer(Reply(404), path="/missing")
        await process.until_ready()
        async with httpx.AsyncClient(base_url=process.url, timeout=60) as client:
            await post(client, id="flaky", url=f"{receiver.url}/flaky", seconds=0)
            await post(client, id="missing", url=f"{receiver.url}/missing", seconds=0)
            flaky = await until_status(client, "flaky", "done")
            missing = await until_status(client, "missing", "failed")
        requests = await receiver.wait_for(3, path="/flaky")
        waits_ms = [event["retry_in_ms"] for event in process.events() if event["event"] == "attempt.retry"]
    assert_growing(waits_ms, requests)
    assert (flaky["attempts"], flaky["last_status"]) == (3, 200)
    assert (missing["attempts"], missing["last_error"]) == (1, "HTTP 404")


async def test_append_timer_id_as_the_ancestor_does(tmp_path: Path) -> None:
    """The id becomes the last part of the URL's path."""
    async with Receiver() as receiver, started(*HTTPQUEUE, cwd=tmp_path, append_timer_id="true") as process:
        await process.until_ready()
        async with httpx.AsyncClient(base_url=process.url, timeout=60) as client:
            answer = await post(client, url=f"{receiver.url}/hook?x=1", hours=0, minutes=0, seconds=0)
        [request] = await receiver.wait_for(1)
        assert request.target == f"/hook/{answer['id']}?x=1"


async def test_python_m_httpqueue_is_the_command(tmp_path: Path) -> None:
    """For whoever has no scripts on the path."""
    async with started(sys.executable, "-m", "httpqueue", "--version", cwd=tmp_path) as process:
        assert await process.wait() == 0
        assert process.stdout == [f"httpqueue {__version__}"]


async def refused(*command: str, cwd: Path, **settings: object) -> str:
    """Starts and expects one line on stderr and exit code 2; returns the line."""
    async with started(*command, cwd=cwd, **settings) as process:
        assert await process.wait() == 2
        [line] = process.stderr
        return line


async def test_what_cannot_start_says_why_in_one_line(tmp_path: Path) -> None:
    """Exit code 2, the setting's or directory's name, no traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"127.0.0.1:{port}" in await refused(*HTTPQUEUE, cwd=tmp_path, port=port)
    file = tmp_path / "file"
    file.touch()
    assert str(file) in await refused(*HTTPQUEUE, cwd=tmp_path, data_dir=file)
    assert "HTTPQUEUE_CONCURRENCY" in await refused(*HTTPQUEUE, cwd=tmp_path, concurrency="many")
    assert "HTTPQUEUE_REDIS_URL" in await refused(*HTTPQUEUE, "relay", cwd=tmp_path)
    assert "HTTPQUEUE_REDIS_URL" in await refused(*HTTPQUEUE, cwd=tmp_path, redis_url="ftp://x")


async def test_one_run_per_data_directory(tmp_path: Path) -> None:
    """The second one says that the directory is in use, and by whom."""
    async with started(*HTTPQUEUE, cwd=tmp_path) as first:
        await first.until_ready()
        assert str(first.pid) in await refused(*HTTPQUEUE, cwd=tmp_path)


async def test_the_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    """A person who presses Ctrl-C twice waits for nothing; the timer is sent again after the lease."""
    async with Receiver() as receiver, started(*HTTPQUEUE, cwd=tmp_path) as process:
        receiver.answer(hang)
        await process.until_ready()
        async with httpx.AsyncClient(base_url=process.url, timeout=60) as client:
            await post(client, url=receiver.url, seconds=0)
        await receiver.wait_for(1)
        process.send_signal(signal.SIGINT)
        await process.until_event("run.stop")
        assert await process.end(signal.SIGINT) == -signal.SIGINT


async def test_greeting_names_everything_to_try(tmp_path: Path) -> None:
    """API, Swagger UI, data directory, and a curl line."""
    async with started(*HTTPQUEUE, cwd=tmp_path) as process:
        await process.until_ready()
        greeting = "\n".join(process.stdout)
        for word in (f"{process.url}/timers", f"{process.url}/docs", str(tmp_path / ".httpqueue"), "curl"):
            assert word in greeting


async def test_a_signal_at_any_moment_of_the_start(tmp_path: Path) -> None:
    """It ends cleanly, whatever part had just begun."""
    for event in ("relay.refill", "run.ready"):
        async with started(*HTTPQUEUE, cwd=tmp_path) as process:
            await process.until_event(event)
            assert await process.end() == 0
            assert not any("Traceback" in line for line in process.stderr), process.stderr
