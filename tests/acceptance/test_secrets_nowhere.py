"""A whole run, and then a search: no secret is in a log, error, metric or file of Redis (issue 11)."""

import base64
import re
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from tests.support.processes import HTTPQUEUE, started
from tests.support.receiver import Receiver, Reply, raw, reset

FIXED: Final = "fixed-key-0123456789"
SIGNING: Final = base64.b64encode(bytes(range(32))).decode()
HEADER, QUERY, BODY, GUESS, PASSWORD = (
    f"{name}-4f1d7c" for name in ("header", "query", "body", "guess", "password")
)
ONCE: Final = {"retry": {"delays": [0.01]}, "seconds": 0}


def timer(timer_id: str, url: str, **members: Any) -> dict[str, Any]:
    """A timer that has a secret wherever it can have one."""
    return {
        "id": timer_id,
        "url": f"{url}?token={QUERY}",
        "headers": {"Authorization": f"Bearer {HEADER}"},
        "body": {"password": BODY},
        "callback": {"url": f"{url}/callback?token={QUERY}", "headers": {"Cookie": HEADER}},
        **ONCE,
        **members,
    }


async def until_failed(client: httpx.AsyncClient, count: int) -> None:
    """As soon as so many timers have failed."""
    while len((await client.get("/timers?status=failed")).json()["timers"]) < count:
        pass


@pytest.mark.parametrize(("sender", "log_format"), [("http1", "json"), ("httpx", "text")])
async def test_a_whole_run(tmp_path: Path, sender: str, log_format: str) -> None:
    """Good and bad calls, good and bad requests, with everything that can be logged."""
    settings: dict[str, Any] = {"cwd": tmp_path, "api_key": FIXED, "log_level": "debug"}
    settings |= {"sender": sender, "log_format": log_format}
    async with Receiver() as receiver, started(*HTTPQUEUE, **settings) as process:
        receiver.answer(Reply(503, BODY.encode()), path="/down")
        receiver.answer(reset, path="/reset")
        receiver.answer(raw(b"nonsense"), path="/nonsense")
        await process.until_told("Webhooks may call")
        async with started(
            *HTTPQUEUE, "keys", "create", "--application", "*", "--scope", "write", cwd=tmp_path
        ) as keys:
            assert await keys.wait() == 0
            [key] = keys.stdout
        headers = {"X-API-Key": FIXED}
        async with httpx.AsyncClient(base_url=process.url, headers=headers, timeout=60) as client:
            signing = {"secrets": [f"whsec_{SIGNING}"]}
            assert (await client.put("/applications/default", json=signing)).status_code == 200
            posted = [
                timer("good", f"{receiver.url}/good"),
                *(timer(each, f"{receiver.url}/{each}") for each in ("down", "reset", "nonsense")),
                timer("refused", "http://127.0.0.1:1/refused"),
                timer("tls", receiver.url.replace("http:", "https:") + "/tls"),
            ]
            for each in posted:
                response = await client.post("/timers", json=each, headers={"X-API-Key": key})
                assert response.status_code == 201
            await receiver.wait_for(1, path="/good/callback")
            await until_failed(client, 5)
            requests = (
                client.get("/timers", headers={"X-API-Key": GUESS}),
                client.post(f"/timers?token={QUERY}", json=posted[0]),
                client.post("/timers", content=f'{{"body": "{BODY}"'),
                client.post("/timers", json=posted[0] | {"headers": {"Authorization": f"ü{HEADER}"}}),
                client.put("/applications/default", json={"secrets": [SIGNING]}),
                client.get(f"/{QUERY}"),
                client.get("/timers/down"),
                client.get("/applications"),
                client.get("/metrics"),
                client.get("/readyz"),
            )
            shown = "\n".join([(await request).text for request in requests])
        assert await process.end() == 0
        logs = "\n".join([*process.stdout, *process.stderr])
    assert re.search(r"attempt.failed", logs)
    hidden = [FIXED, key, SIGNING, HEADER, BODY, GUESS, QUERY]
    assert [secret for secret in hidden if secret in logs] == []
    assert [secret for secret in (FIXED, key, SIGNING, HEADER, GUESS) if secret in shown] == []
    kept = b"".join(path.read_bytes() for path in (tmp_path / ".httpqueue").rglob("*") if path.is_file())
    assert QUERY.encode() in kept
    assert [secret for secret in (FIXED, key, SIGNING, GUESS) if secret.encode() in kept] == []


async def test_a_redis_that_is_away(tmp_path: Path) -> None:
    """Its password is nowhere, neither in the log nor in an answer; its address is in the log alone."""
    url = f"redis://user:{PASSWORD}@127.0.0.1:1"
    async with started(*HTTPQUEUE, "api", cwd=tmp_path, redis_url=url) as process:
        await process.until_event("redis.away")
        async with httpx.AsyncClient(base_url=process.url, timeout=60) as client:
            answers = [(await client.get(path)).text for path in ("/readyz", "/timers", "/healthz")]
        assert await process.end() == 0
        logs = "\n".join([*process.stdout, *process.stderr])
    assert PASSWORD not in logs + "".join(answers)
    assert "127.0.0.1:1." in logs
    assert not any("127.0.0.1" in answer or ":1" in answer for answer in answers)
