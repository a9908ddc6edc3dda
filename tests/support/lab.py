"""A deployment to be broken: each part a process with a proxy of its own to each server, and a real receiver.

    async with a_lab(tmp_path) as lab:
        api, relay, worker = await lab.start("api", "relay", "worker")
        await lab.post("a", seconds=1)
        worker.kill()
        ...
        lab.sent("a")  # what the receiver got

What the receiver got decides; httpqueue's own figures do not.
"""

import asyncio
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from httpqueue.clock import monotonic_s, sleep
from httpqueue.timers.schedule import parse_instant_ms
from tests.support.keys import PARTITIONS, Everywhere
from tests.support.processes import HTTPQUEUE, Process, started
from tests.support.proxy import Proxy
from tests.support.receiver import Received, Receiver, Reply
from tests.support.valkey import Valkey

ATTEMPT_TIMEOUT_S: Final = 2
"""Leases last 15 s longer."""
TAKEN_OVER_S: Final = 40
"""What a dead worker or relay leaves, another has by then: a lease or 30 s, and a sweep."""
LOOK_S: Final = 0.05
LOG_LINES: Final = 200
BATCH: Final = 1_000
SKEWED: Final = (sys.executable, str(Path(__file__).with_name("skewed.py")))
"""The command with the seams of tests/support/skewed.py."""


@dataclass(frozen=True)
class Sent:
    """A webhook as the receiver got it."""

    timer_id: str
    webhook_id: str
    attempt: int
    arrived_ms: int


class Part:
    """A process of httpqueue, its way to the store and its way to the queue."""

    def __init__(self, name: str, process: Process, store: Proxy, queue: Proxy) -> None:
        self.name = name
        self.process = process
        self.store = store
        self.queue = queue
        self.client: httpx.AsyncClient | None = None
        """Of its API."""

    @property
    def api(self) -> httpx.AsyncClient:
        """The client of its API."""
        assert self.client is not None
        return self.client

    def freeze(self) -> None:
        """SIGSTOP."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)

    async def kill(self) -> None:
        """SIGKILL."""
        if self.process.is_running:
            self.process.send_signal(signal.SIGKILL)
        await self.process.wait()
        for proxy in (self.store, self.queue):
            proxy.release()

    def logged(self, name: str) -> list[dict[str, Any]]:
        """What it logged under that name so far."""
        return [event for event in self.process.events() if event["event"] == name]


class Lab:
    """The servers, the receiver, and the parts that run."""

    def __init__(self, directory: Path, stack: AsyncExitStack, store: Valkey, queue: Valkey) -> None:
        self.directory = directory
        self.store = store
        self.queue = queue
        self.receiver = Receiver()
        self.parts: list[Part] = []
        self.due_ms: dict[str, int] = {}
        """{timer: when it is due}, of all timers whose POST was acknowledged."""
        self._stack = stack

    # --- parts ---

    async def start(
        self,
        *names: str,
        command: Sequence[str] = HTTPQUEUE,
        environment: Sequence[str] = (),
        is_ready: bool = True,
        **settings: Any,
    ) -> list[Part]:
        """Start these parts; they are ready when this returns. environment: more variables, NAME=value.

        is_ready: False for parts that will not start.
        """
        parts = [await self._start(name, command, environment, settings) for name in names]
        if not is_ready:
            return parts
        await asyncio.gather(*(part.process.until_ready() for part in parts))
        for part in parts:
            if part.name == "api":
                client = httpx.AsyncClient(base_url=part.process.url, timeout=30)
                part.client = await self._stack.enter_async_context(client)
        return parts

    async def _start(
        self, name: str, command: Sequence[str], environment: Sequence[str], settings: dict[str, Any]
    ) -> Part:
        store = await self._stack.enter_async_context(Proxy(self.store.url))
        queue = store
        servers = {"redis_url": store.url}
        if self.queue is not self.store:
            queue = await self._stack.enter_async_context(Proxy(self.queue.url))
            servers["broker_redis_url"] = queue.url
        all_settings = {
            "egress": "private",
            "attempt_timeout": f"{ATTEMPT_TIMEOUT_S}s",
            "backoff_base": "100ms",
            "backoff_max": "1s",
            **servers,
            **settings,
        }
        whole = ("env", *environment, *command, name)
        process = await self._stack.enter_async_context(started(*whole, cwd=self.directory, **all_settings))
        part = Part(name, process, store, queue)
        self.parts.append(part)
        return part

    def alive(self) -> list[str]:
        """The names of the parts that run."""
        return [part.name for part in self.parts if part.process.is_running]

    @property
    def api(self) -> httpx.AsyncClient:
        """A client of the first API that runs."""
        return next(part.api for part in self.parts if part.client and part.process.is_running)

    # --- timers ---

    async def post(self, timer_id: str, *, status: int = 201, **members: Any) -> dict[str, Any]:
        """POST /timers, due at once and to the receiver unless said otherwise -> its answer."""
        response = await self.api.post("/timers", json=self.timer(timer_id, **members))
        assert response.status_code == status, response.text
        answer: dict[str, Any] = response.json()
        if "due" in answer:
            self.note(timer_id, answer)
        return answer

    def note(self, timer_id: str, answer: dict[str, Any]) -> None:
        """A timer is acknowledged."""
        self.due_ms[timer_id] = parse_instant_ms(answer["due"])

    async def post_all(self, ids: Iterable[str], **members: Any) -> None:
        """The same for many, in batches."""
        left = list(ids)
        while left:
            batch, left = left[:BATCH], left[BATCH:]
            timers = [self.timer(timer_id, **members) for timer_id in batch]
            response = await self.api.post("/timers/batch", json={"timers": timers})
            assert response.status_code == 200, response.text
            for answer in response.json()["results"]:
                assert answer["status"] == 201, answer
                self.note(answer["id"], answer)

    def timer(self, timer_id: str, **members: Any) -> dict[str, Any]:
        """The JSON of such a timer."""
        timer = {"id": timer_id, "url": f"{self.receiver.url}/{timer_id}", **members}
        return timer if {"seconds", "fire_at", "cron"} & timer.keys() else timer | {"seconds": 0}

    async def get(self, timer_id: str) -> dict[str, Any]:
        """GET /timers/{id}."""
        response = await self.api.get(f"/timers/{timer_id}")
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    async def until(
        self, timer_id: str, *statuses: str, timeout_s: float = 2 * TAKEN_OVER_S
    ) -> dict[str, Any]:
        """The timer, as soon as it has one of these statuses."""
        async with asyncio.timeout(timeout_s):
            while (timer := await self.get(timer_id))["status"] not in statuses:
                await sleep(LOOK_S)
        return timer

    async def until_that(
        self, condition: Callable[[], Awaitable[bool]], *, timeout_s: float = 2 * TAKEN_OVER_S
    ) -> None:
        """As soon as that holds: asked again and again."""
        async with asyncio.timeout(timeout_s):
            while not await condition():
                await sleep(LOOK_S)

    async def until_answered(self, *, within_s: float) -> float:
        """Post timers that are due at once, until the receiver gets one. Returns how many s that took."""
        since_s = monotonic_s()
        ids: set[str] = set()
        async with asyncio.timeout(within_s):
            while not any(sent.timer_id in ids for sent in self.all_sent()):
                timer_id = f"probe-{len(ids)}-{since_s}"
                response = await self.api.post("/timers", json=self.timer(timer_id))
                if response.status_code == httpx.codes.CREATED:
                    ids.add(timer_id)
                    self.note(timer_id, response.json())
                await sleep(LOOK_S)
        return monotonic_s() - since_s

    async def until_settled(self, *, timeout_s: float = 2 * TAKEN_OVER_S) -> None:
        """Until no timer is scheduled or running."""

        async def is_settled() -> bool:
            counts = await self.counts()
            return not counts["s"] and not counts["r"]

        await self.until_that(is_settled, timeout_s=timeout_s)

    async def until_queued(self, count: int, *, timeout_s: float = 2 * TAKEN_OVER_S) -> None:
        """Until the queue holds at least so many wake-ups."""

        async def is_queued() -> bool:
            return await self.queued() >= count

        await self.until_that(is_queued, timeout_s=timeout_s)

    async def until_queue_is_empty(self) -> None:
        """Until the workers have seen every wake-up."""

        async def is_empty() -> bool:
            return await self.queued() == 0

        await self.until_that(is_empty)

    async def queued(self) -> int:
        """How many wake-ups the queue holds."""
        async with self.queue.client() as redis:
            return sum([await redis.zcard(keys.queue) for keys in PARTITIONS.queue_keys])

    async def counts(self) -> Counter[str]:
        """{state letter: how many timers}, of all applications."""
        counts: Counter[str] = Counter()
        async with self.store.client() as redis:
            for field, count in (await Everywhere(redis).hash("counts")).items():
                name, _, what = field.rpartition(":")
                if name and what != "b":  # no bytes, and not what is counted of all applications together
                    counts[what] += count
        return counts

    # --- what the receiver got ---

    def all_sent(self) -> list[Sent]:
        """Everything, in the order in which it arrived."""
        return [_sent(request) for request in self.receiver.requests]

    def sent(self, timer_id: str) -> list[Sent]:
        """What it got of one timer."""
        return [sent for sent in self.all_sent() if sent.timer_id == timer_id]

    async def until_sent(
        self, ids: Collection[str], *, times: int = 1, timeout_s: float = 2 * TAKEN_OVER_S
    ) -> None:
        """Until the receiver got each of these timers so often."""
        counts: Counter[str] = Counter()
        seen = 0
        async with asyncio.timeout(timeout_s):
            while any(counts[timer_id] < times for timer_id in ids):
                if seen == len(self.receiver.requests):
                    await self.receiver.wait_for(seen + 1, timeout_s=timeout_s)
                counts.update(_sent(request).timer_id for request in self.receiver.requests[seen:])
                seen = len(self.receiver.requests)

    async def until_more_is_sent(self, count: int) -> None:
        """Until the receiver got so many more."""
        await self.receiver.wait_for(len(self.receiver.requests) + count, timeout_s=2 * TAKEN_OVER_S)

    def check(self, *, twice: Collection[str] = (), unknown: Collection[str] = ()) -> None:
        """Nothing is lost, nothing came early, and only these may have come twice, with the same webhook-id.

        unknown: timers whose POST was not acknowledged. They may have come or not.
        """
        by_timer: dict[str, list[Sent]] = {}
        for sent in self.all_sent():
            by_timer.setdefault(sent.timer_id, []).append(sent)
        lost = self.due_ms.keys() - by_timer.keys()
        assert not lost, f"{len(lost)} are lost: {sorted(lost)[:10]}"
        strangers = by_timer.keys() - self.due_ms.keys() - {*unknown}
        assert not strangers, f"nobody posted {sorted(strangers)[:10]}"
        early = {
            timer_id: self.due_ms[timer_id] - each[0].arrived_ms
            for timer_id, each in by_timer.items()
            if timer_id in self.due_ms and each[0].arrived_ms < self.due_ms[timer_id]
        }
        assert not early, f"{len(early)} came early, by ms: {dict(sorted(early.items())[:10])}"
        again = {timer_id: len(each) for timer_id, each in by_timer.items() if len(each) > 1}
        unexplained = again.keys() - {*twice}
        assert not unexplained, f"{len(unexplained)} came twice: {sorted(unexplained)[:10]}"
        for timer_id in again:
            assert len({sent.webhook_id for sent in by_timer[timer_id]}) == 1, by_timer[timer_id]

    def print_logs(self) -> None:
        """What each part had to say, for whoever looks into a test that failed."""
        for number, part in enumerate(self.parts):
            for line in part.process.stderr[-LOG_LINES:]:
                print(f"{part.name} {number}: {line}")  # noqa: T201 - shown when the test fails

    async def end(self) -> None:
        """End all parts that still run, with SIGTERM, which each takes as a clean end without a traceback."""
        parts = [part for part in self.parts if part.process.is_running]
        codes = await asyncio.gather(*(part.process.end() for part in parts))
        assert codes == [0] * len(parts), [(part.name, part.process.stderr[-3:]) for part in parts]
        for part in parts:
            bugs = [line for line in part.process.stderr if "Traceback" in line or '"worker.bug"' in line]
            assert not bugs, (part.name, bugs[:1])


def _sent(request: Received) -> Sent:
    webhook_id = request.header("webhook-id") or ""
    _, _, rest = webhook_id.partition(":")
    timer_id, _, _ = rest.partition(":")
    return Sent(timer_id, webhook_id, int(request.header("httpqueue-attempt") or 0), request.arrived_ms)


@asynccontextmanager
async def a_lab(
    directory: Path, *, has_own_queue: bool = False, keeps_queue: bool = False
) -> AsyncIterator[Lab]:
    """A lab without parts. has_own_queue: on a server of its own; keeps_queue: which keeps its data."""
    async with AsyncExitStack() as stack:
        store = stack.enter_context(Valkey(directory / "store"))
        queue = store
        if has_own_queue:
            queue = stack.enter_context(Valkey(directory / "queue", persistent=keeps_queue))
        lab = Lab(directory, stack, store, queue)
        await stack.enter_async_context(lab.receiver)
        lab.receiver.answer(Reply())
        try:
            yield lab
            await lab.end()
        except BaseException:
            lab.print_logs()
            raise
