"""Creates the Sender that the settings ask for."""

from enum import StrEnum

from httpqueue.webhooks.client.http1.sender import Http1Sender
from httpqueue.webhooks.client.httpx_sender import HttpxSender
from httpqueue.webhooks.client.sender import Sender


class SenderKind(StrEnum):
    """Which HTTP client calls the webhooks."""

    HTTP1 = "http1"
    HTTPX = "httpx"


def create_sender(kind: SenderKind) -> Sender:
    """Create a Sender. The caller must close it."""
    return HttpxSender() if kind is SenderKind.HTTPX else Http1Sender()
