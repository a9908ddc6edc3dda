"""What workers make of slow receivers: many calls in flight, and two processes instead of one."""

from contextlib import AsyncExitStack
from typing import Final

from httpqueue.clock import now_ms
from tests.benchmarks.figures import Figure, Row, at_least, at_most
from tests.benchmarks.lab import FILLED, Arrivals, Lab, create, part, receiver, relaying, server
from tests.benchmarks.usage import peak_mib

IN_FLIGHT: Final = 1_000
SHARED_CONCURRENCY: Final = 50


async def _drain(count: int, *, delay_s: float, workers: int, concurrency: int) -> tuple[Arrivals, float]:
    """Timers that are due before the workers start -> arrivals, and the first worker's peak MiB."""
    async with server() as on, receiver(delay_s=delay_s) as webhooks, AsyncExitStack() as stack:
        await create(on, (f"{webhooks.url}{number}" for number in range(count)), due_ms=now_ms() - 1_000)
        await stack.enter_async_context(relaying(on, queued=min(count, FILLED)))
        processes = [
            await stack.enter_async_context(part("worker", on, concurrency=concurrency))
            for _ in range(workers)
        ]
        arrivals = await webhooks.wait_for(count)
        return arrivals, peak_mib(processes[0].pid)


async def in_flight(lab: Lab) -> list[Figure]:
    """One worker with HTTPQUEUE_CONCURRENCY=1000 and a receiver that takes 1 s a call.

    Memory is the worker's largest resident size. 1,000 in flight for 1 s each cannot do more than 1,000
    webhooks/s; the rate counts from the first arrival to the last answer.
    """
    count = IN_FLIGHT * lab.count(8, 2)
    arrivals, mib = await _drain(count, delay_s=1, workers=1, concurrency=IN_FLIGHT)
    seconds = (arrivals.times_ms[-1] - arrivals.times_ms[0]) / 1000 + 1
    return [
        Figure("worker's memory", mib, "MiB", at_most(150)),
        Figure("webhooks", count / seconds, "webhooks/s", at_least(1_000)),
    ]


async def two_workers(lab: Lab) -> list[Figure]:
    """Two worker processes against one, a receiver that takes 50 ms, HTTPQUEUE_CONCURRENCY=50.

    So few slots make the receiver's time the limit, not this machine. Rates between the first fifth and nine
    tenths of the webhooks, when all workers are at work.
    """
    count = lab.count(4_000, 800)
    rates = []
    for workers in (1, 2):
        arrivals, _ = await _drain(
            count * workers, delay_s=0.05, workers=workers, concurrency=SHARED_CONCURRENCY
        )
        rates.append(arrivals.per_second(0.2, 0.9))
    one, two = rates
    return [
        Figure("one worker", one, "webhooks/s"),
        Figure("two workers", two, "webhooks/s"),
        Figure("two / one", two / one, "x", at_least(1.9)),
    ]


ROWS: Final = (
    Row("in-flight", "1,000 calls in flight, a receiver that takes 1 s", in_flight),
    Row("two-workers", "Two worker processes against one", two_workers),
)
