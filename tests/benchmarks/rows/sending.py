"""What sending costs over TLS, and what a signature costs."""

import resource
from typing import Final

from httpqueue.webhooks.client.factory import SenderKind
from httpqueue.webhooks.message import Request, sign
from tests.benchmarks.figures import Figure, Row
from tests.benchmarks.lab import Lab, server
from tests.benchmarks.rows.drain import SETUP, Drained, Workers, drain_httpqueue, figures_of
from tests.benchmarks.traffic import Certificates, certificates

SECRETS: Final = ("whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3", "whsec_ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4")
HEADERS: Final = (
    ("content-type", "application/json"),
    ("webhook-id", "default:0123456789abcdefghijkl:0123456:0"),
    ("webhook-timestamp", "1800000000"),
)
SIZES: Final = (100, 10_000)


async def _drain(count: int, pem: Certificates | None, sender: SenderKind) -> Drained:
    environment = () if pem is None else (f"SSL_CERT_FILE={pem.authority}",)
    certificate = None if pem is None else pem.receiver
    workers = Workers(sender=sender, certificate=certificate, environment=environment)
    async with server() as on:
        return await drain_httpqueue(count, on=on, workers=workers)


async def https(lab: Lab) -> list[Figure]:
    """The drain, over TLS: our own client, and httpx as HTTPQUEUE_SENDER=httpx uses it.

    A certificate authority made for this run signs the receiver's certificate for 127.0.0.1, and the client
    checks it. Connections are kept, so each of the 100 does one handshake. Our own client drains 20,000
    timers with TLS and as many without, httpx 2,000.
    """
    count = lab.count(20_000, 1_000)
    with certificates() as pem:
        own = await _drain(count, pem, SenderKind.HTTP1)
        plain = await _drain(count, None, SenderKind.HTTP1)
        rival = await _drain(lab.count(2_000, 200), pem, SenderKind.HTTPX)
    return [
        *figures_of("own client, TLS", own.per_second, own.cpu_us),
        *figures_of("own client, no TLS", plain.per_second, plain.cpu_us),
        *figures_of("httpx, TLS", rival.per_second, rival.cpu_us),
        Figure("own client / httpx, TLS", own.per_second / rival.per_second, "x"),
    ]


def _cpu_us(request: Request, secrets: tuple[str, ...], count: int) -> float:
    """CPU of this process for signing it, µs."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(count):
        sign(request, secrets)
    after = resource.getrusage(resource.RUSAGE_SELF)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / count * 1e6


async def signature(lab: Lab) -> list[Figure]:
    """CPU that a worker pays for signing a webhook (Standard Webhooks v1), in a loop, nothing else.

    With one secret, and with the two that an application has while it changes its secret.
    """
    count = lab.count(20_000, 2_000)
    figures = []
    for size in SIZES:
        request = Request("POST", "http://127.0.0.1/", HEADERS, b"x" * size)
        for secrets in (SECRETS[:1], SECRETS):
            label = f"{size:,} bytes, {len(secrets)} secret{'s' if len(secrets) > 1 else ''}"
            figures.append(Figure(label, _cpu_us(request, secrets, count), "µs"))
    return figures


ROWS: Final = (
    Row("https", "Drain over TLS", https, SETUP),
    Row("signature", "A webhook's signature", signature),
)
