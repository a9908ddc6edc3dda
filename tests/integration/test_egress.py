"""Where webhooks may go, from POST to the end of the timer; and who decides it, once for all processes."""

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from httpqueue.errors import StartError, UnavailableError
from httpqueue.settings import load
from httpqueue.storage import keys
from httpqueue.storage.queue import Queue
from httpqueue.storage.storage import Storage
from httpqueue.storage.timers import Store
from httpqueue.timers.retry import RetryOptions
from httpqueue.timers.spec import Callback
from httpqueue.timers.timer import State
from httpqueue.webhooks.egress import NOTHING, Egress, EgressMode, parse_list
from httpqueue.worker.egress import DECISION, EgressChoice, is_private_unasked
from tests.support.egress import PUBLIC
from tests.support.pipeline import running
from tests.support.receiver import Receiver

REDIS = {"redis_url": "redis://elsewhere"}


# --- a timer ---


async def test_a_blocked_timer_fails_at_once(store: Store, queue: Queue, redis: Redis) -> None:
    """Without a connection and without a retry, whatever it wants; the host is not to blame."""
    async with Receiver() as receiver, running(store, queue, egress=PUBLIC) as pipeline:
        for timer_id, host in (("literal", "127.0.0.1"), ("name", "localhost")):
            url = f"http://{host}:{receiver.port}/"
            await pipeline.schedule(timer_id, url, retry=RetryOptions(delays_ms=(0, 0, 0)))
            timer = await pipeline.until(timer_id, State.FAILED)
            assert timer.attempts == 1
            assert timer.last_attempt is not None
            assert (timer.last_attempt.status, timer.last_attempt.error) == (
                None,
                "blocked: the host has a loopback address, and HTTPQUEUE_EGRESS is public",
            )
        assert receiver.connections == 0
    assert await redis.keys("hq:{host:*}:health") == []  # the worker has told what there was to tell


async def test_a_blocked_callback_fails_at_once(store: Store, queue: Queue) -> None:
    """It passes the same guard; the timer itself is delivered."""
    rules = Egress(EgressMode.PRIVATE, deny=parse_list("127.0.0.2"))
    async with Receiver() as receiver, running(store, queue, egress=rules) as pipeline:
        callback = Callback(f"http://127.0.0.2:{receiver.port}/", {})
        await pipeline.schedule("a", receiver.url, callback=callback)
        timer = await pipeline.until("a", State.DONE)
        assert timer.last_attempt is not None
        told = await pipeline.until(f"a~callback-{timer.nonce}-0", State.FAILED)
        assert told.attempts == 1
        assert told.last_attempt is not None
        assert told.last_attempt.error == "blocked: the host has an address that HTTPQUEUE_EGRESS_DENY lists"
        assert receiver.connections == 1


# --- the choice ---


@pytest.mark.parametrize(
    ("settings", "mode"),
    [
        ({}, EgressMode.PRIVATE),
        ({"host": "0.0.0.0"}, EgressMode.PRIVATE),
        (REDIS, EgressMode.PRIVATE),
        (REDIS | {"host": "localhost"}, EgressMode.PRIVATE),
        (REDIS | {"host": "0.0.0.0"}, EgressMode.PUBLIC),
        (REDIS | {"host": "10.0.0.1", "mode": "api"}, EgressMode.PUBLIC),
    ],
)
async def test_the_first_api_decides(storage: Storage, settings: dict[str, Any], mode: EgressMode) -> None:
    """By who can reach store and API; everybody who comes later reads it, whatever they would choose."""
    for each in (settings, {}, REDIS | {"host": "0.0.0.0"}):
        choice = EgressChoice(load(**each))
        with pytest.raises(UnavailableError):
            choice()
        with capture_logs() as logs:
            await choice.choose(storage.first_use, has_api=True)
        assert choice() == Egress(mode)
        assert logs == [
            {"event": "egress.mode", "log_level": "info", "mode": mode.value, "chosen_by": "store"}
        ]
    worker = EgressChoice(load())
    await worker.choose(storage.first_use, has_api=False)
    assert worker() == Egress(mode)


async def test_a_setting_wins_and_decides_nothing(storage: Storage) -> None:
    """It counts for its process alone; so do the lists."""
    choice = EgressChoice(load(egress="public", egress_allow="10.0.0.0/8", egress_deny="a.example"))
    await choice.choose(storage.first_use, has_api=True)
    assert choice() == Egress(EgressMode.PUBLIC, parse_list("10.0.0.0/8"), parse_list("a.example"))
    assert await storage.first_use.read(DECISION) is None
    unset = EgressChoice(load(egress_deny="a.example"))
    await unset.choose(storage.first_use, has_api=True)
    assert unset() == Egress(EgressMode.PRIVATE, NOTHING, parse_list("a.example"))


async def test_a_worker_waits_for_the_api(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot know who reaches the API, and says what it waits for, once."""
    asked = asyncio.Event()
    go = asyncio.Event()

    async def sleep(_seconds: float) -> None:
        asked.set()
        await go.wait()

    monkeypatch.setattr("httpqueue.worker.egress.clock.sleep", sleep)
    choice = EgressChoice(load(mode="worker", **REDIS))
    with capture_logs() as logs:
        choosing = asyncio.create_task(choice.choose(storage.first_use, has_api=False))
        await asyncio.wait_for(asked.wait(), 30)
        assert await storage.first_use.read(DECISION) is None
        api = EgressChoice(load(host="0.0.0.0", **REDIS))
        await api.choose(storage.first_use, has_api=True)
        go.set()
        await asyncio.wait_for(choosing, 30)
    assert choice() == Egress(EgressMode.PUBLIC)
    assert [entry["event"] for entry in logs] == ["egress.undecided", "egress.mode", "egress.mode"]


async def test_a_choice_that_nobody_knows(redis: Redis, storage: Storage) -> None:
    """One line says where it is, and what to set instead."""
    await redis.hset(keys.FIRST_USE, DECISION, "proxy")  # type: ignore[misc] # redis-py: sync or async
    choice = EgressChoice(load())
    with pytest.raises(StartError, match=r"hq:first-use is 'proxy'.*setting `egress`"):
        await choice.choose(storage.first_use, has_api=True)


async def test_private_unasked(storage: Storage) -> None:
    """Only if the store chose it, and no setting says so."""
    assert not await is_private_unasked(load(), storage.first_use)
    await EgressChoice(load()).choose(storage.first_use, has_api=True)
    assert await is_private_unasked(load(), storage.first_use)
    assert not await is_private_unasked(load(egress="private"), storage.first_use)
