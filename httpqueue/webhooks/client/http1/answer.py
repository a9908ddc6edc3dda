"""Reads the answers on a connection, one after the other, with the parser httptools. Does no I/O.

An answer is done when it is whole, or when 64 KiB of its body have come. The parser is as strict as llhttp is
by default. It accepts a few common mistakes whose meaning is clear, because a receiver whose answer cannot be
read gets the webhook again.
"""

from typing import Final

import httptools

from httpqueue.webhooks.client.sender import MAX_RESPONSE_BYTES
from httpqueue.webhooks.message import Response

MAX_OVERHEAD_BYTES: Final = 64 * 1024
"""The most bytes before the headers are whole, and then between two pieces of the body."""

_OK: Final = 200
_MIN_STATUS: Final = 100
_SWITCHING: Final = 101
_RETRY_AFTER: Final = b"retry-after"
_CONTENT_LENGTH: Final = b"content-length"
_TRANSFER_ENCODING: Final = b"transfer-encoding"
_LENGTHS: Final = frozenset(map(len, (_RETRY_AFTER, _CONTENT_LENGTH, _TRANSFER_ENCODING)))


class BrokenAnswerError(Exception):
    """The bytes are no HTTP answer. The message is for people."""


class AnswerReader:
    """Reads one answer at a time: call begin, then feed until it returns True, then response."""

    __slots__ = (
        "_body",
        "_has_length",
        "_in_body",
        "_interim",
        "_is_chunked",
        "_is_head",
        "_overhead",
        "_parser",
        "_retry_after",
        "_size",
        "_status",
        "_transfer_encoding",
        "keep_alive",
        "started",
        "whole",
    )

    def __init__(self) -> None:
        self._is_head = False
        self._parser = self._new_parser()
        self.begin(is_head=False)

    def begin(self, *, is_head: bool) -> None:
        """Expect a new answer. is_head: the request was a HEAD, so the answer has no body."""
        if self._is_head:  # the parser still waits for the body, which an answer to HEAD does not have
            self._parser = self._new_parser()
        self._is_head = is_head
        self._status = 0
        self._retry_after: bytes | None = None
        self._has_length = self._transfer_encoding = self._is_chunked = False
        self._interim = self._in_body = False
        self._body: list[bytes] = []
        self._size = self._overhead = 0
        self.started = False
        """Whether any byte of the answer has come."""
        self.whole = False
        """Whether the answer is done."""
        self.keep_alive = False
        """Whether the connection can be used for another call."""

    def feed(self, data: bytes) -> bool:
        """Read bytes. Returns whether the answer is done. Raises BrokenAnswerError."""
        self.started = True
        self._overhead += len(data)
        if self._overhead > MAX_OVERHEAD_BYTES:
            self._feed_in_parts(data)
        else:
            self._parse(data)
        if self._size >= MAX_RESPONSE_BYTES:
            self.whole = True  # if it was not whole before, keep_alive stays False
        return self.whole

    def end(self) -> bool:
        """The receiver hung up. Returns whether that completes the answer (RFC 9112 section 6.3, rule 8)."""
        self.keep_alive = False
        self.whole = self._in_body and not (self._is_chunked if self._transfer_encoding else self._has_length)
        return self.whole

    def response(self) -> Response:
        """The answer. Call this when it is done."""
        retry_after = self._retry_after
        return Response(
            self._status,
            None if retry_after is None else retry_after.decode("latin-1"),
            b"".join(self._body)[:MAX_RESPONSE_BYTES] if self._body else b"",
        )

    def _new_parser(self) -> httptools.HttpResponseParser:
        parser = httptools.HttpResponseParser(self)
        parser.set_dangerous_leniencies(
            lenient_chunked_length=True,  # Transfer-Encoding overrides Content-Length: RFC 9112 section 6.3
            lenient_optional_cr_before_lf=True,  # section 2.2
            lenient_spaces_after_chunk_size=True,  # common padding
        )
        return parser

    def _feed_in_parts(self, data: bytes) -> None:
        """Feed small parts, so that no more than MAX_OVERHEAD_BYTES come without a byte of the body."""
        self._overhead -= len(data)
        rest = memoryview(data)
        while rest and not self.whole and self._size < MAX_RESPONSE_BYTES:
            part = rest[: MAX_OVERHEAD_BYTES - self._overhead]
            if not part:
                raise BrokenAnswerError("more than 64 KiB of headers or chunk sizes")
            self._overhead += len(part)
            self._parse(part)
            rest = rest[len(part) :]
        if rest:
            self.keep_alive = False

    def _parse(self, data: bytes | memoryview) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if self._status == _SWITCHING:
                raise BrokenAnswerError("the receiver switched to another protocol") from None
            if not self.whole and self._size < MAX_RESPONSE_BYTES:
                raise BrokenAnswerError(f"no HTTP answer: {error}") from None
            self.keep_alive = False  # bytes after the answer

    # --- httptools ---

    def on_message_begin(self) -> None:
        """An answer begins: the first one, the one after a 1xx, or one that nobody asked for."""
        if self.whole:
            self.keep_alive = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header or a trailer."""
        if len(name) in _LENGTHS and not self._in_body:
            self._note(name.lower(), value)

    def on_headers_complete(self) -> None:
        """The status and all headers are there."""
        if self.whole:
            return
        status = self._status = self._parser.get_status_code()
        self._interim = _MIN_STATUS <= status < _OK
        if not self._interim:
            self._in_body = True
            self._overhead = 0
            if self._is_head:
                self._complete()

    def on_body(self, body: bytes) -> None:
        """A piece of the body, without chunk sizes."""
        if self.whole:
            self.keep_alive = False
            return
        self._overhead = 0
        if self._size < MAX_RESPONSE_BYTES:
            self._body.append(body)
            self._size += len(body)

    def on_message_complete(self) -> None:
        """An answer is whole. A 1xx is not the final answer (RFC 9110 section 15.2)."""
        if self.whole:
            return
        if self._interim:
            self._retry_after = None
            self._has_length = self._transfer_encoding = self._is_chunked = False
        else:
            self._complete()

    def _complete(self) -> None:
        if self._status < _MIN_STATUS:
            raise BrokenAnswerError  # httptools turns it into an error of its own
        self.whole = True
        # with both, it may be an attack on software that believes the other one
        self.keep_alive = self._parser.should_keep_alive() and not (
            self._transfer_encoding and self._has_length
        )

    def _note(self, name: bytes, value: bytes) -> None:
        if name == _RETRY_AFTER:
            self._retry_after = value if self._retry_after is None else self._retry_after
        elif name == _CONTENT_LENGTH:
            self._has_length = True
        elif name == _TRANSFER_ENCODING:
            self._transfer_encoding = True
            self._is_chunked = value.rpartition(b",")[2].strip().lower() == b"chunked"
