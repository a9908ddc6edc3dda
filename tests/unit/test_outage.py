"""An outage is told twice, at its begin and its end, and waited for with growing pauses."""

import pytest
from structlog.testing import capture_logs

from httpqueue import clock
from httpqueue.errors import UnavailableError
from httpqueue.runtime.outage import Outage


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were asked for, in seconds; none is made."""
    asked: list[float] = []

    async def sleep(seconds: float) -> None:
        asked.append(seconds)

    monkeypatch.setattr(clock, "sleep", sleep)
    return asked


async def test_pauses_double_up_to_the_longest(pauses: list[float]) -> None:
    """0.1 s at first, 2 s at most."""
    outage = Outage("relay.drain")
    for _ in range(7):
        await outage.wait(UnavailableError("gone"))
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]


async def test_an_outage_is_logged_once_at_its_begin_and_once_at_its_end(pauses: list[float]) -> None:
    """However many calls fail in between."""
    outage = Outage("relay.drain")
    with capture_logs() as logs:
        outage.over()
        for _ in range(3):
            await outage.wait(UnavailableError("gone"))
        outage.over()
        outage.over()
    assert logs == [
        {"event": "redis.away", "log_level": "error", "part": "relay.drain", "reason": "gone"},
        {"event": "redis.back", "log_level": "info", "part": "relay.drain"},
    ]
    assert len(pauses) == 3


async def test_the_next_outage_begins_anew(pauses: list[float]) -> None:
    """With the first pause, and with a log line of its own."""
    outage = Outage("worker.claim")
    await outage.wait(UnavailableError("gone"))
    await outage.wait(UnavailableError("gone"))
    outage.over()
    with capture_logs() as logs:
        await outage.wait(UnavailableError("gone again"))
    assert pauses == [0.1, 0.2, 0.1]
    assert [entry["reason"] for entry in logs] == ["gone again"]
