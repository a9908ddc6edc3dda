"""No request of 1 MiB holds the event loop for long (issue 11, defect 9).

Work is counted, not timed, where that is possible: errors that are built, values that are looked at in
Python. CPU time of the longest step is compared with a generous bound, because other tests run beside these.
"""

import asyncio
import gc
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from httpqueue import clock
from httpqueue.api.app import create_app
from httpqueue.api.problems import MAX_ERRORS
from httpqueue.api.schema import validate
from httpqueue.api.schema.json_body import MAX_BODY_BYTES, MAX_CONTAINERS
from httpqueue.storage.due_times import RUNS_AT_ONCE, first_runs
from httpqueue.timers.commands import NewTimer
from httpqueue.timers.names import TimerName
from httpqueue.timers.schedule import Cron, Instant
from httpqueue.timers.spec import Spec
from tests.support.api_fakes import FakeStore, backend

MOST_S: Final = 0.6 if sys.gettrace() or sys.getprofile() else 0.2
"""What a step may take here; coverage slows all down. On an idle machine, it takes less than 0.05."""
START: Final = '{"url":"https://example.com/","seconds":30,'
MANY: Final = range(MAX_BODY_BYTES)


def filled(start: str, item: str | Callable[[int], str], end: str) -> bytes:
    """As many items as fit into 1 MiB. An item is a text, or made of its number."""
    items, size = [], len(start) + len(end)
    for n in MANY:
        text = item if isinstance(item, str) else item(n)
        size += len(text.encode()) + 1
        if size > MAX_BODY_BYTES:
            break
        items.append(text)
    return (start + ",".join(items) + end).encode()


def name(n: int) -> str:
    """A member whose name no other one has."""
    return f'"{n:x}":0'


def nested(depth: int) -> bytes:
    """As many lists of lists as are accepted."""
    lists = ",".join(["[" * depth + "]" * depth] * ((MAX_CONTAINERS - 10) // depth))
    return f'{START}"body":[{lists}]}}'.encode()


IDNA: Final = '{"seconds":1,"url":"http://' + "é." * 300 + 'com/"}'
MANY_NAMES: Final = "{" + ",".join(map(name, range(160))) + "}"
TIMERS: Final[dict[str, bytes]] = {
    "unknown fields": filled("{", name, "}"),
    "one name": filled(START, '"a":1', "}"),
    "numbers": filled(START + '"body":[', "0", "]}"),
    "empty lists": filled(START + '"body":[', "[]", "]}"),
    "empty objects": filled(START + '"body":[', "{}", "]}"),
    "empty strings": filled(START + '"body":[', '""', "]}"),
    "objects that repeat names": filled(START + '"body":[', '{"a":0,"a":0}', "]}"),
    "names in the body": filled(START + '"body":{', name, "}}"),
    "huge integers": filled(START + '"body":[', "9" * 20, "]}"),
    "one huge integer": (START + '"body":' + "9" * (MAX_BODY_BYTES - 100) + "}").encode(),
    "long integers": filled(START + '"body":[', "1234567890123456789", "]}"),
    "long numbers": filled(START + '"body":[', "0.1234567890123456789012345678901e-300", "]}"),
    "numbers and a long one": filled(START + '"body":[1234567890123456789,', "0", "]}"),
    "escapes": (START + '"body":"' + "\\u0000" * (MAX_BODY_BYTES // 6 - 20) + '"}').encode(),
    "backslashes": (START + '"body":"' + "\\\\" * (MAX_BODY_BYTES // 2 - 50) + '"}').encode(),
    "as deep as may be": nested(62),
    "too deep": nested(70),
    "much too deep": (START + '"body":' + "[" * 1_000 + "]" * 1_000 + "}").encode(),
    "headers": filled(START + '"headers":{', name, "}}"),
    "a long header": (START + '"headers":{"a":"' + "a " * (MAX_BODY_BYTES // 2 - 50) + 'b"}}').encode(),
    "labels": filled(START + '"labels":{', name, "}}"),
    "waits": filled(START + '"retry":{"delays":[', '""', "]}}"),
    "unknown fields of retry": filled(START + '"retry":{', name, "}}"),
    "unknown fields of the callback": filled(START + '"callback":{', name, "}}"),
    "headers of the callback": filled(START + '"callback":{"url":"http://b/","headers":{', name, "}}}"),
    "unknown fields of the retention": filled(START + '"retention":{', name, "}}"),
    "past_due": filled(START + '"past_due":{', name, "}}"),
    "a long url": ('{"seconds":1,"url":"http://' + "a." * (MAX_BODY_BYTES // 2 - 50) + '"}').encode(),
    "a long cron": ('{"url":"http://a/","cron":"' + "1," * (MAX_BODY_BYTES // 2 - 50) + '"}').encode(),
    "a long instant": (
        '{"url":"http://a/","fire_at":"2030-01-01T00:00:00.' + "1" * (MAX_BODY_BYTES - 99) + 'Z"}'
    ).encode(),
    "a long id": (START + '"id":"' + "a" * (MAX_BODY_BYTES - 99) + '"}').encode(),
    "blanks": (START + '"body":1' + " " * (MAX_BODY_BYTES - 99) + "}").encode(),
}
BATCHES: Final[dict[str, bytes]] = {
    "unknown fields": filled("{", name, "}"),
    "too many timers": filled('{"timers":[', "{}", "]}"),
    "unreadable hosts": ('{"timers":[' + ",".join([IDNA] * 200) + "]}").encode(),
    "unknown fields of timers": ('{"timers":[' + ",".join([MANY_NAMES] * 1_000) + "]}").encode(),
    "repeated names": filled('{"timers":[', '{"a":0,"a":0}', "]}"),
}


@pytest.fixture(autouse=True)
def _collect_as_processes_do() -> Iterator[None]:
    """Every process of httpqueue does: see run/limits.py."""
    before = gc.get_threshold()
    gc.set_threshold(50_000, 20, 50)
    yield
    gc.set_threshold(*before)


def longest_step_s(raw: bytes, path: str, chunk_bytes: int = 65_536) -> tuple[int, float]:
    """(status, CPU time in s of the longest step of the event loop) of a POST."""
    app = create_app(backend(FakeStore()))
    status, longest = 0, 0.0
    chunks = deque(raw[first : first + chunk_bytes] for first in range(0, len(raw), chunk_bytes))

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": chunks.popleft(), "more_body": bool(chunks)}

    async def send(message: Any) -> None:
        nonlocal status
        status = message.get("status", status)

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(raw))],
    }
    run_handle = asyncio.Handle._run

    def timed(handle: asyncio.Handle) -> None:
        nonlocal longest
        started_s = time.thread_time()
        run_handle(handle)
        longest = max(longest, time.thread_time() - started_s)

    loop = asyncio.SelectorEventLoop()  # the steps of uvloop cannot be timed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio.Handle, "_run", timed)
        loop.run_until_complete(app(scope, receive, send))
    loop.close()
    return status, longest


@pytest.mark.parametrize("what", TIMERS)
def test_no_timer_of_1_mib_holds_the_loop(what: str) -> None:
    """Unknown fields took 0.4 s, deep nesting 0.6 s."""
    assert len(TIMERS[what]) <= MAX_BODY_BYTES
    status, step_s = longest_step_s(TIMERS[what], "/timers")
    assert status in {201, 400, 422}
    assert step_s < MOST_S


@pytest.mark.parametrize("what", BATCHES)
def test_no_batch_of_1_mib_holds_the_loop(what: str) -> None:
    """Hosts that have to be converted took 1.4 s, unknown fields 0.9 s."""
    status, step_s = longest_step_s(BATCHES[what], "/timers/batch")
    assert status in {200, 400, 422}
    assert step_s < MOST_S


async def test_the_runs_of_many_crons_are_found_in_many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand hard ones took 0.15 s, one after another."""
    pauses = 0

    async def pause(_: float) -> None:
        nonlocal pauses
        pauses += 1

    monkeypatch.setattr(clock, "sleep", pause)
    cron = Cron("0 0 29 2 MON", "Europe/Berlin")
    timer = NewTimer(TimerName("default", "a"), Spec("http://a/", cron))
    dues = await first_runs([timer] * 500, 1)
    assert len(dues) == 500
    assert all(isinstance(due, Instant) for due in dues)
    assert pauses == 500 / RUNS_AT_ONCE


@pytest.mark.parametrize("what", [what for what in TIMERS if "fields" in what or what in {"labels", "waits"}])
def test_errors_are_counted_before_they_are_built(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """130,000 were built, of which the answer lists 100."""
    built = 0
    field_error = validate._field_error

    def counted(details: Any) -> Any:
        nonlocal built
        built += 1
        return field_error(details)

    monkeypatch.setattr(validate, "_field_error", counted)
    status, _ = longest_step_s(TIMERS[what], "/timers")
    assert status == 422
    assert built <= MAX_ERRORS


def test_a_body_in_small_pieces_is_not_joined_again_and_again() -> None:
    """Each piece was joined with all before it: 17 GB were copied for 1 MiB in pieces of 32 bytes."""
    raw = TIMERS["escapes"]
    started_s = time.thread_time()
    status, _ = longest_step_s(raw, "/timers", chunk_bytes=32)
    assert status == 201
    assert time.thread_time() - started_s < 1.5
