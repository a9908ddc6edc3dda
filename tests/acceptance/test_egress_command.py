"""Where webhooks may go, with the real commands."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from httpqueue.storage.embedded import EmbeddedValkey
from tests.support.egress import HttpProxy
from tests.support.processes import HTTPQUEUE, started
from tests.support.receiver import Receiver

PRIVATE_LINE = "Webhooks may call public, private and loopback addresses (HTTPQUEUE_EGRESS=private)."


async def until_failed(client: httpx.AsyncClient, timer_id: str) -> dict[str, Any]:
    """The timer, as soon as it has failed."""
    while True:
        timer: dict[str, Any] = (await client.get(f"/timers/{timer_id}")).json()
        if timer["status"] == "failed":
            return timer


async def test_a_name_that_leads_to_the_loopback(tmp_path: Path) -> None:
    """In the mode public, its address is refused at POST, and its name at the first attempt."""
    async with (
        Receiver() as receiver,
        started(*HTTPQUEUE, "--ephemeral", cwd=tmp_path, egress="public") as process,
    ):
        await process.until_ready()
        assert "Webhooks may call public addresses only (HTTPQUEUE_EGRESS=public)." in process.stdout
        async with httpx.AsyncClient(base_url=process.url) as client:
            timer: dict[str, Any] = {"id": "a", "url": receiver.url, "seconds": 0}
            assert (await client.post("/timers", json=timer)).status_code == 422
            timer["url"] = f"http://localhost:{receiver.port}/"
            assert (await client.post("/timers", json=timer)).status_code == 201
            failed = await until_failed(client, "a")
        assert failed["attempts"] == 1
        assert "blocked: the host has a loopback address" in str(failed)
        assert receiver.connections == 0


async def test_through_a_proxy(tmp_path: Path) -> None:
    """The worker connects to the proxy alone; it need not know the host."""
    async with Receiver() as receiver, HttpProxy() as proxy:
        settings = {"egress": "proxy", "egress_proxy": proxy.url}
        async with started(*HTTPQUEUE, "--ephemeral", cwd=tmp_path, **settings) as process:
            await process.until_ready()
            async with httpx.AsyncClient(base_url=process.url) as client:
                timer = {"url": f"http://hook.invalid:{receiver.port}/a", "seconds": 0}
                assert (await client.post("/timers", json=timer)).status_code == 201
            [request] = await receiver.wait_for(1)
            assert request.path == "/a"
            assert await process.end() == 0
            assert not any("secret" in line for line in (*process.stdout, *process.stderr))
    assert len(proxy.heads) == 1


@pytest.mark.usefixtures("redis")
async def test_the_choice_is_kept(tmp_path: Path, valkey_server: EmbeddedValkey, redis: Redis) -> None:
    """A worker waits for the first API; a later API that others can reach only warns, if there are keys."""
    shared: dict[str, Any] = {"cwd": tmp_path, "redis_url": valkey_server.url}
    beyond = shared | {"host": "0.0.0.0"}
    async with started(*HTTPQUEUE, "worker", **beyond) as worker:
        await worker.until_event("egress.undecided")
        assert not await redis.hexists("hq:first-use", "egress")  # type: ignore[misc] # sync or async
        async with started(*HTTPQUEUE, "api", **shared) as api:
            await api.until_ready()
            assert PRIVATE_LINE in api.stdout
        await worker.until_ready()
        assert (await worker.until_event("egress.mode"))["mode"] == "private"
        assert await worker.end() == 0
    for settings, is_warned in ((shared, False), (beyond | {"egress": "public"}, False), (beyond, True)):
        create = ("keys", "create", "--application", "shop", "--scope", "write")
        async with started(*HTTPQUEUE, *create, **settings) as command:
            assert await command.wait() == 0
            assert any("set HTTPQUEUE_EGRESS=public" in line for line in command.stderr) is is_warned
        async with started(*HTTPQUEUE, "api", **settings) as api:
            await api.until_ready()
            assert ("egress.private" in {event["event"] for event in api.events()}) is is_warned
            assert ((await api.until_event("egress.mode"))["mode"] == "public") is ("egress" in settings)
            assert await api.end() == 0


async def test_settings_that_do_not_go_together(tmp_path: Path) -> None:
    """One line, and exit code 2."""
    for settings in ({"egress": "proxy"}, {"egress_proxy": "http://user:secret@proxy"}):
        async with started(*HTTPQUEUE, cwd=tmp_path, **settings) as process:
            assert await process.wait() == 2
            [line] = process.stderr
            assert "HTTPQUEUE_EGRESS" in line
            assert "secret" not in line
