"""Cancels that meet faults: what was acknowledged is final (invariant I4 of the fault plan)."""

import asyncio
from pathlib import Path
from typing import Final

import pytest

from httpqueue.clock import sleep
from tests.support.lab import Lab, a_lab
from tests.support.traps import script_call

IDS: Final = [f"a{number}" for number in range(200)]
SECONDS: Final = 8


async def cancel(lab: Lab, timer_id: str) -> bool:
    """Ask until there is a definite answer -> whether the timer is cancelled."""
    while (response := await lab.api.delete(f"/timers/{timer_id}")).status_code == 503:
        await sleep(0.05)
    assert response.status_code in {200, 409}, response.text
    status: str = (await lab.get(timer_id))["status"]
    return status == "cancelled"


@pytest.mark.timeout(200)
async def test_a_cancel_is_final(tmp_path: Path) -> None:
    """Store, relay and worker die meanwhile: what was cancelled is never sent, and all else is."""
    async with a_lab(tmp_path) as lab:
        _, relay, worker = await lab.start("api", "relay", "worker")
        await lab.post_all(IDS, seconds=SECONDS)
        cancelled = set()

        async def cancel_half() -> None:
            for timer_id in IDS[::2]:
                if await cancel(lab, timer_id):
                    cancelled.add(timer_id)

        cancelling = asyncio.create_task(cancel_half())
        await worker.kill()
        lab.store.kill()
        lab.store.start()
        await relay.kill()
        await lab.start("relay", "worker")
        await cancelling
        await lab.until_settled()
        assert cancelled
        sent = {each.timer_id for each in lab.all_sent()}
        assert not sent & cancelled
        for timer_id in cancelled:
            del lab.due_ms[timer_id]
        lab.check()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_cancel_whose_answer_is_lost(tmp_path: Path, *, after: bool) -> None:
    """503 says that it is unknown; the same again says what is."""
    async with a_lab(tmp_path) as lab:
        api, *_ = await lab.start("api", "relay", "worker")
        await lab.post("a", seconds=5)
        trap = api.store.set_trap(script_call("cancel"), after=after)
        asking = asyncio.create_task(lab.api.delete("/timers/a"))
        await trap.sprung()
        api.store.reset()
        api.store.release()
        response = await asking
        assert response.status_code == 503
        assert "unknown" in response.json()["detail"]
        assert await cancel(lab, "a")
        await lab.post("b", seconds=5)
        await lab.until("b", "done")
        assert lab.sent("a") == []
