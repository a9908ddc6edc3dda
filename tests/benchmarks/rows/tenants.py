"""Whether one application's backlog delays the timers of another."""

from typing import Final

from httpqueue.clock import now_ms
from tests.benchmarks.figures import Figure, LostError, Row, at_most, percentile
from tests.benchmarks.lab import Lab, Shot, create, part, port_of, receiver, relaying, server, shoot, timer

RATE: Final = 100
PAST_MS: Final = 60_000


async def tenants(lab: Lab) -> list[Figure]:
    """1,000,000 due timers of one application; another one posts 100 timers a second, due 1 s later.

    Lateness is the arrival of the other application's webhooks minus their due time, while the worker is busy
    with the backlog all the time. One relay, one worker, one API, all to hosts of this machine.
    """
    backlog, count = lab.count(1_000_000, 5_000), RATE * lab.count(10, 1)
    async with server() as on, receiver() as hog, receiver() as other:
        urls = (f"{hog.url}{number}" for number in range(backlog))
        await create(on, urls, due_ms=now_ms() - PAST_MS, application="hog")
        async with relaying(on, queued=lab.count(5_000, 1_000)), part("worker", on), part("api", on) as api:
            item = timer(f"{other.url}#", seconds=1, application="other")
            load = await shoot(await port_of(api), Shot(item, count, rate=RATE, bodies=True))
            if load.statuses != {"201": count}:
                raise LostError(f"{count} timers were posted, the answers were {load.statuses}")
            arrivals = await other.wait_for(count)
            worked_off = len((await hog.arrivals()).indexes)
    due_ms = load.due_ms()
    arrivals.check(count, due_ms)
    late_ms = arrivals.lateness_ms(due_ms)
    return [
        Figure("the other's lateness, p50", percentile(late_ms, 0.5), "ms"),
        Figure("the other's lateness, p99", percentile(late_ms, 0.99), "ms", at_most(2_000)),
        Figure("worked off meanwhile", worked_off, "webhooks"),
    ]


ROWS: Final = (Row("tenants", "1,000,000 due timers of another application", tenants, most_runs=1),)
