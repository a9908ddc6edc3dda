"""Workers die, freeze and are stopped: rows 7 to 13 of the fault plan."""

import asyncio
import signal
from pathlib import Path
from typing import Final

import pytest

from httpqueue.clock import monotonic_s
from httpqueue.worker.plan import MAX_LOST
from tests.support.lab import TAKEN_OVER_S, a_lab
from tests.support.receiver import Received, Reply, Writer, hang, reply_when
from tests.support.traps import script_call

IN_FLIGHT: Final = 100
GRACE_S: Final = 30
IDS: Final = [f"a{number}" for number in range(IN_FLIGHT)]


@pytest.mark.parametrize("moment", ["claim", "begin"])
async def test_row_07_worker_killed(tmp_path: Path, moment: str) -> None:
    """After its claim, and after its begin: delivered once, when lease and grace are over."""
    async with a_lab(tmp_path) as lab:
        _, _, worker = await lab.start("api", "relay", "worker")
        trap = worker.store.set_trap(script_call("begin"), after=moment == "begin")
        await lab.post("a")
        await trap.sprung()
        await worker.kill()
        await lab.start("worker")
        await lab.until_sent(["a"], timeout_s=TAKEN_OVER_S)
        assert (await lab.until("a", "done"))["attempts"] == 1
        lab.check()


async def test_row_08_worker_killed_before_its_finish(tmp_path: Path) -> None:
    """The receiver has answered, and the store never hears of it: called twice, with the same webhook-id."""
    async with a_lab(tmp_path) as lab:
        _, _, worker = await lab.start("api", "relay", "worker")
        trap = worker.store.set_trap(script_call("finish"))
        await lab.post("a")
        await trap.sprung()
        assert len(lab.sent("a")) == 1
        await worker.kill()
        await lab.start("worker")
        await lab.until_sent(["a"], times=2, timeout_s=TAKEN_OVER_S)
        await lab.until("a", "done")
        lab.check(twice=["a"])
        assert [sent.attempt for sent in lab.sent("a")] == [1, 1], "a lost worker spends no attempt"


async def test_row_09_worker_killed_after_its_finish(tmp_path: Path) -> None:
    """The store knows, the worker does not: it is not called again, also when a lease would be over."""
    async with a_lab(tmp_path) as lab:
        _, _, worker = await lab.start("api", "relay", "worker")
        trap = worker.store.set_trap(script_call("finish"), after=True)
        await lab.post("a")
        await lab.post("later", seconds=TAKEN_OVER_S / 2)
        await trap.sprung()
        await worker.kill()
        await lab.start("worker")
        assert (await lab.get("a"))["status"] == "done"
        await lab.until("later", "done")
        lab.check()


async def test_row_10_worker_frozen_before_its_call(tmp_path: Path) -> None:
    """It stands still until another worker has its timer. Then it drops the attempt."""
    async with a_lab(tmp_path) as lab:
        _, _, worker = await lab.start("api", "relay", "worker")
        trap = worker.store.set_trap(script_call("begin"), after=True)
        await lab.post("a")
        await trap.sprung()
        worker.freeze()
        worker.store.release()  # its answer waits in the socket of the frozen process
        [other] = await lab.start("worker")
        await lab.until("a", "done")
        assert await other.process.end() == 0
        worker.thaw()
        await lab.post("b")
        await lab.until("b", "done")
        lab.check()


async def test_row_11_worker_frozen_during_its_call(tmp_path: Path) -> None:
    """Another worker takes over: called twice. What the frozen one tells is refused, and changes nothing."""
    answer = asyncio.Event()
    async with a_lab(tmp_path) as lab:
        _, _, worker = await lab.start("api", "relay", "worker")
        lab.receiver.answer(reply_when(answer, Reply(503)), Reply(200), path="/a")
        await lab.post("a", timeout=120)
        await lab.until_sent(["a"])
        worker.freeze()
        await lab.start("worker")
        done = await lab.until("a", "done")
        answer.set()
        worker.thaw()

        async def is_refused() -> bool:
            return bool(worker.logged("attempt.late") or worker.logged("attempt.lost"))

        await lab.until_that(is_refused)
        await lab.post("b")
        await lab.until("b", "done")
        lab.check(twice=["a"])
        assert len(lab.sent("a")) == 2
        assert await lab.get("a") == done


@pytest.mark.timeout(MAX_LOST * 2 * TAKEN_OVER_S)
async def test_row_12_a_timer_that_kills_its_workers(tmp_path: Path) -> None:
    """It fails when three workers were lost in it. Meanwhile, whoever is at work serves the others."""
    async with a_lab(tmp_path) as lab:
        await lab.start("api", "relay")

        async def kill_worker(_request: Received, _writer: Writer) -> None:
            [worker] = [part for part in lab.parts if part.name == "worker" and part.process.is_running]
            worker.process.send_signal(signal.SIGKILL)

        lab.receiver.answer(kill_worker, path="/poison")
        await lab.post("poison")
        for number in range(MAX_LOST):
            [worker] = await lab.start("worker")
            await lab.until_sent(["poison"], times=number + 1)
            assert await worker.process.wait() == -signal.SIGKILL
            [worker] = await lab.start("worker")
            await lab.post(f"other-{number}")
            await lab.until(f"other-{number}", "done")
            await worker.process.end()
        await lab.start("worker")
        failed = await lab.until("poison", "failed")
        assert f"{MAX_LOST} workers were lost" in failed["last_error"]
        lab.check(twice=["poison"])
        assert len(lab.sent("poison")) == MAX_LOST


async def test_row_13_worker_stopped_with_calls_in_flight(tmp_path: Path) -> None:
    """SIGTERM: it ends when its 100 calls have ended, and none is made again."""
    answer = asyncio.Event()
    async with a_lab(tmp_path) as lab:
        _, _, worker = await lab.start("api", "relay", "worker")
        lab.receiver.answer(reply_when(answer, Reply()))
        await lab.post_all(IDS, timeout=60)
        await lab.until_sent(IDS)
        await lab.start("worker")
        since_s = monotonic_s()
        worker.process.send_signal(signal.SIGTERM)
        await worker.process.until_event("run.stop")
        answer.set()
        assert await worker.process.wait() == 0
        assert monotonic_s() - since_s < GRACE_S
        await lab.until_settled()
        lab.check()
        assert await lab.counts() == {"d": IN_FLIGHT}


async def test_two_sigterms_lose_nothing(tmp_path: Path) -> None:
    """The second one ends the worker at once. What it was calling is called again, when its lease is over."""
    async with a_lab(tmp_path) as lab:
        _, _, worker = await lab.start("api", "relay", "worker")
        lab.receiver.answer(hang)
        await lab.post_all(IDS, timeout=60)
        await lab.until_sent(IDS)
        worker.process.send_signal(signal.SIGTERM)
        await worker.process.until_event("run.stop")
        assert await worker.process.end(signal.SIGTERM) == -signal.SIGTERM
        lab.receiver.answer(Reply())
        await lab.start("worker")
        await lab.until_settled()
        lab.check(twice=IDS)
        assert await lab.counts() == {"d": IN_FLIGHT}
