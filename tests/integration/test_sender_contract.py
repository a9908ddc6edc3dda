"""What every Sender does, over real sockets; what a broken receiver causes is in test_sender_faults.py."""

import asyncio
import gzip
import resource
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trustme

from httpqueue.webhooks.client.factory import SenderKind, create_sender
from httpqueue.webhooks.client.httpx_sender import HttpxSender
from httpqueue.webhooks.client.sender import MAX_RESPONSE_BYTES, Sender
from httpqueue.webhooks.message import Request, Response
from tests.support.egress import PRIVATE
from tests.support.receiver import Handler, Received, Receiver, Reply, Writer, drip, hang, raw, reply_when

TIMEOUT_S = 30.0


@pytest.fixture(params=SenderKind)
async def sender(request: pytest.FixtureRequest) -> AsyncIterator[Sender]:
    """Each kind of sender."""
    sender = create_sender(request.param, PRIVATE.judge)
    yield sender
    await sender.close()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A receiver that answers 200."""
    async with Receiver() as receiver:
        yield receiver


@pytest.fixture
def many_files() -> Iterator[None]:
    """Room for both ends of 1,000 connections in one process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < 4096:
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def post(url: str, body: bytes = b"hello") -> Request:
    """A request without headers."""
    return Request("POST", url, (), body)


async def send(sender: Sender, request: Request) -> Response:
    """Send with a deadline that no test reaches."""
    return await sender.send(request, timeout_s=TIMEOUT_S)


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_method_target_and_body_arrive_as_given(
    sender: Sender, receiver: Receiver, method: str
) -> None:
    """Every method may carry a body, and no byte of it or of the URL is changed."""
    target = "/a%2Fb/~x;y=1/?q=a%20b+c&q=%C3%A9&empty=&z=()*!@:$,"
    body = bytes(range(256)) * 40
    await send(sender, Request(method, receiver.url + target, (), body))
    (request,) = receiver.requests
    assert (request.method, request.target, request.body) == (method, target, body)


@pytest.mark.parametrize("method", ["HEAD", "GET", "DELETE"])
async def test_no_body_needs_no_content_length(sender: Sender, receiver: Receiver, method: str) -> None:
    """RFC 9110 section 8.6: no content-length where the method expects no body."""
    receiver.answer(raw(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n") if method == "HEAD" else Reply(200))
    assert (await send(sender, Request(method, receiver.url, (), b""))).status == 200
    (request,) = receiver.requests
    assert (request.header("content-length"), request.header("transfer-encoding")) == (None, None)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
async def test_an_empty_body_is_said_to_be_empty(sender: Sender, receiver: Receiver, method: str) -> None:
    """RFC 9110 section 8.6: content-length: 0 where the method expects a body; some servers insist (411)."""
    await send(sender, Request(method, receiver.url, (), b""))
    (request,) = receiver.requests
    assert (request.header("content-length"), request.header("transfer-encoding")) == ("0", None)


async def test_headers_arrive_once_and_unchanged(sender: Sender, receiver: Receiver) -> None:
    """The client adds nothing that would change the meaning, and asks for no compression."""
    headers = {
        "content-type": "application/vnd.custom+json; charset=x",
        "user-agent": "mine/1",
        "accept": "text/plain",
        "X-Tricky": 'a, b;  c="d" \t é',
        "x-empty": "",
        "authorization": "Bearer t",
        "cookie": "a=b",
    }
    await send(sender, Request("POST", receiver.url, tuple(headers.items()), b"x"))
    (request,) = receiver.requests
    for name, value in headers.items():
        assert request.header(name) == value.encode().decode("latin-1")
    added = {name.lower() for name, _ in request.headers} - {name.lower() for name in headers}
    assert added <= {"host", "content-length"}
    assert request.header("host") == f"127.0.0.1:{receiver.port}"


async def test_compressed_answers_stay_compressed(sender: Sender, receiver: Receiver) -> None:
    """A gzip bomb is not expanded: the excerpt is what came over the wire."""
    bomb = gzip.compress(bytes(20_000_000))
    receiver.answer(Reply(200, bomb, (("content-encoding", "gzip"),)))
    assert (await send(sender, post(receiver.url))).excerpt == bomb[:MAX_RESPONSE_BYTES]


@pytest.mark.parametrize("size", [0, 1, MAX_RESPONSE_BYTES, MAX_RESPONSE_BYTES + 1, 500_000])
async def test_the_excerpt_is_the_beginning_of_the_body(
    sender: Sender, receiver: Receiver, size: int
) -> None:
    """Up to 64 KiB are kept and what is beyond them is dropped."""
    body = bytes(index % 251 for index in range(size))
    receiver.answer(Reply(200, body))
    assert (await send(sender, post(receiver.url))).excerpt == body[:MAX_RESPONSE_BYTES]


async def test_chunked_answers_are_read(sender: Sender, receiver: Receiver) -> None:
    """The chunks' framing is no part of the excerpt."""
    receiver.answer(
        raw(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n")
    )
    assert (await send(sender, post(receiver.url))).excerpt == b"abc"


async def test_an_endless_answer_counts_after_its_first_64_kib(sender: Sender, receiver: Receiver) -> None:
    """The rest is never read: the connection is given up, and the receiver notices."""
    hung_up = asyncio.Event()

    async def flood(_request: Received, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 202 Accepted\r\ncontent-length: 1073741824\r\n\r\n")
        try:
            while True:
                writer.write(bytes(65_536))
                await writer.drain()
        finally:
            hung_up.set()

    receiver.answer(flood)
    response = await send(sender, post(receiver.url))
    assert (response.status, len(response.excerpt)) == (202, MAX_RESPONSE_BYTES)
    async with asyncio.timeout(TIMEOUT_S):
        await hung_up.wait()


async def test_redirects_are_answers(sender: Sender, receiver: Receiver) -> None:
    """Nobody follows a redirect."""
    receiver.answer(Reply(301, b"", (("location", f"{receiver.url}/elsewhere"),)))
    assert (await send(sender, post(receiver.url))).status == 301
    assert len(receiver.requests) == 1


async def test_no_cookies_are_kept(sender: Sender, receiver: Receiver) -> None:
    """One timer's cookies must not reach the next."""
    receiver.answer(Reply(200, b"", (("set-cookie", "session=1; Path=/"),)))
    await send(sender, post(receiver.url))
    await send(sender, post(receiver.url))
    assert [request.header("cookie") for request in receiver.requests] == [None, None]


@pytest.mark.parametrize("kind", SenderKind)
async def test_proxies_from_the_environment_are_ignored(
    kind: SenderKind, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing stands between the worker and the receiver."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    sender = create_sender(kind, PRIVATE.judge)
    assert (await send(sender, post(receiver.url))).status == 200
    await sender.close()


@pytest.mark.parametrize("kind", SenderKind)
async def test_ssl_cert_file_adds_trusted_certificates(
    kind: SenderKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HTTPS works, and receivers with a private authority can be called."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    sender = create_sender(kind, PRIVATE.judge)
    async with Receiver(tls=tls) as receiver:
        assert (await send(sender, post(receiver.url))).status == 200
        assert receiver.requests[0].body == b"hello"
        await sender.close()


@pytest.mark.parametrize("status", [200, 204, 304, 404, 429, 500, 599])
async def test_every_status_is_an_answer(sender: Sender, receiver: Receiver, status: int) -> None:
    """No status is an error to the sender; outcome.py judges."""
    receiver.answer(Reply(status))
    assert (await send(sender, post(receiver.url))).status == status


async def test_retry_after_is_handed_on(sender: Sender, receiver: Receiver) -> None:
    """Word for word, and None when there is none."""
    receiver.answer(Reply(503, b"", (("Retry-After", "Wed, 21 Oct 2015 07:28:00 GMT"),)), Reply(503))
    answers = [await send(sender, post(receiver.url)) for _ in range(2)]
    assert [answer.retry_after for answer in answers] == ["Wed, 21 Oct 2015 07:28:00 GMT", None]


async def test_a_retry_after_of_any_bytes_does_not_cost_the_answer(
    sender: Sender, receiver: Receiver
) -> None:
    """A 200 stays a 200."""
    receiver.answer(raw(b"HTTP/1.1 200 OK\r\nretry-after: \xff\xfe\r\ncontent-length: 0\r\n\r\n"))
    assert (await send(sender, post(receiver.url))).status == 200


async def test_informational_answers_are_skipped(sender: Sender, receiver: Receiver) -> None:
    """1xx announces an answer and is none (RFC 9110 section 15.2)."""
    receiver.answer(
        raw(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + Reply(201).encode())
    )
    assert (await send(sender, post(receiver.url))).status == 201


async def test_connections_are_reused(sender: Sender, receiver: Receiver) -> None:
    """One connection serves many calls, answers with and without a body alike."""
    receiver.answer(Reply(200, b"ok"), Reply(204), Reply(503, b"no" * 5_000), Reply(200))
    for _ in range(5):
        await send(sender, post(receiver.url))
    assert receiver.connections == 1


async def test_a_connection_closed_while_idle_costs_no_attempt(sender: Sender, receiver: Receiver) -> None:
    """The receiver keeps connections for a shorter time than the sender does."""
    receiver.answer(raw(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"))
    async with Receiver() as elsewhere:
        for _ in range(5):
            assert (await send(sender, post(receiver.url))).status == 200
            await receiver.wait_for_disconnect()
            await send(sender, post(elsewhere.url))  # by then the client has seen the first one hang up


@pytest.mark.usefixtures("many_files")
async def test_a_thousand_calls_in_flight(sender: Sender, receiver: Receiver) -> None:
    """No pool makes one call wait for another (httpx's own limit would be 100)."""
    count = 300 if isinstance(sender, HttpxSender) else 1_000  # httpx's cost grows with the square
    go = asyncio.Event()
    receiver.answer(reply_when(go, Reply(200)))
    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(send(sender, post(f"{receiver.url}/{n}"))) for n in range(count)]
        await receiver.wait_for(count)
        go.set()
    assert {call.result().status for call in calls} == {200}
    assert {request.path for request in receiver.requests} == {f"/{n}" for n in range(count)}


@pytest.mark.parametrize("misbehaviour", [hang, drip(3600)], ids=["before headers", "within body"])
async def test_a_cancelled_call_ends_at_once_and_leaves_no_connection(
    sender: Sender, receiver: Receiver, misbehaviour: Handler
) -> None:
    """The caller goes on at once; the connection is gone by the call's deadline, and the sender works on."""
    receiver.answer(misbehaviour, Reply(200))
    call = asyncio.create_task(sender.send(post(receiver.url), timeout_s=1))
    await receiver.wait_for(1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await receiver.wait_for_disconnect()
    assert (await send(sender, post(receiver.url))).status == 200
