"""How fast workers work off timers that are due together, and for how much CPU, beside the rivals."""

import asyncio
import signal
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from httpqueue.clock import now_ms, sleep
from httpqueue.webhooks.client.factory import SenderKind
from tests.benchmarks.figures import Figure, LostError, MissingError, Row, at_least, at_most
from tests.benchmarks.lab import (
    FILLED,
    POLL_S,
    Lab,
    Server,
    calls_to_one_host,
    free_port,
    metric,
    relaying,
    server,
    starting,
    until,
)
from tests.benchmarks.rivals import node
from tests.benchmarks.traffic import Arrivals, Receiver, due_timer, fill, receiver
from tests.benchmarks.usage import cpu_s, peak_mib
from tests.support.processes import REPOSITORY, Process, started

UNIT: Final = "webhooks/s"
SLOTS: Final = 100
SETUP: Final = "100 calls at once, 1 host, 1 application"
FORGET_S: Final = 3
"""The pass that archives pauses for 2 s; then it has to archive what came meanwhile."""
NOT_ITS_HOST: Final = frozenset(
    {"gone", "stale", "finished", "running", "unreadable", "early", "blocked", "later"}
)
"""Reasons of httpqueue_wake_ups_refused_total that say nothing of the timer's host; all others do."""


@dataclass(frozen=True, slots=True)
class Workers:
    """Who drains, and what."""

    count: int = 1
    slots: int = SLOTS
    delay_s: float = 0.0
    """How long the receiver takes."""
    archive: bool = False
    """Drain until every id is archived, which the relay does at once (RETENTION_DONE=0)."""
    sender: SenderKind = SenderKind.HTTP1
    certificate: Path | None = None
    """The receiver's. None: no TLS."""
    environment: Sequence[str] = ()

    @property
    def settings(self) -> dict[str, object]:
        """Of each worker."""
        settings: dict[str, object] = {**calls_to_one_host(self.slots), "sender": self.sender.value}
        if self.archive:
            settings["retention_done"] = "0"
        return settings


@dataclass(frozen=True, slots=True)
class Drained:
    """What a drain gave."""

    arrivals: Arrivals
    done_ms: int
    """When the last timer was finished, or archived, ms since the epoch."""
    cpu_us: float | None
    """CPU a webhook, of all processes and the server, from when the workers are ready."""
    refused: float = 0.0
    """Refused begins a webhook, of timers that have to wait for their host."""
    worker_mib: float | None = None

    @property
    def per_second(self) -> float:
        """Webhooks/s, from the first arrival to the last one."""
        return self.arrivals.per_second()

    @property
    def done_per_second(self) -> float:
        """Webhooks/s, from the first arrival until the last timer was done."""
        return len(self.arrivals.times_ms) * 1000 / (self.done_ms - self.arrivals.times_ms[0])

    @property
    def after_s(self) -> float:
        """From the last arrival until the last timer was done."""
        return (self.done_ms - self.arrivals.times_ms[-1]) / 1000


async def drain_httpqueue(count: int, *, on: Server, workers: Workers | None = None) -> Drained:
    """Due timers go into the store, a relay fills the queue, then the workers start."""
    plan = workers or Workers()
    async with receiver(delay_s=plan.delay_s, certificate=plan.certificate) as webhooks:
        left = on.records if plan.archive else on.pending
        before = await left()
        await fill(on, due_timer(f"{webhooks.url}#"), count)
        async with relaying(on, queued=min(count, FILLED)) as relay, AsyncExitStack() as stack:
            ports = [free_port() for _ in range(plan.count)]
            processes = [
                await stack.enter_async_context(
                    starting("worker", on, environment=plan.environment, metrics_port=port, **plan.settings)
                )
                for port in ports
            ]
            await asyncio.gather(*(process.until_ready() for process in processes))
            pids = on.pid, relay.pid, *(process.pid for process in processes)
            used_s = _cpu_s(*pids)
            await until(left, lambda now: now == before)
            done_ms = now_ms()
            return Drained(
                done_ms=done_ms,
                cpu_us=None if used_s is None else (cpu_s(*pids) - used_s) / count * 1e6,
                arrivals=await webhooks.wait_for(count),
                refused=sum([await _refused(port) for port in ports]) / count,
                worker_mib=None if used_s is None else peak_mib(processes[0].pid),
            )


async def drain_rival(*command: str, count: int) -> Drained:
    """A rival's program, which fills its own queue first, on a fresh server."""
    async with server() as on, receiver() as webhooks:
        arguments = on.socket, webhooks.url, str(count)
        async with started(*command, *arguments, cwd=REPOSITORY) as rival:
            try:
                return await _drain_rival(rival, on, webhooks, count)
            except LostError as error:
                raise LostError(f"{error}: {rival.stderr[-1:]}") from error


async def _drain_rival(rival: Process, on: Server, webhooks: Receiver, count: int) -> Drained:
    async with asyncio.timeout(count):  # whoever takes a second a timer will not get ready
        while not rival.stdout:
            await sleep(POLL_S)
    used_s = _cpu_s(on.pid, rival.pid)
    rival.send_signal(signal.SIGUSR2)
    arrivals = await webhooks.wait_for(count)
    cpu_us = None if used_s is None else (cpu_s(on.pid, rival.pid) - used_s) / count * 1e6
    return Drained(arrivals, arrivals.times_ms[-1], cpu_us)


def _cpu_s(*pids: int) -> float | None:
    try:
        return cpu_s(*pids)
    except MissingError:
        return None


async def _refused(metrics_port: int) -> float:
    reasons = await metric(metrics_port, "httpqueue_wake_ups_refused_total", "reason")
    return sum(count for reason, count in reasons.items() if reason not in NOT_ITS_HOST)


async def _httpqueue(count: int, workers: Workers | None = None) -> Drained:
    async with server() as on:
        return await drain_httpqueue(count, on=on, workers=workers)


async def _bullmq(count: int) -> Drained | None:
    try:
        command = await node.command("drain.mjs")
    except MissingError:
        return None
    return await drain_rival(*command, count=count)


async def _arq(count: int) -> Drained:
    command = sys.executable, "-m", "tests.benchmarks.rivals.arq_drain"
    return await drain_rival(*command, count=count)


def figures_of(label: str, rate: float, cpu_us: float | None) -> list[Figure]:
    """The rate of a drain, and its CPU a webhook where that can be had."""
    figures = [Figure(label, rate, UNIT)]
    if cpu_us is not None:
        figures.append(Figure(f"{label}, CPU a webhook", cpu_us, "µs"))
    return figures


async def _beside_bullmq(count: int) -> tuple[Drained, list[Figure]]:
    """Until the last webhook came, and until every id is archived; beside it BullMQ, where it can be had."""
    own = await _httpqueue(count)
    archived = await _httpqueue(count, Workers(archive=True))
    figures = [
        *figures_of("httpqueue", own.per_second, own.cpu_us),
        Figure("refused begins a webhook", own.refused, "begins", at_most(0.1)),
        *figures_of("httpqueue until archived", archived.done_per_second, archived.cpu_us),
        Figure("from the last webhook until archived", archived.after_s, "s", at_most(FORGET_S)),
    ]
    if (bullmq := await _bullmq(count)) is None:
        return own, figures
    figures += [
        *figures_of("BullMQ + undici", bullmq.per_second, bullmq.cpu_us),
        Figure("httpqueue / BullMQ + undici", own.per_second / bullmq.per_second, "x", at_least(2)),
        Figure(
            "httpqueue until archived / BullMQ + undici",
            archived.done_per_second / bullmq.per_second,
            "x",
            at_least(1.5),
        ),
    ]
    if archived.cpu_us and bullmq.cpu_us:
        share = archived.cpu_us / bullmq.cpu_us
        figures.append(Figure("CPU until archived / BullMQ + undici", share, "x", at_most(0.6)))
    return own, figures


async def drain(lab: Lab) -> list[Figure]:
    """Timers due together, worked off by one worker process.

    They lie in the store, and as many as it takes in the queue, before the worker starts; the relay tops it
    up. From the first webhook's arrival to the last one's. A second drain, on another server and with
    HTTPQUEUE_RETENTION_DONE=0, lasts until every id is archived. The rivals do the same on a fresh server of
    the same kind, 100 calls at once like httpqueue: BullMQ with undici as many timers, stock arq with httpx a
    tenth. CPU: of worker, relay and server, or of the rival's process and server, from when all is ready and
    the queue is filled until the last timer is finished or archived (rivals: until the last webhook came).
    Refused begins: those of timers that have to wait for their host.
    """
    count = lab.count(20_000, 1_000)
    own, figures = await _beside_bullmq(count)
    arq = await _arq(count // 10)
    return [
        *figures,
        *figures_of("stock arq + httpx", arq.per_second, arq.cpu_us),
        Figure("httpqueue / stock arq + httpx", own.per_second / arq.per_second, "x", at_least(15)),
    ]


async def drain_many(lab: Lab) -> list[Figure]:
    """The same with 100,000 timers, beside BullMQ with undici.

    The relay's pass that archives keeps up when what it has left to do after the last webhook is no more than
    what came during one of its pauses.
    """
    _, figures = await _beside_bullmq(lab.count(100_000, 2_000))
    return figures


ROWS: Final = (
    Row("drain", "Drain: 20,000 timers due together", drain, SETUP),
    Row("drain-many", "Drain: 100,000 timers due together", drain_many, SETUP),
)
