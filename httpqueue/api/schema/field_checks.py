"""Checks of single fields: urls, headers, methods, ids, names and labels. Pure.

Each check returns the value, or raises ValueError with a sentence for the client.
"""

import re
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

from httpqueue.timers.credentials import MASK
from httpqueue.timers.names import CALLBACK_MARK, is_readable_label, normal_host
from httpqueue.webhooks.message import ID_PLACEHOLDER, OWN_HEADERS

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
ID_PATTERN: Final = r"^[A-Za-z0-9._~-]{1,128}$"
KNOWN_ID_PATTERN: Final = r"^[A-Za-z0-9._~-]{1,192}$"
MAX_URL_CHARACTERS: Final = 2_048
MAX_PORT: Final = 65_535
MAX_HEADERS: Final = 100

APPLICATION_PATTERN: Final = r"^[A-Za-z0-9._~-]{1,64}$"
ORDERING_KEY_PATTERN: Final = r"^[!-~]{1,128}$"
MAX_LABELS: Final = 20
MAX_MEMBERS: Final = 100
MAX_LABEL_NAME: Final = 64
MAX_LABEL_VALUE: Final = 256
LABEL_FILTER_PATTERN: Final = r"^[A-Za-z0-9._/-]{1,64}:"

_ID: Final = re.compile(ID_PATTERN)
_KNOWN_ID: Final = re.compile(KNOWN_ID_PATTERN)
_APPLICATION: Final = re.compile(APPLICATION_PATTERN)
_ORDERING_KEY: Final = re.compile(ORDERING_KEY_PATTERN)
_LABEL_FILTER: Final = re.compile(LABEL_FILTER_PATTERN)
_LABEL_NAME: Final = re.compile(r"[A-Za-z0-9._/-]{1,64}")
_URL: Final = re.compile(r"(?i:https?)://([^/?#]*)([^?#]*)(\?[^#]*)?(#.*)?")  # RFC 3986 appendix B
_UNWRITABLE: Final = re.compile(r"[\s\x00-\x20\x7f-\x9f\\]")
_DOT_SEGMENT: Final = re.compile(r"/(?:\.|%2e){1,2}(?:/|$)", re.IGNORECASE)
_NOT_IN_HOST: Final = re.compile(r"[\s\x00-\x20\x7f-\x9f\\/?#@{}]")
_AUTHORITY: Final = re.compile(r"(\[[^\]]*\]|[^:\[\]%]*)(?::(.*))?")
_PORT: Final = re.compile(r"[0-9]{1,5}")
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.IGNORECASE)
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_MAX_HOST_CHARACTERS: Final = 253
_INVALID_HOST: Final = "must have a valid host: a DNS name, an IPv4 address or an [IPv6 address]"
_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110 section 5.6.2
_VALUE: Final = re.compile(r"(?:[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?)?")  # RFC 9110 section 5.5, ASCII
_HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_SET_BY_CLIENT: Final = frozenset({"host", "content-length"})


def is_id(text: str) -> bool:
    """Whether a client may choose this id; "." and ".." would vanish from paths (RFC 3986 section 5.2.4)."""
    return _ID.fullmatch(text) is not None and text not in {".", ".."}


def is_known_id(text: str) -> bool:
    """Whether any timer can have this id; the ids of callbacks are longer than those of clients."""
    return _KNOWN_ID.fullmatch(text) is not None and text not in {".", ".."}


def check_id(text: str) -> str:
    """The id as given."""
    if not is_id(text):
        raise ValueError("must be 1 to 128 characters of A-Z a-z 0-9 . _ ~ - and neither . nor ..")
    if CALLBACK_MARK in text:
        raise ValueError(f"must not contain {CALLBACK_MARK}: such ids belong to callbacks")
    return text


def check_application(text: str) -> str:
    """The application's name as given."""
    if not _APPLICATION.fullmatch(text) or text in {".", ".."}:
        raise ValueError("must be 1 to 64 characters of A-Z a-z 0-9 . _ ~ - and neither . nor ..")
    return text


def check_ordering_key(text: str) -> str:
    """The ordering key as given."""
    if not _ORDERING_KEY.fullmatch(text):
        raise ValueError("must be 1 to 128 visible ASCII characters without blanks")
    return text


def check_label_count(labels: Any) -> Any:
    """The value as given, unless it has too many labels; this spares the checks of each of them."""
    if isinstance(labels, dict) and len(labels) > MAX_LABELS:
        raise ValueError(f"must have at most {MAX_LABELS} labels")
    return labels


def check_member_count(value: Any) -> Any:
    """The value as given, unless it has more members than any field but a body may have."""
    if isinstance(value, dict | list) and len(value) > MAX_MEMBERS:
        raise ValueError(f"must have at most {MAX_MEMBERS} members")
    return value


def check_labels(labels: dict[str, str]) -> dict[str, str]:
    """The labels, sorted by name."""
    for name, value in labels.items():
        if not _LABEL_NAME.fullmatch(name):
            raise ValueError(f"must have names of 1 to {MAX_LABEL_NAME} characters of A-Z a-z 0-9 . _ / -")
        if len(value) > MAX_LABEL_VALUE or not value.isprintable():
            raise ValueError(f"must have values of at most {MAX_LABEL_VALUE} printable characters")
    return dict(sorted(labels.items()))


def check_label_filter(text: str) -> str:
    """name:value as given."""
    if not _LABEL_FILTER.match(text):
        raise ValueError("must be name:value, such as team:blue")
    return text


def check_host(text: str) -> str:
    """A host in the one form in which destinations are named (timers.names.normal_host)."""
    host = text.lower()
    authority = _AUTHORITY.fullmatch(host)
    if _NOT_IN_HOST.search(host) or authority is None or authority[2] is not None or not _is_host(host):
        raise ValueError("must be a host without scheme, port and path, such as example.com")
    return normal_host(text)


def check_method(text: str) -> str:
    """The method in upper case."""
    method = text.upper()
    if method not in METHODS:
        raise ValueError(f"must be one of {', '.join(METHODS)}")
    return method


def check_url(url: str) -> str:
    """The URL as given, if it can be called exactly as given."""
    if len(url) > MAX_URL_CHARACTERS:
        raise ValueError(f"must have at most {MAX_URL_CHARACTERS:,} characters")
    if _UNWRITABLE.search(url):
        raise ValueError("must not contain control characters, white space or backslashes: escape them")
    match = _URL.fullmatch(url)
    if match is None:
        raise ValueError("must start with http:// or https://")
    authority, path, _, fragment = match.groups()
    if ID_PLACEHOLDER in authority or ID_PLACEHOLDER in (fragment or ""):
        raise ValueError(f"may have {ID_PLACEHOLDER} in its path and query only")
    if _DOT_SEGMENT.search(path):
        raise ValueError("must not have . or .. as a path segment: HTTP clients would rewrite it")
    _check_authority(authority)
    return url


def _check_authority(authority: str) -> None:
    if "@" in authority:
        raise ValueError("must not contain credentials: send them in an Authorization header")
    parts = _AUTHORITY.fullmatch(authority)
    if parts is None:
        raise ValueError(_INVALID_HOST)
    host, port = parts.groups()
    if not host:
        raise ValueError("must name a host, such as https://example.com/")
    if port is not None and not (_PORT.fullmatch(port) and 0 < int(port) <= MAX_PORT):
        raise ValueError(f"must have a port of 1 to {MAX_PORT}, or none")
    if not _is_host(host):
        raise ValueError(_INVALID_HOST)


def _is_host(host: str) -> bool:
    if host.startswith("["):
        return "%" not in host and _is_ip(IPv6Address, host[1:-1])
    normal = normal_host(host)
    if _NUMBER.fullmatch(normal.rpartition(".")[2]):
        # URL libraries complete 127.1 and 0x7f000001 to an address that is not what was written.
        return _is_ip(IPv4Address, host)
    labels = normal.split(".")
    return (
        not host.endswith("..")
        and len(normal) <= _MAX_HOST_CHARACTERS
        and all(_LABEL.fullmatch(label) and is_readable_label(label) for label in labels)
    )


def _is_ip(kind: type[IPv4Address | IPv6Address], text: str) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return True


def check_header_name(name: str) -> str:
    """The header's name as given."""
    if not _TOKEN.fullmatch(name):
        raise ValueError("must be a header name: letters, digits and !#$%&'*+-.^_`|~")
    lower = name.lower()
    if lower in _HOP_BY_HOP:
        raise ValueError("belongs to the connection, not to the request: remove it")
    if lower in _SET_BY_CLIENT:
        raise ValueError("follows from url and body: remove it")
    if lower in OWN_HEADERS:
        raise ValueError("is set by httpqueue itself: remove it")
    return name


def check_header_value(value: str) -> str:
    """The header's value as given."""
    if value == MASK:
        raise ValueError(f"must not be {MASK}, which stands for a value that was not shown: send the value")
    if not _VALUE.fullmatch(value):
        raise ValueError("must be visible ASCII characters, with spaces and tabs only between them")
    return value


def check_header_count(headers: Any) -> Any:
    """The value as given, unless it has too many headers; this spares the checks of each of them."""
    if isinstance(headers, dict) and len(headers) > MAX_HEADERS:
        raise ValueError(f"must have at most {MAX_HEADERS} names")
    return headers


def check_headers(headers: dict[str, str]) -> dict[str, str]:
    """The headers, sorted by name. No two names may differ only in case: they would be the same header."""
    seen: dict[str, str] = {}
    for name in headers:
        other = seen.setdefault(name.lower(), name)
        if other != name:
            raise ValueError(f"must not have {other} and {name}, which are one name: join their values")
    return dict(sorted(headers.items()))
