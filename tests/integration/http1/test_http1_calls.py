"""Calls of our HTTP/1.1 client: when a connection dies, in callback form, when the client is closed."""

import asyncio
from typing import Any

import pytest

from httpqueue.webhooks.client.http1.dial import Dialer
from httpqueue.webhooks.client.http1.pool import Limits
from httpqueue.webhooks.client.http1.sender import Http1Sender
from httpqueue.webhooks.egress import IPAddress
from httpqueue.webhooks.message import Fault, Response, SendError
from tests.support.http1 import PLAIN, TIMEOUT_S, Results, Taken, call, fault, in_parts, outcome
from tests.support.receiver import Receiver, Reply, hang, raw

OK = Response(200)


# --- connections that die ---


async def hang_up_later(receiver: Receiver, sender: Http1Sender, method: str) -> Response | SendError:
    """A call on a connection that was used once, and that the receiver closes instead of an answer."""
    receiver.answer(Reply(200), raw(b""), Reply(201))
    assert await outcome(sender, receiver.url) == OK
    return await outcome(sender, call(receiver.url, method, b""))


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])
async def test_an_idempotent_call_is_sent_again(sender: Http1Sender, receiver: Receiver, method: str) -> None:
    """RFC 9110 section 9.2.2: the receiver may have hung up before it saw the request."""
    assert await hang_up_later(receiver, sender, method) == Response(201)
    assert (len(receiver.requests), receiver.connections) == (3, 2)


@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_other_calls_are_never_sent_twice(sender: Http1Sender, receiver: Receiver, method: str) -> None:
    """Once bytes were written, nobody knows what the receiver did with them."""
    result = await hang_up_later(receiver, sender, method)
    assert isinstance(result, SendError)
    assert result.fault is Fault.CONNECTION
    assert len(receiver.requests) == 2


async def test_a_new_connection_is_no_reason_to_send_again(sender: Http1Sender, receiver: Receiver) -> None:
    """It was not idle, so the receiver has seen the request."""
    receiver.answer(raw(b""))
    assert (await fault(sender, call(receiver.url, "GET"))).fault is Fault.CONNECTION
    assert len(receiver.requests) == 1


async def test_a_call_is_sent_again_only_once(sender: Http1Sender, receiver: Receiver) -> None:
    """Also when other idle connections wait that are dead as well."""
    receiver.answer(Reply(200), raw(b""))
    assert await outcome(sender, receiver.url) == OK
    assert (await fault(sender, call(receiver.url, "GET"))).fault is Fault.CONNECTION
    assert len(receiver.requests) == 3


async def test_an_answer_that_began_is_no_reason_to_send_again(
    sender: Http1Sender, receiver: Receiver
) -> None:
    """The receiver has seen the request."""
    receiver.answer(Reply(200), raw(b"H"))
    assert await outcome(sender, receiver.url) == OK
    assert (await fault(sender, call(receiver.url, "GET"))).fault is Fault.CONNECTION
    assert len(receiver.requests) == 2


async def test_a_connection_that_closes_is_not_used(sender: Http1Sender, receiver: Receiver) -> None:
    """A POST goes on a new one if the end of the old one is known, though it is not over yet."""
    assert await outcome(sender, receiver.url) == OK
    (connection,) = sender._pool._open
    connection._transport.close()
    assert await outcome(sender, receiver.url) == OK
    assert receiver.connections == 2


# --- callbacks ---


async def test_a_bug_in_a_callback_fails_nothing_else(receiver: Receiver) -> None:
    """The event loop reports it; the connection and the other calls go on."""
    sender, results = Http1Sender(PLAIN, Limits(per_origin=1)), Results()
    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reports.append(context))

    def buggy(_result: Response | SendError) -> None:
        raise ZeroDivisionError

    for on_done in (buggy, results.add, buggy, results.add):
        sender.start(call(receiver.url), TIMEOUT_S, on_done)
    assert await results.wait_for(2) == [OK, OK]
    assert [type(report["exception"]) for report in reports] == [ZeroDivisionError] * 2
    assert receiver.connections == 1
    await sender.close()


async def test_a_callback_may_start_the_next_call(sender: Http1Sender, receiver: Receiver) -> None:
    """It gets the connection that has just become free."""
    results = Results()

    def again(_result: Response | SendError) -> None:
        sender.start(call(receiver.url), TIMEOUT_S, results.add)

    sender.start(call(receiver.url), TIMEOUT_S, again)
    assert await results.wait_for(1) == [OK]
    assert receiver.connections == 1


async def test_no_callback_before_start_returns(sender: Http1Sender) -> None:
    """Not even for a call that cannot be sent; and none at all once it is cancelled."""
    results = Results()
    sender.start(call("ftp://x"), TIMEOUT_S, results.add)
    sender.start(call("ftp://x"), TIMEOUT_S, results.add).cancel()
    assert results.ended == []
    (error,) = await results.wait_for(1)
    assert isinstance(error, SendError)
    assert error.fault is Fault.INVALID_REQUEST


async def test_a_cancelled_call_is_forgotten(sender: Http1Sender, receiver: Receiver) -> None:
    """Its connection is closed, and its callback stays uncalled; cancelling twice does nothing."""
    results = Results()
    receiver.answer(hang, Reply(200))
    cancelled = sender.start(call(receiver.url), TIMEOUT_S, results.add)
    assert not cancelled.written
    await receiver.wait_for(1)
    assert cancelled.written
    cancelled.cancel()
    cancelled.cancel()
    await receiver.wait_for_disconnect()
    assert await outcome(sender, receiver.url) == OK
    assert results.ended == []


# --- close ---


async def test_close_fails_what_is_in_flight(receiver: Receiver) -> None:
    """A call that was sent, one that waits for a place, one that is connecting; and every later one."""
    connecting = asyncio.Event()

    async def never(_host: str) -> list[IPAddress]:
        connecting.set()
        await asyncio.Event().wait()
        return []

    sender = Http1Sender(Dialer(tls=PLAIN.tls, resolve=never), Limits(per_origin=1))
    results = Results()
    receiver.answer(hang)
    for url in (receiver.url, receiver.url, "http://elsewhere"):
        sender.start(call(url), TIMEOUT_S, results.add)
    await receiver.wait_for(1)
    await connecting.wait()
    await sender.close()
    sender.start(call(receiver.url), TIMEOUT_S, results.add)
    errors = await results.wait_for(4)
    assert [str(error) for error in errors] == ["the client was closed"] * 4
    await receiver.wait_for_disconnect()
    await sender.close()


async def test_close_closes_idle_connections(receiver: Receiver) -> None:
    """And those that are just closing."""
    sender = Http1Sender(PLAIN)
    assert await outcome(sender, receiver.url) == OK
    await sender.close()
    await receiver.wait_for_disconnect()


async def test_a_call_that_ends_within_an_answer_of_many_reads(
    sender: Http1Sender, receiver: Receiver, taken: Taken
) -> None:
    """A call that is cancelled between two parts of its answer takes the connection with it."""
    receiver.answer(in_parts([b"HTTP/1.1 200 OK\r\n"], taken, close=False))
    results = Results()
    started = sender.start(call(receiver.url), TIMEOUT_S, results.add)
    await taken.wait_for(17)
    started.cancel()
    await receiver.wait_for_disconnect()
    assert results.ended == []
