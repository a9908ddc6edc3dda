"""Clocks that are wrong, and clocks that jump: row 21 of the fault plan, and defect 4.

A test cannot turn a machine's clock, so the processes get theirs through a seam: see tests/support/skewed.py.
"""

from pathlib import Path
from typing import Final

import pytest

from httpqueue.clock import now_ms
from tests.support.lab import SKEWED, a_lab

HOUR_MS: Final = 3_600_000
PARTS: Final = ("api", "relay", "worker")
LATE_MS: Final = 3_000
"""What a busy machine may add."""
hours = pytest.mark.parametrize("skew_ms", [HOUR_MS, -HOUR_MS], ids=["ahead", "behind"])


@hours
async def test_row_21_a_wrong_clock_of_all_processes(tmp_path: Path, skew_ms: int) -> None:
    """No webhook is early or late, whether it was asked for by a delay or an instant. Each process warns."""
    async with a_lab(tmp_path) as lab:
        parts = await lab.start(*PARTS, command=SKEWED, environment=[f"SKEW_MS={skew_ms}"])
        await lab.post("delay", seconds=2)
        await lab.post("instant", fire_at=now_ms() / 1_000 + 2)
        await lab.until_sent(["delay", "instant"])
        lab.check()
        for sent in lab.all_sent():
            assert sent.arrived_ms - lab.due_ms[sent.timer_id] < LATE_MS
        for part in parts:
            warning = await part.process.until_event("clocks.process_differs")
            assert abs(warning["ahead_ms"] + skew_ms) < LATE_MS


@hours
async def test_row_21_a_wrong_clock_of_the_server(tmp_path: Path, skew_ms: int) -> None:
    """A delay is as long as it should be, and each process warns."""
    skew = tmp_path / "skew"
    skew.write_text(str(skew_ms))
    async with a_lab(tmp_path) as lab:
        parts = await lab.start(*PARTS, command=SKEWED, environment=[f"SERVER_SKEW={skew}"])
        posted_ms = now_ms()
        await lab.post("delay", seconds=2)
        assert abs(lab.due_ms["delay"] - (posted_ms + skew_ms + 2_000)) < LATE_MS
        await lab.until_sent(["delay"])
        [sent] = lab.all_sent()
        assert 2_000 <= sent.arrived_ms - posted_ms < 2_000 + LATE_MS
        for part in parts:
            warning = await part.process.until_event("clocks.process_differs")
            assert abs(warning["ahead_ms"] - skew_ms) < LATE_MS


async def test_row_21_the_servers_clock_jumps(tmp_path: Path) -> None:
    """By an hour: timers come early by the jump, and no more. Each process says so."""
    skew = tmp_path / "skew"
    skew.write_text("0")
    async with a_lab(tmp_path) as lab:
        parts = await lab.start(*PARTS, command=SKEWED, environment=[f"SERVER_SKEW={skew}"])
        await lab.post("in-time", seconds=1)
        await lab.until_sent(["in-time"])
        await lab.post("within", seconds=HOUR_MS / 2_000)
        await lab.post("beyond", seconds=2 * HOUR_MS / 1_000)
        skew.write_text(str(HOUR_MS))
        await lab.until_sent(["within"])
        for part in parts:
            assert abs((await part.process.until_event("clocks.jumped"))["by_ms"] - HOUR_MS) < LATE_MS
        assert (await lab.get("beyond"))["status"] == "scheduled"
        assert {sent.timer_id for sent in lab.all_sent()} == {"in-time", "within"}
