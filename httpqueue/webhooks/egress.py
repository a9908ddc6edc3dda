"""Decides which addresses webhooks may go to. Pure.

A webhook's URL comes from a client, so it may name a server that only this machine can reach: a database, or
the cloud's metadata service, which gives out credentials (server-side request forgery, SSRF). A name is
judged by the addresses it resolves to, never by its text. The tables follow IANA's registries of
special-purpose addresses (RFC 6890). Python's `is_global` differs between versions and has holes.
"""

import re
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from httpqueue.timers.names import host_of, normal_host
from httpqueue.webhooks.message import Fault, SendError

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network


class EgressMode(StrEnum):
    """Where webhooks may go."""

    PUBLIC = "public"
    PRIVATE = "private"
    PROXY = "proxy"


def _networks(*texts: str) -> tuple[IPNetwork, ...]:
    return tuple(map(ip_network, texts))


_NEVER: Final = (
    ("an unspecified address", _networks("0.0.0.0/8", "::/128")),  # to Linux, 0.0.0.0 is this machine
    ("a link-local address", _networks("169.254.0.0/16", "fe80::/10")),
    ("a multicast address", _networks("224.0.0.0/4", "ff00::/8")),
    ("a broadcast address", _networks("255.255.255.255/32")),
    (
        "the address of a cloud's metadata service",  # those that are not link-local
        _networks(
            "100.100.100.200/32",  # Alibaba Cloud
            "168.63.129.16/32",  # Azure
            "192.0.0.192/32",  # Oracle Cloud
            "fd00:c1::a9fe:a9fe/128",  # Oracle Cloud
            "fd00:ec2::/32",  # AWS: metadata, credentials of pods, DNS, time
            "fd20:ce::254/128",  # Google Cloud
            "fd00:42::42/128",  # Scaleway
        ),
    ),
)
"""No mode and no list allows these."""
_PRIVATE: Final = (
    ("a loopback address", _networks("127.0.0.0/8", "::1/128")),
    (
        "a private address",
        _networks("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"),
    ),
)
"""What the mode `private` allows in addition to public addresses."""
_NOT_PUBLIC: Final = _networks(
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "240.0.0.0/4",
    "2001::/23",  # with Teredo, 2001::/32
    "2001:db8::/32",
    "2002::/16",  # 6to4
    "3fff::/20",
)
"""Reserved, for documentation or benchmarks, or tunnels whose end nobody knows."""
_GLOBAL_UNICAST: Final = ip_network("2000::/3")
"""All public IPv6 addresses are in here, but for those of NAT64."""

_MAPPED: Final = ip_network("::ffff:0:0/96")  # RFC 4291 section 2.5.5.2
_COMPATIBLE: Final = ip_network("::/96")  # RFC 4291 section 2.5.5.1
_TRANSLATED: Final = ip_network("::ffff:0:0:0/96")  # RFC 2765 section 2.1
_NAT64: Final = ip_network("64:ff9b::/96")  # RFC 6052 section 2.1
_LOCAL_NAT64: Final = ip_network("64:ff9b:1::/48")  # RFC 8215
_NOT_EMBEDDED: Final = (IPv6Address("::"), IPv6Address("::1"))
_THIS_NETWORK: Final = ip_network("0.0.0.0/8")
_BITS_32: Final = 0xFFFF_FFFF

_PATTERN: Final = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?\.)*[a-z0-9_-]*[a-z_][a-z0-9_-]*")
"""A normal host that is no number: its last label is none."""
_NOT_AN_ENTRY: Final = (
    "must list networks such as 10.0.0.0/8, addresses, and hosts such as example.com or *.example.com"
)


@dataclass(frozen=True, slots=True)
class EgressList:
    """Networks and hosts. '*.example.com' stands for all names below example.com, not for itself."""

    networks: tuple[IPNetwork, ...] = ()
    hosts: tuple[str, ...] = ()

    def has_host(self, host: str) -> bool:
        """Whether a host in its normal form (timers.names) is listed by its name."""
        return any(
            host.endswith(pattern[1:]) if pattern.startswith("*") else host == pattern
            for pattern in self.hosts
        )

    def has_address(self, address: IPAddress) -> bool:
        """Whether a listed network has this address."""
        return _is_in(address, self.networks)


NOTHING: Final = EgressList()


def parse_list(text: str) -> EgressList:
    """'10.0.0.0/8, *.example.com' -> the list. Raises ValueError."""
    networks: list[IPNetwork] = []
    hosts: list[str] = []
    for entry in filter(None, map(str.strip, text.split(","))):
        try:
            networks.append(ip_network(entry.strip("[]")))
        except ValueError:
            hosts.append(_pattern(entry))
    return EgressList(tuple(networks), tuple(hosts))


def _pattern(entry: str) -> str:
    star = "*." if entry.startswith("*.") else ""
    host = normal_host(entry.removeprefix(star))
    if not _PATTERN.fullmatch(host) or literal_of(host) is not None:
        raise ValueError(f"{_NOT_AN_ENTRY} (not {entry})")
    return star + host


@dataclass(frozen=True, slots=True)
class Egress:
    """The rules: deny wins over allow, and allow over the mode. Nothing allows what is in _NEVER."""

    mode: EgressMode
    allow: EgressList = NOTHING
    deny: EgressList = NOTHING

    def judge(self, host: str, addresses: Sequence[IPAddress]) -> None:
        """Raises SendError unless the host and every one of its addresses may be called."""
        host = normal_host(host)
        reasons = (self._of_host(host), *(self._of_address(host, address) for address in addresses))
        reason = next(filter(None, reasons), None)
        if reason is not None:
            raise SendError(Fault.EGRESS_BLOCKED, f"blocked: the host {reason}")

    def refusal_of(self, url: str) -> str | None:
        """Why a URL cannot be accepted, for the client who sent it. None: it can.

        Its name is not resolved: the addresses of a name may be others when it is called.
        """
        host = host_of(url)
        literal = literal_of(host)
        reason = self._of_host(host) or (literal and self._of_address(host, literal))
        return f"must have a host that may be called, but it {reason}: use another host" if reason else None

    def _of_host(self, host: str) -> str | None:
        return "is listed in HTTPQUEUE_EGRESS_DENY" if self.deny.has_host(host) else None

    def _of_address(self, host: str, address: IPAddress) -> str | None:
        """Why this address of the host must not be called; None when it may be."""
        spellings = (address, *embedded(address))
        for spelling in spellings:
            what = _what(spelling, _NEVER)
            if what is not None:
                return f"has {what}, which is never called"
        if any(map(self.deny.has_address, spellings)):
            return "has an address that HTTPQUEUE_EGRESS_DENY lists"
        meant = _meant(address)
        if self.mode is EgressMode.PROXY or self._allows(host, address) or self._allows(host, meant):
            return None
        what = _what(meant, _PRIVATE)
        if what is not None:
            return None if self.mode is EgressMode.PRIVATE else f"has {what}, and HTTPQUEUE_EGRESS is public"
        return None if _is_public(meant) else "has an address that is not public"

    def _allows(self, host: str, address: IPAddress) -> bool:
        return self.allow.has_host(host) or self.allow.has_address(address)


@lru_cache(maxsize=4_096)
def literal_of(host: str) -> IPAddress | None:
    """The address that a host spells out, or None if it is a name.

    IPv6 may be in brackets. IPv4 may be decimal, hexadecimal, octal or short: the system's resolver reads
    2130706433, 0x7f.1 and 127.1 as 127.0.0.1.
    """
    try:
        return ip_address(host.strip("[]"))
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(host))
    except (OSError, ValueError):
        return None


def embedded(address: IPAddress) -> Iterator[IPv4Address]:
    """The IPv4 addresses that an IPv6 address stands for, or through which it is reached."""
    if isinstance(address, IPv4Address) or address in _NOT_EMBEDDED:
        return
    last = IPv4Address(int(address) & _BITS_32)
    if any(address in network for network in (_MAPPED, _COMPATIBLE, _TRANSLATED, _NAT64)):
        yield last
    elif address in _LOCAL_NAT64:
        yield from _of_local_nat64(int(address))
    elif address.sixtofour is not None:
        yield address.sixtofour
    elif address.teredo is not None:
        yield from address.teredo


def _of_local_nat64(address: int) -> Iterator[IPv4Address]:
    """RFC 6052 section 2.2: a prefix may have 48, 56, 64 or 96 bits, and bits 64 to 71 are left out."""
    without_u = (address >> 64 << 56) | (address & ((1 << 56) - 1))
    for reading in (address, *(without_u >> shift for shift in (40, 32, 24))):
        found = IPv4Address(reading & _BITS_32)
        if found not in _THIS_NETWORK:  # a prefix of another length: zeros are read
            yield found


def _meant(address: IPAddress) -> IPAddress:
    """The IPv4 address to which the system, or a NAT64 gateway, connects; else the address itself."""
    if address in _MAPPED or address in _NAT64:
        return IPv4Address(int(address) & _BITS_32)
    return address


def _what(address: IPAddress, table: Sequence[tuple[str, Sequence[IPNetwork]]]) -> str | None:
    return next((what for what, networks in table if _is_in(address, networks)), None)


def _is_public(address: IPAddress) -> bool:
    return (address.version == 4 or address in _GLOBAL_UNICAST) and not _is_in(address, _NOT_PUBLIC)  # noqa: PLR2004 - IPv4


def _is_in(address: IPAddress, networks: Sequence[IPNetwork]) -> bool:
    return any(address in network for network in networks)
