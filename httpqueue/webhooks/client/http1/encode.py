"""Encodes a request as HTTP/1.1 (RFC 9112 sections 3 and 5). It adds only Host and Content-Length. Pure."""

import re
from functools import lru_cache
from typing import Final

from httpqueue.webhooks.client.http1.origin import Origin, split
from httpqueue.webhooks.message import Fault, Request, SendError

_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110 section 5.6.2
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_OURS: Final = frozenset({"host", "content-length", "transfer-encoding"})
_EXPECT_A_BODY: Final = frozenset({"POST", "PUT", "PATCH"})


def encode(request: Request) -> tuple[Origin, bytes]:
    """Return the origin and all bytes of the request. Raises SendError(INVALID_REQUEST).

    Host comes from the URL. Content-Length is added when there is a body, and always when the method expects
    one (RFC 9110 section 8.6). The request itself must not set Host, Content-Length or Transfer-Encoding.
    """
    try:
        origin, target = split(request.url)
        head = _head(request, origin.authority, target).encode()
    except ValueError:  # the error's text may contain secrets of the request
        raise SendError(Fault.INVALID_REQUEST, "the URL, method or headers cannot be sent") from None
    return origin, head + request.body


def _head(request: Request, authority: str, target: str) -> str:
    lines = [_first_line(request.method, target), f"Host: {authority}"]
    lines += [_line_start(name) + value for name, value in request.headers]
    if request.body or request.method in _EXPECT_A_BODY:
        lines.append(f"Content-Length: {len(request.body)}")
    if _CONTROL.search("".join(lines)):
        raise ValueError("control character")
    lines.append("\r\n")
    return "\r\n".join(lines)


def _first_line(method: str, target: str) -> str:
    if not _is_token(method):
        raise ValueError("no method")
    return f"{method} {target} HTTP/1.1"


@lru_cache(maxsize=4_096)
def _line_start(name: str) -> str:
    if not _is_token(name) or name.lower() in _OURS:
        raise ValueError("no header name")
    return f"{name}: "


@lru_cache(maxsize=64)
def _is_token(text: str) -> bool:
    return _TOKEN.fullmatch(text) is not None
