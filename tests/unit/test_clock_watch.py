"""When the clocks of store and process are said to differ, or to have jumped."""

import pytest
from structlog.testing import capture_logs

from httpqueue import clock
from httpqueue.errors import UnavailableError
from httpqueue.run import clock_watch
from httpqueue.run.clock_watch import TOLERATED_MS, ClockWatch, Look
from httpqueue.runtime import outage

HOUR_MS = 3_600_000


@pytest.mark.parametrize(
    ("ahead_ms", "error_ms", "said_ms"),
    [
        (0, 0, 0),
        (TOLERATED_MS, 0, 0),
        (TOLERATED_MS + 1, 0, TOLERATED_MS + 1),
        (TOLERATED_MS + 1, 1, 0),
        (-HOUR_MS, 5_000, -HOUR_MS),
    ],
)
def test_a_difference(ahead_ms: int, error_ms: int, said_ms: int) -> None:
    """It is said unless the round trip may account for it."""
    assert Look(1_000_000 + ahead_ms, 1_000_000, 0, error_ms).ahead_ms() == said_ms


@pytest.mark.parametrize(
    ("passed_ms", "shown_ms", "error_ms", "said_ms"),
    [
        (10_000, 10_000, 0, 0),
        (10_000, 10_000 + TOLERATED_MS, 0, 0),
        (10_000, 10_000 + HOUR_MS, 0, HOUR_MS),
        (10_000, 10_000 - HOUR_MS, 0, -HOUR_MS),
        (HOUR_MS, HOUR_MS, 0, 0),
        (10_000, 12_000, 1_000, 0),
    ],
)
def test_a_jump(passed_ms: int, shown_ms: int, error_ms: int, said_ms: int) -> None:
    """The store's clock went on by another time than the clock that never jumps; a wrong clock is no jump."""
    last = Look(HOUR_MS, 0, 5_000, error_ms)
    assert Look(HOUR_MS + shown_ms, 0, 5_000 + passed_ms, error_ms).jump_ms(last) == said_ms


async def test_each_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store was away and came back an hour ahead: a jump and a difference, and nothing more."""
    ahead_ms: list[int | None] = [0, None, HOUR_MS, HOUR_MS, HOUR_MS]
    monkeypatch.setattr(clock_watch, "LOOK_S", 0)
    monkeypatch.setattr(outage, "_FIRST_PAUSE_S", 0)

    async def store_time_ms() -> int:
        if not ahead_ms:
            await watch.stop()
            return clock.now_ms() + HOUR_MS
        ahead = ahead_ms.pop(0)
        if ahead is None:
            raise UnavailableError("away")
        return clock.now_ms() + ahead

    watch = ClockWatch(store_time_ms)
    with capture_logs() as logs:
        await watch.run()
    events = [entry["event"] for entry in logs if entry["event"].startswith("clocks.")]
    assert events == ["clocks.jumped", "clocks.process_differs"]
