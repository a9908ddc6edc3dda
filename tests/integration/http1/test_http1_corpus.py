"""Odd and hostile answers, over real sockets: what our HTTP/1.1 client makes of each, however it is cut."""

import asyncio
from typing import cast

import pytest

from httpqueue.webhooks.client.http1.answer import MAX_OVERHEAD_BYTES
from httpqueue.webhooks.client.http1.sender import Http1Sender
from httpqueue.webhooks.client.sender import MAX_RESPONSE_BYTES
from httpqueue.webhooks.message import Fault, Response, SendError
from tests.support.http1 import PLAIN, Now, Taken, call, endless, fault, in_parts, outcome
from tests.support.odd_answers import BROKEN, CASES, CHUNKED, EMPTY, HI, OK, Case
from tests.support.receiver import Received, Receiver, Reply, Writer, drip, hang

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def check(case: Case, result: Response | SendError) -> None:
    """The result is the expected one; an error says nothing about what was sent."""
    if isinstance(result, SendError):
        assert result.fault is case.expected, result.message
        assert "hello" not in result.message
    else:
        assert result == case.expected


async def ask(receiver: Receiver, case: Case, parts: list[bytes], taken: Taken) -> Response | SendError:
    """A call that gets the case's answer in parts, on a connection of its own."""
    sender = Http1Sender(PLAIN)
    receiver.answer(in_parts(parts, taken, close=case.then_close))
    try:
        return await outcome(sender, call(receiver.url, case.method))
    finally:
        await sender.close()


@each_case
async def test_answer(sender: Http1Sender, receiver: Receiver, taken: Taken, case: Case) -> None:
    """Each has its outcome; no connection is used again after an answer that leaves doubts."""
    receiver.answer(in_parts([case.answer], taken, close=case.then_close), Reply(201))
    check(case, await outcome(sender, call(receiver.url, case.method)))
    assert await outcome(sender, receiver.url) == Response(201)
    assert receiver.connections == (1 if case.kept else 2)


@each_case
async def test_answer_cut_in_two(receiver: Receiver, taken: Taken, case: Case) -> None:
    """It does not matter how TCP cuts the answer."""
    for cut in range(1, len(case.answer)):
        check(case, await ask(receiver, case, [case.answer[:cut], case.answer[cut:]], taken))


@each_case
async def test_answer_byte_by_byte(receiver: Receiver, taken: Taken, case: Case) -> None:
    """Not even if every byte comes alone."""
    parts = [case.answer[at : at + 1] for at in range(len(case.answer))]
    check(case, await ask(receiver, case, parts, taken))


@pytest.mark.parametrize(
    ("head", "body"),
    [
        pytest.param(OK + b"Content-Length: 2\r\n\r\n", b"hi", id="length"),
        pytest.param(CHUNKED, b"2\r\nhi\r\n0\r\n\r\n", id="chunks"),
        pytest.param(b"HTTP/1.1 100 x\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\n", b"hi", id="100"),
    ],
)
async def test_close_at_every_point(receiver: Receiver, taken: Taken, head: bytes, body: bytes) -> None:
    """Half an answer is none."""
    for size in range(len(head + body)):
        case = Case("", (head + body)[:size], BROKEN, then_close=True)
        check(case, await ask(receiver, case, [case.answer] if size else [], taken))


async def test_close_ends_a_body_without_length(receiver: Receiver, taken: Taken) -> None:
    """But not its headers."""
    answer = OK + b"Server: x\r\n\r\nhi"
    for size in range(1, len(answer) + 1):
        body = size - len(answer) + 2
        expected = BROKEN if body < 0 else Response(200, None, b"hi"[:body])
        case = Case("", answer[:size], expected, then_close=True)
        check(case, await ask(receiver, case, [case.answer], taken))


async def test_reset_does_not_end_a_body_without_length(
    sender: Http1Sender, receiver: Receiver, taken: Taken
) -> None:
    """A reset means that something is missing."""

    async def half(request: Received, writer: Writer) -> None:
        await in_parts([OK + b"\r\nhi"], taken, close=False)(request, writer)
        writer.reset()

    receiver.answer(half)
    assert (await fault(sender, receiver.url)).message == "the connection broke: Connection reset by peer"


@pytest.mark.parametrize("step", [1_000, 70_000, 1_000_000])
@pytest.mark.parametrize("surplus", [0, 1])
@pytest.mark.parametrize("beginning", [OK + b"X: ", b"HTTP/1.1 200 "], ids=["header", "reason"])
async def test_64_kib_of_headers_and_no_byte_more(
    receiver: Receiver, taken: Taken, beginning: bytes, surplus: int, step: int
) -> None:
    """However they come."""
    end = b"\r\nContent-Length: 2\r\n\r\n"
    head = beginning + b"a" * (MAX_OVERHEAD_BYTES + surplus - len(beginning + end)) + end
    answer = head + b"hi"
    case = Case("", answer, BROKEN if surplus else HI)
    parts = [answer[at : at + step] for at in range(0, len(answer), step)]
    result = await ask(receiver, case, parts, taken)
    check(case, result)
    if isinstance(result, SendError):
        assert result.message == "more than 64 KiB of headers or chunk sizes"


@pytest.mark.parametrize(
    ("beginning", "part"),
    [
        pytest.param(OK, b"X: y\r\n" * 1_000, id="headers"),
        pytest.param(OK + b"X: ", b"a" * 5_000, id="one header"),
        pytest.param(b"HTTP/1.1 200 ", b"a" * 5_000, id="reason"),
        pytest.param(b"", b"HTTP/1.1 103 x\r\n\r\n" * 200, id="1xx"),
        pytest.param(b"", b"\r\n" * 1_000, id="empty lines"),
        pytest.param(CHUNKED + b"2;", b"a" * 5_000, id="chunk extension"),
        pytest.param(CHUNKED + b"0\r\n", b"X: y\r\n" * 1_000, id="trailers"),
        pytest.param(CHUNKED + b"2\r\nhi\r\n0\r\nX: ", b"a" * 5_000, id="one trailer"),
    ],
)
async def test_floods_are_cut_off(
    sender: Http1Sender, receiver: Receiver, beginning: bytes, part: bytes
) -> None:
    """What never ends costs no memory, and the connection is given up."""
    receiver.answer(endless(beginning, part))
    error = await fault(sender, receiver.url)
    assert error.message == "more than 64 KiB of headers or chunk sizes"
    await receiver.wait_for_disconnect()


async def test_many_small_chunks_are_no_flood(sender: Http1Sender, receiver: Receiver) -> None:
    """An answer may have more framing than body."""
    receiver.answer(endless(CHUNKED, b"1\r\na\r\n" * 1_000))
    assert await outcome(sender, receiver.url) == Response(200, None, b"a" * MAX_RESPONSE_BYTES)
    await receiver.wait_for_disconnect()


@pytest.mark.parametrize("beginning", [b"", b"HTTP/1.1 2", OK, OK + b"Content-Length: 9\r\n\r\nhi", CHUNKED])
async def test_silence_ends_at_the_deadline(
    sender: Http1Sender, receiver: Receiver, taken: Taken, beginning: bytes
) -> None:
    """Wherever the receiver stops."""
    receiver.answer(in_parts([beginning] if beginning else [], taken, close=False))
    error = await fault(sender, receiver.url, timeout_s=0.05)
    assert (error.fault, error.message) == (Fault.TIMEOUT, "no whole answer within 0.05 s")
    await receiver.wait_for_disconnect()


async def test_a_drip_ends_at_the_deadline(sender: Http1Sender, receiver: Receiver) -> None:
    """A byte now and then buys no time."""
    receiver.answer(drip(0.005))
    assert (await fault(sender, receiver.url, timeout_s=0.1)).fault is Fault.TIMEOUT
    await receiver.wait_for_disconnect()


async def test_an_answer_before_the_request_was_sent(sender: Http1Sender) -> None:
    """A receiver may refuse a large body unread; the connection is of no more use."""
    accepted: list[asyncio.Transport] = []

    class Refusing(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            accepted.append(cast("asyncio.Transport", transport))

        def data_received(self, data: bytes) -> None:
            del data
            accepted[-1].pause_reading()
            accepted[-1].write(b"HTTP/1.1 413 x\r\nContent-Length: 0\r\n\r\n")

    server = await asyncio.get_running_loop().create_server(Refusing, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    for _ in range(2):
        assert await outcome(sender, call(url, body=bytes(30_000_000))) == Response(413)
    assert len(accepted) == 2
    for transport in accepted:
        transport.abort()
    server.close()


async def test_bytes_that_nobody_asked_for(receiver: Receiver, taken: Taken) -> None:
    """They end an idle connection, and are not taken for the next call's answer."""
    sender = Http1Sender(PLAIN, now_s=Now())  # it does not get too old
    receiver.answer(in_parts([Reply(200).encode(), Reply(500).encode()], taken, close=False), Reply(201))
    assert await outcome(sender, receiver.url) == EMPTY
    await receiver.wait_for_disconnect()
    assert await outcome(sender, receiver.url) == Response(201)
    await sender.close()


async def test_hanging_receivers_do_not_hold_others_up(sender: Http1Sender, receiver: Receiver) -> None:
    """Each call has its own connection."""
    receiver.answer(hang, path="/hang")
    async with asyncio.TaskGroup() as group:
        hanging = group.create_task(outcome(sender, f"{receiver.url}/hang", timeout_s=0.2))
        await receiver.wait_for(1)
        assert await outcome(sender, receiver.url) == EMPTY
    assert isinstance(hanging.result(), SendError)
