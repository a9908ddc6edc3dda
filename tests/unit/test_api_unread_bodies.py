"""Answers that come before the body was read: the client gets them (issue 11, defects 9 and 10)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest

from httpqueue.api import request_body
from httpqueue.api.app import create_app
from httpqueue.api.request_body import MAX_DRAINED_BYTES, UnreadBodies
from httpqueue.api.schema import json_body
from httpqueue.api.schema.json_body import MAX_BODY_BYTES
from httpqueue.run.http_server import HttpServer, listen
from tests.support.api_fakes import FakeStore, backend

TOO_LARGE: Final = 8 * MAX_BODY_BYTES
"""More than the buffers of both ends hold."""
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def connection() -> AsyncIterator[Connection]:
    """A connection to the API under the HTTP server of httpqueue."""
    with listen("127.0.0.1", 0, setting="PORT") as listener:
        server = HttpServer(create_app(backend(FakeStore())), listener)
        serving = asyncio.create_task(server.run())
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        async with asyncio.timeout(30):
            yield reader, writer
        writer.close()
        await server.stop()
        await serving


def head(method: str = "POST", path: str = "/timers", **headers: str) -> bytes:
    """The head of a request for JSON."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """(status, head) of the next answer; its body is read, too."""
    start = await reader.readuntil(b"\r\n\r\n")
    length = int(start.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    await reader.readexactly(length)
    return int(start[9:12]), start


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("POST", "/timers", 413), ("POST", "/nowhere", 404), ("PUT", "/timers", 405)],
)
async def test_who_sends_all_before_reading_gets_the_answer(method: str, path: str, status: int) -> None:
    """Such a client got a reset instead (defect 10): urllib is one, and it asks for the end as here."""
    async with connection() as (reader, writer):
        writer.write(head(method, path, Content_Length=str(TOO_LARGE), Connection="close"))
        for _ in range(TOO_LARGE // 65_536):
            writer.write(b" " * 65_536)
            await writer.drain()
        got, start = await answer(reader)
        assert got == status
        assert b"connection: close" in start.lower()
        assert await reader.read() == b""


async def test_the_answer_comes_before_the_rest_of_the_body() -> None:
    """Who declares too much learns it at once; what is sent then is no next request."""
    async with connection() as (reader, writer):
        writer.write(head(Content_Length=str(TOO_LARGE)))
        assert (await answer(reader))[0] == 413
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n".ljust(TOO_LARGE))
        await writer.drain()
        assert await reader.read() == b""


async def test_a_connection_is_kept_when_the_unread_body_is_short() -> None:
    """The next request on it is answered."""
    async with connection() as (reader, writer):
        writer.write(head(path="/nowhere", Content_Length="10") + b"{" * 10)
        got, start = await answer(reader)
        assert got == 404
        assert b"connection: close" not in start.lower()
        writer.write(head("GET", "/healthz"))
        assert (await answer(reader))[0] == 200


async def test_who_waits_to_be_told_to_go_on_is_told_to_stop() -> None:
    """Expect: 100-continue (RFC 9110 section 10.1.1): the body never comes, so nobody waits for it."""
    async with connection() as (reader, writer):
        writer.write(head(Content_Length=str(TOO_LARGE), Expect="100-continue"))
        got, start = await answer(reader)
        assert got == 413
        assert b"connection: close" in start.lower()
        assert await reader.read() == b""


@pytest.mark.parametrize("path", ["/timers", "/timers/batch", "/timers/a/fire"])
async def test_a_body_that_does_not_arrive_is_a_408(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that drips held its connection and its request for ever (defect 9)."""
    monkeypatch.setattr(json_body, "READ_WITHIN_S", 0.05)
    async with connection() as (reader, writer):
        writer.write(head(path=path, Content_Length="100") + b'{"url"')
        got, start = await answer(reader)
        assert got == 408
        assert b"connection: close" in start.lower()
        assert await reader.read() == b""


async def test_the_rest_of_a_body_is_waited_for_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that stops in the middle keeps no request open."""
    monkeypatch.setattr(request_body, "DRAIN_WITHIN_S", 0.05)
    async with connection() as (reader, writer):
        writer.write(head(Content_Length=str(TOO_LARGE)) + b"{")
        assert (await answer(reader))[0] == 413
        assert await reader.read() == b""


async def test_an_endless_body_is_drained_up_to_a_bound() -> None:
    """Then the connection is closed, whatever the client makes of it."""
    sent: list[dict[str, Any]] = []
    read = 0

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 413, "headers": []})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await send({"type": "http.response.body", "body": b"two"})

    async def receive() -> dict[str, Any]:
        nonlocal read
        assert [message.get("body") for message in sent] == [None, b"one", b"two"]
        read += 1_000_000
        return {"type": "http.request", "body": b"x" * 1_000_000, "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "headers": [(b"transfer-encoding", b"chunked")]}
    await UnreadBodies(app)(scope, receive, send)
    assert MAX_DRAINED_BYTES < read <= MAX_DRAINED_BYTES + 1_000_000
    assert sent[0]["headers"] == [(b"connection", b"close")]
    assert not sent[-1].get("more_body")
