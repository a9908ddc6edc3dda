"""An outage is told twice, at its begin and its end, and waited for with growing pauses."""

import asyncio
from collections.abc import Callable

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from httpqueue import clock
from httpqueue.errors import RefusedError, UnavailableError
from httpqueue.runtime.outage import Outage, keep_listening


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were asked for, in seconds; none is made."""
    asked: list[float] = []

    async def sleep(seconds: float) -> None:
        asked.append(seconds)

    monkeypatch.setattr(clock, "sleep", sleep)
    return asked


async def test_pauses_double_up_to_the_longest(pauses: list[float]) -> None:
    """0.1 s at first, 1 s at most."""
    outage = Outage("relay.drain")
    for _ in range(7):
        await outage.wait(UnavailableError("gone"))
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]


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


async def test_a_process_says_once_that_redis_is_away(pauses: list[float]) -> None:
    """However many parts notice; it is back when the last part has noticed that. The metric counts parts."""
    drain, heal = Outage("relay.drain"), Outage("relay.heal")
    with capture_logs() as logs:
        await drain.wait(UnavailableError("gone"))
        await heal.wait(UnavailableError("gone, too"))
        assert REGISTRY.get_sample_value("httpqueue_redis_away") == 2
        drain.over()
        heal.over()
    assert [(log["event"], log["part"]) for log in logs] == [
        ("redis.away", "relay.drain"),
        ("redis.back", "relay.heal"),
    ]
    assert REGISTRY.get_sample_value("httpqueue_redis_away") == 0
    assert len(pauses) == 2


async def test_each_part_says_that_a_server_refuses_its_work(pauses: list[float]) -> None:
    """Another part may have another reason."""
    drain, heal = Outage("relay.drain"), Outage("relay.heal")
    with capture_logs() as logs:
        for _ in range(2):
            await drain.wait(RefusedError("OOM"))
            await heal.wait(RefusedError("WRONGTYPE"))
        drain.over()
    assert [(log["event"], log.get("reason")) for log in logs] == [
        ("redis.away", "OOM"),
        ("redis.away", "WRONGTYPE"),
        ("redis.back", None),
    ]
    assert len(pauses) == 4


async def test_a_bug_is_said_until_it_looks_the_same(pauses: list[float]) -> None:
    """And is waited for like an outage, so that it does not fill the log or the CPU."""
    outage = Outage("relay.drain")
    with capture_logs() as logs:
        for error in (KeyError("a"), KeyError("a"), KeyError("b")):
            await outage.wait(error)
        outage.over()
    assert [(log["event"], repr(log["exc_info"])) for log in logs] == [
        ("run.bug", "KeyError('a')"),
        ("run.bug", "KeyError('b')"),
    ]
    assert pauses == [0.1, 0.2, 0.4]


async def test_listening_begins_anew_after_an_error(pauses: list[float]) -> None:
    """And whatever is heard ends the outage."""
    answers = iter([UnavailableError("gone"), None, KeyError("bug"), None])
    heard: list[int] = []

    async def listen(tell: Callable[[int], None]) -> None:
        error = next(answers)
        if error is None:
            tell(7)
            error = next(answers, None)
        if error is None:
            raise asyncio.CancelledError
        raise error

    with capture_logs() as logs, pytest.raises(asyncio.CancelledError):
        await keep_listening(listen, heard.append, "relay.listen")
    assert [log["event"] for log in logs] == ["redis.away", "redis.back", "run.bug"]
    assert heard == [7, 7]
    assert pauses == [0.1, 0.1]
