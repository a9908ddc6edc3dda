"""Bodies that nobody has read when the answer is there.

A server that closes a connection with unread data resets it, and many clients then lose the answer (RFC 9112
section 9.6). So after such an answer the rest is read and thrown away, up to a bound.
"""

import asyncio
from collections.abc import MutableMapping
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_DRAINED_BYTES: Final = 16 * 1024 * 1024
"""A client that sends more than this after its answer may lose the answer."""
DRAIN_WITHIN_S: Final = 5
KEPT_BYTES: Final = 1024 * 1024
"""A connection is kept for further requests only if its unread body is declared to be no longer."""

_READ: Final = "httpqueue.body_read"
"""The key, in an ASGI scope, that says that there is nothing left to read."""


def note_read(scope: MutableMapping[str, Any]) -> None:
    """Note that the body was read to its end, or is not worth to be read."""
    scope[_READ] = True


class UnreadBodies:
    """ASGI middleware: sends the answer, then reads what is left of the body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http" or not _has_body(scope):
            await self._app(scope, receive, send)
            return

        async def send_and_drain(message: Message) -> None:
            if _READ in scope:
                await send(message)
            elif message["type"] == "http.response.start":
                await send(_closing(message) if _must_close(scope) else message)
            elif message.get("more_body"):
                await send(message)
            else:
                await send({**message, "more_body": True})
                await _drain(scope, receive)
                await send({"type": "http.response.body", "body": b""})

        await self._app(scope, receive, send_and_drain)


def _has_body(scope: Scope) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in scope["headers"]
    )


def _must_close(scope: Scope) -> bool:
    """Whether the rest of the body may be too long, or may never come."""
    headers: dict[bytes, bytes] = dict(scope["headers"])
    length = headers.get(b"content-length", b"")
    return b"expect" in headers or not length.isdigit() or int(length[:12]) > KEPT_BYTES


def _closing(start: Message) -> Message:
    headers = [(name, value) for name, value in start["headers"] if name.lower() != b"connection"]
    return {**start, "headers": [*headers, (b"connection", b"close")]}


async def _drain(scope: Scope, receive: Receive) -> None:
    if any(name == b"expect" for name, _ in scope["headers"]):
        return  # this client sends the body only when it is told to go on
    size = 0
    try:
        async with asyncio.timeout(DRAIN_WITHIN_S):
            while size <= MAX_DRAINED_BYTES:
                message = await receive()
                size += len(message.get("body", b""))
                if not message.get("more_body"):
                    return
    except TimeoutError:
        return
