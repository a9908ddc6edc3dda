"""What every Sender does with judged addresses: it connects to them, to no others, and keeps the name."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpcore
import pytest
import trustme

from httpqueue.webhooks.client.factory import SenderKind, create_sender
from httpqueue.webhooks.client.http1.dial import Dialer
from httpqueue.webhooks.client.http1.resolve import Resolver
from httpqueue.webhooks.client.http1.sender import Http1Sender
from httpqueue.webhooks.client.http1.tls import client_context
from httpqueue.webhooks.client.httpx_sender import HttpxSender, JudgedNetwork
from httpqueue.webhooks.client.sender import Sender
from httpqueue.webhooks.egress import Egress, EgressMode, IPAddress, parse_list
from httpqueue.webhooks.message import Fault, Response
from tests.support.egress import PRIVATE, PUBLIC, HttpcoreNetwork, HttpProxy
from tests.support.http1 import NEVER_S, PLAIN, Network, fault, outcome, resolver
from tests.support.receiver import Receiver

GOOD, OTHER = "8.8.8.8", "2606:4700::1111"
"""Public addresses; in a test's Network, they lead to the loopback."""
OK = Response(200)

Opener = Callable[..., Sender]


@pytest.fixture(params=SenderKind)
async def opened(request: pytest.FixtureRequest) -> AsyncIterator[Opener]:
    """Makes senders of each kind, in a network of the test's own."""
    senders: list[Sender] = []

    def make(
        network: Network,
        resolve: Resolver,
        egress: Egress = PUBLIC,
        *,
        tls: ssl.SSLContext = PLAIN.tls,
        stagger_s: float = NEVER_S,
    ) -> Sender:
        dialer = Dialer(
            resolve=resolve, judge=egress.judge, connect=network.connect, tls=tls, stagger_s=stagger_s
        )
        senders.append(
            HttpxSender(dialer, network=HttpcoreNetwork(network))
            if request.param is SenderKind.HTTPX
            else Http1Sender(dialer)
        )
        return senders[-1]

    yield make
    for sender in senders:
        await sender.close()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A receiver that answers 200."""
    async with Receiver() as receiver:
        yield receiver


def in_sequence(*answers: Sequence[str]) -> Resolver:
    """Another answer each time."""
    left = list(answers)

    async def resolve(_host: str) -> Sequence[IPAddress]:
        return [ip_address(address) for address in left.pop(0)]

    return resolve


async def test_the_judged_address_is_called_by_its_name(opened: Opener, receiver: Receiver) -> None:
    """Host is what the URL says."""
    network = Network(open_to=[GOOD])
    sender = opened(network, resolver(GOOD))
    assert await outcome(sender, f"http://Hook.example:{receiver.port}/") == OK
    assert network.tried == [GOOD]
    assert receiver.requests[0].header("host") == f"hook.example:{receiver.port}"


@pytest.mark.parametrize("written", ["Hook.example", "bücher.example"])
async def test_tls_keeps_the_name(
    opened: Opener, written: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SNI names the URL's host, and the certificate must be its."""
    name = written.lower().encode("idna").decode()
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(tls)
    asked: list[str | None] = []
    tls.sni_callback = lambda _socket, server_name, _context: asked.append(server_name)
    async with Receiver(tls=tls) as receiver:
        sender = opened(Network(open_to=[GOOD]), resolver(GOOD), tls=client_context())
        assert await outcome(sender, f"https://{written}:{receiver.port}/") == OK
        assert asked == [name]
        error = await fault(sender, f"https://other.example:{receiver.port}/")
        assert error.fault is Fault.TLS


@pytest.mark.parametrize(
    "addresses",
    [
        ["169.254.169.254"],
        ["127.0.0.1"],
        ["10.0.0.1"],
        ["::ffff:169.254.169.254"],
        ["64:ff9b::a9fe:a9fe"],
        [GOOD, "169.254.169.254"],
        ["10.0.0.1", GOOD],
        [OTHER, GOOD, "::1"],
    ],
)
async def test_a_refused_address_is_not_called(opened: Opener, addresses: list[str]) -> None:
    """Nor is a good one beside it: no connection is made at all."""
    network = Network(open_to=[GOOD, OTHER])
    error = await fault(opened(network, resolver(*addresses)), "http://hook.example/")
    assert error.fault is Fault.EGRESS_BLOCKED
    assert error.message.startswith("blocked: the host has a")
    assert error.__suppress_context__ or error.__context__ is None
    assert network.tried == []


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "[::ffff:169.254.169.254]",
        "[::1]",
        "[fd00:ec2::254]",
        "2130706433",
        "0x7f.1",
        "127.1",
        "0",
        "①②⑦.0.0.1",
    ],
)
async def test_a_refused_literal_is_not_called(opened: Opener, host: str) -> None:
    """However it is written; a resolver that would say otherwise is not asked, or is not heard."""
    network = Network(open_to=[GOOD])
    error = await fault(opened(network, resolver(GOOD)), f"http://{host}/")
    assert error.fault in {Fault.EGRESS_BLOCKED, Fault.INVALID_REQUEST}
    assert network.tried == []


async def test_a_name_that_changes_its_address(opened: Opener, receiver: Receiver) -> None:
    """DNS rebinding: the answer that was judged is the one that is called; another one is judged again."""
    network = Network(open_to=[GOOD])
    sender = opened(network, in_sequence([GOOD], ["127.0.0.1"], [GOOD]))
    url = f"http://hook.example:{receiver.port}/"
    assert await outcome(sender, url) == OK
    await receiver.wait_for(1)
    assert await outcome(sender, url) == OK  # on the connection that is open
    assert network.tried == [GOOD]
    error = await fault(sender, "http://hook.example:1/")
    assert error.fault is Fault.EGRESS_BLOCKED
    assert network.tried == [GOOD]


async def test_happy_eyeballs(opened: Opener, receiver: Receiver) -> None:
    """An address that refuses, and one that is silent, cost a good one nothing."""
    network = Network(open_to=[GOOD], refuse=[OTHER])
    sender = opened(network, resolver(OTHER, GOOD))
    assert await outcome(sender, f"http://hook.example:{receiver.port}/") == OK
    assert network.tried == [OTHER, GOOD]
    network = Network(open_to=[GOOD])
    sender = opened(network, resolver(OTHER, GOOD), stagger_s=0.01)
    assert await outcome(sender, f"http://hook.example:{receiver.port}/") == OK
    assert network.tried == [OTHER, GOOD]
    assert network.given_up == [OTHER]


async def test_a_connection_of_httpx_that_comes_too_late_is_closed() -> None:
    """Two addresses answer at the same time: one connection is used."""
    both = asyncio.Event()
    streams: list[httpcore.AsyncNetworkStream] = []
    closed = asyncio.Event()

    class Stream(httpcore.AsyncNetworkStream):
        async def aclose(self) -> None:
            streams.remove(self)
            closed.set()

    class Both(httpcore.AsyncNetworkBackend):
        async def connect_tcp(self, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
            streams.append(Stream())
            stream = streams[-1]
            if len(streams) == 2:
                both.set()
            await both.wait()
            return stream

    dialer = replace(PLAIN, resolve=resolver(GOOD, OTHER), judge=PUBLIC.judge, stagger_s=0)
    used = await JudgedNetwork(dialer, Both()).connect_tcp("hook.example", 80)
    await asyncio.wait_for(closed.wait(), 30)
    assert streams == [used]


async def test_faults_of_the_network(opened: Opener) -> None:
    """A refused connection, a name without address, a silent network: what they always are."""

    async def unknown(_host: str) -> Sequence[IPAddress]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def never(_host: str) -> Sequence[IPAddress]:
        await asyncio.Event().wait()
        raise AssertionError

    async def too_long(_host: str) -> Sequence[IPAddress]:
        raise UnicodeError("label too long")

    async def broken(_host: str) -> Sequence[IPAddress]:
        raise ZeroDivisionError

    refused = Network(refuse=[GOOD, OTHER])
    error = await fault(opened(refused, resolver(GOOD, OTHER)), "http://hook.example/")
    assert (error.fault, error.message) == (Fault.CONNECTION, "no connection: Connection refused")
    error = await fault(opened(Network(), unknown), "http://hook.example/")
    assert (error.fault, error.message) == (Fault.DNS, "dns error: Name or service not known")
    error = await fault(opened(Network(), broken), "http://hook.example/")
    assert (error.fault, error.message) == (Fault.CONNECTION, "no connection: ZeroDivisionError")
    for resolve in (never, resolver(GOOD)):
        error = await fault(opened(Network(), resolve), "http://hook.example/", timeout_s=0.1)
        assert error.fault is Fault.TIMEOUT
    error = await fault(opened(Network(), too_long), "http://hook.example/")
    assert error.fault is Fault.INVALID_REQUEST


async def test_lists(opened: Opener, receiver: Receiver) -> None:
    """A host that is allowed by its name; one that is denied by it."""
    rules = Egress(EgressMode.PUBLIC, parse_list("*.intern.example"), parse_list("bad.intern.example"))
    network = Network(open_to=["10.0.0.1"])
    sender = opened(network, resolver("10.0.0.1"), rules)
    assert await outcome(sender, f"http://a.intern.example:{receiver.port}/") == OK
    for host in ("bad.intern.example", "BAD.intern.example.", "intern.example"):
        assert (await fault(sender, f"http://{host}/")).fault is Fault.EGRESS_BLOCKED
    assert network.tried == ["10.0.0.1"]


# --- as the worker makes them ---


@pytest.mark.parametrize("kind", SenderKind)
async def test_the_factory_hands_on_the_judge(kind: SenderKind, receiver: Receiver) -> None:
    """By the system's resolver and network."""
    for egress, host in ((PUBLIC, "127.0.0.1"), (PUBLIC, "localhost"), (PRIVATE, "localhost")):
        sender = create_sender(kind, egress.judge)
        result = await outcome(sender, f"http://{host}:{receiver.port}/")
        assert result == OK if egress is PRIVATE else isinstance(result, Exception)
        await sender.close()
    assert len(receiver.requests) == receiver.connections == 1


# --- the proxy ---


@asynccontextmanager
async def proxied(proxy: HttpProxy, kind: SenderKind, deny: str = "") -> AsyncIterator[Sender]:
    """A sender of the mode proxy."""
    rules = Egress(EgressMode.PROXY, deny=parse_list(deny))
    sender = create_sender(kind, rules.judge, proxy_url=proxy.url)
    yield sender
    await sender.close()


@pytest.mark.parametrize("kind", SenderKind)
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_everything_goes_through_the_proxy(
    kind: SenderKind, scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets the name, unresolved, and its own credentials; TLS reaches through it to the receiver."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("hook.invalid").configure_cert(tls)
    own_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(own_tls)
    through = HttpProxy(tls=own_tls if scheme == "https" else None)
    async with through as proxy, Receiver() as plain, Receiver(tls=tls) as secure:
        async with proxied(proxy, kind) as sender:
            assert await outcome(sender, f"http://hook.invalid:{plain.port}/a") == OK
            assert await outcome(sender, f"https://hook.invalid:{secure.port}/b") == OK
        assert [head.partition("\r\n")[0] for head in proxy.heads] == [
            f"POST http://hook.invalid:{plain.port}/a HTTP/1.1",
            f"CONNECT hook.invalid:{secure.port} HTTP/1.1",
        ]
        assert all("proxy-authorization: basic" in head.lower() for head in proxy.heads)
        for receiver, path in ((plain, "/a"), (secure, "/b")):
            [request] = receiver.requests
            assert (request.path, request.body) == (path, b"hello")
            assert request.header("host") == f"hook.invalid:{receiver.port}"
        assert secure.requests[0].header("proxy-authorization") is None


@pytest.mark.parametrize("kind", SenderKind)
@pytest.mark.parametrize(
    "host",
    ["169.254.169.254", "[::ffff:a9fe:a9fe]", "2852039166", "0xa9.254.43518", "denied.example", "10.0.0.1"],
)
async def test_the_proxy_is_not_asked_for_what_is_refused(kind: SenderKind, host: str) -> None:
    """Literal addresses that are never called, and what the deny list has."""
    async with HttpProxy() as proxy, proxied(proxy, kind, "denied.example, 10.0.0.0/8") as sender:
        for scheme in ("http", "https"):
            error = await fault(sender, f"{scheme}://{host}/")
            assert error.fault in {Fault.EGRESS_BLOCKED, Fault.INVALID_REQUEST}
        assert proxy.heads == []


async def test_a_proxy_that_forbids() -> None:
    """Its 403 is an answer to http, and to https a blocked address."""
    async with HttpProxy(forbids=True) as proxy, proxied(proxy, SenderKind.HTTPX) as sender:
        assert await outcome(sender, "http://hook.example/") == Response(403)
        error = await fault(sender, "https://hook.example/")
        assert (error.fault, error.message) == (
            Fault.EGRESS_BLOCKED,
            "blocked: the proxy answered 403 Forbidden",
        )


async def test_a_proxy_that_is_away() -> None:
    """It may come back."""
    async with HttpProxy() as proxy:
        pass
    async with proxied(proxy, SenderKind.HTTPX) as sender:
        for scheme in ("http", "https"):
            error = await fault(sender, f"{scheme}://hook.example/")
            assert (error.fault, error.message) == (Fault.CONNECTION, "no connection: Connection refused")
