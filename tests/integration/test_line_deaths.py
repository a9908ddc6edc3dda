"""Lines never wedge: a worker dies, or stands still, at every step of its work, and others end everything."""

from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import count

import pytest
from redis.asyncio import Redis

from httpqueue.storage.embedded import EmbeddedValkey
from httpqueue.storage.hosts import PROBE_MS
from httpqueue.storage.keys import host_index_keys
from httpqueue.storage.queue import open_queue
from httpqueue.storage.storage import Storage
from httpqueue.timers.policies import DestinationPolicy
from httpqueue.webhooks.outcome import Outcome
from httpqueue.worker.slots import Slots
from tests.support.deaths import Fate, KilledError, mortal_player
from tests.support.frozen import LEASE_MS, FrozenTime, claim
from tests.support.keys import DUE, HELD, PARTITIONS, Everywhere
from tests.support.lines import HOST, Player, Stage, create, no_line_is_left
from tests.support.states import counted

NAMES = "abcd"
ROUND_MS = 4_000
PATIENCE_MS = 60_000
"""By then all timers have ended: a lease, a probe, and some more of them when one is lost twice."""


@dataclass(frozen=True)
class Reason:
    """Why timers have to wait for their host."""

    policy: DestinationPolicy
    host_slots: int


REASONS = {
    "concurrency": Reason(DestinationPolicy(concurrency=2), 100),
    "rate": Reason(DestinationPolicy(rate=1), 100),
    "both": Reason(DestinationPolicy(rate=1, concurrency=1), 100),
    "room": Reason(DestinationPolicy(), 2),
}


async def work(redis: Redis, stage: Stage, player: Player) -> None:
    """What a worker does until all have ended. The first attempt of `a` fails, and is tried again in 3 s."""
    failed: list[str] = []
    while {*await counted(redis)} != {"d"}:
        await stage.relay.drain()
        running = dict((await player.begin(await claim(player.queue))).begun)
        while running:
            name, begun = next(iter(running.items()))
            outcome = Outcome.RETRY if name == "a" and not failed else Outcome.DELIVERED
            failed += "a" if outcome is Outcome.RETRY else ""
            del running[name]
            await player.finish({name: begun}, outcome, 3_000)
            running |= (await player.serve()).begun
        stage.time.advance(1_000)


async def play_round(stage: Stage, player: Player) -> None:
    """All passes of the relay, and what a worker makes of it."""
    for one_pass in (stage.relay.drain, stage.relay.promote, stage.relay.heal):
        await one_pass()
    begun = (await player.begin(await claim(stage.queue))).begun
    while begun:
        await player.finish(begun)
        begun = (await player.serve()).begun
    await stage.pass_time(ROUND_MS)


async def end_all(redis: Redis, stage: Stage) -> None:
    """Others do the work until all timers have ended."""
    player = stage.new_player()
    until_ms = stage.time.now_ms + PATIENCE_MS
    while {*await counted(redis)} != {"d"}:
        assert stage.time.now_ms < until_ms, await counted(redis)
        await play_round(stage, player)


async def forget_the_dead(redis: Redis, stage: Stage) -> None:
    """What the dead had expires, and then nothing is left of it."""
    player = stage.new_player()
    for _ in range(2 * (LEASE_MS + PROBE_MS) // ROUND_MS):
        await play_round(stage, player)
    assert await no_line_is_left(redis)
    assert not await redis.exists(host_index_keys().lines)
    everywhere = Everywhere(redis)
    assert not await everywhere.exists("running", "waiting", "probes", "queue", DUE, HELD)


async def is_struck(redis: Redis, url: str, reason: Reason, at_step: int, *, dies: bool) -> bool:
    """Play with such a fate. False: the worker was done before that step."""
    await redis.flushall()
    time = FrozenTime()
    async with open_queue(url, partitions=PARTITIONS, now=time) as queue:
        stage = Stage(Storage(redis, archive_error_rate=1e-6, partitions=PARTITIONS, now=time), queue, time)
        await stage.policies.set_destination(HOST, reason.policy)
        await create(stage.store, NAMES)
        fate = Fate(at_step, None if dies else partial(end_all, redis, stage))
        slots = Slots(100, reason.host_slots)
        async with mortal_player(url, time, slots, fate) as player:
            with suppress(KilledError):
                await work(redis, stage, player)
            await end_all(redis, stage)
        await forget_the_dead(redis, stage)
        assert await counted(redis) == {"d": len(NAMES)}
    return fate.has_struck


@pytest.mark.timeout(300)
@pytest.mark.parametrize("fate", ["dies", "stands still"])
@pytest.mark.parametrize("reason", REASONS)
async def test_all_timers_end_and_nothing_is_left(
    redis: Redis, valkey_server: EmbeddedValkey, reason: str, fate: str
) -> None:
    """Whatever the worker was about to ask of Redis."""
    for step in count():
        if not await is_struck(redis, valkey_server.url, REASONS[reason], step, dies=fate == "dies"):
            break
    assert step > 20
