"""A call of the HTTP client, from its start to its end."""

import asyncio
from collections.abc import Callable

from httpqueue.webhooks.client.http1.origin import Origin
from httpqueue.webhooks.client.sender import OnDone
from httpqueue.webhooks.message import Response, SendError


class Call:
    """One call. It ends once: with a response, with an error, or by cancel.

    Whatever works on the call (a connection, or the task that makes one) sets give_up, which stops that work.
    """

    __slots__ = ("_on_done", "bucket", "data", "give_up", "method", "origin", "timeout_s", "written")

    origin: Origin
    data: bytes
    """The whole request."""

    def __init__(self, method: str, timeout_s: float, on_done: OnDone) -> None:
        self.method = method
        self.timeout_s = timeout_s
        self._on_done: OnDone | None = on_done
        self.bucket: set[Call] | None = None
        """The set of Deadlines that holds this call."""
        self.give_up: Callable[[], object] | None = None
        self.written = False
        """Whether the receiver may have seen any of the request."""

    @property
    def is_over(self) -> bool:
        """Whether the call has ended."""
        return self._on_done is None

    def end(self, result: Response | SendError) -> None:
        """End the call: on_done gets the result. Its own errors are only logged. No-op when it has ended."""
        on_done = self._close()
        if on_done is None:
            return
        try:
            on_done(result)
        except Exception as error:  # noqa: BLE001 - one bad callback must not stop other calls
            asyncio.get_running_loop().call_exception_handler(
                {"message": "the callback of a call failed", "exception": error}
            )

    def cancel(self) -> None:
        """End the call without calling on_done. No-op when it has ended."""
        if self._close() is not None:
            self.stop()

    def fail(self, error: SendError) -> None:
        """Stop the work on the call and end it with this error. No-op when it has ended."""
        if not self.is_over:
            self.stop()
            self.end(error)

    def stop(self) -> None:
        """Stop the work on the call."""
        if self.give_up is not None:
            self.give_up()

    def _close(self) -> OnDone | None:
        on_done, self._on_done = self._on_done, None
        if self.bucket is not None:
            self.bucket.discard(self)
        return on_done
