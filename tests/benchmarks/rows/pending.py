"""Whether a million pending timers slow anything down, and what they cost while nothing happens."""

from typing import Final

from httpqueue.clock import sleep
from tests.benchmarks.figures import Figure, Row, at_least, at_most
from tests.benchmarks.lab import Lab, Server, need_setting, part, relay_all, server, settle
from tests.benchmarks.rows.drain import SETUP, drain_httpqueue
from tests.benchmarks.rows.memory import URL
from tests.benchmarks.rows.post import post_httpqueue
from tests.benchmarks.traffic import fill, timer
from tests.benchmarks.usage import cpu_s

ROUNDS: Final = 3
IDLE_S: Final = 10
FAR_S: Final = 30 * 86_400
PARTITIONS: Final = 4
MANY_PARTITIONS: Final = 64


async def _with_pending(on: Server, count: int) -> None:
    await fill(on, timer(URL, seconds=FAR_S), count)
    await relay_all(on, queued=0)
    await settle(on)


async def _idle_share(on: Server, seconds: float) -> float:
    """Per cent of a core that `httpqueue` and its Valkey use while nothing is due."""
    async with part("all", on) as process:
        await sleep(seconds / 2)  # its first sweep is over
        before_s = cpu_s(process.pid, on.pid)
        await sleep(seconds)
        return (cpu_s(process.pid, on.pid) - before_s) / seconds * 100


async def million(lab: Lab) -> list[Figure]:
    """The drain of 20,000 and POST /timers on a server with 1,000,000 pending timers, against one with 1,000.

    Both servers stay up while the measurements alternate; best of three rounds on each, since noise only
    slows down. Idle: all of httpqueue in one process and its Valkey, CPU time over 10 s from /proc.
    """
    drained, posted = lab.count(20_000, 500), lab.count(15_000, 500)
    drains: tuple[list[float], list[float]] = [], []
    posts: tuple[list[float], list[float]] = [], []
    async with server() as few, server() as many:
        await _with_pending(few, 1_000)
        await _with_pending(many, lab.count(1_000_000, 10_000))
        idle = await _idle_share(many, lab.count(IDLE_S, 2))
        for _ in range(lab.count(ROUNDS, 1)):
            for on, drain_rates, post_rates in zip((few, many), drains, posts, strict=True):
                drain_rates.append((await drain_httpqueue(drained, on=on)).per_second)
                post_rates.append(await post_httpqueue(posted, on=on))
                await settle(on)
    (drain_few, drain_many), (post_few, post_many) = map(max, drains), map(max, posts)
    return [
        Figure("drain with 1,000", drain_few, "webhooks/s"),
        Figure("drain with 1,000,000", drain_many, "webhooks/s"),
        Figure("drain, 1,000,000 / 1,000", drain_many / drain_few, "x", at_least(0.9)),
        Figure("POST with 1,000", post_few, "timers/s"),
        Figure("POST with 1,000,000", post_many, "timers/s"),
        Figure("POST, 1,000,000 / 1,000", post_many / post_few, "x", at_least(0.9)),
        Figure("idle, 1,000,000 pending", idle, "% of a core", at_most(1)),
    ]


async def partitions(lab: Lab) -> list[Figure]:
    """The drain of 20,000 and POST /timers with HTTPQUEUE_PARTITIONS=4, against one partition.

    One server each, both up while the measurements alternate.
    """
    need_setting("partitions")
    count = lab.count(20_000, 500)
    drains, posts = [], []
    async with server() as one, server(partitions=PARTITIONS) as four:
        for on in (one, four):
            drains.append((await drain_httpqueue(count, on=on)).per_second)
            posts.append(await post_httpqueue(count, on=on))
    return [
        Figure("drain, one partition", drains[0], "webhooks/s"),
        Figure("drain, four partitions", drains[1], "webhooks/s"),
        Figure("drain, four / one", drains[1] / drains[0], "x", at_least(0.9)),
        Figure("POST, one partition", posts[0], "timers/s"),
        Figure("POST, four partitions", posts[1], "timers/s"),
        Figure("POST, four / one", posts[1] / posts[0], "x", at_least(0.9)),
    ]


async def idle_partitions(lab: Lab) -> list[Figure]:
    """1,000,000 pending timers with HTTPQUEUE_PARTITIONS=64 and nothing to do.

    All of httpqueue in one process and its Valkey, CPU time over 10 s from /proc.
    """
    need_setting("partitions")
    async with server(partitions=MANY_PARTITIONS) as on:
        await _with_pending(on, lab.count(1_000_000, 10_000))
        idle = await _idle_share(on, lab.count(IDLE_S, 2))
    return [Figure("idle, 64 partitions", idle, "% of a core", at_most(2))]


ROWS: Final = (
    Row("million", "1,000,000 timers pending", million, SETUP, most_runs=1),
    Row("partitions", "Four partitions against one", partitions, SETUP),
    Row(
        "idle-partitions",
        "1,000,000 timers pending on 64 partitions",
        idle_partitions,
        "1 application",
        most_runs=1,
    ),
)
