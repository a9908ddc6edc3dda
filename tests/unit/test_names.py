"""The one form of a host: however a URL spells it, limits and pauses hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from httpqueue.api.schema.field_checks import check_host
from httpqueue.timers.names import TimerName, host_of, normal_host
from httpqueue.webhooks.client.http1.origin import split

SPELLINGS = [
    *((host, "example.com") for host in ("example.com", "EXAMPLE.com.", "\uff45xample.com", "example。com")),
    *((host, "xn--bcher-kva.de") for host in ("BÜCHER.de", "bu\u0308cher.de.", "XN--BCHER-KVA.DE")),
    ("www.ΟΔΟΣ", "www.xn--pxavbq"),  # Python alone would make the last letter a final sigma
    ("☃.net", "xn--n3h.net"),
    ("127.0.0.1", "127.0.0.1"),
    ("[0:0:0:0:0:0:0:1]", "[::1]"),
    ("[2001:DB8::0:1]", "[2001:db8::1]"),
]
"""Host as written, and as it is compared."""
spellings = pytest.mark.parametrize(("written", "normal"), SPELLINGS)


@spellings
def test_a_host_has_one_form(written: str, normal: str) -> None:
    """In a URL, in the name of a destination, and by itself."""
    assert normal_host(written) == normal
    assert check_host(written) == normal
    assert host_of(f"https://{written}/hook") == normal


@spellings
def test_it_is_the_host_that_is_called(written: str, normal: str) -> None:
    """As the client reads the URL; a trailing dot alone is no other host."""
    origin, _ = split(f"https://{written}/hook")
    assert origin.host.removesuffix(".") == normal.strip("[]")


@pytest.mark.parametrize("authority", ["{}:80", "{}:8443", "user@{}", "user:p@ss:word@{}:1"])
@pytest.mark.parametrize("host", ["example.com", "[::1]"])
@pytest.mark.parametrize("rest", ["", "/", "/a:b@c", "?q=a@b", "#f@g"])
def test_ports_and_credentials_do_not_count(authority: str, host: str, rest: str) -> None:
    """Nor what stands behind them."""
    assert host_of(f"HTTP://{authority.format(host)}{rest}") == host


@pytest.mark.parametrize("url", ["", "example.com", "/path", "http:example.com", "http://", "http:///x"])
def test_a_url_without_a_host(url: str) -> None:
    """Has none."""
    assert host_of(url) == ""


@pytest.mark.parametrize("host", ["[::1", "[::1]x", "[1::2::3]", "[]", "[EXAMPLE]", "a\ufffeB"])
def test_what_is_no_host_is_no_other_one(host: str) -> None:
    """It comes back in lower case."""
    assert normal_host(host) == host.lower()


@given(
    st.text()
    | st.text(st.sampled_from("aAüÜßẞΣςİ.。\uff0e\uff61[]\uff3b\uff3d:0\uff11-☃\u200d\u0308"))
    | st.ip_addresses(v=6).map(lambda address: f"[{address.exploded}]")
)
def test_the_form_is_its_own_form(host: str) -> None:
    """Whatever is normalised once more stays."""
    once = normal_host(host)
    assert normal_host(once) == once


def test_a_name_as_logs_show_it() -> None:
    """Application and id."""
    assert str(TimerName("shop", "a")) == "shop:a"
