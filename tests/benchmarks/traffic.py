"""What httpqueue is given and what comes of it: posted timers, receivers of webhooks, certificates."""

import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import orjson
import trustme

from httpqueue.clock import now_ms
from httpqueue.timers.schedule import format_instant
from tests.benchmarks.control import Remote, remote
from tests.benchmarks.figures import LostError
from tests.benchmarks.lab import PATIENCE_S, Server, part, port_of

BATCH: Final = 1_000
"""Timers a request of POST /timers/batch."""


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Webhooks in the order in which they came: their index, and when (ms since the epoch)."""

    indexes: Sequence[int]
    times_ms: Sequence[int]

    def check(self, count: int, due_ms: Sequence[int] = ()) -> None:
        """LostError unless each of `count` came once and, when its due time is given, not before it."""
        if sorted(self.indexes) != list(range(count)):
            twice = sum(times - 1 for times in Counter(self.indexes).values())
            raise LostError(f"{len(set(self.indexes))} of {count} webhooks came, {twice} more than once")
        early = sum(lateness < 0 for lateness in self.lateness_ms(due_ms)) if due_ms else 0
        if early:
            raise LostError(f"{early} of {count} webhooks were early")

    def lateness_ms(self, due_ms: Sequence[int]) -> list[int]:
        """Arrival minus due of each webhook, in the order of arrival."""
        return [at - due_ms[index] for index, at in zip(self.indexes, self.times_ms, strict=True)]

    def per_second(self, first: float = 0.0, last: float = 1.0) -> float:
        """Webhooks/s between these shares of them: by default from the first to the last."""
        start, end = int(first * len(self.times_ms)), int(last * (len(self.times_ms) - 1))
        return (end - start) * 1000 / max(self.times_ms[end] - self.times_ms[start], 1)


class Receiver:
    """The receiver's process, listening."""

    def __init__(self, process: Remote, urls: Sequence[str]) -> None:
        self.urls = urls
        """Where webhooks go, one URL a host; their index follows."""
        self._process = process

    @property
    def url(self) -> str:
        """The URL of the only host."""
        [url] = self.urls
        return url

    async def wait_for(self, count: int) -> Arrivals:
        """The webhooks once so many came; LostError unless each came once."""
        before, came = -1, 0
        while before < came < count:
            before, came = came, await self._process.ask(do="wait", count=count, timeout_s=PATIENCE_S)
        if came < count:
            raise LostError(f"{came} of {count} webhooks came, then none for {PATIENCE_S} s")
        arrivals = await self.arrivals()
        arrivals.check(count)
        return arrivals

    async def arrivals(self) -> Arrivals:
        """What came until now."""
        return Arrivals(*await self._process.ask(do="arrivals"))


@asynccontextmanager
async def receiver(
    *, delay_s: float = 0.0, hosts: Sequence[str] = ("127.0.0.1",), certificate: Path | None = None
) -> AsyncIterator[Receiver]:
    """One that answers 200 after delay_s, on a free port of each host; with a certificate, over TLS."""
    async with remote("tests.benchmarks.receiver") as process:
        pem = None if certificate is None else str(certificate)
        ports = await process.ask(do="listen", delay_s=delay_s, hosts=hosts, certificate=pem)
        scheme = "http" if certificate is None else "https"
        urls = [f"{scheme}://{host}:{port}/w/" for host, port in zip(hosts, ports, strict=True)]
        yield Receiver(process, urls)


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM files: a certificate authority, and what a receiver on 127.0.0.1 needs (key and certificate)."""

    authority: Path
    receiver: Path


@contextmanager
def certificates() -> Iterator[Certificates]:
    """Made for this run, and removed at the end."""
    with tempfile.TemporaryDirectory(prefix="httpqueue-bench-") as directory:
        made = Certificates(Path(directory, "authority.pem"), Path(directory, "receiver.pem"))
        authority = trustme.CA()
        authority.cert_pem.write_to_path(made.authority)
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(made.receiver)
        yield made


@dataclass(frozen=True, slots=True)
class Load:
    """What a run of the generator gave."""

    seconds: float
    statuses: dict[str, int]
    bodies: list[str]

    def due_ms(self) -> list[int]:
        """When each timer is due, by the API's answers."""
        answers = (orjson.loads(body) for body in self.bodies)
        return [round(datetime.fromisoformat(answer["due"]).timestamp() * 1000) for answer in answers]


@dataclass(frozen=True, slots=True)
class Shot:
    """What the generator is to send: `count` requests, # in item replaced by an index."""

    item: str
    count: int
    path: str = "/timers"
    connections: int = 64
    rate: float | None = None
    batch: int = 0
    bodies: bool = False


async def shoot(port: int, shot: Shot) -> Load:
    """Run the generator in a process of its own; LostError when the server hangs up."""
    async with remote("tests.benchmarks.generator") as generator:
        fields = {name: getattr(shot, name) for name in Shot.__slots__}
        answer = await generator.ask(port=port, **fields)
    if answer["failure"]:
        raise LostError(answer["failure"])
    return Load(answer["seconds"], answer["statuses"], answer["bodies"])


def timer(url: str, **members: Any) -> str:
    """A timer as POST /timers takes it; # in the URL stands for its index."""
    return orjson.dumps({"url": url, **members}).decode()


def due_timer(url: str, *, past_ms: int = 1_000, **members: Any) -> str:
    """One that has been due for so long."""
    return timer(url, fire_at=format_instant(now_ms() - past_ms), **members)


def all_created(load: Load, count: int) -> None:
    """LostError unless each of so many POST /timers created a timer."""
    if load.statuses != {"201": count}:
        raise LostError(f"{count} timers were posted, the answers were {load.statuses}: {load.bodies[0]}")


async def post_steadily(api_port: int, item: str, *, rate: int, count: int) -> list[int]:
    """Post timers at that rate -> when each is due (ms since the epoch)."""
    load = await shoot(api_port, Shot(item, count, rate=rate, bodies=True))
    all_created(load, count)
    return load.due_ms()


async def fill(on: Server, item: str, count: int) -> None:
    """Store so many timers, by POST /timers/batch; LostError when one is not created."""
    before = await on.records()
    async with part("api", on) as api:
        batch = min(count, BATCH)
        shot = Shot(item, count // batch, path="/timers/batch", connections=4, batch=batch)
        load = await shoot(await port_of(api), shot)
    stored = await on.records() - before
    if stored != count:
        raise LostError(f"{stored} of {count} timers stored, the answers were {load.statuses}")
