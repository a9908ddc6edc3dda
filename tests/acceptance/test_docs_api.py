"""docs/api.md, executed: every request is sent to a real `httpqueue --virtual-clock`, every answer compared.

The convention, which tests/support/documents.py tells in full: blocks are done in their order; `http` is a
request (to httpqueue, or with a whole URL one that the webhook got) or, beginning with HTTP/1.1, its answer;
`json` is an answer, too; `…` stands for what is different each time; `python` is run; `sh` starts httpqueue.
"""

import asyncio
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.documents import differences, message_of, tell
from tests.support.processes import HTTPQUEUE, REPOSITORY, started
from tests.support.receiver import Reply, reply_when
from tests.support.scheduler import Scheduler, own, started_scheduler

DOCUMENT = REPOSITORY / "docs" / "api.md"
CHANGES: tuple[tuple[tuple[str, str, dict[str, Any] | None], ...], ...] = (
    (
        ("PUT", "", {"url": "http://example.com/", "hours": 1}),
        ("PATCH", "", {"body": "new"}),
        ("PUT", "/callback", {"callback": None}),
        ("POST", "/fire", None),
    ),
    (("DELETE", "", None),),
    (("POST", "/replay", None),),
)
"""The requests of the columns in the table of definite answers."""


async def test_every_example_is_true(tmp_path: Path) -> None:
    """Schedule, look, change, fire, replay, pause, sign, authenticate: all is as the page says."""
    assert await tell(DOCUMENT, tmp_path) > 100


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        ({"a": 1}, {"a": 1, "b": 2}),
        ({"a": 1, "b": 2}, {"a": 1}),
        ({"a": 1, "…": "…"}, {"a": 2, "b": 2}),
        ([1], [1, 2]),
        ("hq_…", "hk_1"),
        ({"a": [{"b": "c"}]}, {"a": [{"b": "d"}]}),
    ],
)
def test_what_differs_is_found(expected: object, actual: object) -> None:
    """A page that says less, more or something else than the answer is wrong."""
    assert differences(expected, actual)


def test_what_varies_may_be_left_open() -> None:
    """An ellipsis is any value, part of a string, or all other members."""
    actual = {"id": "x1", "due": "2030", "n": 4, "list": [{"k": 1, "l": 2}]}
    assert not differences({"id": "x…", "…": "…"}, actual)
    assert not differences({"id": "…", "due": "2030", "n": "…", "list": [{"k": 1, "…": "…"}]}, actual)


@pytest.mark.parametrize(
    "page",
    [
        "```http\nGET /timers/unknown\n```\n",
        "```http\nGET /healthz\n```\n```json\n{}\n```\n",
        "```http\nGET /healthz\n```\n```http\nHTTP/1.1 404 Not Found\n```\n",
        "```python\nassert 1 == 2\n```\n",
        "```sh\nrm -r /\n```\n",
    ],
)
async def test_a_page_that_is_not_true_fails(tmp_path: Path, page: str) -> None:
    """An unexpected status, another body or status, a failing example, a command that is not ours."""
    document = tmp_path / "page.md"
    document.write_text(f"```sh\nhttpqueue --virtual-clock\n```\n{page}", encoding="utf-8")
    with pytest.raises(AssertionError, match=r"page\.md:|404"):
        await tell(document, tmp_path)


async def test_every_request_of_http_client_works(tmp_path: Path) -> None:
    """In the file's order; answered with 2xx, or with the status that the request's title names."""
    text = (REPOSITORY / "http-client.http").read_text(encoding="utf-8")
    requests = re.findall(r"^### (.+)\n((?:(?!###|> ).*\n)+)", text, re.MULTILINE)
    assert len(requests) == text.count("###") > 30
    async with started(*HTTPQUEUE, "--virtual-clock", cwd=tmp_path) as process:
        await process.until_ready()
        async with httpx.AsyncClient(base_url=process.url, timeout=60) as client:
            timer_id = etag = ""
            for title, request in requests:
                filled = request.replace("{{host}}", process.url).replace("{{timer_id}}", timer_id)
                filled = filled.replace("{{etag}}", etag)
                message = message_of(filled.strip())
                method, url = message.start.split()
                answer = await client.request(method, url, headers=message.headers, content=message.body)
                named = re.search(r"\b4\d\d\b", title)
                expected = {int(named[0])} if named else {200, 201, 202}
                assert answer.status_code in expected, f"{title}: {answer.text}"
                etag = answer.headers.get("ETag", etag)
                if not timer_id:
                    timer_id = answer.json()["id"]


async def in_state(state: str, scheduler: Scheduler, answer: asyncio.Event) -> None:
    """A timer `t` in that state; a running one is answered when the event is set."""
    seconds = 60 if state in {"scheduled", "cancelled"} else 0
    if state == "running":
        scheduler.receiver.answer(reply_when(answer, Reply(200)), path=scheduler.path)
    if state == "failed":
        scheduler.receiver.answer(Reply(404), path=scheduler.path)
    if state != "never was":
        retention = {"done": 0} if state == "archived" else None
        await scheduler.post("t", seconds=seconds, retention=retention)
    if state == "cancelled":
        await scheduler.call("DELETE", "/timers/t")
    if state == "running":
        await scheduler.until_called()
    else:
        await scheduler.advance()


async def test_the_table_of_definite_answers(tmp_path: Path) -> None:
    """Each call to a timer in each state is answered as the table has it, and a 409 names the state."""
    text = DOCUMENT.read_text(encoding="utf-8")
    _, _, table = text.partition("| state | `PUT`, `PATCH`, `PUT …/callback`, `fire` | `DELETE` | `replay` |")
    rows = re.findall(
        r"^\| `?([a-z ]+?)`? \| (\d{3}).*? \| (\d{3}).*? \| (\d{3}).*? \|$", table, re.MULTILINE
    )
    assert len(rows) == 7
    async with started_scheduler(tmp_path) as running:
        for state, *statuses in rows:
            for requests, status in zip(CHANGES, statuses, strict=True):
                for method, path, content in requests:
                    scheduler, answer = own(running), asyncio.Event()
                    await in_state(state, scheduler, answer)
                    params = {"application": scheduler.application}
                    response = await running.client.request(
                        method, f"/timers/t{path}", params=params, json=content
                    )
                    answer.set()
                    assert response.status_code == int(status), (state, method, path)
                    if response.status_code == 409:
                        assert response.json()["timer_status"] == state
