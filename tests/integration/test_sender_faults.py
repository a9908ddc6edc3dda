"""What every Sender makes of receivers that break, hang or cannot be reached."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator

import pytest
import trustme

from httpqueue.webhooks.client.factory import SenderKind, create_sender
from httpqueue.webhooks.client.sender import Sender
from httpqueue.webhooks.message import Fault, Request, SendError
from tests.support.egress import PRIVATE
from tests.support.receiver import Handler, Receiver, drip, hang, raw, reset

SECRET = "s3cret"


@pytest.fixture(params=SenderKind)
async def sender(request: pytest.FixtureRequest) -> AsyncIterator[Sender]:
    """Each kind of sender."""
    sender = create_sender(request.param, PRIVATE.judge)
    yield sender
    await sender.close()


async def fail(
    sender: Sender,
    url: str,
    *,
    method: str = "POST",
    headers: tuple[tuple[str, str], ...] = (),
    timeout_s: float = 30.0,
) -> SendError:
    """The error of a call that carries a secret wherever it can; the error must not repeat it."""
    request = Request(method, f"{url}/?key={SECRET}", (("authorization", SECRET), *headers), SECRET.encode())
    with pytest.raises(SendError) as caught:
        await sender.send(request, timeout_s=timeout_s)
    error = caught.value
    assert SECRET not in error.message
    # a traceback would show the client's own text
    assert error.__suppress_context__
    assert error.__cause__ is None
    assert 0 < len(error.message.splitlines()[0]) == len(error.message) < 200
    return error


@pytest.mark.parametrize(
    "misbehaviour",
    [
        pytest.param(reset, id="reset"),
        pytest.param(raw(b""), id="closed before headers"),
        pytest.param(raw(b"HTTP/1.1 200 OK\r\ncontent-"), id="closed within headers"),
        pytest.param(raw(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc"), id="closed within body"),
        pytest.param(raw(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), id="not HTTP"),
        pytest.param(raw(b"HTTP/1.1 abc\r\n\r\n"), id="bad status"),
        pytest.param(raw(b"HTTP/1.1 200 OK\r\nb@d h: 1\r\n\r\n"), id="bad header"),
        pytest.param(
            raw(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nabc\r\n"), id="bad chunk"
        ),
        pytest.param(raw(b"HTTP/1.1 200 OK\r\nx: " + b"a" * 1_000_000 + b"\r\n\r\n"), id="huge header"),
    ],
)
async def test_a_broken_answer_is_a_connection_fault(sender: Sender, misbehaviour: Handler) -> None:
    """It may be better next time."""
    async with Receiver() as receiver:
        receiver.answer(misbehaviour)
        assert (await fail(sender, receiver.url)).fault is Fault.CONNECTION


async def test_nobody_listening_is_a_connection_fault(sender: Sender) -> None:
    """The receiver is down: its port was free a moment ago."""
    async with Receiver() as receiver:
        url = receiver.url
    assert (await fail(sender, url)).fault is Fault.CONNECTION


async def test_an_unknown_host_is_a_dns_fault(sender: Sender) -> None:
    """RFC 6761 keeps .invalid free of hosts."""
    error = await fail(sender, "http://nonexistent.invalid")
    assert error.fault is Fault.DNS


@pytest.mark.parametrize("misbehaviour", [hang, drip(0.01)], ids=["hang", "drip"])
async def test_one_deadline_for_the_whole_attempt(sender: Sender, misbehaviour: Handler) -> None:
    """Neither silence nor a byte now and then holds a slot any longer."""
    async with Receiver() as receiver:
        receiver.answer(misbehaviour)
        async with asyncio.timeout(20):
            error = await fail(sender, receiver.url, timeout_s=0.3)
        assert error.fault is Fault.TIMEOUT
        assert error.message == "no whole answer within 0.3 s"
        await receiver.wait_for_disconnect()


async def test_the_deadline_holds_while_connecting(sender: Sender) -> None:
    """A TLS handshake that nobody answers is part of the attempt."""
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it listens and never accepts
        async with asyncio.timeout(20):
            port = silent.getsockname()[1]
            error = await fail(sender, f"https://127.0.0.1:{port}", timeout_s=0.3)
    assert error.fault is Fault.TIMEOUT


async def test_an_untrusted_certificate_is_a_tls_fault(sender: Sender) -> None:
    """Nothing is sent to a receiver that cannot prove who it is."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(tls)
    async with Receiver(tls=tls) as receiver:
        error = await fail(sender, receiver.url)
        assert error.fault is Fault.TLS
        assert "certificate" in error.message
        assert receiver.requests == []


async def test_no_tls_at_all_is_a_connection_fault(sender: Sender) -> None:
    """A server that is starting may answer so: it is tried again."""
    async with Receiver() as receiver:
        error = await fail(sender, receiver.url.replace("http:", "https:"))
    assert error.fault is Fault.CONNECTION


@pytest.mark.parametrize("url", ["ftp://127.0.0.1", "127.0.0.1/x", "http://[::1"])
async def test_an_impossible_url_is_an_invalid_request(sender: Sender, url: str) -> None:
    """The API refuses these; a record from elsewhere must not end the worker."""
    assert (await fail(sender, url)).fault is Fault.INVALID_REQUEST


@pytest.mark.parametrize("header", [("a b", "x"), ("a\r\nb", "x"), ("x", f"1\r\n{SECRET}: 1"), ("", "x")])
async def test_an_impossible_header_is_an_invalid_request(sender: Sender, header: tuple[str, str]) -> None:
    """No header can smuggle in another one."""
    async with Receiver() as receiver:
        assert (await fail(sender, receiver.url, headers=(header,))).fault is Fault.INVALID_REQUEST
        assert receiver.requests == []


async def test_an_impossible_method_is_an_invalid_request(sender: Sender) -> None:
    """A method is one token."""
    async with Receiver() as receiver:
        error = await fail(sender, receiver.url, method="PO ST")
        assert error.fault is Fault.INVALID_REQUEST
        assert receiver.requests == []
