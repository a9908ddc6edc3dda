"""The call of a webhook as values: the request made from a timer, and the response or error. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final
from urllib.parse import quote, urlsplit, urlunsplit

import orjson

from httpqueue import __version__
from httpqueue.errors import HttpqueueError
from httpqueue.timers.commands import Begun
from httpqueue.timers.names import without_query
from httpqueue.timers.spec import Spec
from httpqueue.webhooks.signing import signature

USER_AGENT: Final = f"httpqueue/{__version__}"
OWN_HEADERS: Final = frozenset({"webhook-id", "webhook-timestamp", "webhook-signature", "httpqueue-attempt"})
"""Headers that httpqueue sets itself, in lower case. A timer may not set them."""
ID_PLACEHOLDER: Final = "{id}"


@dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request, ready to be sent."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def __repr__(self) -> str:
        return f"Request({self.method} {without_query(self.url)})"


@dataclass(frozen=True, slots=True)
class Response:
    """The receiver's answer. A redirect is an answer like any other: it is not followed."""

    status: int
    retry_after: str | None = None
    excerpt: bytes = b""
    """The first bytes of the body, as they came: not decompressed."""


class Fault(StrEnum):
    """Why there is no response."""

    TIMEOUT = "timeout"
    CONNECTION = "connection"
    DNS = "dns"
    TLS = "tls"
    INVALID_REQUEST = "invalid_request"
    EGRESS_BLOCKED = "egress_blocked"
    LOST_WORKER = "lost_worker"
    PAST_DUE = "past_due"
    UNSIGNED = "unsigned"


NOT_CALLED: Final = frozenset(
    {Fault.INVALID_REQUEST, Fault.EGRESS_BLOCKED, Fault.LOST_WORKER, Fault.PAST_DUE, Fault.UNSIGNED}
)
"""Faults with which no call was made, so they say nothing about the host."""


class SendError(HttpqueueError):
    """There was no whole response. `fault` says why. `message` is for people and holds no payload."""

    def __init__(self, fault: Fault, message: str) -> None:
        super().__init__(message)
        self.fault = fault
        self.message = message


def webhook_id(begun: Begun) -> str:
    """application:id:nonce:generation: the same for all attempts of a run, never the same for two runs."""
    name = begun.wake_up.name
    return f"{name.application}:{name.id}:{begun.nonce}:{begun.wake_up.generation}"


def render(
    spec: Spec, *, timer_id: str, webhook_id: str, attempt: int, started_ms: int, append_timer_id: bool
) -> Request:
    """Make the request of an attempt, still unsigned. webhook-* headers follow the Standard Webhooks spec.

    started_ms: when the attempt started, since the epoch. append_timer_id: add /<timer_id> to the URL's path.
    """
    body, content_type = _body(spec)
    headers = dict(spec.headers)
    names = {name.lower() for name in headers}
    if content_type is not None and "content-type" not in names:
        headers["content-type"] = content_type
    if "user-agent" not in names:
        headers["user-agent"] = USER_AGENT
    headers["webhook-id"] = webhook_id
    headers["webhook-timestamp"] = str(started_ms // 1000)
    headers["httpqueue-attempt"] = str(attempt)
    url = spec.url.replace(ID_PLACEHOLDER, timer_id)
    if append_timer_id:
        url = _append_to_path(url, timer_id)
    return Request(spec.method, url, tuple(headers.items()), body)


def sign(request: Request, secrets: Sequence[str]) -> Request:
    """Add the header webhook-signature. Without secrets the request is returned unchanged."""
    if not secrets:
        return request
    headers = dict(request.headers)
    value = signature(
        secrets,
        webhook_id=headers["webhook-id"],
        timestamp_s=int(headers["webhook-timestamp"]),
        body=request.body,
    )
    return replace(request, headers=(*request.headers, ("webhook-signature", value)))


def _body(spec: Spec) -> tuple[bytes, str | None]:
    if spec.body is None:
        return b"", None
    if isinstance(spec.body, str):
        return spec.body.encode(), None
    return orjson.dumps(spec.body), "application/json"


def _append_to_path(url: str, timer_id: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{quote(timer_id, safe='~')}"))
