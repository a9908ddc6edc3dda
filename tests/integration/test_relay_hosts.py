"""What a relay does for hosts whose lines nobody serves."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from msgspec import structs
from redis.asyncio import Redis

from httpqueue.storage.hosts import PROBE_MS, Serve
from httpqueue.storage.storage import Storage
from httpqueue.timers.commands import Begun, Change
from httpqueue.timers.names import TimerName
from httpqueue.timers.policies import DestinationPolicy
from httpqueue.timers.timer import State
from httpqueue.webhooks.outcome import Outcome
from tests.support.frozen import (
    begin,
    finish_of,
    forget,
    new_timer,
    wake_up,
)
from tests.support.hosts import HOST, due, line, serve
from tests.support.lines import Stage, create

FIRST = TimerName("shop", "a")
LANE = "lane"


async def test_a_line_that_nobody_serves_is_woken(stage: Stage) -> None:
    """After 10 s, and again every 10 s."""
    await create(stage.store, "ab")
    await serve(stage.hosts, "ab", want=0)
    stage.time.advance(PROBE_MS - 1)
    await stage.relay.heal()
    assert await stage.claimed() == []
    for ms in (1, PROBE_MS):
        stage.time.advance(ms)
        await stage.relay.heal()
        assert await stage.claimed() == ["a", "b"]


# --- a first one that would not come to its host, because `begin` refuses it for another reason ---


async def begin_first(storage: Storage) -> Begun:
    """It had a permit, which has expired: so it is in the line again."""
    first = wake_up("a", application="shop", key=LANE)
    [begun] = await begin(storage.store, [first], permits=[first])
    assert isinstance(begun, Begun)
    return begun


async def run(storage: Storage) -> None:
    """Its worker renews the attempt, but could not renew the permit."""
    await begin_first(storage)


async def end(storage: Storage) -> None:
    """Its worker died before it gave the permit back."""
    await storage.store.finish([finish_of(await begin_first(storage), Outcome.DELIVERED)])


async def be_gone(storage: Storage) -> None:
    """The same, and all is forgotten by now."""
    await storage.store.finish([finish_of(await begin_first(storage), Outcome.DELIVERED, 0)])
    assert await forget(storage.store) == 1


async def back_off(storage: Storage) -> None:
    """Its worker died before it gave the permit back, and it is due in an hour."""
    await storage.store.finish([finish_of(await begin_first(storage), Outcome.RETRY)])


async def be_changed(storage: Storage) -> None:
    """The API died before it took the old wake-up out of the line."""
    spec = structs.replace(new_timer("a", ordering_key=LANE).spec, url="http://other/")
    await storage.store.change([Change(FIRST, frozenset({State.SCHEDULED}), spec=spec)])


async def be_paused(storage: Storage) -> None:
    """Its application was."""
    await storage.policies.update_application("shop", lambda policy: structs.replace(policy, paused=True))


async def be_blocked(storage: Storage) -> None:
    """Another timer of its lane comes first."""
    earlier = replace(new_timer("z", -1_000, ordering_key=LANE), name=TimerName("shop", "z"))
    await storage.store.create([earlier])


@pytest.mark.parametrize("happen", [run, end, be_gone, back_off, be_changed, be_paused, be_blocked])
async def test_a_first_one_that_cannot_begin_leaves_the_line_to_others(
    redis: Redis, stage: Stage, happen: Callable[[Storage], Awaitable[None]]
) -> None:
    """Only one may be called at a time, so only one is woken. Without this, it would be `a` for ever."""
    await stage.hosts.set_rules(HOST, DestinationPolicy(concurrency=1))
    await stage.store.create([replace(new_timer("a", ordering_key=LANE), name=FIRST)])
    await create(stage.store, "bc")
    first = wake_up("a", application="shop", key=LANE)
    await stage.hosts.serve([Serve(HOST, asking=[first, due("b"), due("c")])])
    await happen(stage.storage)
    await stage.pass_time(PROBE_MS)
    await stage.relay.heal()
    assert await stage.claimed() == ["b"]
    assert await line(redis) == "bc"


async def test_a_first_one_that_lost_its_worker_stays(redis: Redis, stage: Stage) -> None:
    """It is called again, before the others."""
    await stage.hosts.set_rules(HOST, DestinationPolicy(concurrency=1))
    await create(stage.store, "ab")
    await serve(stage.hosts, "ab")
    await begin(stage.store, [wake_up("a")], permits=[wake_up("a")])
    await stage.pass_time(30_000)
    await stage.relay.heal()
    assert await stage.claimed() == ["a"]
    assert await line(redis) == "ab"


async def test_any_number_of_them(redis: Redis, stage: Stage) -> None:
    """However many there are, a few looks later somebody is woken who can begin."""
    names = [f"t{number:02}" for number in range(12)]
    await stage.hosts.set_rules(HOST, DestinationPolicy(concurrency=1))
    await create(stage.store, "x")
    await serve(stage.hosts, [*names, "x"], want=0)
    claimed: list[str] = []
    for _ in range(2):
        stage.time.advance(PROBE_MS)
        await stage.relay.heal()
        claimed += await stage.claimed()
    assert {*claimed} == {"x"}
    assert await line(redis) == "x"
