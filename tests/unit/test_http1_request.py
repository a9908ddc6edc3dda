"""A request as bytes: what was given, and no byte more."""

import pytest

from httpqueue.webhooks.client.http1.encode import encode
from httpqueue.webhooks.client.http1.origin import Origin, split
from httpqueue.webhooks.message import Fault, Request, SendError


@pytest.mark.parametrize(
    ("url", "origin", "target"),
    [
        ("http://example.com", ("http", "example.com", 80, "example.com"), "/"),
        ("HTTPS://Example.COM/", ("https", "example.com", 443, "example.com"), "/"),
        ("https://example.com:443/a", ("https", "example.com", 443, "example.com"), "/a"),
        ("https://example.com:80/a", ("https", "example.com", 80, "example.com:80"), "/a"),
        ("http://example.com:/a", ("http", "example.com", 80, "example.com"), "/a"),
        ("http://example.com?a=b", ("http", "example.com", 80, "example.com"), "/?a=b"),
        ("http://example.com/a?b#c?d", ("http", "example.com", 80, "example.com"), "/a?b"),
        ("http://[2001:DB8::0:1]:8080/", ("http", "2001:db8::1", 8080, "[2001:db8::1]:8080"), "/"),
        ("http://[::1]/", ("http", "::1", 80, "[::1]"), "/"),
        ("http://bücher.example/", ("http", "xn--bcher-kva.example", 80, "xn--bcher-kva.example"), "/"),
        ("http://a_b.example./", ("http", "a_b.example", 80, "a_b.example"), "/"),
    ],
)
def test_where_a_url_leads(url: str, origin: tuple[str, str, int, str], target: str) -> None:
    """The host in its one form; the port in Host only where it is not the scheme's own."""
    assert split(url) == (Origin(*origin), target)


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("/a%2Fb/%zz/../;x?a=b+c%20&d=()*!@:$,", None),
        ('/"<>^`{|}\\', None),
        ("/a b\tc\r\nd", "/a%20b%09c%0D%0Ad"),
        ("/é?ü=\u20ac", "/%C3%A9?%C3%BC=%E2%82%AC"),
        ("/\x00\x7f", "/%00%7F"),
    ],
)
def test_the_target_stays_as_written(written: str, sent: str | None) -> None:
    """Only what cannot be in a request line is percent-encoded."""
    assert split(f"http://h{written}")[1] == (sent or written)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "h/a",
        "ftp://h/",
        "http:h",
        "http://",
        "http:///a",
        "http://:80/",
        "http://user@h/",
        "http://user:word@h/",
        "http://h:x/",
        "http://h:0/",
        "http://h:65536/",
        "http://h:123456/",
        "http://[::1/",
        "http://::1/",
        "http://a b/",
        "http://a\r\nb/",
        "http://a\\b/",
        "http://./",
    ],
)
def test_an_impossible_url(url: str) -> None:
    """It is refused; nothing of it gets into a header."""
    with pytest.raises(SendError) as caught:
        encode(Request("POST", url, (), b""))
    assert caught.value.fault is Fault.INVALID_REQUEST


def test_all_bytes_of_a_request() -> None:
    """Headers with their spelling, blanks and bytes."""
    headers = (("X-a", ' "b"\té '), ("x-A", ""), ("Accept", "*/*"))
    origin, data = encode(Request("POST", "http://h:81/p?q", headers, b"\x00body"))
    assert origin == Origin("http", "h", 81, "h:81")
    assert data == (
        b'POST /p?q HTTP/1.1\r\nHost: h:81\r\nX-a:  "b"\t\xc3\xa9 \r\nx-A: \r\nAccept: */*\r\n'
        b"Content-Length: 5\r\n\r\n\x00body"
    )


@pytest.mark.parametrize(
    ("method", "body", "expected"),
    [
        ("POST", b"", True),
        ("PUT", b"", True),
        ("PATCH", b"", True),
        ("GET", b"", False),
        ("DELETE", b"", False),
        ("DELETE", b"x", True),
    ],
)
def test_content_length(method: str, body: bytes, expected: bool) -> None:  # noqa: FBT001 - a column of the table
    """RFC 9110 section 8.6."""
    _, data = encode(Request(method, "http://h", (), body))
    assert (b"Content-Length: %d\r\n" % len(body) in data) is expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("", "x"),
        ("a b", "x"),
        ("a:", "x"),
        ("a: b", "x"),
        ("é", "x"),
        ("a\n", "x"),
        ("a", "x\n"),
        ("a", "x\r\nb: y"),
        ("a", "\x00"),
        ("a", "\x7f"),
        ("a", "\ud800"),
        ("Host", "x"),
        ("content-length", "1"),
        ("Transfer-Encoding", "chunked"),
    ],
)
def test_an_impossible_header(name: str, value: str) -> None:
    """No header can smuggle in another one, or say otherwise where the body ends."""
    with pytest.raises(SendError) as caught:
        encode(Request("POST", "http://h", ((name, value),), b""))
    assert caught.value.fault is Fault.INVALID_REQUEST
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("method", ["", "PO ST", "GET\r\n", "GÉT", "GET:"])
def test_an_impossible_method(method: str) -> None:
    """A method is one token."""
    with pytest.raises(SendError):
        encode(Request(method, "http://h", (), b""))
