"""Relays die, freeze and lose their queue: rows 3 to 6 of the fault plan."""

import asyncio
import random
from pathlib import Path
from typing import Final

import pytest

from httpqueue.clock import sleep
from tests.support.keys import Everywhere
from tests.support.lab import TAKEN_OVER_S, Lab, Part, a_lab
from tests.support.traps import Trap, script_call

TIMERS: Final = 20
IDS: Final = [f"a{number}" for number in range(TIMERS)]
ENTRIES: Final = 100_000
KILL_EACH_S: Final = 1.5
ACKNOWLEDGE: Final = b"XACK"
MANY_S: Final = 400


def trap_at(relay: Part, moment: str) -> Trap:
    """Holds the relay when it has read, put or acknowledged outbox entries."""
    if moment == "read":
        return relay.store.set_trap(script_call("admit"))
    if moment == "put":
        return relay.store.set_trap(ACKNOWLEDGE)
    return relay.store.set_trap(ACKNOWLEDGE, after=True)


async def until_outbox_is_empty(lab: Lab) -> None:
    """A relay has acted on every entry, those of dead relays too."""
    async with lab.store.client() as redis:
        everywhere = Everywhere(redis)

        async def is_empty() -> bool:
            return await everywhere.xlen() == 0

        await lab.until_that(is_empty)


@pytest.mark.parametrize("moment", ["read", "put", "ack"])
async def test_row_03_relay_killed(tmp_path: Path, moment: str) -> None:
    """After it read, put or acknowledged: another relay takes over, and each webhook is called once."""
    async with a_lab(tmp_path) as lab:
        _, relay, _ = await lab.start("api", "relay", "worker")
        trap = trap_at(relay, moment)
        await lab.post_all(IDS)
        await trap.sprung()
        await relay.kill()
        await lab.start("relay")
        await lab.until_sent(IDS)
        await until_outbox_is_empty(lab)
        await lab.until_queue_is_empty()
        await lab.until_settled()
        lab.check()


@pytest.mark.parametrize("fault", ["before", "after", "client-kill"])
async def test_row_04_queue_connection_lost_during_put(tmp_path: Path, fault: str) -> None:
    """Before the server saw the put, and after it acted on it: the entry stays pending and is put again."""
    async with a_lab(tmp_path, has_own_queue=True) as lab:
        _, relay = await lab.start("api", "relay")
        trap = relay.queue.set_trap(script_call("put"), after=fault != "before")
        await lab.post_all(IDS)
        await trap.sprung()
        async with lab.store.client() as redis:
            assert await Everywhere(redis).xlen() >= 1, "it is acknowledged before it is put"
        if fault == "client-kill":
            async with lab.queue.client() as redis:
                await redis.client_kill_filter(_type="normal")
        else:
            relay.queue.reset()
        relay.queue.release()
        await until_outbox_is_empty(lab)
        await lab.start("worker")
        await lab.until_sent(IDS)
        await lab.until_settled()
        lab.check()
        assert relay.process.is_running


@pytest.mark.timeout(2 * MANY_S)
async def test_row_05_four_relays_and_random_kills(tmp_path: Path) -> None:
    """100,000 outbox entries while relays die and come again: as many webhooks, each called once."""
    dice = random.Random(5)
    ids = [str(number) for number in range(ENTRIES)]
    async with a_lab(tmp_path) as lab:
        await lab.start("api", "relay", "relay", "relay", "relay", "worker")

        async def kill_and_start() -> None:
            while True:
                victim = dice.choice(
                    [part for part in lab.parts if part.name == "relay" and part.process.is_running]
                )
                await victim.kill()
                await lab.start("relay")
                await sleep(KILL_EACH_S)

        killing = asyncio.create_task(kill_and_start())
        await lab.post_all(ids)
        killing.cancel()
        await lab.until_sent(ids, timeout_s=MANY_S)
        await until_outbox_is_empty(lab)
        await lab.until_queue_is_empty()
        await lab.until_settled()
        lab.check()


async def test_row_06_relay_frozen(tmp_path: Path) -> None:
    """It stands still before its put until another relay has done its work. Its replay changes nothing."""
    async with a_lab(tmp_path) as lab:
        _, relay, _ = await lab.start("api", "relay", "worker")
        trap = relay.store.set_trap(script_call("admit"))
        await lab.post_all(IDS)
        await trap.sprung()
        relay.freeze()
        await lab.start("relay")
        await lab.until_sent(IDS, timeout_s=TAKEN_OVER_S)
        await until_outbox_is_empty(lab)
        replayed = relay.store.set_trap(ACKNOWLEDGE, after=True)
        relay.store.release()
        relay.store.trap = replayed
        relay.thaw()
        await replayed.sprung()
        relay.store.release()
        await lab.until_queue_is_empty()
        await lab.until_settled()
        lab.check()
