"""Calls webhooks with our own HTTP/1.1 client: asyncio protocols and the parser httptools (llhttp).

A call on an open connection costs a write, a read and a few callbacks; only a new connection needs a task.
Nothing is stored here, so a crash loses the calls in flight and nothing else.
"""

import asyncio
from collections.abc import Callable
from functools import partial

from httpqueue import clock
from httpqueue.webhooks.client.http1.call import Call
from httpqueue.webhooks.client.http1.deadlines import Deadlines
from httpqueue.webhooks.client.http1.dial import Dialer
from httpqueue.webhooks.client.http1.encode import encode
from httpqueue.webhooks.client.http1.pool import Limits, Pool
from httpqueue.webhooks.client.sender import OnDone
from httpqueue.webhooks.message import Fault, Request, Response, SendError


class Http1Sender:
    """A Sender. Calls in flight are not limited, but connections are: further calls wait for one."""

    def __init__(
        self,
        dialer: Dialer | None = None,
        limits: Limits | None = None,
        now_s: Callable[[], float] = clock.monotonic_s,
    ) -> None:
        self._pool = Pool(dialer or Dialer(), limits or Limits(), now_s)
        self._deadlines = Deadlines(_expire, now_s)
        self._is_closed = False

    def start(self, request: Request, timeout_s: float, on_done: OnDone) -> Call:
        """Begin a call. on_done gets its Response or SendError, in the event loop.

        on_done is called once, never before start returns, and not after call.cancel(). call.written tells
        whether the receiver may have seen the request.
        """
        call = Call(request.method, timeout_s, on_done)
        try:
            if self._is_closed:
                raise _closing()
            call.origin, call.data = encode(request)
        except SendError as error:
            asyncio.get_running_loop().call_soon(call.end, error)
            return call
        self._deadlines.add(call)
        self._pool.take(call)
        return call

    async def send(self, request: Request, *, timeout_s: float) -> Response:
        """See Sender."""
        done: asyncio.Future[Response | SendError] = asyncio.get_running_loop().create_future()
        call = self.start(request, timeout_s=timeout_s, on_done=partial(_resolve, done))
        try:
            result = await done
        except asyncio.CancelledError:
            call.cancel()
            raise
        if isinstance(result, SendError):
            raise result from None
        return result

    async def close(self) -> None:
        """See Sender. Calls in flight end with an error."""
        self._is_closed = True
        calls = self._deadlines.pending()
        self._deadlines.close()
        for call in calls:
            call.fail(_closing())
        await self._pool.close()


def _expire(call: Call) -> None:
    if call.written:
        missing = "whole answer"
    elif call.give_up is not None:
        missing = "connection"
    else:
        missing = "free connection"
    call.fail(SendError(Fault.TIMEOUT, f"no {missing} within {call.timeout_s:g} s"))


def _closing() -> SendError:
    return SendError(Fault.CONNECTION, "the client was closed")


def _resolve(done: asyncio.Future[Response | SendError], result: Response | SendError) -> None:
    if not done.done():
        done.set_result(result)
