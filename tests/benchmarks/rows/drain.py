"""How fast a worker works off timers that are due together, beside its rivals."""

import sys
from typing import Final

from httpqueue.clock import now_ms
from tests.benchmarks.figures import Figure, LostError, MissingError, Row, at_least
from tests.benchmarks.lab import FILLED, Arrivals, Lab, Server, create, part, receiver, relaying, server
from tests.benchmarks.rivals import bullmq_drain
from tests.support.processes import REPOSITORY, started

UNIT: Final = "webhooks/s"
PAST_MS: Final = 1_000


async def drain_httpqueue(count: int, *, on: Server, prefix: str = "t") -> Arrivals:
    """Due timers go into the store, a relay fills the queue, then a worker starts."""
    pending = await on.pending()
    async with receiver() as webhooks:
        urls = (f"{webhooks.url}{number}" for number in range(count))
        await create(on, urls, due_ms=now_ms() - PAST_MS, prefix=prefix)
        async with relaying(on, queued=min(count, FILLED)), part("worker", on) as worker:
            arrivals = await webhooks.wait_for(count)
            await worker.end()  # not killed: what it was told has to reach the store
    if await on.pending() != pending:
        raise LostError(f"{await on.pending() - pending} of {count} timers are not finished")
    return arrivals


async def drain_rival(*command: str, count: int) -> Arrivals:
    """A rival's program, which fills its own queue first, on a fresh server."""
    async with server() as on, receiver() as webhooks:
        arguments = on.socket, webhooks.url, str(count)
        async with started(*command, *arguments, cwd=REPOSITORY) as rival:
            try:
                return await webhooks.wait_for(count)
            except LostError as error:
                raise LostError(f"{error}: {rival.stderr[-1:]}") from error


async def _httpqueue(count: int) -> float:
    async with server() as on:
        return (await drain_httpqueue(count, on=on)).per_second()


async def _bullmq(count: int) -> float | None:
    try:
        command = await bullmq_drain.command()
    except MissingError:
        return None
    return (await drain_rival(*command, count=count)).per_second()


async def _arq(count: int) -> float:
    command = sys.executable, "-m", "tests.benchmarks.rivals.arq_drain"
    return (await drain_rival(*command, count=count)).per_second()


async def _beside_bullmq(count: int) -> list[Figure]:
    """The rate of httpqueue first, then the rival's where it can be had."""
    own = await _httpqueue(count)
    figures = [Figure("httpqueue", own, UNIT)]
    if (bullmq := await _bullmq(count)) is not None:
        figures += [
            Figure("BullMQ + undici", bullmq, UNIT),
            Figure("httpqueue / BullMQ + undici", own / bullmq, "x", at_least(2)),
        ]
    return figures


async def drain(lab: Lab) -> list[Figure]:
    """Timers due together, worked off by one worker process.

    They lie in the store, and as many as it takes in the queue, before the worker starts; the relay tops it
    up. From the first webhook's arrival to the last one's. The rivals do the same on a fresh server of the
    same kind, 100 calls at once like httpqueue: BullMQ with undici as many timers, stock arq with httpx a
    tenth.
    """
    count = lab.count(20_000, 1_000)
    figures = await _beside_bullmq(count)
    own = figures[0].value
    arq = await _arq(count // 10)
    return [
        *figures,
        Figure("stock arq + httpx", arq, UNIT),
        Figure("httpqueue / stock arq + httpx", own / arq, "x", at_least(20)),
    ]


async def drain_many(lab: Lab) -> list[Figure]:
    """The same with 100,000 timers, beside BullMQ with undici."""
    return await _beside_bullmq(lab.count(100_000, 2_000))


ROWS: Final = (
    Row("drain", "Drain: 20,000 timers due together", drain),
    Row("drain-many", "Drain: 100,000 timers due together", drain_many, most_runs=1),
)
