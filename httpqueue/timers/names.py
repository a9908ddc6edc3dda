"""The names of timers, and of the hosts that they call. Pure."""

import re
from ipaddress import AddressValueError, IPv6Address
from typing import Final, NamedTuple

import idna

DEFAULT_APPLICATION: Final = "default"

_AUTHORITY: Final = re.compile(r"[A-Za-z]+://(?:[^/?#]*@)?(\[[^\]/?#]*\]|[^:/?#]*)")
_DOTS: Final = re.compile("[\u3002\uff0e\uff61]")
"""Full stops of other scripts, which IDNA reads as dots (RFC 3490 section 3.1)."""


class TimerName(NamedTuple):
    """A timer's name: ids are unique within an application."""

    application: str
    id: str

    def __str__(self) -> str:
        """As logs show it."""
        return f"{self.application}:{self.id}"


def host_of(url: str) -> str:
    """The host of an http or https URL in its one form: see normal_host. '' when the URL names none."""
    authority = _AUTHORITY.match(url)
    return normal_host(authority[1]) if authority else ""


def normal_host(host: str) -> str:
    """A host in the one form in which limits, pauses and filters compare it.

    Lower case, IDNA A-labels (RFC 5891, mapped as UTS 46 says), without a trailing dot. An IPv6 address is
    compressed (RFC 5952) and in brackets. What is no valid host comes back in lower case.
    """
    normal = host.lower() if host.isascii() else _to_ascii(host)
    if not (normal.startswith("[") and normal.endswith("]")):
        return normal.rstrip(".")
    try:
        return f"[{IPv6Address(normal[1:-1])}]"
    except AddressValueError:
        return normal


def _to_ascii(host: str) -> str:
    """IDNA labels; a label that IDNA 2008 refuses, such as an emoji, is only written in Punycode."""
    try:
        host = idna.uts46_remap(host, std3_rules=False)
    except idna.IDNAError:
        return host.lower()
    return ".".join(map(_label_to_ascii, _DOTS.sub(".", host).split(".")))


def _label_to_ascii(label: str) -> str:
    if label.isascii():
        return label
    try:
        return idna.alabel(label).decode()
    except idna.IDNAError:
        return "xn--" + label.encode("punycode").decode()


def is_readable_label(label: str) -> bool:
    """Whether a label that says it is Punycode (RFC 3492) stands for characters that a host may have."""
    if not label.startswith("xn--"):
        return True
    try:
        decoded = label[4:].encode().decode("punycode")
        return idna.uts46_remap(decoded, std3_rules=False) == decoded
    except (UnicodeError, idna.IDNAError):
        return False
