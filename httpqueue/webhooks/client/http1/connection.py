"""One connection. It writes a request in one piece, reads the answer, then takes the next call."""

import asyncio
from typing import Protocol, cast

from httpqueue.webhooks.client.http1.answer import AnswerReader, BrokenAnswerError
from httpqueue.webhooks.client.http1.call import Call
from httpqueue.webhooks.client.http1.dial import reason_of
from httpqueue.webhooks.client.http1.origin import Origin
from httpqueue.webhooks.message import Fault, SendError

_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})  # RFC 9110 section 9.2.2


class Owner(Protocol):
    """What a connection calls on its pool. It is here because pool.py imports this module.

    A connection takes up a place in the pool until it calls dropped or repeat. It calls one of them, once.
    """

    def opened(self, connection: "Connection") -> None:
        """The connection is open."""

    def free(self, connection: "Connection") -> None:
        """The connection can take the next call."""

    def dropped(self, connection: "Connection") -> None:
        """The connection takes no more calls."""

    def repeat(self, connection: "Connection", call: Call) -> None:
        """The connection takes no more calls. Send this call again, on a new one."""

    def lost(self, connection: "Connection") -> None:
        """The connection is closed."""


class Connection(asyncio.Protocol):
    """Carries one call at a time."""

    def __init__(self, origin: Origin, owner: Owner) -> None:
        self.origin = origin
        self._owner = owner
        self._reader = AnswerReader()
        self._call: Call | None = None
        self._uses = 0
        self._is_dropped = False

    def is_usable(self) -> bool:
        """Whether it can take a call, as far as is known: the receiver may just have hung up."""
        return not self._is_dropped and not self._transport.is_closing()

    def send(self, call: Call) -> None:
        """Send a call. The connection must be free; it will end the call."""
        self._call = call
        call.give_up = self.abort
        if not self.is_usable():
            self._fail("the receiver closed the connection at once")
            return
        self._uses += 1
        self._reader.begin(is_head=call.method == "HEAD")
        call.written = True
        self._transport.write(call.data)

    def close(self) -> None:
        """Close the connection. No call may be in flight."""
        self.give_back()
        self._transport.close()

    def abort(self) -> None:
        """Close the connection at once. A call in flight is not ended: that is up to the caller."""
        self._call = None
        self.give_back()
        self._transport.abort()

    def give_back(self) -> None:
        """Give the place in the pool back. Does so once; also for a connection that could not be made."""
        if not self._is_dropped:
            self._is_dropped = True
            self._owner.dropped(self)

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TCP is connected, and the TLS handshake is done."""
        self._transport = cast("asyncio.Transport", transport)
        self._owner.opened(self)

    def data_received(self, data: bytes) -> None:
        """Bytes of an answer have come."""
        if self._call is None:
            self.abort()  # nobody asked for an answer
            return
        try:
            is_whole = self._reader.feed(data)
        except BrokenAnswerError as error:
            self._fail(str(error))
        else:
            if is_whole:
                self._answer(self._call)

    def eof_received(self) -> None:
        """The receiver hung up. The transport then closes by itself."""
        if self._call is not None:
            self._hung_up(self._call, None)
        self.give_back()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed, by whichever side."""
        if self._call is not None:
            self._hung_up(self._call, exc)
        self.give_back()
        self._owner.lost(self)

    def _hung_up(self, call: Call, error: Exception | None) -> None:
        if self._uses > 1 and not self._reader.started and call.method in _IDEMPOTENT:
            # a reused connection: most likely the receiver hung up before it saw the request
            self._call = None
            self._is_dropped = True
            self._owner.repeat(self, call)
        elif error is not None:
            self._fail(f"the connection broke: {reason_of(error)}")
        elif self._reader.end():
            self._answer(call)
        else:
            self._fail("the receiver closed the connection before the answer was whole")

    def _answer(self, call: Call) -> None:
        self._call = None
        transport = self._transport
        if transport.get_write_buffer_size():  # the answer came before the whole request was sent
            self.abort()
        elif self._reader.keep_alive and self.is_usable():
            response = self._reader.response()
            self._owner.free(self)  # before on_done, which may start the next call
            call.end(response)
            return
        else:
            self.close()
        call.end(self._reader.response())

    def _fail(self, message: str) -> None:
        call = self._call
        self.abort()
        if call is not None:
            call.end(SendError(Fault.CONNECTION, message))
