"""Calls webhooks with httpx. It is pure Python and takes many times the CPU time of our own client.

Only httpx's transport is used: it has no redirects, cookies, decompression or proxies. Nothing is stored
here, so a crash loses the calls in flight and nothing else.
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import cast

import httpx

from httpqueue.webhooks.client.sender import MAX_RESPONSE_BYTES, Call, OnDone
from httpqueue.webhooks.client.task_call import TaskCall
from httpqueue.webhooks.message import Fault, Request, Response, SendError

_IDLE_S = 4.0  # shorter than the 5 s after which common servers close an idle connection
_UNSENDABLE = (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.LocalProtocolError, ValueError)


class HttpxSender:
    """A Sender. The number of calls in flight is not limited."""

    def __init__(self) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=_IDLE_S)
        # trust_env: respect SSL_CERT_FILE, as our own client does; a transport ignores proxy variables
        self._transport = httpx.AsyncHTTPTransport(limits=limits, trust_env=True)

    def start(self, request: Request, timeout_s: float, on_done: OnDone) -> Call:
        """See Sender."""
        return TaskCall(self.send(request, timeout_s=timeout_s), on_done)

    async def send(self, request: Request, *, timeout_s: float) -> Response:
        """See Sender."""
        try:
            headers = [(name.encode(), value.encode()) for name, value in request.headers]
            # httpcore leaks the socket of a cancelled TLS handshake, so its own timeout must come first.
            # httpcore applies it twice, to TCP and to TLS, so it is half.
            extensions = {"timeout": {"connect": timeout_s / 2}}
            call = httpx.Request(
                request.method, request.url, headers=headers, content=request.body, extensions=extensions
            )
            async with asyncio.timeout(timeout_s):
                answer = await self._transport.handle_async_request(call)
                try:
                    excerpt = await _beginning(answer)
                finally:
                    await answer.aclose()
        except TimeoutError:
            raise SendError(Fault.TIMEOUT, f"no whole answer within {timeout_s:g} s") from None
        except httpx.TimeoutException:
            raise SendError(Fault.TIMEOUT, f"no connection within {timeout_s / 2:g} s") from None
        except _UNSENDABLE:
            raise SendError(Fault.INVALID_REQUEST, "the URL, method or headers cannot be sent") from None
        except httpx.TransportError as error:
            raise _translate(error) from None
        return Response(answer.status_code, answer.headers.get("retry-after"), excerpt)

    async def close(self) -> None:
        """See Sender."""
        await self._transport.aclose()


async def _beginning(answer: httpx.Response) -> bytes:
    excerpt = b""
    raw = cast("AsyncGenerator[bytes]", answer.aiter_raw())  # declared as an iterator, but must be closed
    async with aclosing(raw) as parts:
        async for part in parts:
            excerpt += part
            if len(excerpt) >= MAX_RESPONSE_BYTES:
                break
    return excerpt[:MAX_RESPONSE_BYTES]


def _translate(error: httpx.TransportError) -> SendError:
    for cause in _causes(error):
        if isinstance(cause, socket.gaierror):
            return SendError(Fault.DNS, f"dns error: {cause.strerror}")
        if isinstance(cause, ssl.SSLCertVerificationError):
            return SendError(Fault.TLS, f"invalid certificate: {cause.verify_message}")
    return SendError(Fault.CONNECTION, str(error) or type(error).__name__)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and its causes. Only the causes tell DNS, TLS and other connection errors apart."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
