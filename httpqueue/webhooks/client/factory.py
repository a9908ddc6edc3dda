"""Creates the Sender that the settings ask for."""

from enum import StrEnum
from typing import Final

from httpqueue.webhooks.client.http1.dial import Dialer, Judge
from httpqueue.webhooks.client.http1.pool import Limits
from httpqueue.webhooks.client.http1.sender import Http1Sender
from httpqueue.webhooks.client.httpx_sender import HttpxSender
from httpqueue.webhooks.client.sender import Sender

MAX_CONNECTIONS: Final = 10_000


class SenderKind(StrEnum):
    """Which HTTP client calls the webhooks."""

    HTTP1 = "http1"
    HTTPX = "httpx"


def create_sender(
    kind: SenderKind, judge: Judge, *, proxy_url: str | None = None, max_connections: int = MAX_CONNECTIONS
) -> Sender:
    """Create a Sender whose every connection the judge has allowed. The caller must close it.

    proxy_url: send everything through this proxy, with httpx whatever the kind is. max_connections: those of
    our own client; further calls wait for one.
    """
    dialer = Dialer(judge=judge)
    if proxy_url is not None:
        return HttpxSender(dialer, proxy_url=proxy_url)
    return (
        HttpxSender(dialer)
        if kind is SenderKind.HTTPX
        else Http1Sender(dialer, Limits(max_connections, max_connections))
    )
