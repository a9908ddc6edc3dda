"""How our HTTP/1.1 client gets a connection: names, judged addresses, happy eyeballs."""

import asyncio
import socket
import threading
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address
from typing import cast

import pytest

from httpqueue.webhooks.client.http1.dial import Dialer, connect_tcp, in_turn
from httpqueue.webhooks.client.http1.resolve import FRESH_S, CachedResolver, SystemResolver
from httpqueue.webhooks.client.http1.sender import Http1Sender
from httpqueue.webhooks.egress import IPAddress
from httpqueue.webhooks.message import Fault, Response, SendError
from tests.support.http1 import LOOPBACK, PLAIN, TIMEOUT_S, Network, Now, fault, outcome, resolver, sender_for
from tests.support.receiver import Receiver

OK = Response(200)


# --- addresses ---


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["::1", "::2", "1.1.1.1", "::3", "2.2.2.2"], ["::1", "1.1.1.1", "::2", "2.2.2.2", "::3"]),
        (["1.1.1.1", "::1"], ["1.1.1.1", "::1"]),
        (["1.1.1.1"], ["1.1.1.1"]),
    ],
)
async def test_families_take_turns(given: list[str], expected: list[str]) -> None:
    """RFC 8305 section 4: the best address first, then the other family."""
    assert [str(address) for address in in_turn([ip_address(each) for each in given])] == expected


async def test_a_silent_address_is_overtaken(receiver: Receiver) -> None:
    """After the stagger the next one is tried beside it; the loser is given up."""
    network = Network(open_to=["192.0.2.2"])
    sender = sender_for(network, ["2001:db8::1", "192.0.2.2"], stagger_s=0.01)
    assert await outcome(sender, f"http://h:{receiver.port}") == OK
    assert network.tried == ["2001:db8::1", "192.0.2.2"]
    await sender.close()
    assert network.given_up == ["2001:db8::1"]


async def test_a_refused_address_is_followed_at_once(receiver: Receiver) -> None:
    """Without waiting for the stagger."""
    network = Network(open_to=["2001:db8::2"], refuse=["2001:db8::1", "192.0.2.1"])
    sender = sender_for(network, ["2001:db8::1", "2001:db8::2", "192.0.2.1", "192.0.2.2"])
    assert await outcome(sender, f"http://h:{receiver.port}") == OK
    assert network.tried == ["2001:db8::1", "192.0.2.1", "2001:db8::2"]
    await sender.close()


async def test_all_addresses_refuse() -> None:
    """The first one's reason counts; no address is shown."""
    sender = sender_for(Network(refuse=["192.0.2.1", "192.0.2.2"]), ["192.0.2.1", "192.0.2.2"])
    error = await fault(sender, "http://h")
    assert (error.fault, error.message) == (Fault.CONNECTION, "no connection: Connection refused")
    await sender.close()


async def test_two_that_connect_at_the_same_time(receiver: Receiver) -> None:
    """One is used, the other one closed."""
    both = asyncio.Event()
    sockets: list[socket.socket] = []

    async def connect(_address: IPAddress, port: int) -> socket.socket:
        sockets.append(await connect_tcp(LOOPBACK, port))
        if len(sockets) == 2:
            both.set()
        await both.wait()
        return sockets[-1 if _address == ip_address("192.0.2.1") else 0]

    dialer = Dialer(resolve=resolver("192.0.2.1", "192.0.2.2"), connect=connect, stagger_s=0, tls=PLAIN.tls)
    sender = Http1Sender(dialer)
    assert await outcome(sender, f"http://h:{receiver.port}") == OK
    assert len(receiver._open) == 1
    await sender.close()
    await receiver.wait_for_disconnect()


async def test_the_deadline_holds_while_resolving_and_connecting() -> None:
    """All that was begun is given up."""

    async def never(_host: str) -> list[IPAddress]:
        await asyncio.Event().wait()
        return []

    network = Network()
    senders = [
        sender_for(network, ["192.0.2.1"]),
        sender_for(network, ["192.0.2.2", "192.0.2.3"], stagger_s=0),
        Http1Sender(replace(PLAIN, resolve=never)),
    ]
    for sender in senders:
        error = await fault(sender, "http://h", timeout_s=0.05)
        assert (error.fault, error.message) == (Fault.TIMEOUT, "no connection within 0.05 s")
        await sender.close()
    assert sorted(network.given_up) == ["192.0.2.1", "192.0.2.2", "192.0.2.3"]


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
async def test_ipv6(sender: Http1Sender) -> None:
    """An address in brackets; Host keeps them."""
    heads: list[bytes] = []

    class Server(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = cast("asyncio.Transport", transport)

        def data_received(self, data: bytes) -> None:
            heads.append(data)
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    try:
        server = await asyncio.get_running_loop().create_server(Server, "::1", 0)
    except OSError:
        pytest.skip("no IPv6 loopback")
    port = server.sockets[0].getsockname()[1]
    assert await outcome(sender, f"http://[::1]:{port}/") == OK
    assert f"Host: [::1]:{port}\r\n".encode() in heads[0]
    server.close()


# --- the judge ---


async def test_the_judge_sees_every_address(receiver: Receiver) -> None:
    """Once for each connection, with the host; a literal address is judged like a name's."""
    seen: list[tuple[str, list[str]]] = []

    def judge(host: str, addresses: Sequence[IPAddress]) -> None:
        seen.append((host, [str(address) for address in addresses]))
        if host != "h":
            raise SendError(Fault.EGRESS_BLOCKED, "not there")

    network = Network(open_to=["192.0.2.2"], refuse=["192.0.2.1"])
    dialer = Dialer(
        resolve=resolver("192.0.2.1", "192.0.2.2"), judge=judge, connect=network.connect, tls=PLAIN.tls
    )
    sender = Http1Sender(dialer)
    for _ in range(2):
        assert await outcome(sender, f"http://h:{receiver.port}") == OK
    assert seen == [("h", ["192.0.2.1", "192.0.2.2"])]
    tried = network.tried.copy()
    for url, address in (
        ("http://192.0.2.3", "192.0.2.3"),
        ("http://[fd00::1]:80", "fd00::1"),
        ("http://2130706433", "127.0.0.1"),
        ("http://0x7f.1", "127.0.0.1"),
    ):
        error = await fault(sender, url)
        assert (error.fault, error.message) == (Fault.EGRESS_BLOCKED, "not there")
        assert seen[-1][1] == [address]
    assert network.tried == tried
    await sender.close()


# --- names ---


async def test_the_systems_resolver(sender: Http1Sender, receiver: Receiver) -> None:
    """It is asked for names only."""
    assert await outcome(sender, f"http://localhost:{receiver.port}") == OK
    assert receiver.requests[0].header("host") == f"localhost:{receiver.port}"


async def test_a_label_that_is_too_long(sender: Http1Sender) -> None:
    """No name server can be asked."""
    error = await fault(sender, f"http://{'a' * 64}.example")
    assert (error.fault, error.message) == (Fault.INVALID_REQUEST, "the URL's host is no valid name")


async def test_resolvers_that_fail() -> None:
    """A name server's error is a DNS fault; a bug fails the call alone."""

    async def unknown(_host: str) -> list[IPAddress]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def broken(_host: str) -> list[IPAddress]:
        raise ZeroDivisionError

    for resolve, expected in (
        (unknown, (Fault.DNS, "dns error: Name or service not known")),
        (broken, (Fault.CONNECTION, "no connection: ZeroDivisionError")),
    ):
        sender = Http1Sender(replace(PLAIN, resolve=resolve))
        error = await fault(sender, "http://h")
        assert (error.fault, error.message) == expected
        await sender.close()


async def test_a_resolver_that_cannot_be_cancelled(receiver: Receiver) -> None:
    """Its late answer sends nothing that nobody waits for any more."""
    stubborn, go = asyncio.Event(), asyncio.Event()

    async def resolve(_host: str) -> list[IPAddress]:
        try:
            await go.wait()
        except asyncio.CancelledError:
            stubborn.set()
            await go.wait()
        return [ip_address("127.0.0.1")]

    sender = Http1Sender(replace(PLAIN, resolve=resolve))
    assert (await fault(sender, f"http://h:{receiver.port}", timeout_s=0.05)).fault is Fault.TIMEOUT
    await stubborn.wait()
    go.set()
    assert await outcome(sender, f"http://h:{receiver.port}/second") == OK
    assert [request.path for request in receiver.requests] == ["/second"]
    await sender.close()


async def test_dead_names_delay_no_other_and_take_one_thread_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system is asked once for all calls to a host, also when one of them gives up."""
    asked: list[str] = []
    dead_end, started = threading.Event(), threading.Semaphore(0)

    def addresses_of(host: str) -> list[IPAddress]:
        asked.append(host)
        started.release()
        if host != "alive":
            dead_end.wait(TIMEOUT_S)
        return [LOOPBACK]

    monkeypatch.setattr("httpqueue.webhooks.client.http1.resolve.addresses_of", addresses_of)
    system = SystemResolver()
    dead = [asyncio.ensure_future(system(f"dead{n % 30}")) for n in range(90)]
    for _ in range(30):
        assert await asyncio.to_thread(started.acquire, timeout=TIMEOUT_S)
    assert await system("alive") == [LOOPBACK]
    dead.pop().cancel()
    dead_end.set()
    assert await asyncio.gather(*dead) == [[LOOPBACK]] * 89
    assert len(asked) == 31
    assert await system("dead0") == [LOOPBACK]  # asked again: nothing is kept
    assert len(asked) == 32


async def test_answers_are_used_again_for_a_while() -> None:
    """For FRESH_S from when they were asked for; failures are not kept."""
    asked: list[str] = []
    now = Now()

    async def resolve(host: str) -> list[IPAddress]:
        asked.append(host)
        now.s += 1  # a lookup takes its time
        if host == "unknown":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [ip_address(f"192.0.2.{len(asked)}")]

    cached = CachedResolver(resolve, now)
    first = await cached("a")
    now.s += FRESH_S - 1.5
    assert await cached("a") == first
    now.s += 0.5
    assert await cached("a") != first
    for _ in range(2):
        with pytest.raises(socket.gaierror):
            await cached("unknown")
    assert asked == ["a", "a", "unknown", "unknown"]
    assert 0 < FRESH_S <= 30


async def test_the_answers_that_are_kept_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that was asked for least recently goes first."""
    monkeypatch.setattr("httpqueue.webhooks.client.http1.resolve.MAX_ANSWERS", 2)
    asked: list[str] = []

    async def resolve(host: str) -> list[IPAddress]:
        asked.append(host)
        return [LOOPBACK]

    cached = CachedResolver(resolve, Now())
    for host in ("a", "b", "a", "c", "a", "b"):
        await cached(host)
    assert asked == ["a", "b", "c", "b"]
    assert len(cached._answers) == 2
