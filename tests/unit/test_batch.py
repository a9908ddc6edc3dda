"""Group commit."""

import asyncio
from collections.abc import Sequence

import pytest

from httpqueue.runtime.batch import Batcher


class Flush:
    """A call that is answered when the test says so; it doubles the numbers it is given."""

    def __init__(self) -> None:
        self.calls: asyncio.Queue[tuple[list[int], asyncio.Future[list[int]]]] = asyncio.Queue()

    async def __call__(self, items: Sequence[int]) -> list[int]:
        """One call, not answered yet."""
        answer: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        await self.calls.put((list(items), answer))
        return await answer

    async def next(self) -> tuple[list[int], asyncio.Future[list[int]]]:
        """The next call's items, and where its answer goes."""
        return await self.calls.get()

    async def serve(self) -> list[int]:
        """Answer the next call; its items."""
        items, answer = await self.next()
        answer.set_result([2 * item for item in items])
        return items


class Submitters:
    """Tasks that submit to one batcher, in the order they were made."""

    def __init__(self, flush: Flush, *, max_items: int = 100, max_bytes: int | None = None) -> None:
        self.batcher = Batcher(flush, max_items=max_items, max_bytes=max_bytes, size_of=lambda item: item)

    async def submit(self, *items: int) -> list[asyncio.Task[int]]:
        """Every item is waiting or in flight when this returns."""
        tasks = [asyncio.create_task(self.batcher.submit(item)) for item in items]
        ready = asyncio.Event()
        asyncio.get_running_loop().call_soon(ready.set)  # after the first steps of the tasks above
        await ready.wait()
        return tasks


async def test_alone() -> None:
    """A submission with no other around is sent at once, and answered with its own result."""
    flush = Flush()
    (task,) = await Submitters(flush).submit(1)
    assert await flush.serve() == [1]
    assert await task == 2


async def test_together_while_one_is_in_flight() -> None:
    """What comes while a call is in flight waits for it, and goes into the next one in its order."""
    flush = Flush()
    submitters = Submitters(flush)
    first = await submitters.submit(1)
    items, answer = await flush.next()
    others = await submitters.submit(2, 3, 4)
    assert items == [1]
    assert flush.calls.empty()
    answer.set_result([2])
    assert await flush.serve() == [2, 3, 4]
    assert await asyncio.gather(*first, *others) == [2, 4, 6, 8]


async def test_not_answered_before_its_own_batch() -> None:
    """The batch before does not answer for those that wait."""
    flush = Flush()
    submitters = Submitters(flush)
    (first,) = await submitters.submit(1)
    _, answer = await flush.next()
    (second,) = await submitters.submit(2)
    answer.set_result([2])
    await first
    assert not second.done()
    await flush.serve()
    assert await second == 4


async def test_max_items() -> None:
    """More than max_items take several calls."""
    flush = Flush()
    tasks = await Submitters(flush, max_items=2).submit(1, 2, 3, 4, 5)
    assert [await flush.serve() for _ in range(3)] == [[1, 2], [3, 4], [5]]
    assert await asyncio.gather(*tasks) == [2, 4, 6, 8, 10]


async def test_max_bytes() -> None:
    """A batch is full when the next item would make it too large; one that is too large alone goes alone."""
    flush = Flush()
    submitters = Submitters(flush, max_bytes=10)
    tasks = await submitters.submit(4, 6, 1, 11, 12, 3, 7, 1)
    batches = [await flush.serve() for _ in range(5)]
    assert batches == [[4, 6], [1], [11], [12], [3, 7]]
    assert await flush.serve() == [1]
    assert await asyncio.gather(*tasks) == [8, 12, 2, 22, 24, 6, 14, 2]


async def test_cancelled_ones_take_no_room() -> None:
    """They are not sent."""
    flush = Flush()
    submitters = Submitters(flush, max_bytes=10)
    await submitters.submit(1)
    _, answer = await flush.next()
    tasks = await submitters.submit(9, 5, 5)
    tasks[0].cancel()
    await asyncio.wait(tasks[:1])
    answer.set_result([2])
    assert await flush.serve() == [5, 5]


async def test_again_after_a_rest() -> None:
    """When nothing was left to do, the next submission starts it again."""
    flush = Flush()
    submitters = Submitters(flush)
    for item in (1, 2, 3):
        (task,) = await submitters.submit(item)
        assert await flush.serve() == [item]
        assert await task == 2 * item


async def test_error() -> None:
    """An error reaches every submission of its batch, and none of the next."""
    flush = Flush()
    submitters = Submitters(flush, max_items=2)
    failed = await submitters.submit(1, 2, 3)
    _, answer = await flush.next()
    error = ConnectionError("away")
    answer.set_exception(error)
    assert await flush.serve() == [3]
    assert await asyncio.gather(*failed, return_exceptions=True) == [error, error, 6]


@pytest.mark.parametrize("answers", [[], [2], [2, 4, 6]])
async def test_wrong_number_of_answers(answers: list[int]) -> None:
    """Answers that cannot be told apart are an error for all, and the next batch goes on."""
    flush = Flush()
    submitters = Submitters(flush, max_items=2)
    tasks = await submitters.submit(1, 2, 3)
    _, answer = await flush.next()
    answer.set_result(answers)
    assert await flush.serve() == [3]
    first, second, third = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(first, ValueError)
    assert isinstance(second, ValueError)
    assert third == 6


async def test_cancelled_while_waiting() -> None:
    """A submission cancelled before its batch went is left out."""
    flush = Flush()
    submitters = Submitters(flush)
    await submitters.submit(1)
    _, answer = await flush.next()
    tasks = await submitters.submit(2, 3, 4)
    tasks[1].cancel()
    await asyncio.wait(tasks[1:2])
    answer.set_result([2])
    assert await flush.serve() == [2, 4]
    del tasks[1]
    assert await asyncio.gather(*tasks) == [4, 8]


async def test_all_cancelled_while_waiting() -> None:
    """When nobody waits any longer there is no call."""
    flush = Flush()
    submitters = Submitters(flush)
    (first,) = await submitters.submit(1)
    _, answer = await flush.next()
    (second,) = await submitters.submit(2)
    second.cancel()
    await asyncio.wait([second])
    answer.set_result([2])
    await first
    (third,) = await submitters.submit(3)
    assert await flush.serve() == [3]
    assert await third == 6


@pytest.mark.parametrize("fails", [False, True])
async def test_cancelled_in_flight(*, fails: bool) -> None:
    """A submission cancelled while its call is in flight does not disturb its neighbours."""
    flush = Flush()
    tasks = await Submitters(flush).submit(1, 2)
    _, answer = await flush.next()
    tasks[0].cancel()
    await asyncio.wait(tasks[:1])
    if fails:
        answer.set_exception(ConnectionError("away"))
        with pytest.raises(ConnectionError):
            await tasks[1]
    else:
        answer.set_result([2, 4])
        assert await tasks[1] == 4
    assert tasks[0].cancelled()


async def test_a_batch_waits_for_company(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a gather time, what comes within it shares the call; a full batch does not wait."""
    batches: list[list[int]] = []
    pauses: list[float] = []
    over = asyncio.Event()

    async def flush(items: Sequence[int]) -> list[int]:
        batches.append(list(items))
        return list(items)

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        await over.wait()

    monkeypatch.setattr("httpqueue.clock.sleep", pause)
    batcher = Batcher(flush, max_items=3, gather_s=0.5)
    first = asyncio.create_task(batcher.submit(1))
    await asyncio.wait({asyncio.create_task(batcher.submit(2))}, timeout=0)
    assert batches == []
    over.set()
    assert await first == 1
    assert batches == [[1, 2]]
    assert pauses == [0.5]
    assert await asyncio.gather(*(batcher.submit(number) for number in range(3))) == [0, 1, 2]
    assert pauses == [0.5]
