"""The API dies, or does not hear what became of its commit: rows 1 and 2 of the fault plan."""

import asyncio
from pathlib import Path

import httpx
import pytest

from tests.support.lab import a_lab
from tests.support.traps import script_call

moments = pytest.mark.parametrize("after", [False, True], ids=["before", "after"])


@moments
async def test_row_01_api_killed_at_its_commit(tmp_path: Path, *, after: bool) -> None:
    """Killed before the commit: nothing fires. After it: it fires. The client's retry gets the same timer."""
    async with a_lab(tmp_path) as lab:
        api, *_ = await lab.start("api", "relay", "worker")
        trap = api.store.set_trap(script_call("create"), after=after)
        posting = asyncio.create_task(api.api.post("/timers", json=lab.timer("a")))
        await trap.sprung()
        await api.kill()
        with pytest.raises(httpx.TransportError):
            await posting
        await lab.start("api")
        if after:
            await lab.until_sent(["a"])
        else:
            assert (await lab.api.get("/timers/a")).status_code == 404
            assert lab.all_sent() == []
        await lab.post("a", status=200 if after else 201)
        await lab.until("a", "done")
        lab.check()


@moments
async def test_row_02_reply_dropped_at_the_commit(tmp_path: Path, *, after: bool) -> None:
    """The connection breaks with the commit or its answer on the way: 503. The same POST again is safe."""
    async with a_lab(tmp_path) as lab:
        [api] = await lab.start("api")
        trap = api.store.set_trap(script_call("create"), after=after)
        posting = asyncio.create_task(lab.post("a", status=503))
        await trap.sprung()
        api.store.reset()
        api.store.release()
        problem = await posting
        assert "with the same id" in problem["detail"]
        await lab.post("a", status=200 if after else 201)
        await lab.start("relay", "worker")
        await lab.until("a", "done")
        lab.check()
