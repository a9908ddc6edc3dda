"""Calls webhooks with httpx. It is pure Python and takes many times the CPU time of our own client.

Only httpx's transport is used: it has no redirects, cookies, decompression or proxies of the environment.
Nothing is stored here, so a crash loses the calls in flight and nothing else.
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing
from http import HTTPStatus
from typing import Any, cast

import httpcore
import httpx

from httpqueue.webhooks.client.http1.dial import Dialer, first_to_connect, reason_of
from httpqueue.webhooks.client.sender import MAX_RESPONSE_BYTES, Call, OnDone
from httpqueue.webhooks.client.task_call import TaskCall
from httpqueue.webhooks.egress import literal_of
from httpqueue.webhooks.message import Fault, Request, Response, SendError

_IDLE_S = 4.0  # shorter than the 5 s after which common servers close an idle connection
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=_IDLE_S)
_REFUSED_BY_PROXY = str(HTTPStatus.FORBIDDEN.value)
_UNSENDABLE = (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.LocalProtocolError, ValueError)


class JudgedNetwork(httpcore.AsyncNetworkBackend):
    """Connects to the addresses that the dialer's judge has seen, and to no others.

    httpcore hands over a name only here; Host and SNI keep it.
    """

    def __init__(self, dialer: Dialer, network: httpcore.AsyncNetworkBackend | None = None) -> None:
        self._dialer = dialer
        self._network = network or httpcore.AnyIOBackend()
        self._closing: set[asyncio.Task[None]] = set()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """See httpcore. Raises SendError when the host must not be called."""
        try:
            async with asyncio.timeout(timeout):
                addresses = await self._dialer.addresses(host)
                return await first_to_connect(
                    addresses,
                    lambda address: self._network.connect_tcp(
                        str(address), port, None, local_address, socket_options
                    ),
                    stagger_s=self._dialer.stagger_s,
                    discard=self._close_later,
                )
        except TimeoutError as error:
            raise httpcore.ConnectTimeout from error
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error

    def _close_later(self, stream: httpcore.AsyncNetworkStream) -> None:
        task = asyncio.ensure_future(stream.aclose())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


class _JudgedTransport(httpx.AsyncHTTPTransport):
    """httpx's transport over a pool of ours: httpx offers no way to choose the network."""

    def __init__(self, network: JudgedNetwork, tls: ssl.SSLContext) -> None:
        # httpx's own __init__ is not called: there must be no pool that connects without the judge
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls,
            max_connections=_LIMITS.max_connections,
            max_keepalive_connections=_LIMITS.max_keepalive_connections,
            keepalive_expiry=_LIMITS.keepalive_expiry,
            network_backend=network,
        )


class HttpxSender:
    """A Sender. The number of calls in flight is not limited.

    With proxy_url, the proxy resolves, judges and connects; the dialer's judge then sees only those hosts
    that are spelled as addresses, and the names of the others.
    """

    def __init__(
        self,
        dialer: Dialer | None = None,
        *,
        proxy_url: str | None = None,
        network: httpcore.AsyncNetworkBackend | None = None,
    ) -> None:
        dialer = dialer or Dialer()
        self._judge = None if proxy_url is None else dialer.judge
        self._transport = (
            _JudgedTransport(JudgedNetwork(dialer, network), dialer.tls)
            if proxy_url is None
            else httpx.AsyncHTTPTransport(
                verify=dialer.tls, limits=_LIMITS, proxy=_proxy(proxy_url, dialer.tls)
            )
        )

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
            if self._judge is not None:
                host = call.url.raw_host.decode()
                literal = literal_of(host)
                self._judge(host, () if literal is None else (literal,))
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
        except SendError as refused:
            raise refused from None
        except Exception as bug:  # noqa: BLE001 - a bug in a resolver must fail this call alone
            raise SendError(Fault.CONNECTION, f"no connection: {type(bug).__name__}") from None
        return Response(answer.status_code, answer.headers.get("retry-after"), excerpt)

    async def close(self) -> None:
        """See Sender."""
        await self._transport.aclose()


def _proxy(url: str, tls: ssl.SSLContext) -> httpx.Proxy:
    is_secure = url.lower().startswith("https:")
    return httpx.Proxy(url, ssl_context=tls if is_secure else None)  # httpcore refuses one it does not need


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
        if isinstance(cause, OSError) and cause.errno is not None and not isinstance(cause, ssl.SSLError):
            return SendError(Fault.CONNECTION, f"no connection: {reason_of(cause)}")
        if isinstance(cause, httpx.ProxyError) and str(cause).startswith(_REFUSED_BY_PROXY):
            return SendError(Fault.EGRESS_BLOCKED, f"blocked: the proxy answered {cause}")
    return SendError(Fault.CONNECTION, str(error) or type(error).__name__)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and its causes. Only the causes tell DNS, TLS and other connection errors apart."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
