"""Backup and restore, as docs/operations.md says: everything pending fires, what is past due first.

The servers are real. A day passes between backup and restore on the store's clock (the seam of storage), so
nobody waits for it.
"""

import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from redis import Redis as SyncRedis
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from httpqueue.clock import pause
from httpqueue.run.doctor import Doctor
from httpqueue.settings import load
from httpqueue.storage.embedded import EmbeddedValkey, _binary
from httpqueue.storage.queue import Queue, open_queue
from httpqueue.storage.scripts import pack
from httpqueue.storage.storage import Storage
from httpqueue.timers.checkup import Finding, Findings
from httpqueue.timers.commands import Begun, NewTimer, WakeUp
from httpqueue.timers.names import DEFAULT_APPLICATION, TimerName
from httpqueue.timers.schedule import Instant
from httpqueue.timers.spec import Spec
from httpqueue.timers.timer import State
from httpqueue.webhooks.outcome import Outcome
from tests.support.frozen import HOUR_MS, T0_MS, FrozenTime, begin, finish_of
from tests.support.keys import PARTITIONS
from tests.support.pipeline import running
from tests.support.receiver import Receiver

MINUTE_MS: Final = 60_000
DAY_MS: Final = 24 * HOUR_MS
PAST: Final = [f"past-{number:02}" for number in range(40)]
"""Due one minute after the other, soon after the backup."""


@contextmanager
def server_in(directory: Path, *options: str) -> Iterator[str]:
    """A server with these options -> its URL."""
    path = directory / "s"
    process = subprocess.Popen(
        [_binary(), "--port", "0", "--unixsocket", str(path), "--dir", str(directory), *options],
        stdout=subprocess.DEVNULL,
    )
    try:
        with closing(SyncRedis(unix_socket_path=str(path))) as client:
            while True:
                try:
                    client.ping()
                    break
                except RedisConnectionError:
                    assert process.poll() is None
                    pause(0.002)
        yield f"unix://{path}"
    finally:
        process.kill()
        process.wait()


async def until(redis: Redis, **wanted: Any) -> None:
    """Until INFO says that it is so."""
    while True:
        info = await redis.info("persistence")
        if all(info[name] == value for name, value in wanted.items()):
            return


async def copy_append_only_file(redis: Redis, data: Path, backup: Path) -> None:
    """While the server works. It must not rewrite its files meanwhile."""
    await redis.config_set("auto-aof-rewrite-percentage", 0)
    await until(redis, aof_rewrite_in_progress=0)
    shutil.copytree(data / "appendonlydir", backup / "appendonlydir")
    await redis.config_set("auto-aof-rewrite-percentage", 100)


async def copy_snapshot(redis: Redis, data: Path, backup: Path) -> None:
    """While the server works. The first restart from it makes the append-only file."""
    await redis.bgsave()
    await until(redis, rdb_bgsave_in_progress=0, rdb_last_bgsave_status="ok")
    shutil.copy(data / "dump.rdb", backup / "dump.rdb")


async def load_snapshot(data: Path) -> None:
    """A server with an append-only file reads no snapshot. One without it does, and then turns it on."""
    with server_in(data, "--appendonly", "no", "--save", "") as url:
        redis = Redis.from_url(url)
        await redis.config_set("appendonly", "yes")
        await until(redis, aof_enabled=1, aof_rewrite_in_progress=0, aof_last_bgrewrite_status="ok")
        await redis.aclose()


class Site:
    """A store and a queue, in the test's own time."""

    def __init__(self, redis: Redis, queue: Queue, time: FrozenTime) -> None:
        self.redis, self.queue, self.time = redis, queue, time
        self.storage = Storage(redis, archive_error_rate=1e-6, partitions=PARTITIONS, now=time)

    async def fill(self, url: str) -> None:
        """Pending timers, the last due first, every other one in a lane; and one in each other state."""
        store = self.storage.store
        await self.storage.check(allow_unsafe=False)
        for number, timer_id in reversed(list(enumerate(PAST))):
            key = f"k{number % 5}" if number % 2 else None
            await self.create(timer_id, url, (number + 1) * MINUTE_MS, key)
        await self.create("far", url, 2 * DAY_MS)
        for timer_id in ("done", "failed", "runs", "cancelled"):
            await self.create(timer_id, url, 0)
        await store.cancel(_name("cancelled"), version=None, retention_ms=30 * DAY_MS)
        for timer_id, outcome in (("done", Outcome.DELIVERED), ("failed", Outcome.FAILED), ("runs", None)):
            name = _name(timer_id)
            [begun] = await begin(store, [WakeUp(name, 0, partition=PARTITIONS.home_of(name))])
            assert isinstance(begun, Begun)
            if outcome:
                await store.finish([finish_of(begun, outcome, 30 * DAY_MS)])

    async def create(self, timer_id: str, url: str, delay_ms: int, key: str | None = None) -> None:
        """Store a timer that is due then."""
        spec = Spec(url, Instant(T0_MS + delay_ms), ordering_key=key)
        await self.storage.store.create([NewTimer(_name(timer_id), spec)])

    async def state(self, timer_id: str) -> State | None:
        """None: there is no such timer."""
        found = await self.storage.store.get(_name(timer_id))
        return found.timer.state if found else None

    async def look(self) -> list[Finding]:
        """What the doctor finds."""
        findings = Findings()
        settings = load(partitions=PARTITIONS.count)
        await Doctor(self.storage, self.queue, settings, findings, repair=False).run([])
        return findings.all()


def _name(timer_id: str) -> TimerName:
    return TimerName(DEFAULT_APPLICATION, timer_id)


@asynccontextmanager
async def site(url: str, queue_url: str, time: FrozenTime) -> AsyncIterator[Site]:
    """Connect to these servers."""
    redis = Redis.from_url(url)
    async with open_queue(queue_url, partitions=PARTITIONS, now=time) as queue:
        yield Site(redis, queue, time)
    await redis.aclose()


@pytest.mark.parametrize("has_queue", [True, False], ids=["with its queue", "without the queue"])
@pytest.mark.parametrize("copy", [copy_append_only_file, copy_snapshot], ids=["aof", "rdb"])
async def test_all_that_was_pending_fires_after_a_restore(
    tmp_path: Path, time: FrozenTime, copy: Any, *, has_queue: bool
) -> None:
    """A day later: what is past due, at once; what is due later, then; and nothing that was not pending.

    The queue's server need not be restored: the relay fills an empty one.
    """
    data, backup, new_data, other = (tmp_path / name for name in ("data", "backup", "new", "other"))
    backup.mkdir()
    async with Receiver() as receiver:
        with EmbeddedValkey(data) as server:
            async with site(server.url, server.url, time) as before:
                await before.fill(receiver.url)
                await before.queue.epochs()
                await copy(before.redis, data, backup)
                await before.create("after the backup", receiver.url, MINUTE_MS)
        shutil.copytree(backup, new_data)
        if copy is copy_snapshot:
            await load_snapshot(new_data)

        time.advance(DAY_MS)
        with EmbeddedValkey(new_data) as server, EmbeddedValkey(other, persistent=False) as empty:
            queue_url = server.url if has_queue else empty.url
            async with site(server.url, queue_url, time) as after:
                await pass_time_in(after)
                async with running(after.storage.store, after.queue) as pipeline:
                    await pipeline.until_all_finished(but=1)
                    assert sorted(map(_id, await receiver.wait_for(len(PAST) + 1))) == [*PAST, "runs"]
                    assert await after.state("far") is State.SCHEDULED
                    time.advance(DAY_MS)
                    await pipeline.until_all_finished()
                    *_, last = await receiver.wait_for(len(PAST) + 2)
                    assert _id(last) == "far"
                for timer_id in ("done", "failed", "cancelled"):
                    assert await after.state(timer_id) is State(timer_id)
                assert await after.state("after the backup") is None
                assert await after.look() == []
        in_lane = [each for each in map(_id, receiver.requests) if each in PAST[1::2]]
        for number in range(5):
            lane = [each for each in in_lane if PAST.index(each) % 5 == number]
            assert lane == sorted(lane), "a lane is not in its order"


async def pass_time_in(after: Site) -> None:
    """The store is up again for longer than its grace, so attempts whose leases are over are taken over."""
    for _ in range(6):
        after.time.advance(4_000)
        for partition in PARTITIONS.all:
            await after.storage.store._leases._beat(partition, after.time.now_ms, pack([]))


def _id(request: Any) -> str:
    return str(request.run.split(":")[1])
