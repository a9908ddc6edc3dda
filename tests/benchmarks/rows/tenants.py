"""Whether one application's backlog delays the timers of another."""

from typing import Final

from msgspec.structs import replace

from httpqueue.clock import monotonic_s, now_ms, sleep
from httpqueue.storage.partitions import ONE_PARTITION
from httpqueue.storage.queue import Queue, open_queue
from httpqueue.storage.storage import Storage
from httpqueue.storage.wake_ups import WINDOW
from httpqueue.timers.commands import NewTimer, WakeUp
from httpqueue.timers.names import TimerName
from httpqueue.timers.schedule import Instant
from httpqueue.timers.spec import Spec
from tests.benchmarks.figures import Figure, LostError, Row, at_most, percentile
from tests.benchmarks.lab import (
    POLL_S,
    Lab,
    Server,
    part,
    port_of,
    relaying,
    server,
    storage_of,
)
from tests.benchmarks.traffic import due_timer, fill, post_steadily, receiver, timer

RATE: Final = 100
PAST_MS: Final = 60_000
HOG: Final = "hog"
CLAIM: Final = 10_000
LOSE_S: Final = 5
"""So long all wake-ups of the timer are lost: promote's sweep, every 2 s, may put one that drain has put."""


async def _pause(storage: Storage, *, paused: bool) -> None:
    await storage.policies.update_application(HOG, lambda policy: replace(policy, paused=paused))


async def _lose_wake_up(storage: Storage, queue: Queue, url: str) -> int:
    """A due timer of the other application whose wake-up nobody has any more -> its due time, ms."""
    name = TimerName("other", "lost")
    [created] = await storage.store.create([NewTimer(name, Spec(url, Instant(now_ms())))])
    claimed: list[WakeUp] = []
    until_s = monotonic_s() + LOSE_S
    while monotonic_s() < until_s:
        claimed += (await queue.claim(0, CLAIM)).wake_ups
        await sleep(POLL_S)
    if not any(wake_up.name == name for wake_up in claimed):
        raise LostError("the wake-up was never in the queue")
    await queue.put([wake_up for wake_up in claimed if wake_up.name != name])
    return created.due_ms


async def _healed_s(on: Server, storage: Storage) -> float:
    """How late a webhook is whose wake-up a worker lost. Call this before a worker is there."""
    async with open_queue(on.url, partitions=ONE_PARTITION) as queue, receiver() as webhooks:
        due_ms = await _lose_wake_up(storage, queue, f"{webhooks.url}0")
        async with part("worker", on):
            arrivals = await webhooks.wait_for(1)
    return (arrivals.times_ms[0] - due_ms) / 1000


async def tenants(lab: Lab) -> list[Figure]:
    """1,000,000 due timers of one application, beside which another one wants its timers called.

    First the one is paused; its wake-ups that are in the queue join its line. A timer of the other is due,
    and its wake-up is lost with whoever took it out of the queue. How late does its webhook come?
    Then the pause ends, and the other posts 100 timers a second, due 1 s later. Lateness is the arrival of
    its webhooks minus their due time, while the worker is busy with the backlog all the time. One relay, one
    worker, one API, all to hosts of this machine.
    """
    backlog, count = lab.count(1_000_000, 5_000), RATE * lab.count(10, 1)
    async with server() as on, storage_of(on) as storage, receiver() as hog, receiver() as other:
        await fill(on, due_timer(f"{hog.url}#", past_ms=PAST_MS, application=HOG), backlog)
        async with relaying(on, queued=lab.count(WINDOW, 1_000)):
            await _pause(storage, paused=True)
            healed_s = await _healed_s(on, storage)
            await _pause(storage, paused=False)
            async with part("worker", on), part("api", on) as api:
                item = timer(f"{other.url}#", seconds=1, application="other")
                due_ms = await post_steadily(await port_of(api), item, rate=RATE, count=count)
                arrivals = await other.wait_for(count)
                worked_off = len((await hog.arrivals()).indexes)
    arrivals.check(count, due_ms)
    late_ms = arrivals.lateness_ms(due_ms)
    return [
        Figure("paused: a lost wake-up of the other comes after", healed_s, "s", at_most(15)),
        Figure("the other's lateness, p50", percentile(late_ms, 0.5), "ms"),
        Figure("the other's lateness, p99", percentile(late_ms, 0.99), "ms", at_most(2_000)),
        Figure("worked off meanwhile", worked_off, "webhooks"),
    ]


ROWS: Final = (
    Row(
        "tenants",
        "1,000,000 due timers of another application",
        tenants,
        "default slots, 1 host, 2 applications",
        most_runs=1,
    ),
)
