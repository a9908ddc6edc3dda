"""How much room timers take: while they are pending, and once they are archived."""

import secrets
from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from httpqueue.clock import now_ms
from httpqueue.storage import archive
from httpqueue.storage.partitions import ONE_PARTITION
from httpqueue.storage.queue import open_queue
from httpqueue.storage.storage import Storage
from httpqueue.timers.commands import Begun, End, Finish, NewTimer, Refused, WakeUp
from httpqueue.timers.names import DEFAULT_APPLICATION, TimerName
from httpqueue.timers.schedule import Instant
from httpqueue.timers.spec import Spec
from httpqueue.timers.timer import Attempt, State
from tests.benchmarks.figures import Figure, LostError, Row, at_most
from tests.benchmarks.lab import Lab, Server, relay_all, server, storage_of

URL: Final = "http://receiver.example/hooks/0123456789"
FAR_MS: Final = 30 * 86_400_000
NEAR_MS: Final = 9 * 60_000
ERROR_RATE: Final = 1e-6
LAYERS: Final = 4
BATCH: Final = 1_000


def new_timers(count: int, due_ms: int, application: str = DEFAULT_APPLICATION) -> list[NewTimer]:
    """With ids as the API makes them."""
    return [
        NewTimer(TimerName(application, secrets.token_urlsafe(16)), Spec(URL, Instant(due_ms)))
        for _ in range(count)
    ]


def delivered(begun: Sequence[Begun | Refused], *, retention_ms: int) -> list[Finish]:
    """The ends of attempts whose webhooks answered 200; LostError when one of them was refused."""
    attempt = Attempt(now_ms(), 0, 200)
    finishes = [
        Finish(answer, replace(attempt, number=answer.attempt), End(State.DONE, retention_ms))
        for answer in begun
        if isinstance(answer, Begun)
    ]
    if len(finishes) != len(begun):
        raise LostError(f"{len(begun) - len(finishes)} of {len(begun)} attempts were refused")
    return finishes


async def _finish_all(storage: Storage, wake_ups: Sequence[WakeUp], *, retention_ms: int) -> None:
    """Begin and finish their timers without calling anything."""
    begun = await storage.store.begin(wake_ups, holder="bench", timeout_ms=20_000)
    finished = await storage.store.finish(delivered(begun, retention_ms=retention_ms))
    if not all(finished.counted):
        raise LostError("a timer could not be finished")


async def _work_off(on: Server, storage: Storage, count: int) -> None:
    """Finish so many timers, all that the queue has; their records are kept."""
    async with open_queue(on.url, partitions=ONE_PARTITION) as queue:
        for _ in range(0, count, BATCH):
            claim = await queue.claim(0, BATCH)
            await _finish_all(storage, claim.wake_ups, retention_ms=FAR_MS)


async def _bytes_a_timer(count: int, *, ahead_ms: int, queued: int, work_off: bool = False) -> float:
    """Of timers due so far ahead, once a relay has seen them, and perhaps a worker."""
    async with server() as on, storage_of(on) as storage:
        await storage.store.create(new_timers(1, now_ms() + FAR_MS))
        await relay_all(on, queued=0)  # scripts, consumer group and epoch are there from now on
        before = await on.used_memory()
        for first in range(0, count, BATCH):
            application = f"app-{first // BATCH}"  # so few of each that the queue takes them all
            await storage.store.create(new_timers(BATCH, now_ms() + ahead_ms, application))
        await relay_all(on, queued=queued)
        if work_off:
            await _work_off(on, storage, count)
        if (await on.pending(), await on.records()) != (1 if work_off else count + 1, count + 1):
            raise LostError(f"{await on.pending()} of {await on.records()} timers are pending")
        return (await on.used_memory() - before) / count


async def memory(lab: Lab) -> list[Figure]:
    """Bytes a timer takes in Valkey, all structures: the growth of used_memory by 100,000 timers.

    URL of 40 characters, no body, no headers, ids as the API makes them. Far future: due in 30 days, so that
    the queue holds nothing of them. Within the horizon: due in 9 minutes, the relay has queued them all.
    Done: delivered at the first attempt, within their retention time.
    """
    if len(URL) != 40:
        raise ValueError(URL)
    count = lab.count(100_000, 5_000)

    far = await _bytes_a_timer(count, ahead_ms=FAR_MS, queued=0)
    near = await _bytes_a_timer(count, ahead_ms=NEAR_MS, queued=count)
    done = await _bytes_a_timer(count, ahead_ms=-1, queued=count, work_off=True)
    return [
        Figure("far future", far, "bytes", at_most(300)),
        Figure("within the horizon", near, "bytes", at_most(520)),
        Figure("done", done, "bytes"),
    ]


async def archived(lab: Lab) -> list[Figure]:
    """Bits of the archive a finished id at an error rate of 1e-6: the bytes of a layer times 8 / ids.

    The first layer is measured on the server, filled by finishing as many timers as it takes. By then the
    second one is allocated, which is four times as large. Computed from the layers' sizes: four full ones,
    and four full ones with a fifth just begun, which is the worst moment.
    """
    capacity = archive.layer(0, ERROR_RATE).capacity
    count = lab.count(capacity, 2_000)
    async with server() as on, storage_of(on) as storage:
        for _ in range(0, count, BATCH):
            timers = new_timers(BATCH, now_ms() - 1)
            await storage.store.create(timers)
            await _finish_all(storage, [WakeUp(timer.name, 0) for timer in timers], retention_ms=0)
            if await storage.retention.forget(0, limit=BATCH) != BATCH:
                raise LostError("a finished timer was not forgotten")
            if not await storage.store.is_archived(timers[0].name):
                raise LostError("a finished timer is not in the archive")
        [keys] = on.store_keys
        first, second = [await on.redis.strlen(f"{keys.archive_layers}{number}") for number in (0, 1)]
    sizes = [archive.layer(number, ERROR_RATE) for number in range(LAYERS + 1)]
    ids = sum(size.capacity for size in sizes[:LAYERS])
    full = sum(size.bits for size in sizes[:LAYERS])
    return [
        Figure(f"first layer, {count:,} ids", first * 8 / count, "bits", None if lab.quick else at_most(30)),
        Figure("the same and the second layer, allocated", (first + second) * 8 / count, "bits"),
        Figure(f"{ids:,} ids, four full layers, computed", full / ids, "bits"),
        Figure(f"{ids + 1:,} ids, a fifth layer begun, computed", (full + sizes[LAYERS].bits) / ids, "bits"),
    ]


ROWS: Final = (
    Row("memory", "Bytes in Valkey a timer", memory, most_runs=1),
    Row("archive", "Bits in the archive a finished id", archived, most_runs=1),
)
