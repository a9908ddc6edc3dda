"""The names of timers, and of the hosts they call. Pure."""

import hashlib
import re
from base64 import urlsafe_b64encode
from ipaddress import AddressValueError, IPv6Address
from typing import Final, NamedTuple

import idna

DEFAULT_APPLICATION: Final = "default"
CALLBACK_MARK: Final = "~callback-"
"""In a callback's id, between the timer's id and what makes it unique: an id may be used again.

Clients cannot choose ids that have it.
"""

_KEY_HASH_BYTES: Final = 12
_AUTHORITY: Final = re.compile(r"[A-Za-z]+://(?:[^/?#]*@)?(\[[^\]/?#]*\]|[^:/?#]*)")
_QUERY: Final = re.compile(r"[?#]")
_DOTS: Final = re.compile("[\u3002\uff0e\uff61]")
"""Full stops of other scripts, which IDNA reads as dots (RFC 3490 section 3.1)."""


class TimerName(NamedTuple):
    """The name of a timer. An id is unique within its application."""

    application: str
    id: str

    def __str__(self) -> str:
        """application:id, as in logs."""
        return f"{self.application}:{self.id}"


def hash_of_key(idempotency_key: str) -> str:
    """16 URL-safe characters: they name the timer when the request does not, and the remembered answer."""
    digest = hashlib.sha256(idempotency_key.encode()).digest()
    return urlsafe_b64encode(digest[:_KEY_HASH_BYTES]).decode()


def owner_of(timer_id: str) -> str:
    """The id of the timer whose callback this is; the id itself when it is no callback's."""
    return timer_id.partition(CALLBACK_MARK)[0]


def host_of(url: str) -> str:
    """The host of an http or https URL, as normal_host writes it. '' when the URL has none."""
    authority = _AUTHORITY.match(url)
    return normal_host(authority[1]) if authority else ""


def without_query(url: str) -> str:
    """A URL as it may be logged: its query and fragment may hold credentials."""
    return _QUERY.split(url, maxsplit=1)[0]


def normal_host(host: str) -> str:
    """Write a host in its normal form, so that limits, pauses and filters can compare hosts.

    Lower case, IDNA A-labels (RFC 5891, mapped as UTS 46 says), without a trailing dot. An IPv6 address is
    compressed (RFC 5952) and in brackets. An invalid host is only changed to lower case.
    """
    normal = host.lower() if host.isascii() else _to_ascii(host)
    if not (normal.startswith("[") and normal.endswith("]")):
        return normal.rstrip(".")
    try:
        return f"[{IPv6Address(normal[1:-1])}]"
    except AddressValueError:
        return normal


def _to_ascii(host: str) -> str:
    """Write a host with IDNA A-labels. A label that IDNA 2008 refuses (an emoji) is plain Punycode."""
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
    """Whether a label is no Punycode (RFC 3492), or decodes to characters that a host may have."""
    if not label.startswith("xn--"):
        return True
    try:
        decoded = label[4:].encode().decode("punycode")
        return idna.uts46_remap(decoded, std3_rules=False) == decoded
    except (UnicodeError, idna.IDNAError):
        return False
