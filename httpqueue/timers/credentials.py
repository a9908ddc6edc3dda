"""Which headers of timers hold credentials. They are masked wherever nobody asked to see them. Pure."""

from collections.abc import Mapping
from typing import Final

MASK: Final = "•••"
"""Stands for a value that is not shown. No header can have it as its value, so it is never stored."""

_PARTS: Final = (
    "auth",  # Authorization, Proxy-Authorization, X-Auth-…
    "cookie",
    "token",
    "secret",
    "password",
    "passwd",
    "credential",
    "session",
    "signature",
    "apikey",
    "api-key",
    "api_key",
    "access-key",
    "private-key",
    "subscription-key",
)
"""A header whose name has one of these is taken for a credential. Too many are better than too few."""


def is_credential(header: str) -> bool:
    """Whether the value of a header with this name should be masked."""
    name = header.lower()
    return any(part in name for part in _PARTS)


def masked(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers, with MASK in the place of credentials."""
    return {name: MASK if is_credential(name) else value for name, value in headers.items()}
