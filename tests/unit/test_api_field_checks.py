"""Which urls, header names and values, methods and ids pass, and the sentence for those that do not."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from httpqueue.api.schema import field_checks
from httpqueue.webhooks.client.http1.origin import split
from httpqueue.webhooks.message import OWN_HEADERS

URLS = [
    "http://example.com",
    "https://example.com/",
    "HTTPS://EXAMPLE.COM/A",
    "http://example.com:1/",
    "http://example.com:65535/",
    "http://example.com./",
    "http://my_service/hook",
    "http://localhost:8080/hook?a=b&c=d#part",
    "http://127.0.0.1/",
    "http://[::1]/",
    "http://[2001:db8::1]:8443/hook",
    "http://bücher.example/",
    "http://example.com/ä?q=ü",
    "http://example.com/{id}?timer={id}",
    "http://example.com/%zz|^",
    "http://example.com/.well-known/..hidden/a..b/...",
    "http://example.com/?next=/../x",
    "http://example.com/a//b",
    "http://example.com?q=a@b",
    "http://1e100.example/",
    "http://example.com/" + "a" * 2029,
]
BAD_URLS = [
    ("", "start with http"),
    ("example.com/hook", "start with http"),
    ("ftp://example.com/", "start with http"),
    ("http:/example.com", "start with http"),
    ("javascript:alert(1)", "start with http"),
    ("http://", "name a host"),
    ("http:///hook", "name a host"),
    ("http://:80/", "name a host"),
    ("http://?q", "name a host"),
    ("http://user:secret@example.com/", "credentials"),
    ("http://user@example.com/", "credentials"),
    ("http://@example.com/", "credentials"),
    ("http://example.com:0/", "port"),
    ("http://example.com:/", "port"),
    ("http://example.com:65536/", "port"),
    ("http://example.com:-1/", "port"),
    ("http://example.com:\uff18\uff10/", "port"),
    ("http://example.com:1:2/", "port"),
    ("http://[::1]:0/", "port"),
    ("http://example.com/a\r\nX: y", "control characters"),
    ("http://example.com/a\n", "control characters"),
    ("http://example.com/a\tb", "control characters"),
    ("http://example.com/\x00", "control characters"),
    ("http://example.com/\x85", "control characters"),
    ("http://example.com/a b", "white space"),
    ("http://example.com/\u2003", "white space"),
    ("http://example.com\\@evil.example/", "backslashes"),
    ("http://example.com/" + "a" * 2030, "2,048 characters"),
    ("http://example.com/./a", "path segment"),
    ("http://example.com/a/..", "path segment"),
    ("http://example.com/%2e%2E/a", "path segment"),
    ("http://example.com/.%2e", "path segment"),
    ("http://{id}.example.com/", "path and query only"),
    ("http://example.com/#{id}", "path and query only"),
    ("http://[::1/", "valid host"),
    ("http://[::1]x/", "valid host"),
    ("http://[fe80::1%25eth0]/", "valid host"),
    ("http://256.1.1.1/", "valid host"),
    ("http://127.1/", "valid host"),
    ("http://0x7f.1/", "valid host"),
    ("http://0x7f000001/", "valid host"),
    ("http://0177.0.0.1/", "valid host"),
    ("http://2130706433/", "valid host"),
    ("http://\uff11.0.0.1/", "valid host"),
    ("http://a..b/", "valid host"),
    ("http://-a.example/", "valid host"),
    ("http://a-/", "valid host"),
    ("http://" + "a" * 64 + ".example/", "valid host"),
    ("http://" + "a." * 127 + "a/", "valid host"),
    ("http://a|b/", "valid host"),
    ("http://a%20b/", "valid host"),
    ("http://xn--a/", "valid host"),
    ("http://%31%32%37.1/", "valid host"),
    ("http://ex%61mple.com/", "valid host"),
    ("http://1.2.3.4./", "valid host"),
]


@pytest.mark.parametrize("url", URLS)
def test_a_url_that_can_be_called_passes_unchanged(url: str) -> None:
    """The webhook is called exactly as given."""
    assert field_checks.check_url(url) == url


@pytest.mark.parametrize(("url", "reason"), BAD_URLS)
def test_a_url_that_cannot_be_called_is_refused_with_the_reason(url: str, reason: str) -> None:
    """Each says what is wrong with it."""
    with pytest.raises(ValueError, match=re.escape(reason)):
        field_checks.check_url(url)


@given(st.text(alphabet="htp:/.@[]{}id?#%2e\\ aä1-_\r\n\x00", max_size=40).map("http://".__add__))
def test_whatever_passes_can_be_read_by_the_http_client(url: str) -> None:
    """A stored timer never fails for its URL's form; and no text upsets the check."""
    if _refusal(url) is not None:
        return
    origin, target = split(url.replace("{id}", "x"))
    path = url.removeprefix("http://").partition("?")[0].partition("#")[0]
    assert origin.host
    assert "@" not in origin.authority
    assert target.partition("?")[0].count("/") == max(1, path.count("/")), "a segment vanished"


def _refusal(url: str) -> str | None:
    try:
        field_checks.check_url(url)
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    "name", ["X-Foo", "authorization", "!#$%&'*+-.^_`|~9aZ", "Content-Type", "User-Agent"]
)
def test_a_header_name_passes(name: str) -> None:
    """Tokens of RFC 9110 that are free for the client."""
    assert field_checks.check_header_name(name) == name


@pytest.mark.parametrize("name", ["", " ", "a b", "a:", "ä", "a\r\nb", "a\n", "(a)", "a/b", "a\x00", '"a"'])
def test_what_is_no_header_name_is_refused(name: str) -> None:
    """Anything but a token of RFC 9110."""
    with pytest.raises(ValueError, match="must be a header name"):
        field_checks.check_header_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *("Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection"),
        *("TE", "Trailer", "Transfer-Encoding", "Upgrade", "Host", "Content-Length", *sorted(OWN_HEADERS)),
    ],
)
def test_a_header_that_is_not_the_clients_is_refused_in_any_case(name: str) -> None:
    """Those of the connection, those that follow from url and body, and httpqueue's own."""
    for spelling in (name, name.lower(), name.upper()):
        with pytest.raises(ValueError, match="remove it"):
            field_checks.check_header_name(spelling)


@pytest.mark.parametrize("value", ["", "a", "a b", "a\tb", "!~", "Bearer abc=="])
def test_a_header_value_passes(value: str) -> None:
    """Visible ASCII, spaces and tabs between."""
    assert field_checks.check_header_value(value) == value


@pytest.mark.parametrize("value", [" ", " a", "a ", "\ta", "a\r\nb: c", "a\n", "a\x00", "a\x7f", "ä", "😀"])
def test_a_header_value_that_http_forbids_is_refused(value: str) -> None:
    """No white space around, no control characters, ASCII only."""
    with pytest.raises(ValueError, match="visible ASCII"):
        field_checks.check_header_value(value)


def test_a_header_is_given_once_whatever_its_case() -> None:
    """HTTP knows one name where JSON knows two."""
    with pytest.raises(ValueError, match="X-Foo and x-foo"):
        field_checks.check_headers({"X-Foo": "1", "x-foo": "1"})


def test_the_order_of_headers_does_not_make_other_content() -> None:
    """A client that repeats a POST need not keep it."""
    assert list(field_checks.check_headers({"b": "1", "a": "2"}).items()) == [("a", "2"), ("b", "1")]


@pytest.mark.parametrize("timer_id", ["a", "...", "~", "order-47_11.x", "a" * 128])
def test_an_id_passes(timer_id: str) -> None:
    """The characters that no URL escapes."""
    assert field_checks.check_id(timer_id) == timer_id


@pytest.mark.parametrize(
    "timer_id", ["", ".", "..", "a" * 129, "a/b", "a b", "a:b", "ä", "a\n", "{id}", "%41"]
)
def test_an_id_that_a_path_cannot_carry_is_refused(timer_id: str) -> None:
    """Other characters, too many, and what vanishes from paths."""
    with pytest.raises(ValueError, match="must be 1 to 128"):
        field_checks.check_id(timer_id)


def test_methods_are_stored_in_capitals() -> None:
    """Small letters are accepted."""
    assert field_checks.check_method("patch") == "PATCH"


@pytest.mark.parametrize("method", ["", "CONNECT", "TRACE", "GET ", "PUR GE"])
def test_other_methods_are_refused(method: str) -> None:
    """The error names those there are."""
    with pytest.raises(ValueError, match="GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"):
        field_checks.check_method(method)
