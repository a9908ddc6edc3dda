"""What the server's CPU pays for a timer's life, stage by stage."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from httpqueue.clock import now_ms
from httpqueue.storage.partitions import ONE_PARTITION
from httpqueue.storage.queue import Queue, open_queue
from httpqueue.storage.storage import Storage
from httpqueue.timers.commands import Begun, Refused, WakeUp
from tests.benchmarks.figures import Figure, LostError, Row, at_most
from tests.benchmarks.lab import Lab, Server, server, storage_of
from tests.benchmarks.rows.memory import BATCH, delivered, new_timers

AT_ONCE: Final = 100

Item = TypeVar("Item")


class Stages:
    """Runs one stage after the other, and notes the server's CPU of each."""

    def __init__(self, on: Server, count: int) -> None:
        self.cpu_us: dict[str, float] = {}
        """A timer."""
        self._on = on
        self._count = count

    async def run(
        self, name: str, items: Sequence[Item], stage: Callable[[Sequence[Item]], Awaitable[object]]
    ) -> None:
        """One call of the stage for every AT_ONCE items."""
        before_s = await self._cpu_s()
        for first in range(0, len(items), AT_ONCE):
            await stage(items[first : first + AT_ONCE])
        self.cpu_us[name] = (await self._cpu_s() - before_s) / self._count * 1e6

    async def _cpu_s(self) -> float:
        used = await self._on.redis.info("cpu")
        return float(used["used_cpu_user"] + used["used_cpu_sys"])


async def _live(storage: Storage, queue: Queue, stages: Stages, wake_ups: Sequence[WakeUp]) -> None:
    claimed: list[WakeUp] = []
    begun: list[Begun | Refused] = []

    async def claim(some: Sequence[WakeUp]) -> None:
        claimed.extend((await queue.claim(0, len(some))).wake_ups)

    async def begin(some: Sequence[WakeUp]) -> None:
        begun.extend(await storage.store.begin(some, holder="bench", timeout_ms=20_000))

    await stages.run("put", wake_ups, queue.put)
    await stages.run("claim", wake_ups, claim)
    await stages.run("begin", claimed, begin)
    await stages.run("finish", delivered(begun, retention_ms=0), storage.store.finish)
    await stages.run("forget", wake_ups, lambda some: storage.retention.forget(0, limit=len(some)))


async def _stages(count: int, *, persistent: bool) -> dict[str, float]:
    """The server's CPU a timer of each stage, µs."""
    async with (
        server(persistent=persistent) as on,
        storage_of(on) as storage,
        open_queue(on.url, partitions=ONE_PARTITION) as queue,
    ):
        timers = new_timers(count, now_ms() - 1)
        for first in range(0, count, BATCH):
            await storage.store.create(timers[first : first + BATCH])
        stages = Stages(on, count)
        await _live(storage, queue, stages, [WakeUp(timer.name, 0, now_ms()) for timer in timers])
        if left := await on.records():
            raise LostError(f"{left} of {count} timers are not archived")
    return stages.cpu_us


async def scripts(lab: Lab) -> list[Figure]:
    """The server's CPU (INFO cpu) for 20,000 timers, through httpqueue's own storage classes.

    Each stage takes all timers, 100 a call, one call after the other; nothing is called. It is all that the
    server does: parsing, scripts, answers. The goal is for a server without an append-only file, as the
    figure was that it comes from; beside it the sum as httpqueue runs the server, with file and fsync.
    """
    count = lab.count(20_000, 1_000)
    cpu_us = await _stages(count, persistent=False)
    on_disk_us = await _stages(count, persistent=True)
    return [
        *(Figure(name, stage_us, "µs") for name, stage_us in cpu_us.items()),
        Figure("all five", sum(cpu_us.values()), "µs", at_most(50)),
        Figure("all five, with the append-only file", sum(on_disk_us.values()), "µs"),
    ]


ROWS: Final = (
    Row("scripts", "Valkey's CPU a timer: put, claim, begin, finish, forget", scripts, "1 application"),
)
