"""TLS of our own HTTP/1.1 client: names, certificates, handshakes that fail."""

import asyncio
import socket
import ssl
from contextlib import closing
from pathlib import Path
from typing import cast

import pytest
import trustme

from httpqueue.webhooks.client.http1.dial import Dialer
from httpqueue.webhooks.client.http1.sender import Http1Sender
from httpqueue.webhooks.client.http1.tls import client_context
from httpqueue.webhooks.message import Fault, Response
from tests.support.http1 import PLAIN, Network, fault, outcome, resolver, sender_for
from tests.support.receiver import Receiver, raw

OK = Response(200)


@pytest.fixture
def authority() -> trustme.CA:
    """Who signs the certificates of a test."""
    return trustme.CA()


@pytest.fixture
def trusting(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """The client's own context, which trusts that authority."""
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    return client_context()


def server_tls(authority: trustme.CA, name: str) -> ssl.SSLContext:
    """A server that has that name, and would rather speak HTTP/2."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(tls)
    tls.set_alpn_protocols(["h2", "http/1.1"])
    return tls


@pytest.mark.parametrize(
    ("written", "name"), [("Example.com", "example.com"), ("bücher.example", "xn--bcher-kva.example")]
)
async def test_tls_names_and_alpn(
    authority: trustme.CA, trusting: ssl.SSLContext, written: str, name: str
) -> None:
    """The URL's host, not the address, is what SNI names and what the certificate must have."""
    asked: list[str | None] = []
    tls = server_tls(authority, name)
    tls.sni_callback = lambda _socket, server_name, _context: asked.append(server_name)
    async with Receiver(tls=tls) as receiver:
        sender = sender_for(Network(open_to=["192.0.2.1"]), ["192.0.2.1"], tls=trusting)
        for _ in range(2):
            assert await outcome(sender, f"https://{written}:{receiver.port}/") == OK
        (connection,) = sender._pool._open
        ssl_object = connection._transport.get_extra_info("ssl_object")
        assert ssl_object.selected_alpn_protocol() == "http/1.1"
        assert asked == [name]
        assert receiver.requests[0].header("host") == f"{name}:{receiver.port}"
        await sender.close()
        await receiver.wait_for_disconnect()


async def test_a_body_until_close_over_tls(authority: trustme.CA, trusting: ssl.SSLContext) -> None:
    """The end of a TLS connection is the end of the body."""
    async with Receiver(tls=server_tls(authority, "127.0.0.1")) as receiver:
        receiver.answer(raw(b"HTTP/1.1 200 OK\r\n\r\nhi"))
        sender = Http1Sender(Dialer(tls=trusting))
        assert await outcome(sender, receiver.url) == Response(200, None, b"hi")
        await receiver.wait_for_disconnect()
        await sender.close()


async def test_a_certificate_of_another_name(authority: trustme.CA, trusting: ssl.SSLContext) -> None:
    """Nothing is sent."""
    async with Receiver(tls=server_tls(authority, "other.example")) as receiver:
        sender = Http1Sender(Dialer(resolve=resolver("127.0.0.1"), tls=trusting))
        error = await fault(sender, f"https://example.com:{receiver.port}/")
        assert error.fault is Fault.TLS
        assert error.message.startswith("invalid certificate: Hostname mismatch")
        assert receiver.requests == []
        await sender.close()


async def test_handshakes_that_break(sender: Http1Sender) -> None:
    """They may go better next time: a server that speaks no TLS, and one that hangs up."""

    class Server(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = cast("asyncio.Transport", transport)

        def data_received(self, data: bytes) -> None:
            del data
            if answers:
                self.transport.write(answers.pop())
            self.transport.close()

    answers = [b"HTTP/1.1 400 Bad Request\r\n\r\n"]
    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    for message in (
        "no TLS connection: WRONG_VERSION_NUMBER",
        "no connection: the receiver closed the connection",
    ):
        error = await fault(sender, url)
        assert (error.fault, error.message) == (Fault.CONNECTION, message)
    server.close()


async def test_the_deadline_holds_during_the_handshake() -> None:
    """The socket does not outlive the call."""
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        sender = Http1Sender(PLAIN)
        error = await fault(sender, f"https://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.1)
        assert (error.fault, error.message) == (Fault.TIMEOUT, "no connection within 0.1 s")
        await sender.close()
        accepted, _ = silent.accept()
        with closing(accepted):
            accepted.settimeout(30)
            while await asyncio.to_thread(accepted.recv, 65_536):  # the event loop closes its end meanwhile
                pass


async def test_certificates_of_the_system_or_else_certifis(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A minimal system has none, or an empty directory; OpenSSL reads one that has some only later."""
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent")
    monkeypatch.setenv("SSL_CERT_DIR", "/nonexistent")
    assert client_context().cert_store_stats()["x509_ca"] > 100
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    assert client_context().cert_store_stats()["x509_ca"] > 100
    trustme.CA().cert_pem.write_to_path(tmp_path / "12345678.0")
    assert client_context().cert_store_stats()["x509_ca"] == 0
