"""The clients: they post, change and cancel timers as planned, and repeat what got no answer."""

import asyncio
from collections.abc import Coroutine, Sequence
from itertools import groupby
from types import TracebackType
from typing import Any, Final, Self

import httpx

from httpqueue.clock import now_ms, sleep
from httpqueue.timers.schedule import format_instant
from tests.soak.events import Log, Timer
from tests.soak.plan import APIS, Order
from tests.soak.receivers import Hook
from tests.soak.stage import Stage

CLIENT_TIMEOUT_S: Final = 8.0
"""An API says 503 earlier."""
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 1.0
CONNECTIONS: Final = 30
"""To each API."""
TRY_AGAIN: Final = frozenset({429, 503})
RUNNING_PAUSE_S: Final = 0.1
CRON: Final = "* * * * *"
RETRY: Final = {"base": 0.2, "max": 4, "max_attempts": 1_000}
"""No receiver misbehaves for long enough to fail a timer."""


class Load:
    """Plays the orders of a plan."""

    def __init__(self, stage: Stage, hooks: dict[str, Hook], log: Log) -> None:
        self._stage = stage
        self._hooks = hooks
        self._log = log
        self._clients = {name: _Client() for name in APIS}
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = 0
        self.retries = 0
        """How many requests were made again."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(client.http.aclose() for client in self._clients.values()))

    @property
    def in_flight(self) -> int:
        """How many orders are being played."""
        return len(self._tasks)

    async def play(self, orders: Sequence[Order]) -> None:
        """Start each order at its time. All are answered, down to the last cancel, when this returns."""
        for _, group in groupby(orders, key=lambda order: order.id if order.batch < 0 else order.batch):
            together = tuple(group)
            await self._until(together[0].at_ms)
            self._spawn(self._post_batch(together) if together[0].batch >= 0 else self._play(together[0]))
        while self._tasks:
            await asyncio.wait(self._tasks)
            await sleep(0)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._log.findings.append(f"a client failed: {task.exception()!r}")

    async def _until(self, at_ms: int) -> None:
        left_ms = self._log.start_ms + at_ms - now_ms()
        if left_ms > 0:
            await sleep(left_ms / 1000)

    # --- one order ---

    async def _play(self, order: Order) -> None:
        timer = self._noted(order)
        status, answer = await self._ask(order.application, "POST", "/timers", self._content(order))
        if status not in (200, 201):
            self._log.findings.append(f"POST of {order.id}: {status} {answer}")
            return
        timer.acknowledged_ms = now_ms()
        if order.update_at_ms is not None:
            await self._until(order.update_at_ms)
            await self._update(order, timer)
        if order.cancel_at_ms is not None:
            await self._until(order.cancel_at_ms)
            await self._cancel(order, timer)

    async def _post_batch(self, orders: Sequence[Order]) -> None:
        timers = [self._noted(order) for order in orders]
        # A key belongs to one application.
        for application in sorted({order.application for order in orders}):
            mine = [
                (order, timer)
                for order, timer in zip(orders, timers, strict=True)
                if order.application == application
            ]
            while mine:
                items = [self._content(order) for order, _ in mine]
                _, answer = await self._ask(application, "POST", "/timers/batch", {"timers": items})
                left = []
                for (order, timer), result in zip(mine, answer["results"], strict=True):
                    if result["status"] in (200, 201):
                        timer.acknowledged_ms = now_ms()
                    elif result["status"] in TRY_AGAIN:
                        left.append((order, timer))
                    else:
                        self._log.findings.append(f"POST of {order.id} in a batch: {result}")
                mine = left

    async def _update(self, order: Order, timer: Timer) -> None:
        due_ms = self._log.start_ms + order.update_due_ms
        timer.due_ms.append(due_ms)
        timer.update_asked_ms = now_ms()
        content = {"fire_at": format_instant(due_ms), "body": {"version": 1}}
        status, answer = await self._ask_until_settled(order, "PATCH", content)
        if status == 200:
            timer.updated_ms = now_ms()
        elif status != 409:
            self._log.findings.append(f"PATCH of {order.id}, which was acknowledged: {status} {answer}")

    async def _cancel(self, order: Order, timer: Timer) -> None:
        timer.cancel_asked_ms = now_ms()
        status, answer = await self._ask_until_settled(order, "DELETE", None)
        if status == 200 and answer.get("status") == "cancelled":
            timer.cancelled_ms = now_ms()
        elif status == 409:
            timer.cancel_refused = True
        else:
            self._log.findings.append(f"DELETE of {order.id}, which was acknowledged: {status} {answer}")

    async def _ask_until_settled(self, order: Order, method: str, content: Any) -> tuple[int, Any]:
        """Ask again while the timer runs: it may be waiting for its next attempt soon."""
        while True:
            status, answer = await self._ask(order.application, method, f"/timers/{order.id}", content)
            if status != 409 or answer.get("timer_status") != "running":
                return status, answer
            await sleep(RUNNING_PAUSE_S)

    def _noted(self, order: Order) -> Timer:
        timer = Timer(
            order.id,
            order.application,
            [self._log.start_ms + order.due_ms],
            lane=order.lane,
            is_recurring=order.is_recurring,
            asked_ms=now_ms(),
        )
        self._log.timers[order.id] = timer
        return timer

    def _content(self, order: Order) -> dict[str, Any]:
        due_ms = self._log.start_ms + order.due_ms
        schedule = {"cron": CRON} if order.is_recurring else {"fire_at": format_instant(due_ms)}
        return {
            "id": order.id,
            "url": f"{self._hooks[order.application].url}/{order.id}",
            "body": {"version": 0, "takes_ms": order.takes_ms},
            "retry": RETRY,
            **schedule,
            **({"ordering_key": order.lane} if order.lane else {}),
        }

    async def _ask(self, application: str, method: str, path: str, content: Any) -> tuple[int, Any]:
        """Ask one API after another until there is an answer that repeating would not change."""
        pause_s = FIRST_PAUSE_S
        while True:
            outcome, response = await self._ask_once(application, method, path, content)
            self._count(method, outcome)
            if response is not None:
                return response.status_code, response.json()
            self.retries += 1
            await sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _ask_once(
        self, application: str, method: str, path: str, content: Any
    ) -> tuple[str, httpx.Response | None]:
        """What came of it, and the answer if it is final."""
        name = self._next_api()
        if name is None:
            return "no API", None
        client, headers = self._clients[name], {"X-API-Key": self._stage.keys[application]}
        async with client.room:
            url = self._stage.parts[name].url
            if url is None:
                return "no API", None
            try:
                response = await client.http.request(method, url + path, json=content, headers=headers)
            except httpx.HTTPError as error:
                return type(error).__name__, None
        is_final = response.status_code < 500 and response.status_code not in TRY_AGAIN
        if response.status_code >= 500 and response.status_code not in TRY_AGAIN:
            self._log.findings.append(f"{method} {path}: {response.status_code} {response.text[:200]}")
        return str(response.status_code), response if is_final else None

    def _next_api(self) -> str | None:
        """The one whose turn it is, if it is there and not busy; else another."""
        self._turn += 1
        names = [APIS[(self._turn + number) % len(APIS)] for number in range(len(APIS))]
        there = [name for name in names if self._stage.parts[name].url is not None]
        free = [name for name in there if not self._clients[name].room.locked()]
        return next(iter(free or there), None)

    def _count(self, method: str, outcome: str) -> None:
        name = f"{method} {outcome}"
        self._log.answers[name] = self._log.answers.get(name, 0) + 1


class _Client:
    """Of one API. httpx slows down when many requests wait in its pool, so they wait before it."""

    def __init__(self) -> None:
        self.http = httpx.AsyncClient(
            timeout=CLIENT_TIMEOUT_S, limits=httpx.Limits(max_connections=CONNECTIONS), trust_env=False
        )
        self.room = asyncio.Semaphore(CONNECTIONS)
