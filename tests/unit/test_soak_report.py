"""The soak's report: which fault made webhooks late, what the page says, and the picture."""

import socket
import sys
from os import getpid
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.soak import picture
from tests.soak.events import Call, Log, Struck, Timer
from tests.soak.holders import pid_of
from tests.soak.invariants import duplicates_in, violations
from tests.soak.plan import Kind, draw
from tests.soak.recovery import HEALED_MS, Delivery, blame, deliveries, worst
from tests.soak.report import Verdict, page

START_MS = 60_000_000


def timer(name: str, due_ms: int, *, lane: str = "", acknowledged_ms: int = 0) -> Timer:
    """One of alpha's; times count from START_MS."""
    return Timer(
        name,
        "alpha",
        [START_MS + due_ms],
        lane,
        asked_ms=START_MS,
        acknowledged_ms=START_MS + acknowledged_ms,
    )


def call(name: str, arrived_ms: int, attempt: int = 1, status: int | None = 200) -> Call:
    """One that was answered at once."""
    at_ms = START_MS + arrived_ms
    run = f"alpha:{name}:nonce:0"
    return Call(name, "alpha", run, attempt, 0, "worker-1", at_ms, at_ms // 1000, at_ms + 5, status)


def strike(kind: Kind, start_ms: int, end_ms: int, target: str = "store") -> Struck:
    """A fault; times count from START_MS."""
    return Struck(kind, target, START_MS + start_ms, START_MS + end_ms)


def test_lateness_counts_from_when_a_call_could_be_made() -> None:
    """Due, acknowledged, and its predecessor over; later attempts do not count."""
    timers = [
        timer("plain", 1_000),
        timer("posted late", 1_000, acknowledged_ms=4_000),
        timer("first", 1_000, lane="lane"),
        timer("second", 1_500, lane="lane"),
        timer("never called", 0),
    ]
    calls = [
        call("plain", 1_003, status=500),
        call("first", 1_010, status=503),
        call("plain", 2_000, 2),
        call("first", 3_000, 2),
        call("second", 3_006),
        call("posted late", 3_999),
    ]
    found = deliveries(Log(timers={each.id: each for each in timers}, calls=calls))
    assert {each.timer: each.late_ms for each in found} == {
        "plain": 3,
        "posted late": 0,
        "first": 10,
        "second": 1,
    }


def test_the_first_fault_between_due_and_arrival_is_to_blame() -> None:
    """The next one came when it was late already."""
    outage, flush = strike(Kind.SERVER_KILL, 1_000, 4_000), strike(Kind.FLUSHALL, 2_000, 2_000, "queue")
    late = Delivery("a", "alpha", START_MS + 1_500, START_MS + 5_000)
    assert blame([late], [flush, outage]) == [(late, outage)]


def test_else_the_last_fault_whose_effects_may_last() -> None:
    """What was due afterwards may still meet a backlog; and what nothing explains stays so."""
    kill, flush = strike(Kind.KILL, 0, 1_000, "worker-1"), strike(Kind.FLUSHALL, 2_000, 2_000, "queue")
    healed_ms = 2_000 + HEALED_MS[Kind.FLUSHALL]
    soon = Delivery("a", "alpha", START_MS + healed_ms, START_MS + healed_ms + 1_500)
    later = Delivery("b", "alpha", START_MS + healed_ms + 1, START_MS + healed_ms + 1_500)
    never = Delivery("c", "alpha", START_MS + 90_000, START_MS + 92_000)
    assert blame([soon, later, never], [kill, flush]) == [(soon, flush), (later, kill), (never, None)]


@pytest.mark.parametrize(
    ("kind", "target"), [(Kind.KILL, "api-1"), (Kind.CUT, "api-2>store"), (Kind.HANG, "beta")]
)
def test_what_cannot_delay_a_webhook_is_not_to_blame(kind: Kind, target: str) -> None:
    """An API that has acknowledged it, and the receiver of another tenant."""
    late = Delivery("a", "alpha", START_MS, START_MS + 5_000)
    own = strike(Kind.HANG, 2_000, 4_000, "alpha")
    assert blame([late], [strike(kind, 1_000, 4_000, target)]) == [(late, None)]
    assert blame([late], [strike(kind, 1_000, 4_000, target), own]) == [(late, own)]


def test_the_worst_recovery_counts_from_the_end_of_the_fault() -> None:
    """Kinds without late webhooks are there, too; kinds that were not made are not."""
    kill = strike(Kind.KILL, 0, 1_000, "worker-1")
    cut = strike(Kind.CUT, 50_000, 51_000, "worker-1>store")
    late = [
        Delivery("a", "alpha", START_MS, START_MS + 21_000),
        Delivery("b", "alpha", START_MS + 10, START_MS + 3_000),
    ]
    killed, was_cut = worst(blame(late, [kill, cut]), [kill, cut])
    assert (killed.kind, killed.count, killed.late) == (Kind.KILL, 1, 2)
    assert (killed.worst_ms, killed.latest_ms) == (20_000, 21_000)
    assert (was_cut.kind, was_cut.count, was_cut.late) == (Kind.CUT, 1, 0)


def verdict_of(log: Log) -> Verdict:
    """As the soak judges it."""
    duplicates, delivered = duplicates_in(log), deliveries(log)
    late = blame(delivered, log.struck)
    plan = draw(7, minutes=1, rate=1)
    return Verdict(
        plan, log, violations(log, duplicates), duplicates, delivered, late, worst(late, log.struck), []
    )


def test_the_page_says_what_is_broken_and_what_explains_the_rest() -> None:
    """Each duplicate has its fault; a lost timer is counted and named."""
    timers = [timer(name, 1_000) for name in ("lost", "twice", "unexplained")]
    log = Log(
        start_ms=START_MS,
        timers={each.id: each for each in timers},
        calls=[call("twice", 1_002), call("unexplained", 50_000), call("unexplained", 50_100)],
        struck=[strike(Kind.KILL, 1_100, 2_000, "worker-1")],
        answers={"POST 201": 3},
        end_ms=START_MS + 60_000,
    )
    log.calls.append(call("twice", 22_000))
    text = page(verdict_of(log), "reliability-report/lateness.svg")
    assert "| **lost** | **1** |" in text
    assert "| **early** | **0** |" in text
    assert "| **sent twice without a reason** | **1** |" in text
    assert "- lost: lost: acknowledged at" in text
    assert "kill -9 of worker-1, 1.10 s to 2.00 s |" in text
    assert "| **none** |" in text
    assert "make soak MINUTES=1 RATE=1 SEED=7" in text
    assert "![Lateness over time, and the faults](reliability-report/lateness.svg)" in text


def test_the_picture_has_the_curves_and_a_row_for_each_kind_of_fault(tmp_path: Path) -> None:
    """It is an SVG, and the same figures give the same file."""
    log = Log(start_ms=START_MS, struck=[strike(Kind.FLUSHALL, 0, 0)], end_ms=START_MS + 60_000)
    delivered = [
        Delivery("a", "alpha", START_MS + at_ms, START_MS + at_ms + 7) for at_ms in range(0, 9_000, 500)
    ]
    files = [tmp_path / name / "lateness.svg" for name in ("one", "two")]
    for file in files:
        picture.draw(log, delivered, file)
    assert files[0].read_bytes() == files[1].read_bytes()
    assert ET.parse(files[0]).getroot().tag.endswith("svg")  # noqa: S314 - we have just written it
    curves = picture.lateness_curves(log, [*delivered, Delivery("b", "alpha", START_MS, START_MS + 5_000)])
    assert curves.worst_ms[0] == 5_000
    assert set(curves.median_ms) == {7}


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of this system does not tell")
def test_the_process_at_the_other_end_of_a_connection_is_found() -> None:
    """While its socket is open, and only among the processes that are asked for."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
    ):
        server, peer = listener.accept()
        with server:
            assert pid_of(peer, server.getsockname(), [1, getpid()]) == getpid()
            assert pid_of(peer, server.getsockname(), []) is None
            client.close()
            assert pid_of(peer, server.getsockname(), [getpid()]) is None
