"""What the reader of answers makes of many bytes at once; odd answers are in tests/integration/http1."""

import pytest

from httpqueue.webhooks.client.http1.answer import MAX_OVERHEAD_BYTES, AnswerReader, BrokenAnswerError
from httpqueue.webhooks.client.sender import MAX_RESPONSE_BYTES
from httpqueue.webhooks.message import Response
from tests.support.odd_answers import CHUNKED, GOOD, HI, OK


@pytest.mark.parametrize("size", [1, MAX_OVERHEAD_BYTES, 10 * MAX_OVERHEAD_BYTES])
def test_bytes_after_the_answer(size: int) -> None:
    """The answer counts; the connection does not."""
    reader = AnswerReader()
    assert reader.feed(GOOD + bytes(size))
    assert (reader.response(), reader.keep_alive) == (HI, False)


@pytest.mark.parametrize("extra", [0, 1])
def test_a_body_of_64_kib_at_once(extra: int) -> None:
    """The connection can be used again if no more came."""
    size = MAX_RESPONSE_BYTES + extra
    reader = AnswerReader()
    assert reader.feed(OK + b"Content-Length: %d\r\n\r\n" % size + bytes(size))
    assert reader.response() == Response(200, None, bytes(MAX_RESPONSE_BYTES))
    reader.begin(is_head=False)
    assert not reader.started
    assert reader.feed(GOOD)
    assert (reader.response(), reader.keep_alive) == (HI, True)


def test_a_broken_body_after_64_kib() -> None:
    """What is beyond is not read, so it cannot be wrong."""
    reader = AnswerReader()
    assert reader.feed(CHUNKED + b"10000\r\n" + bytes(MAX_RESPONSE_BYTES) + b"garbage")
    assert (reader.response().excerpt, reader.keep_alive) == (bytes(MAX_RESPONSE_BYTES), False)


def test_bytes_after_headers_of_64_kib() -> None:
    """They are not even parsed."""
    end = b"\r\nContent-Length: 0\r\n\r\n"
    beginning = OK + b"X: "
    reader = AnswerReader()
    assert reader.feed(beginning + b"a" * (MAX_OVERHEAD_BYTES - len(beginning + end)) + end + b"x")
    assert (reader.response(), reader.keep_alive) == (Response(200), False)


def test_headers_of_many_megabytes_at_once() -> None:
    """No more is parsed than is allowed."""
    with pytest.raises(BrokenAnswerError, match="more than 64 KiB"):
        AnswerReader().feed(OK + b"X: " + b"a" * 10_000_000)
