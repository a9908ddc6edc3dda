"""Which Sender the settings ask for."""

from httpqueue.delivery.httpx_sender import HttpxSender
from httpqueue.delivery.pyreqwest_sender import PyreqwestSender
from httpqueue.delivery.sender import Sender
from httpqueue.settings import SenderKind


def create_sender(kind: SenderKind) -> Sender:
    """A new Sender; the caller closes it."""
    return HttpxSender() if kind is SenderKind.HTTPX else PyreqwestSender()
