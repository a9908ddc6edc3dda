"""One call from its start to its end."""

import asyncio
from collections.abc import Callable

from httpqueue.webhooks.client.http1.origin import Origin
from httpqueue.webhooks.client.sender import OnDone
from httpqueue.webhooks.message import Response, SendError


class Call:
    """One call. It ends once: with an answer, an error, or because it is cancelled.

    Whatever works on it (a connection, or the task that makes one) leaves in give_up how to stop that.
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
        """Where its deadline is kept."""
        self.give_up: Callable[[], object] | None = None
        self.written = False
        """Whether the receiver may have seen any of it."""

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self._on_done is None

    def end(self, result: Response | SendError) -> None:
        """Hand the result to its caller, whose own errors are only reported. Does nothing when over."""
        on_done = self._close()
        if on_done is None:
            return
        try:
            on_done(result)
        except Exception as error:  # noqa: BLE001 - whatever it is, other calls must go on
            asyncio.get_running_loop().call_exception_handler(
                {"message": "the callback of a call failed", "exception": error}
            )

    def cancel(self) -> None:
        """Nobody wants the result any more: on_done is not called. Does nothing when over."""
        if self._close() is not None:
            self.stop()

    def fail(self, error: SendError) -> None:
        """Stop what works on it, then end. Does nothing when over."""
        if not self.is_over:
            self.stop()
            self.end(error)

    def stop(self) -> None:
        """Stop what works on it."""
        if self.give_up is not None:
            self.give_up()

    def _close(self) -> OnDone | None:
        on_done, self._on_done = self._on_done, None
        if self.bucket is not None:
            self.bucket.discard(self)
        return on_done
