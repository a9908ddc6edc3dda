"""Refuses what a foreign web page makes a browser send (CSRF, DNS rebinding). Pure.

Everybody who uses a browser on this machine visits pages that may send requests to 127.0.0.1, too.
"""

from collections.abc import Collection, Iterable
from http import HTTPStatus
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from httpqueue.api.problems import ProblemError

_OWN_PAGES: Final = frozenset({"same-origin", "none"})
"""Values of Sec-Fetch-Site (W3C Fetch Metadata): a page of this server, or the user alone."""
_PORTS: Final = {"http": 80, "https": 443}
_FOREIGN: Final = "a page of another origin must not call the API"

Headers = Iterable[tuple[bytes, bytes]]


class BrowserGuard:
    """Checks where a request comes from, by headers that no page can forge."""

    def __init__(self, allowed_hosts: Collection[str] = ()) -> None:
        """allowed_hosts: further names of this server, in lower case, besides those of loopback."""
        self._allowed_hosts = frozenset(allowed_hosts)

    def check_origin(self, headers: Headers) -> None:
        """Raise ProblemError (403) if a page of another origin sent the request.

        A browser that says that the page is our own is believed: behind a proxy, Host may be another one.
        """
        site = origin = host = None
        for name, value in headers:
            if name == b"sec-fetch-site":
                site = value.decode("latin-1")
            elif name == b"origin":
                origin = value.decode("latin-1")
            elif name == b"host":
                host = value.decode("latin-1")
        if site in _OWN_PAGES:
            return
        if site == "cross-site" or (origin is not None and not self._is_own(origin, host or "")):
            raise ProblemError(HTTPStatus.FORBIDDEN, _FOREIGN)

    def check_host(self, headers: Headers) -> None:
        """Raise ProblemError (403) unless the request is for a name of this machine, or an allowed one.

        Somebody else's name may lead to this machine as well (DNS rebinding). To the browser, the pages of
        that name are then of the same origin as this server.
        """
        hosts = [value.decode("latin-1") for name, value in headers if name == b"host"]
        if len(hosts) != 1 or not self._is_allowed(_name_of(hosts[0])):
            raise ProblemError(
                HTTPStatus.FORBIDDEN,
                "without an API key, Host must be localhost or a loopback address: "
                "add other names to HTTPQUEUE_ALLOWED_HOSTS",
            )

    def _is_own(self, origin: str, host: str) -> bool:
        try:
            parts = urlsplit(origin)
            port = parts.port
        except ValueError:
            return False
        if parts.hostname is None:
            return False  # Origin: null, which sandboxed pages and files have
        if _name_of(parts.netloc) in self._allowed_hosts:
            return True
        default = _PORTS.get(parts.scheme)
        return (_name_of(parts.netloc), port or default) == (_name_of(host), _port_of(host) or default)

    def _is_allowed(self, name: str) -> bool:
        if name == "localhost" or name in self._allowed_hosts:
            return True
        try:
            return ip_address(name.strip("[]")).is_loopback
        except ValueError:
            return False


def _name_of(authority: str) -> str:
    """host:port -> host in lower case; an IPv6 address keeps its brackets."""
    name, colon, port = authority.lower().rpartition(":")
    return name if colon and (port.isdecimal() or not port) and not name.endswith(":") else authority.lower()


def _port_of(authority: str) -> int | None:
    port = authority.rpartition(":")[2]
    return int(port) if port.isdecimal() and len(port) <= len("65535") else None
