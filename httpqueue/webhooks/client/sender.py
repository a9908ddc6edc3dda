"""The interface of an HTTP client that calls webhooks. All clients pass the same contract tests."""

from collections.abc import Callable
from typing import Final, Protocol

from httpqueue.webhooks.message import Request, Response, SendError

MAX_RESPONSE_BYTES: Final = 64 * 1024
"""How much of a response's body is read at most."""

OnDone = Callable[[Response | SendError], None]
"""Gets the response or the error of a call. Called once, or never if the call is cancelled."""


class Call(Protocol):
    """A call in flight."""

    @property
    def written(self) -> bool:
        """Whether the receiver may have seen any of the request."""
        ...

    def cancel(self) -> None:
        """Give the call up: on_done is not called any more."""
        ...


class Sender(Protocol):
    """Calls webhooks, many at a time."""

    def start(self, request: Request, timeout_s: float, on_done: OnDone) -> Call:
        """Begin a call. timeout_s covers all of it: connecting, sending, headers and body.

        It follows no redirect, uses no proxy, keeps no cookie and decompresses nothing. on_done is called in
        the event loop, never before start has returned.
        """
        ...

    async def send(self, request: Request, *, timeout_s: float) -> Response:
        """Make one call and return its response. Raises SendError."""
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...
