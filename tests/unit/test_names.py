"""The one form of a host, in which limits, pauses and filters compare it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from httpqueue.timers.names import TimerName, host_of, normal_host


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://example.com", "example.com"),
        ("https://example.com:8443/a?b=c#d", "example.com"),
        ("HTTP://EXAMPLE.com./", "example.com"),
        ("http://user:pass@example.com/", "example.com"),
        ("http://example.com?a=http://other/", "example.com"),
        ("http://example.com#@other/", "example.com"),
        ("http://127.0.0.1:80/", "127.0.0.1"),
        ("http://[::1]:8080/", "[::1]"),
        ("http://[0:0:0:0:0:0:0:1]/", "[::1]"),
        ("http://[2001:DB8::0:1]/", "[2001:db8::1]"),
        ("http://[no address]/", "[no address]"),
        ("http://b\u00fccher.example/", "xn--bcher-kva.example"),
        ("http://B\u00dcCHER.example/", "xn--bcher-kva.example"),
        ("http://xn--bcher-kva.example/", "xn--bcher-kva.example"),
        ("http://b\u00fccher\u3002example/", "xn--bcher-kva.example"),
        ("http://\u2603.example/", "xn--n3h.example"),
        ("http:///path", ""),
        ("no url", ""),
        ("", ""),
    ],
)
def test_hosts(url: str, host: str) -> None:
    """Without port and credentials, in small letters, ASCII, without the root's dot, addresses shortened."""
    assert host_of(url) == host


@given(st.text())
def test_a_normal_host_is_its_own(text: str) -> None:
    """Whatever the text: what a filter gives is compared with what was stored."""
    host = normal_host(text)
    assert normal_host(host.upper() if host.isascii() else host) in {host, host.removesuffix(".")}


@given(st.text())
def test_no_text_makes_host_of_fail(text: str) -> None:
    """What the API would refuse may stand in a store."""
    host_of(f"http://{text}")


def test_a_name_as_logs_show_it() -> None:
    """Application and id."""
    assert str(TimerName("shop", "a")) == "shop:a"
