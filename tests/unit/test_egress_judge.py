"""Which addresses webhooks may go to: the judge, by table and by property."""

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from httpqueue.webhooks.egress import (
    NOTHING,
    Egress,
    EgressList,
    EgressMode,
    IPAddress,
    embedded,
    literal_of,
    parse_list,
)
from httpqueue.webhooks.message import Fault, SendError
from tests.support.egress import PRIVATE, PUBLIC

PROXY = Egress(EgressMode.PROXY)
EVERYTHING = parse_list("0.0.0.0/0, ::/0, h.example, *.example")
LENIENT = [Egress(mode, allow=EVERYTHING) for mode in EgressMode]
"""The rules that allow as much as rules can."""


def refusal(egress: Egress, *addresses: str | IPAddress, host: str = "h.example") -> str | None:
    """Why a host with these addresses must not be called."""
    try:
        egress.judge(host, [ip_address(address) for address in addresses])
    except SendError as error:
        return error.message if error.fault is Fault.EGRESS_BLOCKED else "another fault"
    return None


def local_nat64(bits: int) -> Callable[[int], int]:
    """RFC 6052 section 2.2: an IPv4 address behind a prefix of so many bits; bits 64 to 71 are zero."""
    prefix = int(IPv6Address("64:ff9b:1::"))

    def spell(v4: int) -> int:
        without_u = v4 << (120 - bits - 32)
        below_u = without_u & ((1 << 56) - 1)
        return prefix | (without_u - below_u) << 8 | below_u

    return spell


SPELLINGS: dict[str, Callable[[int], int]] = {
    "mapped": lambda v4: int(IPv6Address("::ffff:0:0")) | v4,
    "compatible": lambda v4: v4,
    "translated": lambda v4: int(IPv6Address("::ffff:0:0:0")) | v4,
    "NAT64": lambda v4: int(IPv6Address("64:ff9b::")) | v4,
    "local NAT64, 48": local_nat64(48),
    "local NAT64, 56": local_nat64(56),
    "local NAT64, 64": local_nat64(64),
    "local NAT64, 96": lambda v4: int(IPv6Address("64:ff9b:1::")) | v4,
    "6to4": lambda v4: int(IPv6Address("2002::")) | v4 << 80 | 1,
    "Teredo server": lambda v4: int(IPv6Address("2001::")) | v4 << 64 | 0xF7F7_F7F7,
    "Teredo client": lambda v4: int(IPv6Address("2001:0:808:808::")) | (v4 ^ 0xFFFF_FFFF),
}
V4 = st.integers(0, 2**32 - 1).map(IPv4Address)
V6 = st.one_of(
    st.integers(0, 2**128 - 1),
    st.integers(2**125, 2**126 - 1),  # 2000::/3
    st.builds(lambda v4, spell: spell(int(v4)), V4, st.sampled_from([*SPELLINGS.values()])),
).map(IPv6Address)
ADDRESS = st.one_of(V4, V6)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("0.0.0.0", "an unspecified address"),
        ("0.1.2.3", "an unspecified address"),
        ("::", "an unspecified address"),
        ("169.254.169.254", "a link-local address"),
        ("169.254.170.2", "a link-local address"),
        ("fe80::1", "a link-local address"),
        ("fe80::a9fe:a9fe%eth0", "a link-local address"),
        ("febf:ffff::", "a link-local address"),
        ("224.0.0.1", "a multicast address"),
        ("239.255.255.255", "a multicast address"),
        ("ff02::1", "a multicast address"),
        ("255.255.255.255", "a broadcast address"),
        ("100.100.100.200", "the address of a cloud's metadata service"),
        ("168.63.129.16", "the address of a cloud's metadata service"),
        ("192.0.0.192", "the address of a cloud's metadata service"),
        ("fd00:ec2::254", "the address of a cloud's metadata service"),
        ("fd00:ec2::23", "the address of a cloud's metadata service"),
        ("fd20:ce::254", "the address of a cloud's metadata service"),
        ("fd00:42::42", "the address of a cloud's metadata service"),
        ("fd00:c1::a9fe:a9fe", "the address of a cloud's metadata service"),
    ],
)
def test_never_called(text: str, what: str) -> None:
    """In no mode, and whatever is allowed; nor spelled in any way inside IPv6."""
    address = ip_address(text)
    every = [address]
    if isinstance(address, IPv4Address):
        every += [IPv6Address(spell(int(address))) for spell in SPELLINGS.values()]
        if address in (IPv4Address("0.0.0.0"), IPv4Address("0.1.2.3")):  # read as a prefix of other length
            every = [each for each in every if int(each) >> 80 != 0x64_FF9B_0001]
    for egress in (PUBLIC, PRIVATE, PROXY, *LENIENT):
        for spelled in every:
            assert refusal(egress, spelled) == f"blocked: the host has {what}, which is never called", spelled


@pytest.mark.parametrize(
    ("text", "public", "private"),
    [
        ("8.8.8.8", True, True),
        ("1.1.1.1", True, True),
        ("2606:4700::1111", True, True),
        ("2001:4860:4860::8888", True, True),
        ("::ffff:8.8.8.8", True, True),
        ("64:ff9b::8.8.8.8", True, True),
        ("127.0.0.1", False, True),
        ("127.255.255.254", False, True),
        ("::1", False, True),
        ("10.0.0.1", False, True),
        ("172.16.0.1", False, True),
        ("172.31.255.255", False, True),
        ("172.32.0.1", True, True),
        ("192.168.1.1", False, True),
        ("100.64.0.1", False, True),
        ("100.127.255.255", False, True),
        ("100.128.0.1", True, True),
        ("fd12:3456::1", False, True),
        ("fc00::1", False, True),
        ("::ffff:127.0.0.1", False, True),
        ("::ffff:10.0.0.1", False, True),
        ("64:ff9b::10.0.0.1", False, True),
        # what neither mode allows, and Python 3.11 takes for global
        ("::127.0.0.1", False, False),
        ("::8.8.8.8", False, False),
        ("::ffff:0:8.8.8.8", False, False),
        ("64:ff9b:1::1", False, False),
        ("64:ff9b:1::808:808", False, False),
        ("2002:808:808::1", False, False),
        ("2002:7f00:1::1", False, False),
        ("2001:0:808:808::f7f7:f7f7", False, False),
        ("fec0::1", False, False),
        ("192.0.0.8", False, False),
        ("192.0.2.1", False, False),
        ("192.88.99.1", False, False),
        ("198.18.0.1", False, False),
        ("198.51.100.1", False, False),
        ("203.0.113.1", False, False),
        ("240.0.0.1", False, False),
        ("2001:db8::1", False, False),
        ("2001:20::1", False, False),
        ("3fff::1", False, False),
        ("5f00::1", False, False),
        ("100::1", False, False),
        ("4000::1", False, False),
    ],
)
def test_modes(text: str, public: bool, private: bool) -> None:  # noqa: FBT001 - a table
    """What each mode allows; the mode proxy leaves it to the proxy, and a list may allow all of it."""
    assert (refusal(PUBLIC, text) is None) is public
    assert (refusal(PRIVATE, text) is None) is private
    assert refusal(PROXY, text) is None
    for egress in LENIENT:
        assert refusal(egress, text) is None


def test_reasons() -> None:
    """They say what is wrong, and nothing about the network: neither name nor address."""
    assert refusal(PUBLIC, "127.0.0.1") == (
        "blocked: the host has a loopback address, and HTTPQUEUE_EGRESS is public"
    )
    assert refusal(PUBLIC, "10.0.0.1") == (
        "blocked: the host has a private address, and HTTPQUEUE_EGRESS is public"
    )
    assert refusal(PRIVATE, "192.0.2.1") == "blocked: the host has an address that is not public"


@given(ADDRESS)
def test_public_means_global(address: IPAddress) -> None:
    """Our tables are at least as strict as this Python's; private allows all that public does."""
    if refusal(PUBLIC, address) is None:
        assert address.is_global or (isinstance(address, IPv6Address) and address.ipv4_mapped)
        assert all(each.is_global and not each.is_multicast for each in embedded(address))
        assert refusal(PRIVATE, address) is None


@given(ADDRESS, ADDRESS)
def test_what_no_rules_allow(address: IPAddress, other: IPAddress) -> None:
    """Whatever the most lenient rules refuse is refused by all."""
    for lenient in LENIENT:
        if refusal(lenient, address) is not None:
            for egress in (PUBLIC, PRIVATE, PROXY):
                assert refusal(egress, address) is not None
                assert refusal(egress, other, address) is not None


@given(st.lists(ADDRESS, max_size=4), st.sampled_from([PUBLIC, PRIVATE, PROXY]))
def test_one_refused_address_refuses_the_host(addresses: list[IPAddress], egress: Egress) -> None:
    """A mixed answer is refused wholly, wherever the bad address stands."""
    each = [refusal(egress, address) for address in addresses]
    assert refusal(egress, *addresses) == next((reason for reason in each if reason), None)


@given(V4, st.sampled_from([*SPELLINGS]), st.integers(0, 32))
def test_embedded_addresses_are_found(v4: IPv4Address, spelling: str, bits: int) -> None:
    """However an address is spelled, a deny list for it holds; deny wins over allow in every mode."""
    address = IPv6Address(SPELLINGS[spelling](int(v4)))
    if int(address) <= 1 or (spelling.startswith("local") and int(v4) < 2**24):
        return  # :: and ::1 are themselves; 0.0.0.0/8 is what prefixes of another length read
    assert v4 in [*embedded(address)]
    denied = parse_list(f"{IPv4Address(int(v4) >> (32 - bits) << (32 - bits))}/{bits}")
    for mode in EgressMode:
        for spelled in (v4, address):
            assert refusal(Egress(mode, EVERYTHING, denied), spelled) is not None


@pytest.mark.parametrize(
    ("text", "host", "address", "is_listed"),
    [
        ("10.0.0.0/8", "h", "10.1.2.3", True),
        ("10.0.0.0/16", "h", "10.1.2.3", False),
        ("10.1.2.3", "h", "10.1.2.3", True),
        ("10.1.2.3", "h", "10.1.2.4", False),
        ("fd00::/8", "h", "fd12::1", True),
        ("[fd12::1]", "h", "fd12::1", True),
        ("10.0.0.0/8", "h", "::ffff:10.1.2.3", True),
        ("10.0.0.0/8", "h", "64:ff9b::10.1.2.3", True),
        ("::ffff:10.0.0.0/104", "h", "::ffff:10.1.2.3", True),
        ("10.0.0.0/8", "h", "2002:a01:203::1", False),  # 6to4: 10.1.2.3 is a way there, not the end
        ("example.com", "example.com", "10.1.2.3", True),
        ("Example.COM.", "example.com", "10.1.2.3", True),
        ("example.com", "EXAMPLE.com.", "10.1.2.3", True),
        ("example.com", "a.example.com", "10.1.2.3", False),
        ("*.example.com", "a.example.com", "10.1.2.3", True),
        ("*.example.com", "a.b.example.com", "10.1.2.3", True),
        ("*.example.com", "example.com", "10.1.2.3", False),
        ("*.example.com", "badexample.com", "10.1.2.3", False),
        ("*.bücher.example", "a.xn--bcher-kva.example", "10.1.2.3", True),
        ("bücher.example", "BÜCHER.example", "10.1.2.3", True),
        (" , a.example ,, 10.0.0.0/8,", "h", "10.1.2.3", True),
        ("", "h", "10.1.2.3", False),
    ],
)
def test_lists(text: str, host: str, address: str, is_listed: bool) -> None:  # noqa: FBT001 - a table
    """An entry allows what the mode refuses, or refuses what it allows."""
    entries = parse_list(text)
    assert (refusal(Egress(EgressMode.PUBLIC, allow=entries), address, host=host) is None) is is_listed
    if "2002:" not in address:
        assert (
            refusal(Egress(EgressMode.PRIVATE, deny=entries), address, host=host) is not None
        ) is is_listed
    assert refusal(Egress(EgressMode.PRIVATE, entries, entries), "169.254.169.254", host=host) is not None


def test_an_empty_list_is_nothing() -> None:
    """As if it were not set."""
    assert parse_list(" ,") == NOTHING == EgressList()


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("[::ffff:169.254.169.254]", "::ffff:169.254.169.254"),
        ("2130706433", "127.0.0.1"),
        ("0x7f.1", "127.0.0.1"),
        ("0x7f000001", "127.0.0.1"),
        ("0177.0.0.1", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("0", "0.0.0.0"),
        ("example.com", None),
        ("localhost", None),
        ("a", None),
        ("", None),
        ("256.1.1.1", None),
        ("1.2.3.4.5", None),
        ("\x00", None),
        ("ü", None),
    ],
)
def test_literals(host: str, address: str | None) -> None:
    """The addresses that hosts spell out, as the system's resolver reads them."""
    assert literal_of(host) == (None if address is None else ip_address(address))


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://169.254.169.254/latest", "has a link-local address, which is never called"),
        ("http://[::ffff:a9fe:a9fe]:80/", "has a link-local address, which is never called"),
        ("https://127.0.0.1:8080", "has a loopback address, and HTTPQUEUE_EGRESS is public"),
        ("https://[::1]", "has a loopback address, and HTTPQUEUE_EGRESS is public"),
        ("https://user@10.0.0.1/", "has a private address, and HTTPQUEUE_EGRESS is public"),
        ("http://①②⑦.0.0.1/", "has a loopback address, and HTTPQUEUE_EGRESS is public"),
        ("http://2130706433", "has a loopback address, and HTTPQUEUE_EGRESS is public"),
        ("http://A.evil.example.", "is listed in HTTPQUEUE_EGRESS_DENY"),
        ("http://8.8.4.4", "has an address that HTTPQUEUE_EGRESS_DENY lists"),
        ("http://8.8.8.8", None),
        ("http://localhost", None),
        ("http://example.com", None),
    ],
)
def test_urls(url: str, reason: str | None) -> None:
    """What can be told without resolving; a name is judged when it is called."""
    rules = Egress(EgressMode.PUBLIC, deny=parse_list("*.evil.example, 8.8.4.0/24"))
    expected = reason and f"must have a host that may be called, but it {reason}: use another host"
    assert rules.refusal_of(url) == expected
