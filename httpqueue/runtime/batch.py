"""Group commit: items submitted while one call is in flight share the next call."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from httpqueue import clock

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Joins concurrent submissions into batches. One batch is in flight at a time.

    flush: takes a batch and returns one result for each item, in the same order.
    max_items: the most items of a batch. max_bytes: the most bytes, by size_of; a larger item goes alone.
    gather_s: how long to wait for more items before a batch that is not full.

    When a batch fails, all its submissions fail with the same error. A submission that is cancelled while it
    waits is left out.
    """

    def __init__(
        self,
        flush: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]],
        *,
        max_items: int,
        max_bytes: int | None = None,
        size_of: Callable[[Item], int] = lambda _: 0,
        gather_s: float = 0,
    ) -> None:
        self._flush = flush
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._size_of = size_of
        self._gather_s = gather_s
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._runner: asyncio.Task[None] | None = None

    async def submit(self, item: Item) -> Result:
        """Wait for the batch with this item, and return the item's result. Raises what flush raised."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._runner is None:
            self._runner = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        try:
            while self._waiting:
                if self._gather_s and len(self._waiting) < self._max_items:
                    await clock.sleep(self._gather_s)
                await self._send(self._take())
        finally:
            self._runner = None

    def _take(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        size = 0
        while self._waiting and len(batch) < self._max_items:
            item, future = self._waiting[0]
            if self._max_bytes is not None and not future.done():
                size += self._size_of(item)
                if size > self._max_bytes and batch:
                    break
            self._waiting.popleft()
            if not future.done():
                batch.append((item, future))
        return batch

    async def _send(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        if not batch:
            return
        try:
            results = await self._flush([item for item, _ in batch])
            answers = list(zip(batch, results, strict=True))
        except Exception as error:  # noqa: BLE001 - each submitter must get the error, whatever it is
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), result in answers:
            if not future.done():
                future.set_result(result)
