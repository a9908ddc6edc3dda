"""What workers make of slow receivers: many calls in flight, and two processes instead of one."""

import resource
from collections.abc import Sequence
from typing import Final

from httpqueue.clock import now_ms
from httpqueue.run.limits import MAX_FILES
from httpqueue.timers.commands import NewTimer
from httpqueue.timers.names import DEFAULT_APPLICATION, TimerName
from httpqueue.timers.schedule import Instant
from httpqueue.timers.spec import Spec
from tests.benchmarks.figures import Figure, LostError, MissingError, Row, at_least, at_most, percentile
from tests.benchmarks.lab import FILLED, Lab, Server, part, port_of, relaying, server, storage_of
from tests.benchmarks.rows.drain import Drained, Workers, drain_httpqueue
from tests.benchmarks.traffic import BATCH, post_steadily, receiver, timer
from tests.benchmarks.usage import peak_mib

IN_FLIGHT: Final = 1_000
SHARED_SLOTS: Final = 50
SHARED_DELAY_S: Final = 0.05
HANGING_HOSTS: Final = tuple(f"127.0.1.{number}" for number in range(1, 101))
HANG_S: Final = 600
HANGING_SLOTS: Final = 1.6
HANGING_CAP: Final = 4
"""Slots a hanging call, and of its host: as slots become scarce, each host gets less than it may have."""
HOG_TIMERS: Final = 600
HEALTHY_RATE: Final = 100
HEALTHY_DELAY_S: Final = 0.05
OTHER_FILES: Final = 1_000


async def _drain(count: int, workers: Workers) -> Drained:
    async with server() as on:
        return await drain_httpqueue(count, on=on, workers=workers)


async def in_flight(lab: Lab) -> list[Figure]:
    """One worker that may call one host 1,000 times at once, and a receiver that takes 1 s a call.

    Memory is the worker's largest resident size. 1,000 in flight for 1 s each cannot do more than 1,000
    webhooks/s; the rate counts from the first arrival to the last answer.
    """
    count = IN_FLIGHT * lab.count(8, 2)
    drained = await _drain(count, Workers(slots=IN_FLIGHT, delay_s=1))
    times_ms = drained.arrivals.times_ms
    figures = [
        Figure("webhooks", count / ((times_ms[-1] - times_ms[0]) / 1000 + 1), "webhooks/s", at_least(985))
    ]
    if drained.worker_mib is not None:
        figures.append(Figure("worker's memory", drained.worker_mib, "MiB", at_most(150)))
    return figures


async def two_workers(lab: Lab) -> list[Figure]:
    """Two worker processes against one, on the same server.

    Once the drain of 40,000 timers, where this machine is the limit: two processes must not be in each
    other's way. Once with a receiver that takes 50 ms and 50 slots each, so that the receiver's time is the
    limit. Rates between the first fifth and nine tenths of the webhooks, when all workers are at work.
    """
    fast, slow = lab.count(40_000, 2_000), lab.count(3_000, 500)
    rates, slow_rates = [], []
    for count in (1, 2):
        drained = await _drain(fast, Workers(count))
        rates.append(drained.arrivals.per_second(0.2, 0.9))
        drained = await _drain(slow * count, Workers(count, SHARED_SLOTS, SHARED_DELAY_S))
        slow_rates.append(drained.arrivals.per_second(0.2, 0.9))
    return [
        Figure("one worker", rates[0], "webhooks/s"),
        Figure("two workers", rates[1], "webhooks/s"),
        Figure("two / one", rates[1] / rates[0], "x", at_least(0.95)),
        Figure("one worker, 50 slots, 50 ms", slow_rates[0], "webhooks/s"),
        Figure("two workers, 50 slots each, 50 ms", slow_rates[1], "webhooks/s"),
        Figure("two / one, 50 slots each, 50 ms", slow_rates[1] / slow_rates[0], "x", at_least(1.9)),
    ]


def _need_files(count: int) -> None:
    """MissingError when a process may not open so many files."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = MAX_FILES if most == resource.RLIM_INFINITY else most
    if allowed < count:
        raise MissingError(f"a process may open {allowed:,} files here (ulimit -Hn), {count:,} are needed")


async def _store_calls(
    on: Server, urls: Sequence[str], count: int, application: str = DEFAULT_APPLICATION
) -> None:
    """Due timers, in turn to each of these URLs."""
    due = Instant(now_ms())
    async with storage_of(on) as storage:
        for first in range(0, count, BATCH):
            numbers = range(first, min(first + BATCH, count))
            await storage.store.create(
                [
                    NewTimer(
                        TimerName(application, f"t{number}"),
                        Spec(f"{urls[number % len(urls)]}{number}", due),
                    )
                    for number in numbers
                ]
            )


async def hanging(lab: Lab) -> list[Figure]:
    """One worker with 10,000 calls in flight that are never answered, 100 to each of 100 hosts (127.0.1.1 …).

    Once all of them are in flight, 100 timers a second are posted to a healthy host, due 1 s later, in the
    same application; its receiver takes 50 ms. Lateness is the arrival of its webhooks minus their due time.
    Memory is the worker's largest resident size.
    """
    count = lab.count(100, 10) * len(HANGING_HOSTS)
    _need_files(count + OTHER_FILES)
    healthy_count = HEALTHY_RATE * lab.count(10, 1)
    slots = round(count * HANGING_SLOTS)
    async with (
        server() as on,
        receiver(delay_s=HANG_S, hosts=HANGING_HOSTS) as hogs,
        receiver(delay_s=HEALTHY_DELAY_S) as healthy,
    ):
        await _store_calls(on, hogs.urls, count)
        async with (
            relaying(on, queued=min(count, FILLED)),
            part(
                "worker",
                on,
                concurrency=slots,
                host_concurrency=HANGING_CAP * count // len(HANGING_HOSTS),
                attempt_timeout=HANG_S,
            ) as worker,
            part("api", on) as api,
        ):
            await hogs.wait_for(count)
            item = timer(f"{healthy.url}#", seconds=1)
            due_ms = await post_steadily(await port_of(api), item, rate=HEALTHY_RATE, count=healthy_count)
            arrivals = await healthy.wait_for(healthy_count)
            if len((await hogs.arrivals()).indexes) != count:
                raise LostError("a call that hangs was given up")
            mib = peak_mib(worker.pid)
    arrivals.check(healthy_count, due_ms)
    late_ms = arrivals.lateness_ms(due_ms)
    return [
        Figure("worker's memory", mib, "MiB", at_most(300)),
        Figure("the healthy host's lateness, p50", percentile(late_ms, 0.5), "ms"),
        Figure("the healthy host's lateness, p99", percentile(late_ms, 0.99), "ms", at_most(250)),
    ]


async def _late_beside_hogs(lab: Lab, hosts: int, application: str) -> float:
    """p99 of the healthy host's lateness in ms, beside so many hosts that hang."""
    healthy_count = HEALTHY_RATE * lab.count(10, 1)
    count = lab.count(HOG_TIMERS, 50) * hosts
    async with (
        server() as on,
        receiver(delay_s=HANG_S, hosts=HANGING_HOSTS[:hosts]) as hogs,
        receiver(delay_s=HEALTHY_DELAY_S) as healthy,
    ):
        await _store_calls(on, hogs.urls, count, application)
        async with (
            relaying(on, queued=min(count, FILLED)),
            part("api", on) as api,
            part("worker", on),
        ):
            item = timer(f"{healthy.url}#", seconds=1)
            due_ms = await post_steadily(await port_of(api), item, rate=HEALTHY_RATE, count=healthy_count)
            arrivals = await healthy.wait_for(healthy_count)
    arrivals.check(healthy_count, due_ms)
    return percentile(arrivals.lateness_ms(due_ms), 0.99)


async def hogs(lab: Lab) -> list[Figure]:
    """Hosts that hang, with 600 timers each, all due when the worker starts, and a healthy host beside them.

    The healthy host gets 100 timers a second from the same moment on, due 1 s after they are posted; its
    receiver takes 50 ms. The hosts that hang (127.0.1.1 …) belong to its application, or to another one. A
    call that hangs is given up after 20 s, and retried. Lateness is the arrival minus the due time.
    """
    figures = []
    for name, application in (("its", DEFAULT_APPLICATION), ("another", "hog")):
        for hosts in (1, 4, 20, 100):
            late_ms = await _late_beside_hogs(lab, hosts, application)
            figures.append(Figure(f"p99 beside {hosts} in {name} application", late_ms, "ms", at_most(250)))
    return figures


ROWS: Final = (
    Row(
        "hogs",
        "A healthy host beside hosts that hang",
        hogs,
        "default slots, 2 to 101 hosts, 1 or 2 applications",
        most_runs=1,
    ),
    Row(
        "in-flight",
        "1,000 calls in flight to one host, a receiver that takes 1 s",
        in_flight,
        "1,000 calls at once, 1 host, 1 application",
    ),
    Row(
        "two-workers",
        "Two worker processes against one",
        two_workers,
        "100 or 50 calls at once each, 1 host, 1 application",
    ),
    Row(
        "hanging",
        "10,000 calls hanging in flight on one worker",
        hanging,
        "16,000 slots, 400 to a host, 101 hosts, 1 application",
        most_runs=1,
    ),
)
