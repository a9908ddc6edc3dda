"""What the store makes of its server: one that may lose timers, is full, or is away."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from httpqueue.clock import now_ms
from httpqueue.errors import StartError, UnavailableError
from httpqueue.storage.embedded import EmbeddedValkey
from httpqueue.storage.lookup import Window
from httpqueue.storage.queue import Queue
from httpqueue.storage.storage import Storage, open_storage
from httpqueue.storage.timers import Store
from httpqueue.storage.wake_ups import Place
from httpqueue.timers.commands import Begun, ChangeResult, Creation, OutboxEntry
from httpqueue.timers.names import TimerName
from httpqueue.timers.timer import State
from httpqueue.webhooks.outcome import Outcome
from tests.support.frozen import (
    HOUR_MS,
    LEASE_MS,
    begin,
    closed_port,
    finish_of,
    forget,
    heal,
    new_timer,
    snapshot,
    wake_up,
)
from tests.support.keys import PARTITIONS


@asynccontextmanager
async def configured(redis: Redis, name: str, value: str) -> AsyncIterator[None]:
    """The server with another setting, for a while."""
    before = (await redis.config_get(name))[name]
    await redis.config_set(name, value)
    try:
        yield
    finally:
        await redis.config_set(name, before)


# --- check ---


async def test_a_server_that_evicts_is_refused(redis: Redis, storage: Storage) -> None:
    """The message names the policy and both ways out; the override lets it pass."""
    async with configured(redis, "maxmemory-policy", "allkeys-lru"):
        with pytest.raises(StartError, match=r"allkeys-lru.*noeviction.*setting `allow_unsafe_redis`"):
            await storage.check(allow_unsafe=False)
        await storage.check(allow_unsafe=True)
    await storage.check(allow_unsafe=False)


@pytest.mark.parametrize(
    ("name", "value", "warnings"),
    [
        ("save", "", ["store.not_persistent"]),
        ("save", "3600 1", []),
        ("appendonly", "yes", []),
    ],
)
async def test_a_server_that_keeps_nothing_is_warned_about(
    redis: Redis, storage: Storage, name: str, value: str, warnings: list[str]
) -> None:
    """Snapshots or an append-only file are enough."""
    async with configured(redis, name, value):
        with capture_logs() as logs:
            await storage.check(allow_unsafe=False)
    assert [entry["event"] for entry in logs] == warnings


async def test_a_server_that_does_not_tell_its_settings_is_believed(
    redis: Redis, valkey_server: EmbeddedValkey
) -> None:
    """Hosted servers often forbid CONFIG."""
    user = "limited"
    await redis.acl_setuser(user, enabled=True, nopass=True, keys=["*"], commands=["+@all", "-config"])
    try:
        url = valkey_server.url.replace("://", f"://{user}:any@")
        async with open_storage(url, archive_error_rate=1e-6, partitions=PARTITIONS) as storage:
            with capture_logs() as logs:
                await storage.check(allow_unsafe=False)
    finally:
        await redis.acl_deluser(user)
    assert logs == []


async def test_an_archive_with_other_parameters_is_refused(
    storage: Storage, valkey_server: EmbeddedValkey
) -> None:
    """The message names the setting."""
    await storage.check(allow_unsafe=False)
    async with open_storage(valkey_server.url, archive_error_rate=1e-3, partitions=PARTITIONS) as other:
        with pytest.raises(StartError, match="setting `archive_error_rate`"):
            await other.check(allow_unsafe=False)


async def test_without_a_test_clock_the_time_is_the_servers(storage: Storage, store: Store) -> None:
    """Which here runs on the same machine."""
    before = now_ms()
    [created] = await store.create([new_timer("a", 5)])
    found = await store.get(TimerName("default", "a"))
    assert found is not None
    page = await storage.lookup.list(Window(frozenset({State.SCHEDULED}), "default"), None, look_at=1)
    assert before <= created.due_ms - 5 <= found.now_ms <= page.now_ms <= now_ms()
    expected = replace(wake_up("a"), due_ms=created.due_ms)
    top_up = await storage.wake_ups.top_up(expected.partition, 0, horizon_ms=5, limit=1)
    assert top_up.wake_ups == [expected]


# --- full ---


async def test_a_full_server_refuses_new_timers_whole(redis: Redis, store: Store) -> None:
    """The call fails with the server's reason, nothing changes, and with room it works again."""
    timers = [new_timer(f"t{number}", body="x" * 1_000) for number in range(100)]
    before = await snapshot(redis)
    async with configured(redis, "maxmemory", "1"):
        with pytest.raises(UnavailableError, match="maxmemory"):
            await store.create(timers)
    assert await snapshot(redis) == before
    assert {created.creation for created in await store.create(timers)} == {Creation.CREATED}


async def test_on_a_full_server_what_is_stored_goes_on(redis: Redis, storage: Storage, queue: Queue) -> None:
    """Put, claim, begin, beat, finish, hand-back, cancel and forget: memory gets free by them alone."""
    store, names = storage.store, ["done", "retried", "handed-back", "cancelled"]
    await store.create([new_timer(name) for name in names])
    async with configured(redis, "maxmemory", "1"):
        assert await queue.put([wake_up(name) for name in names]) == 4
        claimed = [await queue.claim(partition, 10) for partition in PARTITIONS.all]
        assert sum(len(claim.wake_ups) for claim in claimed) == 4
        begun = [
            each
            for each in await begin(store, [wake_up(name) for name in names[:3]])
            if isinstance(each, Begun)
        ]
        assert await store.beat(begun) == [True] * 3
        ends = [finish_of(begun[0], Outcome.DELIVERED, 0), finish_of(begun[1], Outcome.RETRY)]
        assert (await store.finish(ends)).counted == [True, True]
        assert await store.hand_back([(begun[2], False)]) == [True]
        name = TimerName("default", "cancelled")
        assert (await store.cancel(name, version=None, retention_ms=0)).result is ChangeResult.CHANGED
        assert await forget(store) == 2
        retried = wake_up("retried")
        assert await storage.wake_ups.admit(retried.partition, [retried], horizon_ms=HOUR_MS) != []
        await heal(store)
    assert await store.is_archived(TimerName("default", "done"))


# --- away ---

BEGUN = Begun(wake_up("a"), "nonce", "worker.1", LEASE_MS, 1, 0, 0, 0, new_timer("a").spec, "receiver")
CALLS: dict[str, Callable[[Storage], Awaitable[object]]] = {
    "create": lambda storage: storage.store.create([new_timer("a")]),
    "begin": lambda storage: begin(storage.store, [wake_up("a")]),
    "finish": lambda storage: storage.store.finish([finish_of(BEGUN, Outcome.RETRY)]),
    "beat": lambda storage: storage.store.beat([BEGUN]),
    "hand_back": lambda storage: storage.store.hand_back([(BEGUN, False)]),
    "get": lambda storage: storage.store.get(TimerName("default", "a")),
    "is_archived": lambda storage: storage.store.is_archived(TimerName("default", "a")),
    "admit": lambda storage: storage.wake_ups.admit(0, [wake_up("a")], horizon_ms=0),
    "top_up": lambda storage: storage.wake_ups.top_up(0, 0, horizon_ms=0, limit=1),
    "overdue": lambda storage: storage.wake_ups.overdue(0, Place(), by_ms=0, limit=1),
    "heal": lambda storage: storage.wake_ups.heal(0, limit=1),
    "start_over": lambda storage: storage.wake_ups.start_over_for(0, "epoch"),
    "check_pointers": lambda storage: storage.retention.check_pointers(0),
    "wait": lambda storage: storage.store.wait([wake_up("a")]),
    "wake": lambda storage: storage.store.wake([wake_up("a")], are_unknown=True),
    "listen_outbox": lambda storage: storage.outbox.listen(lambda _: None),
    "forget": lambda storage: storage.retention.forget(0, limit=1),
    "read_outbox": lambda storage: storage.outbox.read(0, "one", limit=1),
    "adopt_outbox": lambda storage: storage.outbox.adopt(0, "one", idle_ms=0, limit=1),
    "acknowledge": lambda storage: storage.outbox.acknowledge(0, [OutboxEntry(b"1-1", wake_up("a"))]),
    "leave_outbox": lambda storage: storage.outbox.leave(0, "one"),
    "check": lambda storage: storage.check(allow_unsafe=False),
    "ping": lambda storage: storage.ping(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
async def test_a_server_that_is_away(call: Callable[[Storage], Awaitable[object]]) -> None:
    """Every method says so, in the same way."""
    with closed_port() as port:
        async with open_storage(
            f"redis://127.0.0.1:{port}", archive_error_rate=1e-6, partitions=PARTITIONS
        ) as storage:
            with pytest.raises(UnavailableError, match="ConnectionError"):
                await call(storage)


async def test_ping_of_a_server_that_is_there(storage: Storage) -> None:
    """Says nothing."""
    await storage.ping()
