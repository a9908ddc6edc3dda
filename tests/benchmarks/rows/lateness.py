"""How punctual webhooks are while timers come in: at a steady rate, and when they are due at once."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from tests.benchmarks.figures import Figure, Row, at_least, at_most, percentile
from tests.benchmarks.lab import Lab, part, port_of, server
from tests.benchmarks.traffic import Arrivals, Receiver, post_steadily, receiver, timer

STEADY_RATES: Final = (500, 2_000)
AHEAD_S: Final = 3
BURST_RATE: Final = 2_200
"""A tenth above the goal, so that keeping up shows."""
MAX_OVERTAKEN_MS: Final = 250
SETUP: Final = "default slots, 1 host, 1 application"


@asynccontextmanager
async def _pipeline() -> AsyncIterator[tuple[int, Receiver]]:
    """API, relay and worker as separate processes on a fresh server: the API's port and a receiver."""
    async with (
        server() as on,
        part("relay", on),
        part("worker", on),
        part("api", on) as api,
        receiver() as webhooks,
    ):
        yield await port_of(api), webhooks


async def _post_and_receive(rate: int, count: int, *, ahead_s: int) -> tuple[Arrivals, list[int]]:
    """Timers posted at that rate, due ahead_s later -> what came, and when each was due."""
    async with _pipeline() as (port, webhooks):
        item = timer(f"{webhooks.url}#", seconds=ahead_s)
        due_ms = await post_steadily(port, item, rate=rate, count=count)
        arrivals = await webhooks.wait_for(count)
    arrivals.check(count, due_ms)
    return arrivals, due_ms


async def lateness(lab: Lab) -> list[Figure]:
    """Timers posted at 500/s and at 2,000/s to separate API, relay and worker processes, due 3 s later.

    Lateness is the webhook's arrival at the receiver minus the due time that the API answered, both in whole
    milliseconds of this machine's clock, sending included. The run breaks when one is early.
    """
    figures = []
    for rate in STEADY_RATES:
        arrivals, due_ms = await _post_and_receive(rate, rate * lab.count(6, 1), ahead_s=AHEAD_S)
        late_ms = arrivals.lateness_ms(due_ms)
        figures += [
            Figure(f"{rate:,}/s, p50", percentile(late_ms, 0.5), "ms", at_most(5), late_ms),
            Figure(f"{rate:,}/s, p99", percentile(late_ms, 0.99), "ms", at_most(25)),
            Figure(f"{rate:,}/s, latest", max(late_ms), "ms"),
        ]
    return figures


def overtaken_ms(arrivals: Arrivals, due_ms: Sequence[int]) -> int:
    """The longest that a webhook was still to come when one that was due later had come already.

    What is late because of others before it was never overtaken: the queue explains it.
    """
    by_due = sorted(zip(arrivals.indexes, arrivals.times_ms, strict=True), key=lambda each: -due_ms[each[0]])
    longest_ms, earliest_ms, same_due_ms, due = 0, None, None, None
    for index, at_ms in by_due:
        if due_ms[index] != due:
            due, earliest_ms = due_ms[index], _least(earliest_ms, same_due_ms)
            same_due_ms = None
        if earliest_ms is not None:
            longest_ms = max(longest_ms, at_ms - earliest_ms)
        same_due_ms = _least(same_due_ms, at_ms)
    return longest_ms


def _least(first: int | None, second: int | None) -> int | None:
    present = [value for value in (first, second) if value is not None]
    return min(present) if present else None


async def burst(lab: Lab) -> list[Figure]:
    """Timers without delay posted at 2,200/s; API, relay, worker, Valkey, load and receiver on this machine.

    Webhooks/s from the first arrival to the last. Lateness: arrival minus due. Overtaken: the longest that a
    webhook was still to come when one that was due later had come; lateness beyond it the queue explains.
    """
    arrivals, due_ms = await _post_and_receive(BURST_RATE, BURST_RATE * lab.count(8, 1), ahead_s=0)
    late_ms = arrivals.lateness_ms(due_ms)
    return [
        Figure("webhooks", arrivals.per_second(), "webhooks/s", at_least(2_000)),
        Figure("lateness, p50", percentile(late_ms, 0.5), "ms", samples=late_ms),
        Figure("lateness, p99", percentile(late_ms, 0.99), "ms"),
        Figure("overtaken by a later one", overtaken_ms(arrivals, due_ms), "ms", at_most(MAX_OVERTAKEN_MS)),
    ]


ROWS: Final = (
    Row("burst", "Burst: POST without delay → webhook", burst, SETUP),
    Row("lateness", "Lateness at a steady rate, 3 s ahead", lateness, SETUP),
)
