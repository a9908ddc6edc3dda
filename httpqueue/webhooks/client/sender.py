"""What a webhook client has to do; every client passes the same contract tests."""

from collections.abc import Callable
from typing import Final, Protocol

from httpqueue.webhooks.message import Request, Response, SendError

MAX_RESPONSE_BYTES: Final = 64 * 1024
"""No more than this is read of a response's body."""

OnDone = Callable[[Response | SendError], None]
"""Takes the outcome of a call; called once, unless the call was cancelled."""


class Call(Protocol):
    """A call in flight."""

    @property
    def written(self) -> bool:
        """Whether the receiver may have seen any of the request."""
        ...

    def cancel(self) -> None:
        """Give it up: nobody is told how it ends."""
        ...


class Sender(Protocol):
    """Calls webhooks, many at a time."""

    def start(self, request: Request, timeout_s: float, on_done: OnDone) -> Call:
        """Send and read the answer, all within timeout_s: connect, headers and body together.

        Follows no redirect, uses no proxy, keeps no cookie, decompresses nothing. on_done is never called
        before start has returned.
        """
        ...

    async def send(self, request: Request, *, timeout_s: float) -> Response:
        """The same for whoever waits for one call; raises SendError."""
        ...

    async def close(self) -> None:
        """Let go of all connections."""
        ...
