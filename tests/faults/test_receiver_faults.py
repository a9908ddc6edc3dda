"""Receivers that hang, drip, flood, redirect, refuse and lie: rows 22 to 26 of the fault plan."""

import gzip
import ssl
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any, Final

import orjson
import pytest
import trustme

from httpqueue.clock import now_ms
from tests.support.lab import SKEWED, a_lab
from tests.support.receiver import Handler, Received, Receiver, Reply, Writer, drip, hang, raw, reset

DEADLINE_S: Final = 1
FLOOD_BYTES: Final = 1_000_000_000
IN_BUFFERS_BYTES: Final = 16_000_000
"""What the kernel's buffers may take on the way, although nobody reads it."""
WORKER_GROWS_KIB: Final = 50_000
BOMB: Final = gzip.compress(bytes(200_000_000))
ONCE: Final = {"max_attempts": 1}
HANGING: Final = 10_000
OTHERS: Final = 1_000
OTHER_HOSTS: Final = 10
LATENESS_MS: Final = 1_000
BASE_S, MAX_S = 1, 3
SLACK_S: Final = 1.5
"""How much later than it should an attempt may come, on a busy machine."""


class Flood:
    """Answers with a body of 1 GB, as fast as the client takes it."""

    def __init__(self) -> None:
        self.written = 0

    async def __call__(self, _request: Received, writer: Writer) -> None:
        """The handler."""
        writer.write(f"HTTP/1.1 200 OK\r\ncontent-length: {FLOOD_BYTES}\r\n\r\n".encode())
        piece = bytes(65_536)
        while self.written < FLOOD_BYTES:
            writer.write(piece)
            self.written += len(piece)
            await writer.drain()


def peak_kib(pid: int) -> int:
    """The most memory that a process has ever used. 0 where the system does not tell."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return 0
    [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1])


async def test_row_22_endless_answers(tmp_path: Path) -> None:
    """A receiver that hangs, drips, floods or sends a bomb: cut at the deadline, and little of it is read."""
    flood = Flood()
    answers: dict[str, Handler | Reply] = {
        "hang": hang,
        "drip": drip(0.2),
        "flood": flood,
        "bomb": Reply(200, BOMB, (("content-encoding", "gzip"),)),
    }
    async with a_lab(tmp_path) as lab:
        _, _, worker = await lab.start("api", "relay", "worker", attempt_timeout=f"{DEADLINE_S}s")
        await lab.post("warm-up")
        await lab.until("warm-up", "done")
        before_kib = peak_kib(worker.process.pid)
        for path, answer in answers.items():
            lab.receiver.answer(answer, path=f"/{path}")
            await lab.post(path, retry=ONCE)
        for path in ("hang", "drip"):
            timer = await lab.until(path, "failed")
            assert "no whole answer within" in timer["last_error"]
            [attempt] = timer["last_attempts"]
            assert attempt["duration_ms"] < (DEADLINE_S + SLACK_S) * 1_000
        for path in ("flood", "bomb"):
            timer = await lab.until(path, "done", "failed")
            [attempt] = timer["last_attempts"]
            assert attempt["duration_ms"] < (DEADLINE_S + SLACK_S) * 1_000
        assert flood.written < IN_BUFFERS_BYTES
        assert peak_kib(worker.process.pid) - before_kib < WORKER_GROWS_KIB
        lab.check()


@pytest.mark.timeout(200)
async def test_row_23_one_host_hangs(tmp_path: Path) -> None:
    """10,000 timers of one host hang; 1,000 timers of ten other hosts are in time."""
    async with AsyncExitStack() as stack:
        lab = await stack.enter_async_context(a_lab(tmp_path))
        others = [
            await stack.enter_async_context(Receiver(address=f"127.0.1.{number}"))
            for number in range(1, OTHER_HOSTS + 1)
        ]
        await lab.start("api", "relay", "worker", shutdown_grace="1s")
        lab.receiver.answer(hang)
        await lab.post_all([f"hang-{number}" for number in range(HANGING)], timeout=120)
        await lab.receiver.wait_for(100)
        timers = [
            lab.timer(
                f"t{number}", url=f"{others[number % OTHER_HOSTS].url}/t{number}", seconds=2 + number / 200
            )
            for number in range(OTHERS)
        ]
        response = await lab.api.post("/timers/batch", json={"timers": timers})
        for answer in response.json()["results"]:
            lab.note(answer["id"], answer)
        for other in others:
            await other.wait_for(OTHERS // OTHER_HOSTS)
        lateness_ms = sorted(
            request.arrived_ms - lab.due_ms[request.path.removeprefix("/")]
            for other in others
            for request in other.requests
        )
        assert len(lateness_ms) == OTHERS
        assert lateness_ms[0] >= 0
        assert lateness_ms[OTHERS * 99 // 100] < LATENESS_MS


async def test_row_24_redirects_tls_and_names(tmp_path: Path) -> None:
    """A redirect is not followed, a wrong certificate ends the timer, an unknown name is asked for again.

    The names are answered in the worker's process: see tests/support/skewed.py.
    """
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(tls)
    names = {
        "nxdomain.test": ["EAI_NONAME", "EAI_NONAME", ["127.0.0.1"]],
        "servfail.test": ["EAI_AGAIN", "EAI_AGAIN", ["127.0.0.1"]],
    }
    async with a_lab(tmp_path) as lab, Receiver(tls=tls) as liar:
        await lab.start("api", "relay")
        await lab.start("worker", command=SKEWED, environment=[f"NAMES={orjson.dumps(names).decode()}"])
        location = ("location", f"http://127.0.0.1:{lab.receiver.port}/target")
        lab.receiver.answer(Reply(302, headers=(location,)), path="/redirect")
        await lab.post("redirect")
        await lab.post("tls", url=f"{liar.url}/tls")
        for name in names:
            await lab.post(name, url=f"http://{name}:{lab.receiver.port}/{name}")
        assert "302" in (await lab.until("redirect", "failed"))["last_error"]
        assert "certificate" in (await lab.until("tls", "failed"))["last_error"]
        assert liar.requests == []
        for name in names:
            assert (await lab.until(name, "done"))["attempts"] == 3
        del lab.due_ms["tls"]
        lab.check()
        assert lab.sent("target") == []


def http_date(in_s: float) -> str:
    """An HTTP date (RFC 9110 section 5.6.7) so many s from now."""
    return format_datetime(
        datetime.fromtimestamp(now_ms() / 1_000, UTC) + timedelta(seconds=in_s), usegmt=True
    )


async def test_row_25_retry_after(tmp_path: Path) -> None:
    """It is obeyed between the backoff and the longest wait; what is no Retry-After counts for nothing."""
    after: dict[str, tuple[str, float, float]] = {
        "seconds": ("2", 2, 2),
        "too-long": ("7", MAX_S, MAX_S),
        "date": (http_date(3), 0, MAX_S),
        "past-date": (http_date(-3_600), BASE_S, BASE_S),
        "negative": ("-1", BASE_S, BASE_S),
        "nan": ("NaN", BASE_S, BASE_S),
        "endless": (str(10**9), MAX_S, MAX_S),
        "nothing": ("", BASE_S, BASE_S),
    }
    async with a_lab(tmp_path) as lab:
        await lab.start("api", "relay", "worker")
        for status in (429, 503):
            for name, (value, _, _) in after.items():
                timer_id = f"{name}-{status}"
                headers = (("retry-after", value),) if value else ()
                lab.receiver.answer(Reply(status, headers=headers), Reply(), path=f"/{timer_id}")
                await lab.post(timer_id, retry={"base": BASE_S, "max": MAX_S, "jitter": False})
        await lab.until_settled()
        for status in (429, 503):
            for name, (_, least_s, most_s) in after.items():
                first, second = lab.sent(f"{name}-{status}")
                gap_s = (second.arrived_ms - first.arrived_ms) / 1_000
                assert least_s - 0.01 <= gap_s < most_s + SLACK_S, (name, status, gap_s)
        lab.check(twice=lab.due_ms)


ENDS: Final[dict[str, tuple[Any, str]]] = {
    "500": (Reply(500), "done"),
    "501": (Reply(501), "failed"),
    "404": (Reply(404), "failed"),
    "reset": (reset, "done"),
    "hang-up": (raw(b""), "done"),
}


async def test_row_26_errors(tmp_path: Path) -> None:
    """500 and a reset are tried again, 501 and 404 are not."""
    async with a_lab(tmp_path) as lab:
        await lab.start("api", "relay", "worker")
        for name, (answer, _) in ENDS.items():
            lab.receiver.answer(answer, Reply(), path=f"/{name}")
            await lab.post(name)
        for name, (_, end) in ENDS.items():
            await lab.until(name, end)
            assert len(lab.sent(name)) == (2 if end == "done" else 1)
        lab.check(twice=ENDS)
