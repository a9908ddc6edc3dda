"""Which Sender the settings ask for."""

from enum import StrEnum

from httpqueue.webhooks.client.http1.sender import Http1Sender
from httpqueue.webhooks.client.httpx_sender import HttpxSender
from httpqueue.webhooks.client.pyreqwest_sender import PyreqwestSender
from httpqueue.webhooks.client.sender import Sender


class SenderKind(StrEnum):
    """Which HTTP client calls the webhooks."""

    PYREQWEST = "pyreqwest"
    HTTPX = "httpx"
    HTTP1 = "http1"


def create_sender(kind: SenderKind) -> Sender:
    """A new Sender; the caller closes it."""
    match kind:
        case SenderKind.PYREQWEST:
            return PyreqwestSender()
        case SenderKind.HTTPX:
            return HttpxSender()
        case SenderKind.HTTP1:
            return Http1Sender()
