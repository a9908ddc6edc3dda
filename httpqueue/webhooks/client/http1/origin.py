"""Splits a URL into its origin (RFC 6454) and its request target. Pure."""

import re
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import quote

from httpqueue.timers.names import normal_host

_URL: Final = re.compile(r"(https?://[^/?#]*)([^#]*)", re.IGNORECASE)
_AUTHORITY: Final = re.compile(
    r"(\[[0-9a-f:.]+\]|[^\x00-\x20\x7f:@\\\[\]]+)(?::([0-9]{0,5}))?", re.IGNORECASE
)
_UNSENDABLE: Final = re.compile(r"[^!-~]")
_AS_WRITTEN: Final = "".join(map(chr, range(0x21, 0x7F)))
_MAX_PORT: Final = 65_535
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class Origin(NamedTuple):
    """Scheme, host and port. Calls to the same origin share connections."""

    scheme: str
    host: str
    """A DNS name as IDNA A-labels, or an IP address without brackets."""
    port: int
    authority: str
    """For the Host header: an IPv6 address in brackets; the port unless it is the scheme's default."""


def split(url: str) -> tuple[Origin, str]:
    """Return the origin and the target, such as /path?query. Raises ValueError.

    The target stays as written, except that characters not allowed in a request line are percent-encoded.
    """
    match = _URL.match(url)
    if match is None:
        raise ValueError("no http or https URL")
    base, target = match.groups()
    if not target.startswith("/"):
        target = f"/{target}"
    if _UNSENDABLE.search(target):
        target = quote(target, safe=_AS_WRITTEN)
    return _origin(base), target


@lru_cache(maxsize=4_096)  # there are few origins, and parsing them is the most expensive step here
def _origin(base: str) -> Origin:
    """'https://example.com:8443' -> its origin. Raises ValueError."""
    scheme, _, authority = base.partition("://")
    scheme = scheme.lower()
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        raise ValueError("no valid host in the URL")
    host = normal_host(match[1])
    port = int(match[2] or _DEFAULT_PORTS[scheme])
    if not 0 < port <= _MAX_PORT or not host:
        raise ValueError("no valid host or port in the URL")
    shown = host if port == _DEFAULT_PORTS[scheme] else f"{host}:{port}"
    return Origin(scheme, host.strip("[]"), port, shown)
