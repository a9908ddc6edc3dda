"""What a webhook client has to do; every client passes the same contract tests."""

from typing import Final, Protocol

from httpqueue.webhooks.message import Request, Response

MAX_RESPONSE_BYTES: Final = 64 * 1024
"""No more than this is read of a response's body."""


class Sender(Protocol):
    """Calls webhooks, many at a time."""

    async def send(self, request: Request, *, timeout_s: float) -> Response:
        """Send and read the answer, all within timeout_s: connect, headers and body together.

        Follows no redirect, uses no proxy, keeps no cookie, decompresses nothing. Raises webhook.SendError.
        """
        ...

    async def close(self) -> None:
        """Let go of all connections."""
        ...
