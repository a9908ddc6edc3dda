"""When timers are due, as scripts are told. Only crons need the server's time before that."""

from collections.abc import Iterable, Sequence
from typing import Final

from redis.asyncio import Redis

from httpqueue import clock
from httpqueue.clock import StoreNow
from httpqueue.storage.connection import redis_errors, time_ms
from httpqueue.timers.commands import NewTimer
from httpqueue.timers.cron import first_due
from httpqueue.timers.schedule import Cron, Delay, Due, Schedule

RUNS_AT_ONCE: Final = 50
"""How many first runs of cron timers are computed at once."""


async def now_for(schedules: Iterable[Schedule], redis: Redis, now: StoreNow) -> int:
    """The store's time in ms if any schedule is a cron, else 0. Asking for it costs a round trip."""
    if not any(isinstance(schedule, Cron) for schedule in schedules):
        return 0
    with redis_errors():
        return time_ms(await redis.time(), now)


async def first_runs(timers: Sequence[NewTimer], now_ms: int) -> list[Due | None]:
    """When cron timers are due. The event loop has its turn in between: one may take a millisecond."""
    runs: list[Due | None] = []
    for n, timer in enumerate(timers, start=1):
        schedule = timer.spec.schedule
        runs.append(first_due(schedule, now_ms) if isinstance(schedule, Cron) else None)
        if n % RUNS_AT_ONCE == 0:
            await clock.sleep(0)
    return runs


def packed_due(due: Due) -> tuple[int, bool]:
    """(ms, whether they count from the store's now rather than from the epoch)."""
    return (due.delay_ms, True) if isinstance(due, Delay) else (due.at_ms, False)
