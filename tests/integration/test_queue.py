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
from httpqueue.storage.keys import ARQ_JOB_PREFIX, WAKE_CHANNEL, wake_up_id
from httpqueue.storage.queue import JOB_DEFINITION, JOB_FUNCTION, Claim, Queue, open_queue
from httpqueue.timers.commands import WakeUp
from httpqueue.timers.names import TimerName
from tests.support.frozen import T0_MS, FrozenTime, closed_port
from tests.support.keys import PARTITIONS

HERE = PARTITIONS.count - 1
"""The partition in which most of this happens: the queue does not ask where a timer belongs."""
KEYS = PARTITIONS.queue_keys[HERE]
TAG = f"{{{HERE}}}"


def at(timer_id: str, due_ms: int = T0_MS, generation: int = 0, *, partition: int = HERE) -> WakeUp:
    """A wake-up to be put."""
    return WakeUp(TimerName("default", timer_id), generation, due_ms, partition)


def claimed(claim: Claim) -> list[str]:
    """The wake-ups' ids without the tag of the partition, which is this one."""
    return [wake_up_id(wake_up).removeprefix(TAG) for wake_up in claim.wake_ups]


@asynccontextmanager
async def listening(queue: Queue) -> AsyncIterator[asyncio.Queue[int]]:
    """A listener that is subscribed; it has the partition of each wake."""
    words: asyncio.Queue[int] = asyncio.Queue()
    listener = asyncio.create_task(queue.listen(words.put_nowait))
    try:
        async with asyncio.timeout(30):
            at_first = [await words.get() for _ in PARTITIONS.all]
        assert at_first == [*PARTITIONS.all], "what was said before is not missed"
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
    claim = await frozen_queue.claim(HERE, 10)
    assert claimed(claim) == ["default:a:3", "default:b:0", "default:c:0"]
    assert (claim.unreadable, claim.wait_ms) == ([], None)
    assert await frozen_queue.redis.keys() == []


async def test_a_claim_has_a_limit(frozen_queue: Queue) -> None:
    """When it is reached there may be more: the wait is 0."""
    await frozen_queue.put([at(name) for name in "abc"])
    claims = [await frozen_queue.claim(HERE, limit) for limit in (2, 1, 1)]
    assert [claimed(claim) for claim in claims] == [["default:a:0", "default:b:0"], ["default:c:0"], []]
    assert [claim.wait_ms for claim in claims] == [0, 0, None]


async def test_the_wait_is_that_for_the_next_wake_up(frozen_queue: Queue, time: FrozenTime) -> None:
    """Nothing is claimed early, not by a millisecond."""
    await frozen_queue.put([at("a", T0_MS + 100)])
    assert await frozen_queue.claim(HERE, 1) == Claim([], [], 100)
    time.advance(99)
    assert await frozen_queue.claim(HERE, 1) == Claim([], [], 1)
    time.advance(1)
    assert claimed(await frozen_queue.claim(HERE, 1)) == ["default:a:0"]


async def entries(queue: Queue) -> list[tuple[str, float]]:
    """All that is in the queue of the partition, with its due times."""
    found = await queue.redis.zrange(KEYS.queue, 0, -1, withscores=True)
    return [(name.decode().removeprefix(TAG), score) for name, score in found]


async def test_put_again_only_moves_a_wake_up_forward(frozen_queue: Queue) -> None:
    """It stays one, and only new ones are counted; it is never put off."""
    assert await frozen_queue.put([at("a", T0_MS + 100), at("b", T0_MS + 200)]) == 2
    assert await frozen_queue.put([at("a", T0_MS + 300), at("c", T0_MS + 400), at("c", T0_MS + 400)]) == 1
    assert await frozen_queue.put([at("b", T0_MS + 50)]) == 0
    assert await entries(frozen_queue) == [
        ("default:b:0", T0_MS + 50),
        ("default:a:0", T0_MS + 100),
        ("default:c:0", T0_MS + 400),
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
        ("default:waits:0", T0_MS),
        ("default:past:0", T0_MS + 10),
        ("default:last:0", T0_MS + 20),
    ]


async def test_what_is_not_in_the_queue(frozen_queue: Queue) -> None:
    """Of some wake-ups: another generation is another one."""
    await frozen_queue.put([at("a"), at("b", T0_MS + 5)])
    asked = [at("a"), at("b"), at("c"), at("a", generation=1)]
    assert await frozen_queue.missing(asked) == asked[2:]


async def test_each_partition_has_a_queue_of_its_own(frozen_queue: Queue) -> None:
    """One call puts into all of them, and tells what is missing in any; a claim is of one partition."""
    wake_ups = [at(str(number), partition=number % PARTITIONS.count) for number in range(9)]
    assert await frozen_queue.put(wake_ups[1:]) == 8
    assert await frozen_queue.put(wake_ups) == 1
    claim = await frozen_queue.claim(HERE, 10)
    assert [wake_up.name.id for wake_up in claim.wake_ups] == [
        wake_up.name.id for wake_up in wake_ups if wake_up.partition == HERE
    ]
    assert await frozen_queue.missing(wake_ups[::-1]) == [
        wake_up for wake_up in wake_ups[::-1] if wake_up.partition == HERE
    ]


async def test_a_thousand_wake_ups_a_call(frozen_queue: Queue) -> None:
    """In both directions."""
    assert await frozen_queue.put([at(f"t{number:04}", T0_MS - 1_000 + number) for number in range(1_000)])
    assert claimed(await frozen_queue.claim(HERE, 1_000)) == [
        f"default:t{number:04}:0" for number in range(1_000)
    ]


async def test_a_lost_job_definition_loses_no_wake_up(frozen_queue: Queue) -> None:
    """Its id says all there is to say."""
    await frozen_queue.put([at("a")])
    await frozen_queue.redis.delete(f"{KEYS.jobs}default:a:0")
    assert claimed(await frozen_queue.claim(HERE, 1)) == ["default:a:0"]


async def test_two_workers_share_the_wake_ups(frozen_queue: Queue) -> None:
    """Each is claimed by one of them."""
    await frozen_queue.put([at(f"t{number}") for number in range(100)])
    claims = await asyncio.gather(*(frozen_queue.claim(HERE, 10) for _ in range(12)))
    names = [name for claim in claims for name in claimed(claim)]
    assert sorted(names) == sorted(f"default:t{number}:0" for number in range(100))


# --- arq's format ---


async def test_stock_arq_reads_our_entries(queue: Queue) -> None:
    """As jobs of our function, due when they are due, without arguments."""
    await queue.put([at("a", T0_MS), at("b", T0_MS + 7)])
    jobs = await queue.redis.queued_jobs(queue_name=KEYS.queue)
    assert [job.function for job in jobs] == [JOB_FUNCTION] * 2
    assert not any(job.args or job.kwargs or job.job_try for job in jobs)
    assert [(job.job_id, job.score) for job in jobs] == [
        (f"{TAG}default:a:0", T0_MS),
        (f"{TAG}default:b:0", T0_MS + 7),
    ]


async def test_what_stock_arq_enqueues_is_claimed(queue: Queue) -> None:
    """Named by the job's id or by its only argument; in a cluster, the job's id begins with the hash tag."""
    await queue.redis.enqueue_job(JOB_FUNCTION, _job_id=f"{TAG}default:a:2", _queue_name=KEYS.queue)
    await queue.redis.enqueue_job(
        JOB_FUNCTION, f"{TAG}default:b:0", _job_id=f"{TAG}any id", _queue_name=KEYS.queue
    )
    a_second_later = Queue(queue.redis, partitions=PARTITIONS, now=lambda: now_ms() + 1_000)
    claim = await a_second_later.claim(HERE, 10)  # arq rounds its time up
    assert sorted(claimed(claim)) == ["default:a:2", "default:b:0"]
    assert claim.unreadable == []
    assert await queue.redis.keys("arq:*") == []


def job(function: str, *args: object) -> bytes:
    """An arq job definition."""
    return serialize_job(function, args, {}, None, 0, serializer=orjson.dumps)


async def test_a_job_whose_id_has_no_tag_is_claimed(frozen_queue: Queue) -> None:
    """Stock arq names a job by chance where nobody has told it a name."""
    await frozen_queue.redis.zadd(KEYS.queue, {"by-chance": T0_MS})
    await frozen_queue.redis.set(f"{ARQ_JOB_PREFIX}by-chance", job(JOB_FUNCTION, f"{TAG}default:a:0"))
    assert await frozen_queue.claim(HERE, 10) == Claim([at("a", 0)], [], None)
    assert await frozen_queue.redis.keys() == []


@pytest.mark.parametrize(
    ("job_id", "definition"),
    [
        (b"foreign", None),
        (b"foreign", b"\x80\x04pickled"),
        (b"foreign", job("other", "{0}default:x:0")),
        (b"foreign", job(JOB_FUNCTION)),
        (b"foreign", job(JOB_FUNCTION, 7)),
        (b"foreign", job(JOB_FUNCTION, "{0}default:x:0", "more")),
        (b"foreign", job(JOB_FUNCTION, "default:x:0")),
        (b"foreign", job(JOB_FUNCTION, "{4}default:x:0")),  # there is no such partition
        (b"{4}default:x:0", None),
        (b"{0}\xff:a:0", None),
        (b"{0}default:x:-1", None),
        (b"{0}default:x:" + b"9" * 20, None),
        (b"{0}default:x:" + b"9" * 5_000, None),
    ],
)
async def test_foreign_entries_are_told_and_out_of_the_way(
    frozen_queue: Queue, job_id: bytes, definition: bytes | None
) -> None:
    """Their neighbours are claimed in the same call."""
    await frozen_queue.put([at("a", T0_MS - 2), at("b", T0_MS)])
    await frozen_queue.redis.zadd(KEYS.queue, {job_id: T0_MS - 1})
    if definition is not None:
        await frozen_queue.redis.set(ARQ_JOB_PREFIX.encode() + job_id, definition)
    claim = await frozen_queue.claim(HERE, 10)
    assert claimed(claim) == ["default:a:0", "default:b:0"]
    assert claim.unreadable == [repr(job_id)]
    assert await frozen_queue.redis.keys() == []


async def test_no_entry_expires_before_it_is_due_and_none_is_a_pickle(queue: Queue) -> None:
    """However far ahead it is due; the definition is JSON."""
    await queue.put([at("a", T0_MS + 10**12)])
    (await queue.epochs())[HERE]
    job = f"{KEYS.jobs}default:a:0"
    for key in await queue.redis.keys():
        assert key == job.encode() or await queue.redis.pttl(key) == -1
    assert await queue.redis.pttl(job) > T0_MS + 10**12 - now_ms()
    assert await queue.redis.get(job) == JOB_DEFINITION
    assert orjson.loads(JOB_DEFINITION)["f"] == JOB_FUNCTION


async def test_jobs_do_not_outlive_a_lost_queue_for_ever(frozen_queue: Queue) -> None:
    """Defect 6: if the queue's entries are lost alone, their jobs expire a week after they are due."""
    await frozen_queue.put([at("past", 1), at("next", T0_MS + 1_000_000)])
    for name, due_in_ms in (("past", 0), ("next", 1_000_000)):
        left_ms = await frozen_queue.redis.pttl(f"{KEYS.jobs}default:{name}:0")
        assert due_in_ms - 60_000 < left_ms - 7 * 24 * 3_600_000 <= due_in_ms


# --- listen ---


async def test_an_earlier_head_wakes_the_listeners(queue: Queue) -> None:
    """A wake-up behind the head does not, nor the same one again."""
    async with listening(queue) as words, asyncio.timeout(30):
        await queue.put([at("a", T0_MS)])
        assert await words.get() == HERE
        await queue.put([at("b", T0_MS + 1)])
        await queue.put([at("a", T0_MS)])
        # a message of our own behind those that must not be there
        await queue.put([at("c", T0_MS - 1)])
        assert await words.get() == HERE
        await queue.redis.publish(WAKE_CHANNEL, "0")
        assert await words.get() == 0
        assert words.empty()


async def test_listeners_hear_which_partition_it_is(queue: Queue) -> None:
    """Each queue has an earliest one of its own; `wake` is for all of them."""
    async with listening(queue) as words, asyncio.timeout(30):
        for partition in reversed(PARTITIONS.all):
            await queue.put([at("a", T0_MS + partition, partition=partition)])
            assert await words.get() == partition
        await queue.wake()
        assert [await words.get() for _ in PARTITIONS.all] == [*PARTITIONS.all]


async def test_a_word_that_nobody_knows_is_for_all(queue: Queue) -> None:
    """Another program's, say: it ends no listener."""
    async with listening(queue) as words, asyncio.timeout(30):
        for word in ("what?", str(PARTITIONS.count)):
            await queue.redis.publish(WAKE_CHANNEL, word)
            assert [await words.get() for _ in PARTITIONS.all] == [*PARTITIONS.all]


async def test_listening_says_when_the_server_is_away() -> None:
    """So that the listener can wait for it and listen again."""
    with closed_port() as port:
        async with open_queue(f"redis://127.0.0.1:{port}", partitions=PARTITIONS) as queue:
            with pytest.raises(UnavailableError):
                await queue.listen(lambda _: None)


# --- epoch and outage ---


async def test_the_epoch_changes_when_the_queue_lost_its_data(queue: Queue, redis: Redis) -> None:
    """And only then."""
    epoch = (await queue.epochs())[HERE]
    assert epoch == (await queue.epochs())[HERE] != ""
    await redis.flushall()
    assert (await queue.epochs())[HERE] not in {epoch, ""}


@pytest.mark.parametrize(
    "call",
    [
        lambda queue: queue.put([at("a", partition=0)]),
        lambda queue: queue.claim(0, 1),
        lambda queue: queue.epochs(),
        lambda queue: queue.ping(),
    ],
    ids=["put", "claim", "epoch", "ping"],
)
async def test_a_server_that_is_away(call: Callable[[Queue], asyncio.Future[object]]) -> None:
    """Every method says so, in the same way."""
    with closed_port() as port:
        async with open_queue(f"redis://127.0.0.1:{port}", partitions=PARTITIONS) as queue:
            with pytest.raises(UnavailableError, match="ConnectionError"):
                await call(queue)


async def test_ping_of_a_server_that_is_there(queue: Queue) -> None:
    """Says nothing."""
    await queue.ping()
