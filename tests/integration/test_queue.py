"""The queue in arq's own format: what is put is claimed once, when it is due, the earliest first."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import orjson
import pytest
from arq.jobs import serialize_job
from redis.asyncio import Redis

from httpqueue.clock import now_ms
from httpqueue.errors import UnavailableError
from httpqueue.storage.keys import wake_up_id
from httpqueue.storage.queue import JOB_DEFINITION, JOB_FUNCTION, Claim, Queue, open_queue
from httpqueue.timers.commands import WakeUp
from httpqueue.timers.names import TimerName
from tests.support.frozen import T0_MS, FrozenTime, closed_port
from tests.support.keys import QUEUE


def at(timer_id: str, due_ms: int = T0_MS, generation: int = 0) -> WakeUp:
    """A wake-up to be put."""
    return WakeUp(TimerName("default", timer_id), generation, due_ms)


def claimed(claim: Claim) -> list[str]:
    """The wake-ups' ids."""
    return [wake_up_id(wake_up) for wake_up in claim.wake_ups]


@asynccontextmanager
async def listening(queue: Queue) -> AsyncIterator[asyncio.Queue[str]]:
    """A listener that is subscribed; each wake is a word in the queue."""
    words: asyncio.Queue[str] = asyncio.Queue()
    listener = asyncio.create_task(queue.listen(lambda: words.put_nowait("wake")))
    try:
        async with asyncio.timeout(30):
            await words.get()  # the subscription's own confirmation
        yield words
    finally:
        listener.cancel()
        await asyncio.wait([listener])


# --- put and claim ---


async def test_due_wake_ups_are_claimed_the_earliest_first(frozen_queue: Queue, time: FrozenTime) -> None:
    """And are gone from the queue, job definitions and all."""
    wake_ups = [at("b", T0_MS + 1), at("c", T0_MS + 2), at("a", T0_MS, generation=3)]
    assert await frozen_queue.put(wake_ups) == 3
    time.advance(2)
    claim = await frozen_queue.claim(10)
    assert claimed(claim) == ["default:a:3", "default:b:0", "default:c:0"]
    assert (claim.unreadable, claim.wait_ms) == ([], None)
    assert await frozen_queue.redis.keys() == []


async def test_a_claim_has_a_limit(frozen_queue: Queue) -> None:
    """When it is reached there may be more: the wait is 0."""
    await frozen_queue.put([at(name) for name in "abc"])
    claims = [await frozen_queue.claim(limit) for limit in (2, 1, 1)]
    assert [claimed(claim) for claim in claims] == [["default:a:0", "default:b:0"], ["default:c:0"], []]
    assert [claim.wait_ms for claim in claims] == [0, 0, None]


async def test_the_wait_is_that_for_the_next_wake_up(frozen_queue: Queue, time: FrozenTime) -> None:
    """Nothing is claimed early, not by a millisecond."""
    await frozen_queue.put([at("a", T0_MS + 100)])
    assert await frozen_queue.claim(1) == Claim([], [], 100)
    time.advance(99)
    assert await frozen_queue.claim(1) == Claim([], [], 1)
    time.advance(1)
    assert claimed(await frozen_queue.claim(1)) == ["default:a:0"]


async def entries(queue: Queue) -> list[tuple[bytes, float]]:
    """All that is in the queue, with its due times."""
    found: list[tuple[bytes, float]] = await queue.redis.zrange(QUEUE.queue, 0, -1, withscores=True)
    return found


async def test_put_again_only_moves_a_wake_up_forward(frozen_queue: Queue) -> None:
    """It stays one, and only new ones are counted; it is never put off."""
    assert await frozen_queue.put([at("a", T0_MS + 100), at("b", T0_MS + 200)]) == 2
    assert await frozen_queue.put([at("a", T0_MS + 300), at("c", T0_MS + 400), at("c", T0_MS + 400)]) == 1
    assert await frozen_queue.put([at("b", T0_MS + 50)]) == 0
    assert await entries(frozen_queue) == [
        (b"default:b:0", T0_MS + 50),
        (b"default:a:0", T0_MS + 100),
        (b"default:c:0", T0_MS + 400),
    ]


@pytest.mark.parametrize("due_ms", [0, 1, T0_MS - 1])
async def test_what_is_past_due_goes_before_nobody(
    frozen_queue: Queue, time: FrozenTime, due_ms: int
) -> None:
    """It is put at now, behind what is due already; put again, it keeps its place."""
    await frozen_queue.put([at("waits", T0_MS - 5)])
    time.advance(10)
    await frozen_queue.put([at("past", due_ms)])
    time.advance(10)
    assert await frozen_queue.put([at("past", due_ms), at("waits", T0_MS - 5), at("last")]) == 1
    assert await entries(frozen_queue) == [
        (b"default:waits:0", T0_MS),
        (b"default:past:0", T0_MS + 10),
        (b"default:last:0", T0_MS + 20),
    ]


async def test_what_is_not_in_the_queue(frozen_queue: Queue) -> None:
    """Of some wake-ups: another generation is another one."""
    await frozen_queue.put([at("a"), at("b", T0_MS + 5)])
    asked = [at("a"), at("b"), at("c"), at("a", generation=1)]
    assert await frozen_queue.missing(asked) == asked[2:]


async def test_a_thousand_wake_ups_a_call(frozen_queue: Queue) -> None:
    """In both directions."""
    assert await frozen_queue.put([at(f"t{number:04}", T0_MS - 1_000 + number) for number in range(1_000)])
    assert claimed(await frozen_queue.claim(1_000)) == [f"default:t{number:04}:0" for number in range(1_000)]


async def test_a_lost_job_definition_loses_no_wake_up(frozen_queue: Queue) -> None:
    """Its id says all there is to say."""
    await frozen_queue.put([at("a")])
    await frozen_queue.redis.delete(f"{QUEUE.jobs}default:a:0")
    assert claimed(await frozen_queue.claim(1)) == ["default:a:0"]


async def test_two_workers_share_the_wake_ups(frozen_queue: Queue) -> None:
    """Each is claimed by one of them."""
    await frozen_queue.put([at(f"t{number}") for number in range(100)])
    claims = await asyncio.gather(*(frozen_queue.claim(10) for _ in range(12)))
    names = [name for claim in claims for name in claimed(claim)]
    assert sorted(names) == sorted(f"default:t{number}:0" for number in range(100))


# --- arq's format ---


async def test_stock_arq_reads_our_entries(queue: Queue) -> None:
    """As jobs of our function, due when they are due, without arguments."""
    await queue.put([at("a", T0_MS), at("b", T0_MS + 7)])
    jobs = await queue.redis.queued_jobs(queue_name=QUEUE.queue)
    assert [job.function for job in jobs] == [JOB_FUNCTION] * 2
    assert not any(job.args or job.kwargs or job.job_try for job in jobs)
    assert [(job.job_id, job.score) for job in jobs] == [("default:a:0", T0_MS), ("default:b:0", T0_MS + 7)]


async def test_what_stock_arq_enqueues_is_claimed(queue: Queue) -> None:
    """Named by the job's id or by its only argument."""
    await queue.redis.enqueue_job(JOB_FUNCTION, _job_id="default:a:2")
    await queue.redis.enqueue_job(JOB_FUNCTION, "default:b:0")
    a_second_later = Queue(queue.redis, now=lambda: now_ms() + 1_000)  # arq rounds its time up
    claim = await a_second_later.claim(10)
    assert sorted(claimed(claim)) == ["default:a:2", "default:b:0"]
    assert claim.unreadable == []


def job(function: str, *args: object) -> bytes:
    """An arq job definition."""
    return serialize_job(function, args, {}, None, 0, serializer=orjson.dumps)


@pytest.mark.parametrize(
    ("job_id", "definition"),
    [
        (b"foreign", None),
        (b"foreign", b"\x80\x04pickled"),
        (b"foreign", job("other", "default:x:0")),
        (b"foreign", job(JOB_FUNCTION)),
        (b"foreign", job(JOB_FUNCTION, 7)),
        (b"foreign", job(JOB_FUNCTION, "default:x:0", "more")),
        (b"foreign", job(JOB_FUNCTION, "no wake-up")),
        (b"\xff:a:0", None),
        (b"default:x:-1", None),
        (b"default:x:" + b"9" * 20, None),
        (b"default:x:" + b"9" * 5_000, None),
    ],
)
async def test_foreign_entries_are_told_and_out_of_the_way(
    frozen_queue: Queue, job_id: bytes, definition: bytes | None
) -> None:
    """Their neighbours are claimed in the same call."""
    await frozen_queue.put([at("a", T0_MS - 2), at("b", T0_MS)])
    await frozen_queue.redis.zadd(QUEUE.queue, {job_id: T0_MS - 1})
    if definition is not None:
        await frozen_queue.redis.set(QUEUE.jobs.encode() + job_id, definition)
    claim = await frozen_queue.claim(10)
    assert claimed(claim) == ["default:a:0", "default:b:0"]
    assert claim.unreadable == [repr(job_id)]
    assert await frozen_queue.redis.keys() == []


async def test_no_entry_expires_and_none_is_a_pickle(queue: Queue) -> None:
    """However far ahead it is due; the definition is JSON."""
    await queue.put([at("a", T0_MS + 10**12)])
    await queue.epoch()
    for key in await queue.redis.keys():
        assert await queue.redis.pttl(key) == -1
    definition = await queue.redis.get(f"{QUEUE.jobs}default:a:0")
    assert definition == JOB_DEFINITION
    assert orjson.loads(JOB_DEFINITION)["f"] == JOB_FUNCTION


# --- listen ---


async def test_an_earlier_head_wakes_the_listeners(queue: Queue) -> None:
    """A wake-up behind the head does not, nor the same one again."""
    async with listening(queue) as words, asyncio.timeout(30):
        await queue.put([at("a", T0_MS)])
        await words.get()
        await queue.put([at("b", T0_MS + 1)])
        await queue.put([at("a", T0_MS)])
        # a message of our own behind those that must not be there
        await queue.put([at("c", T0_MS - 1)])
        await words.get()
        await queue.redis.publish(QUEUE.wake, "last")
        await words.get()
        assert words.empty()


async def test_listening_says_when_the_server_is_away() -> None:
    """So that the listener can wait for it and listen again."""
    with closed_port() as port:
        async with open_queue(f"redis://127.0.0.1:{port}") as queue:
            with pytest.raises(UnavailableError):
                await queue.listen(lambda: None)


# --- epoch and outage ---


async def test_the_epoch_changes_when_the_queue_lost_its_data(queue: Queue, redis: Redis) -> None:
    """And only then."""
    epoch = await queue.epoch()
    assert epoch == await queue.epoch() != ""
    await redis.flushall()
    assert await queue.epoch() not in {epoch, ""}


@pytest.mark.parametrize(
    "call",
    [
        lambda queue: queue.put([at("a")]),
        lambda queue: queue.claim(1),
        lambda queue: queue.epoch(),
        lambda queue: queue.ping(),
    ],
    ids=["put", "claim", "epoch", "ping"],
)
async def test_a_server_that_is_away(call: Callable[[Queue], asyncio.Future[object]]) -> None:
    """Every method says so, in the same way."""
    with closed_port() as port:
        async with open_queue(f"redis://127.0.0.1:{port}") as queue:
            with pytest.raises(UnavailableError, match="ConnectionError"):
                await call(queue)


async def test_ping_of_a_server_that_is_there(queue: Queue) -> None:
    """Says nothing."""
    await queue.ping()
