"""Two servers, two clocks: the queue follows the store's time."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from httpqueue import clock
from httpqueue.errors import UnavailableError
from httpqueue.run import wiring
from httpqueue.run.clock_comparison import COMPARE_S, TOLERATED_MS, ClockComparison
from httpqueue.settings import Mode, load
from httpqueue.storage.embedded import EmbeddedValkey
from httpqueue.storage.queue import Queue
from httpqueue.timers.commands import WakeUp
from tests.support.frozen import FrozenTime, claim, wake_up
from tests.support.keys import Everywhere, place_of

AHEAD_MS = 60_000


def at(timer_id: str, due_ms: int) -> WakeUp:
    """A wake-up to be put."""
    return replace(wake_up(timer_id), due_ms=due_ms)


async def server_ms(redis: Redis) -> int:
    """The time of the queue's server."""
    seconds, microseconds = await redis.time()
    return int(seconds * 1000 + microseconds // 1000)


def store_behind(redis: Redis, by_ms: int) -> Callable[[], Awaitable[int]]:
    """The answer of a store whose clock is that much behind the queue's."""

    async def time_ms() -> int:
        return await server_ms(redis) - by_ms

    return time_ms


# --- the queue ---


@pytest.mark.parametrize("ahead_ms", [AHEAD_MS, -AHEAD_MS])
async def test_the_difference_is_measured(queue: Queue, ahead_ms: int) -> None:
    """Up to the time that asking takes."""
    assert abs(await queue.compare_clocks(store_behind(queue.redis, ahead_ms)) - ahead_ms) < 1_000


async def test_clocks_that_agree_are_left_alone(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """A difference that the way there and back may account for is none."""
    times = iter([1_000, 1_010])

    async def time_ms() -> int:
        return next(times)

    async def store_ms() -> int:
        return 996

    monkeypatch.setattr(queue, "_time_ms", time_ms)
    assert await queue.compare_clocks(store_ms) == 0


async def test_it_is_measured_anew(queue: Queue) -> None:
    """A clock that was set right is right."""
    await queue.compare_clocks(store_behind(queue.redis, AHEAD_MS))
    assert await queue.compare_clocks(store_behind(queue.redis, 0)) == 0
    await queue.put([at("a", await server_ms(queue.redis) - 1)])
    assert len(await claim(queue)) == 1


async def test_a_queue_that_is_ahead_claims_by_the_stores_time(queue: Queue) -> None:
    """What is due by its own clock alone stays where it is, and the wait is the store's, too."""
    await queue.compare_clocks(store_behind(queue.redis, AHEAD_MS))
    store_ms = await server_ms(queue.redis) - AHEAD_MS
    await queue.put([at("due", store_ms)])
    await queue.put([at("early", store_ms + AHEAD_MS // 2)])
    assert [claimed.name.id for claimed in await claim(queue)] == ["due"]
    wait_ms = (await queue.claim(place_of("early"), 10)).wait_ms
    assert wait_ms is not None
    assert AHEAD_MS // 2 - 5_000 < wait_ms <= AHEAD_MS // 2


async def test_a_queue_that_is_behind_claims_what_the_store_takes_for_due(queue: Queue) -> None:
    """Though its own clock says that there is time."""
    await queue.compare_clocks(store_behind(queue.redis, -AHEAD_MS))
    await queue.put([at("a", await server_ms(queue.redis) + AHEAD_MS // 2)])
    assert len(await claim(queue)) == 1


async def test_what_is_past_due_is_put_at_the_stores_now(queue: Queue) -> None:
    """By its own clock, it would come after what becomes due in the next minute."""
    await queue.compare_clocks(store_behind(queue.redis, AHEAD_MS))
    store_ms = await server_ms(queue.redis) - AHEAD_MS
    await queue.put([at("late", 1)])
    [score] = (await Everywhere(queue.redis).zset("queue")).values()
    assert store_ms <= score < store_ms + 5_000


async def test_in_a_tests_own_time_there_is_one_clock(frozen_queue: Queue, time: FrozenTime) -> None:
    """So it is with the virtual clock."""
    assert await frozen_queue.compare_clocks(store_behind(frozen_queue.redis, AHEAD_MS)) == 0
    await frozen_queue.put([at("a", time.now_ms)])
    assert len(await claim(frozen_queue)) == 1


# --- the part that compares ---


class Pauses:
    """Pauses of the part that is tested: each lasts until the test ends it."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[float] = asyncio.Queue()
        self._over: asyncio.Queue[None] = asyncio.Queue()

    async def __call__(self, seconds: float) -> None:
        """As clock.sleep."""
        self.asked.put_nowait(seconds)
        await self._over.get()

    def end(self) -> None:
        """The pause is over."""
        self._over.put_nowait(None)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> Pauses:
    """No pause is made but in the test's own time."""
    asked = Pauses()
    monkeypatch.setattr(clock, "sleep", asked)
    return asked


@asynccontextmanager
async def comparing(queue: Queue, store_time_ms: Callable[[], Awaitable[int]]) -> AsyncIterator[None]:
    """The part at work; it ends when it is told to."""
    part = ClockComparison(queue, store_time_ms)
    task = asyncio.create_task(part.run())
    yield
    await part.stop()
    async with asyncio.timeout(10):
        await task


async def test_clocks_are_compared_at_the_start_and_every_minute(queue: Queue, pauses: Pauses) -> None:
    """Each time that they differ is told, with the difference; the queue makes up for it at once."""
    answers = iter([AHEAD_MS, TOLERATED_MS // 2, -AHEAD_MS])

    async def time_ms() -> int:
        return await server_ms(queue.redis) - next(answers)

    with capture_logs() as logs:
        async with comparing(queue, time_ms):
            for _ in range(2):
                assert await pauses.asked.get() == COMPARE_S
                pauses.end()
            await pauses.asked.get()
            assert abs(queue._ahead_ms + AHEAD_MS) < 1_000
    assert [(log["event"], log["log_level"]) for log in logs] == [("clocks.differ", "warning")] * 2
    assert [round(log["ahead_ms"], -3) for log in logs] == [AHEAD_MS, -AHEAD_MS]


async def test_a_server_that_is_away_is_waited_for(queue: Queue, pauses: Pauses) -> None:
    """Then the clocks are compared."""
    failures = iter([True])

    async def time_ms() -> int:
        if next(failures, False):
            raise UnavailableError("gone")
        return await server_ms(queue.redis) - AHEAD_MS

    with capture_logs() as logs:
        async with comparing(queue, time_ms):
            assert await pauses.asked.get() < COMPARE_S
            pauses.end()
            assert await pauses.asked.get() == COMPARE_S
    assert [log["event"] for log in logs] == ["redis.away", "redis.back", "clocks.differ"]


async def test_it_may_be_stopped_before_it_runs(queue: Queue) -> None:
    """And twice."""
    part = ClockComparison(queue, store_behind(queue.redis, 0))
    await part.stop()
    await part.stop()
    async with asyncio.timeout(10):
        await part.run()


async def test_an_error_of_its_own_does_not_end_it(queue: Queue, pauses: Pauses) -> None:
    """Defect 0: it is logged, and the clocks are compared again."""
    failures = iter([True])

    async def time_ms() -> int:
        if next(failures, False):
            raise ZeroDivisionError
        return await server_ms(queue.redis) - AHEAD_MS

    with capture_logs() as logs:
        async with comparing(queue, time_ms):
            await pauses.asked.get()
            pauses.end()
            assert await pauses.asked.get() == COMPARE_S
    assert [log["event"] for log in logs] == ["run.bug", "clocks.differ"]


@pytest.mark.parametrize(
    ("mode", "is_two_servers", "is_compared"),
    [
        (Mode.ALL, True, True),
        (Mode.RELAY, True, True),
        (Mode.WORKER, True, True),
        (Mode.API, True, False),
        (Mode.ALL, False, False),
        (Mode.RELAY, False, False),
        (Mode.WORKER, False, False),
    ],
)
async def test_which_processes_compare(
    valkey_server: EmbeddedValkey, mode: Mode, *, is_two_servers: bool, is_compared: bool
) -> None:
    """Relays and workers, when store and queue are two servers."""
    other = "redis://127.0.0.1:1" if is_two_servers else valkey_server.url
    settings = load(mode=mode, redis_url=valkey_server.url, broker_redis_url=other, port=0, metrics_port=None)
    async with wiring.open_parts(settings, wiring.Source(valkey_server.url, "")) as parts:
        assert [type(part) for part in parts.workers].count(ClockComparison) == is_compared
