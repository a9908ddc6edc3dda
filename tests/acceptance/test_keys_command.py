"""API keys and `--ephemeral`, with the real commands."""

import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from httpqueue.storage import keys
from httpqueue.storage.embedded import EmbeddedValkey
from httpqueue.timers.access import hash_key
from tests.support.processes import HTTPQUEUE, started

TIMER = {"id": "a", "url": "http://127.0.0.1:1/a-path-to-look-for", "seconds": 3_600}


async def keys_command(*arguments: str, cwd: Path, code: int = 0, **settings: object) -> list[str]:
    """`httpqueue keys …` -> what it printed to stdout."""
    async with started(*HTTPQUEUE, "keys", *arguments, cwd=cwd, **settings) as process:
        assert await process.wait() == code, process.stderr
        return process.stdout


def files_in(directory: Path) -> dict[str, bytes]:
    """Every file below it by its name, with what is in it."""
    return {path.name: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


async def create(application: str, scope: str, *, cwd: Path, **settings: Any) -> dict[str, str]:
    """Make a key -> the header that carries it."""
    arguments = ("create", "--application", application, "--scope", scope)
    [key] = await keys_command(*arguments, cwd=cwd, **settings)
    return {"X-API-Key": key}


async def until(client: httpx.AsyncClient, status: int, headers: dict[str, str]) -> None:
    """Ask until the answer is that: the API renews its keys each second."""
    while (await client.get("/timers/a", headers=headers)).status_code != status:
        pass


async def test_from_the_first_key_to_the_last(tmp_path: Path) -> None:
    """Made while httpqueue runs: 401 without one, 403 beyond its scope or application.

    The commands find the running one, although its path is too long for a socket.

    It stays closed when the last one is gone (issue 11, defect 7), until the next start.
    """
    settings: dict[str, Any] = {"cwd": tmp_path, "data_dir": "d" * 120}
    async with started(*HTTPQUEUE, **settings) as process:
        await process.until_ready()
        async with httpx.AsyncClient(base_url=process.url, timeout=60) as client:
            assert (await client.post("/timers", json=TIMER)).status_code == 201
            every = await create("*", "admin", **settings)
            shop = await create("shop", "admin", **settings)
            reader = await create("*", "read", **settings)
            assert (await client.get("/timers/a", headers=every)).status_code == 200
            assert (await client.get("/timers/a")).status_code == 401
            assert (await client.get("/healthz")).status_code == 200
            assert (await client.get("/timers/a", headers=reader)).status_code == 200
            assert (await client.post("/timers", json=TIMER, headers=reader)).status_code == 403
            assert (await client.post("/applications/blog/pause", headers=shop)).status_code == 403
            bearer = {"Authorization": f"Bearer {every['X-API-Key']}"}
            assert (await client.post("/timers", json=TIMER, headers=bearer)).status_code == 200

            [head, *rows] = [line.split() for line in await keys_command("list", **settings)]
            assert head == ["ID", "APPLICATION", "SCOPE", "CREATED", "EXPIRES"]
            assert [row[1:3] for row in rows] == [["*", "admin"], ["shop", "admin"], ["*", "read"]]
            await keys_command("revoke", rows[0][0], **settings)
            await until(client, 401, every)
            await keys_command("revoke", rows[0][0], code=1, **settings)
            for row in rows[1:]:
                await keys_command("revoke", row[0], **settings)
            assert (await client.get("/timers/a")).status_code == 401
        assert await process.end() == 0
        everything_said = "\n".join([*process.stdout, *process.stderr])
    assert every["X-API-Key"] not in everything_said
    assert await keys_command("list", **settings) == ["ID  APPLICATION  SCOPE  CREATED  EXPIRES"]
    async with started(*HTTPQUEUE, **settings) as process, httpx.AsyncClient(timeout=60) as client:
        await process.until_ready()
        assert (await client.get(f"{process.url}/timers/a")).status_code == 200


async def test_keys_that_expire(tmp_path: Path, valkey_server: EmbeddedValkey, redis: Redis) -> None:
    """The list shows when they do, or that they have (issue 11, defect 7); what is no time is refused."""
    del redis  # asked for because it empties the server
    settings: dict[str, Any] = {"cwd": tmp_path, "redis_url": valkey_server.url}
    new = ("create", "--application", "shop", "--scope", "read")
    for when in ("0.001s", "90d", "2200-01-01T00:00:00Z"):
        await keys_command(*new, "--expires", when, **settings)
    await keys_command(*new, **settings)
    _, *rows = await keys_command("list", **settings)
    assert [re.sub(r".{24}( \(|$)", r"…\1", row.split("  ")[-1]) for row in rows[:2]] == ["… (expired)", "…"]
    assert [row.split("  ")[-1] for row in rows[2:]] == ["2200-01-01T00:00:00.000Z", "never"]
    for when in ("soon", "0", "2020-01-01T00:00:00Z", "9999999d"):
        await keys_command(*new, "--expires", when, code=2, **settings)


async def test_keys_made_before_the_first_start(tmp_path: Path) -> None:
    """The embedded server is started for the moment, and keeps them."""
    header = await create("*", "write", cwd=tmp_path)
    async with started(*HTTPQUEUE, cwd=tmp_path) as process:
        await process.until_ready()
        async with httpx.AsyncClient(base_url=process.url, timeout=60) as client:
            assert (await client.post("/timers", json=TIMER)).status_code == 401
            assert (await client.post("/timers", json=TIMER, headers=header)).status_code == 201


async def test_keys_in_a_redis(tmp_path: Path, valkey_server: EmbeddedValkey, redis: Redis) -> None:
    """With REDIS_URL they are kept there, and nothing is made in the directory."""
    header = await create("shop", "read", cwd=tmp_path, redis_url=valkey_server.url)
    assert await redis.hkeys(keys.API_KEYS) == [hash_key(header["X-API-Key"]).encode()]  # type: ignore[misc] # redis-py: sync or async
    assert files_in(tmp_path) == {}


@pytest.mark.parametrize(
    ("settings", "event", "status"),
    [
        ({"host": "0.0.0.0"}, "run.no_keys", 401),
        ({"host": "127.0.0.1", "auth": "required"}, "run.no_keys", 401),
        ({"host": "0.0.0.0", "auth": "none"}, "run.open_to_all", 404),
        ({"host": "0.0.0.0", "api_key": "0123456789abcdef"}, None, 401),
        ({"host": "127.0.0.1"}, None, 404),
    ],
)
async def test_who_may_use_it_before_there_is_a_key(
    tmp_path: Path, settings: dict[str, str], event: str | None, status: int
) -> None:
    """Beyond loopback nobody, unless `none` is written out (issue 11, defect 7); a warning has the remedy."""
    async with started(*HTTPQUEUE, "--ephemeral", cwd=tmp_path, **settings) as process:
        await process.until_ready()
        port = process.url.rpartition(":")[2]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            assert (await client.get("/timers/a")).status_code == status
            assert (await client.get("/healthz")).status_code == 200
        warnings = [each for each in process.events() if each["event"] in {"run.no_keys", "run.open_to_all"}]
        assert [each["event"] for each in warnings] == ([event] if event else [])
        assert all("httpqueue keys create" in each["remedy"] for each in warnings)
        assert not any("0123456789abcdef" in line for line in process.stderr)


async def test_a_store_that_lost_its_keys_opens_nothing(
    tmp_path: Path, valkey_server: EmbeddedValkey, redis: Redis
) -> None:
    """FLUSHALL under an API on loopback that has seen a key (issue 11, defect 7)."""
    header = await create("*", "admin", cwd=tmp_path, redis_url=valkey_server.url)
    async with started(*HTTPQUEUE, "api", cwd=tmp_path, redis_url=valkey_server.url) as process:
        await process.until_ready()
        async with httpx.AsyncClient(base_url=process.url, timeout=60) as client:
            assert (await client.get("/timers/a", headers=header)).status_code == 404
            await redis.flushall()
            await until(client, 401, header)
            assert (await client.post("/timers", json=TIMER)).status_code == 401


async def test_rate_limit(tmp_path: Path) -> None:
    """RATE_LIMIT counts requests of one address while there is no key; health is free."""
    async with started(*HTTPQUEUE, "--ephemeral", cwd=tmp_path, rate_limit="0.01") as process:
        await process.until_ready()
        async with httpx.AsyncClient(base_url=process.url, timeout=60) as client:
            assert (await client.post("/timers", json=TIMER)).status_code == 201
            response = await client.post("/timers", json=TIMER)
            assert response.status_code == 429
            assert 90 <= int(response.headers["Retry-After"]) <= 100
            assert (await client.get("/healthz")).status_code == 200


async def test_ephemeral_run(tmp_path: Path) -> None:  # a short name: the path of a socket has a limit
    """No file has its content, none is left at the end, and the next start knows nothing of it."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    command = ("env", f"TMPDIR={temporary}", *HTTPQUEUE, "--ephemeral")
    for _ in range(2):
        async with started(*command, cwd=tmp_path) as process:
            await process.until_ready()
            assert any(re.search("Data +in memory, gone when this ends", line) for line in process.stdout)
            async with httpx.AsyncClient(base_url=process.url, timeout=60) as client:
                assert (await client.post("/timers", json=TIMER)).status_code == 201
                assert "look-for" in (await client.get("/timers/a")).json()["url"]
            files = files_in(tmp_path)
            assert files.keys() == {"lock", "owner", "valkey.pid", "valkey.log"}
            assert not any(b"look-for" in content for content in files.values())
            assert await process.end() == 0
        assert files_in(tmp_path) == {}


async def test_ephemeral_is_for_a_whole_httpqueue(tmp_path: Path) -> None:
    """One line says what does not go together; keys of such a run cannot be kept."""
    for arguments, settings, words in (
        (("relay", "--ephemeral"), {}, "httpqueue relay"),
        (("--virtual-clock",), {"redis_url": "localhost"}, "HTTPQUEUE_REDIS_URL"),
        (("keys", "list"), {"ephemeral": "true"}, "HTTPQUEUE_API_KEY"),
    ):
        async with started(*HTTPQUEUE, *arguments, cwd=tmp_path, **settings) as process:
            assert await process.wait() == 2
            [line] = process.stderr
            assert words in line
    assert files_in(tmp_path) == {}
