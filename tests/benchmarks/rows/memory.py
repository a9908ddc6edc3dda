"""How much room timers take: while they are pending, and once they are archived."""

import secrets
from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from httpqueue.clock import now_ms
from httpqueue.storage import archive
from httpqueue.timers.commands import Begun, End, Finish, NewTimer, WakeUp
from httpqueue.timers.names import DEFAULT_APPLICATION, TimerName
from httpqueue.timers.schedule import Instant
from httpqueue.timers.spec import Spec
from httpqueue.timers.timer import Attempt, State
from tests.benchmarks.figures import Figure, LostError, Row, at_most
from tests.benchmarks.lab import CREATE_BATCH, Lab, Server, relay_all, server
from tests.support.keys import STORE

URL: Final = "http://receiver.example/hooks/0123456789"
FAR_MS: Final = 30 * 86_400_000
NEAR_MS: Final = 9 * 60_000
ERROR_RATE: Final = 1e-6
LAYERS: Final = 4


def _new_timers(count: int, due_ms: int, application: str = DEFAULT_APPLICATION) -> list[NewTimer]:
    """With ids as the API makes them."""
    return [
        NewTimer(TimerName(application, secrets.token_urlsafe(16)), Spec(URL, Instant(due_ms)))
        for _ in range(count)
    ]


async def _bytes_a_timer(lab: Lab, ahead_ms: int, *, is_queued: bool) -> float:
    count = lab.count(100_000, 5_000)
    async with server() as on:
        await on.store.create(_new_timers(1, now_ms() + FAR_MS))
        await relay_all(on, queued=0)  # scripts, consumer group and epoch are there from now on
        before = await on.used_memory()
        for first in range(0, count, CREATE_BATCH):
            application = f"app-{first // CREATE_BATCH}"  # so few of each that the queue takes them all
            await on.store.create(_new_timers(CREATE_BATCH, now_ms() + ahead_ms, application))
        await relay_all(on, queued=count if is_queued else 0)
        if await on.pending() != count + 1:
            raise LostError(f"{await on.pending()} of {count + 1} timers are pending")
        return (await on.used_memory() - before) / count


async def memory(lab: Lab) -> list[Figure]:
    """Bytes a pending timer takes in Valkey, all structures: the growth of used_memory by 100,000 timers.

    URL of 40 characters, no body, no headers, ids as the API makes them. Far future: due in 30 days, so that
    the queue holds nothing of them. Within the horizon: due in 9 minutes, the relay has queued them all.
    """
    if len(URL) != 40:
        raise ValueError(URL)
    far = await _bytes_a_timer(lab, FAR_MS, is_queued=False)
    near = await _bytes_a_timer(lab, NEAR_MS, is_queued=True)
    return [
        Figure("far future", far, "bytes", at_most(300)),
        Figure("within the horizon", near, "bytes", at_most(520)),
    ]


async def _finish_all(on: Server, timers: Sequence[NewTimer]) -> None:
    """Create, begin and finish them without calling anything; a relay's pass archives them at once."""
    await on.store.create(timers)
    wake_ups = [WakeUp(timer.name, 0) for timer in timers]
    begun = await on.store.begin(wake_ups, holder="bench", timeout_ms=20_000)
    attempt = Attempt(now_ms(), 0, 200)
    finishes = [
        Finish(answer, replace(attempt, number=answer.attempt), End(State.DONE, 0))
        for answer in begun
        if isinstance(answer, Begun)
    ]
    if len(finishes) != len(timers) or not all((await on.store.finish(finishes)).counted):
        raise LostError("a timer could not be finished")


async def archived(lab: Lab) -> list[Figure]:
    """Bits of the archive a finished id at an error rate of 1e-6: the bytes of all layers times 8 / ids.

    Measured: the first layer on the server, filled by finishing as many timers as it takes. Computed from the
    layers' sizes: four full ones, and four full ones with a fifth just begun, which is the worst moment.
    """
    capacity = archive.layer(0, ERROR_RATE).capacity
    count = lab.count(min(capacity, 100_000), 2_000)
    async with server() as on:
        for _ in range(0, count, CREATE_BATCH):
            timers = _new_timers(CREATE_BATCH, now_ms() - 1)
            await _finish_all(on, timers)
            if await on.retention.forget(limit=CREATE_BATCH) != CREATE_BATCH:
                raise LostError("a finished timer was not forgotten")
            if not await on.store.is_archived(timers[0].name):
                raise LostError("a finished timer is not in the archive")
        layers = [key async for key in on.redis.scan_iter(f"{STORE.archive_layers}*")]
        measured = sum([await on.redis.strlen(key) for key in layers]) * 8 / count
    sizes = [archive.layer(number, ERROR_RATE) for number in range(LAYERS + 1)]
    bits = [len(size.positions("")) * size.slice_bits for size in sizes]
    ids = sum(size.capacity for size in sizes[:LAYERS])
    return [
        Figure(f"after {count:,} ids, measured", measured, "bits", None if lab.quick else at_most(30)),
        Figure(f"{ids:,} ids, four full layers, computed", sum(bits[:LAYERS]) / ids, "bits", at_most(30)),
        Figure(f"{ids + 1:,} ids, a fifth layer begun, computed", sum(bits) / ids, "bits"),
    ]


ROWS: Final = (
    Row("memory", "Bytes in Valkey a pending timer", memory, most_runs=1),
    Row("archive", "Bits in the archive a finished id", archived, most_runs=1),
)
