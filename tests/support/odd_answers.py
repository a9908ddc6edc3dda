"""Odd and hostile answers, with what a client is to make of each."""

from dataclasses import dataclass
from typing import Final

from httpqueue.webhooks.message import Fault, Response

OK: Final = b"HTTP/1.1 200 OK\r\n"
CHUNKED: Final = OK + b"Transfer-Encoding: chunked\r\n\r\n"
LENGTH_2: Final = b"Content-Length: 2\r\n\r\nhi"
GOOD: Final = OK + LENGTH_2
HI: Final = Response(200, None, b"hi")
EMPTY: Final = Response(200)
TEN: Final = Response(200, None, b"0123456789")
BROKEN: Final = Fault.CONNECTION


@dataclass(frozen=True, slots=True)
class Case:
    """An answer, and what the call becomes; `kept`: another call may use the connection."""

    name: str
    answer: bytes
    expected: Response | Fault
    kept: bool = False
    then_close: bool = False
    method: str = "POST"


CASES: Final = [
    # what a good answer looks like
    Case("content-length", GOOD, HI, kept=True),
    Case("names in any case, blanks", OK + b"cOnTeNt-LeNgTh:\t 2 \r\n\r\nhi", HI, kept=True),
    Case("no reason", b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nhi", HI, kept=True),
    Case("chunks", CHUNKED + b"1\r\nh\r\n1\r\ni\r\n0\r\n\r\n", HI, kept=True),
    Case("upper case hex", CHUNKED + b"0A\r\n0123456789\r\n0\r\n\r\n", TEN, kept=True),
    Case("chunk extensions", CHUNKED + b'2;a;b="c"\r\nhi\r\n0;z=1\r\n\r\n', HI, kept=True),
    Case("trailers", CHUNKED + b"2\r\nhi\r\n0\r\nRetry-After: 5\r\nX: y\r\n\r\n", HI, kept=True),
    Case("padded chunk size", CHUNKED + b"2  \r\nhi\r\n0\r\n\r\n", HI, kept=True),
    Case("204", b"HTTP/1.1 204 No Content\r\n\r\n", Response(204), kept=True),
    Case("304 with a length", b"HTTP/1.1 304 x\r\nContent-Length: 9\r\n\r\n", Response(304), kept=True),
    Case("HEAD", OK + b"Content-Length: 9\r\n\r\n", EMPTY, kept=True, method="HEAD"),
    Case("HEAD, chunked", CHUNKED, EMPTY, kept=True, method="HEAD"),
    Case("HEAD with a body", GOOD, EMPTY, method="HEAD"),
    Case(
        "retry-after",
        b"HTTP/1.1 503 x\r\nretry-after: 7\r\nRetry-After: 8\r\nContent-Length: 0\r\n\r\n",
        Response(503, "7"),
        kept=True,
    ),
    Case("status of no class", b"HTTP/1.1 999 x\r\nContent-Length: 0\r\n\r\n", Response(999), kept=True),
    Case(
        "upgrade offered",
        OK + b"Connection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\nhi",
        HI,
        kept=True,
    ),
    # connections that end
    Case("connection: close", OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nhi", HI),
    Case("until close", OK + b"\r\nhi", HI, then_close=True),
    Case("until close, no body", OK + b"\r\n", EMPTY, then_close=True),
    Case("HTTP/1.0", b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", HI),
    Case("HTTP/1.0 until close", b"HTTP/1.0 200 OK\r\n\r\nhi", HI, then_close=True),
    Case(
        "HTTP/1.0 kept",
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi",
        HI,
        kept=True,
    ),
    Case("unknown transfer coding", OK + b"Transfer-Encoding: gzip\r\n\r\nhi", HI, then_close=True),
    Case("chunked not last", OK + b"Transfer-Encoding: chunked, gzip\r\n\r\nhi", HI, then_close=True),
    # 1xx
    Case("100, then the answer", b"HTTP/1.1 100 Continue\r\n\r\n" + GOOD, HI, kept=True),
    Case(
        "headers of a 1xx count for nothing",
        b"HTTP/1.1 103 x\r\nRetry-After: 5\r\nContent-Length: 9\r\n\r\n" + OK + b"\r\nhi",
        HI,
        then_close=True,
    ),
    Case("100 and no more", b"HTTP/1.1 100 Continue\r\n\r\n", BROKEN, then_close=True),
    Case("101", b"HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", BROKEN),
    Case("101 without a protocol", b"HTTP/1.1 101 x\r\n\r\n", BROKEN),
    # line ends
    Case("LF only", b"HTTP/1.1 200 OK\nContent-Length: 2\n\nhi", HI, kept=True),
    Case("CR without LF", b"HTTP/1.1 200 OK\rContent-Length: 2\r\rhi", BROKEN),
    Case("CR in a value", OK + b"X: a\rb\r\nContent-Length: 2\r\n\r\nhi", BROKEN),
    Case("empty lines before", b"\r\n\r\n" + GOOD, HI, kept=True),
    Case("an empty line after", OK + b"Content-Length: 2\r\n\r\nhi\r\n", HI, kept=True),
    # framing
    Case("two lengths", OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nhi", BROKEN),
    Case("equal lengths", OK + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nhi", BROKEN),
    Case("a list of lengths", OK + b"Content-Length: 2, 2\r\n\r\nhi", BROKEN),
    Case("negative length", OK + b"Content-Length: -2\r\n\r\n", BROKEN),
    Case("signed length", OK + b"Content-Length: +2\r\n\r\nhi", BROKEN),
    Case("hex length", OK + b"Content-Length: 0x2\r\n\r\nhi", BROKEN),
    Case("empty length", OK + b"Content-Length:\r\n\r\nhi", BROKEN),
    Case("huge length", OK + b"Content-Length: 99999999999999999999\r\n\r\nhi", BROKEN),
    Case(
        "length and chunks",
        OK + b"Content-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        HI,
    ),
    Case(
        "chunks and length",
        OK + b"Transfer-Encoding: chunked\r\nContent-Length: 9\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        HI,
    ),
    Case("no hex", CHUNKED + b"zz\r\nhi\r\n0\r\n\r\n", BROKEN),
    Case("negative chunk", CHUNKED + b"-2\r\nhi\r\n0\r\n\r\n", BROKEN),
    Case("huge chunk", CHUNKED + b"fffffffffffffffff\r\nhi\r\n0\r\n\r\n", BROKEN),
    Case("chunk without size", CHUNKED + b"\r\nhi\r\n0\r\n\r\n", BROKEN),
    Case("chunk longer than it says", CHUNKED + b"1\r\nhi\r\n0\r\n\r\n", BROKEN),
    Case("chunks without an end", CHUNKED + b"2\r\nhi\r\n", BROKEN, then_close=True),
    Case("too little", OK + b"Content-Length: 3\r\n\r\nhi", BROKEN, then_close=True),
    Case("reads on after connection: close", OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nhi!", HI),
    Case("too much", OK + b"Content-Length: 2\r\n\r\nhi!", HI),
    Case("204 with a body", b"HTTP/1.1 204 x\r\nContent-Length: 2\r\n\r\nhi", Response(204)),
    Case("a second answer without a body", GOOD + b"HTTP/1.1 204 x\r\n\r\n", HI),
    Case("a second answer", (GOOD) * 2, HI),
    # what is no HTTP
    Case("nothing", b"", BROKEN, then_close=True),
    Case("garbage before", b"x" + GOOD, BROKEN),
    Case("HTTP/0.9", b"<html>hi</html>", BROKEN),
    Case("another protocol", b"SSH-2.0-OpenSSH_9.2\r\n", BROKEN),
    Case("TLS alert", b"\x15\x03\x01\x00\x02\x02\x46", BROKEN),
    Case("unknown version", b"HTTP/3.7 200 OK\r\nContent-Length: 2\r\n\r\nhi", BROKEN),
    Case("status of two digits", b"HTTP/1.1 99 x\r\nContent-Length: 0\r\n\r\n", BROKEN),
    Case("status of four digits", b"HTTP/1.1 2000 x\r\nContent-Length: 0\r\n\r\n", BROKEN),
    Case("status 000", b"HTTP/1.1 000 x\r\nContent-Length: 0\r\n\r\n", BROKEN),
    Case("status of letters", b"HTTP/1.1 abc x\r\n\r\n", BROKEN),
    # headers
    Case("null in a value", OK + b"X: a\x00b\r\nContent-Length: 2\r\n\r\nhi", BROKEN),
    Case("null in a name", OK + b"X\x00: a\r\nContent-Length: 2\r\n\r\nhi", BROKEN),
    Case("blank before the colon", OK + b"Content-Length : 2\r\n\r\nhi", BROKEN),
    Case("no colon", OK + b"X\r\nContent-Length: 2\r\n\r\nhi", BROKEN),
    Case("no name", OK + b": a\r\nContent-Length: 2\r\n\r\nhi", BROKEN),
    Case("folded", OK + b"X: a\r\n b\r\nContent-Length: 2\r\n\r\nhi", BROKEN),
    Case("bytes that are no text", OK + b"X: \xff\xfe\r\nContent-Length: 2\r\n\r\nhi", HI, kept=True),
]
