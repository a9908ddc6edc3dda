"""Workers that die, or stand still for a while, between two things that they ask of Redis."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import Redis

from httpqueue.storage.queue import open_queue
from httpqueue.storage.storage import open_storage
from httpqueue.worker.slots import Slots
from tests.support.frozen import FrozenTime
from tests.support.keys import PARTITIONS
from tests.support.lines import Player


class KilledError(Exception):
    """The process is no more."""


class Fate:
    """What happens to a worker before the step of that number. Steps count from 0."""

    def __init__(self, at_step: int, meanwhile: Callable[[], Awaitable[object]] | None = None) -> None:
        """meanwhile: the worker stands still until this has happened. None: it dies."""
        self.has_struck = False
        self._steps_left = at_step
        self._meanwhile = meanwhile

    async def step(self) -> None:
        """The worker is about to ask something. Raises KilledError when it is dead."""
        if self.has_struck and self._meanwhile is None:
            raise KilledError
        self._steps_left -= 1
        if self._steps_left < 0 and not self.has_struck:
            self.has_struck = True
            if self._meanwhile is None:
                raise KilledError
            await self._meanwhile()


@asynccontextmanager
async def mortal_player(url: str, time: FrozenTime, slots: Slots, fate: Fate) -> AsyncIterator[Player]:
    """A worker whose every command to Redis is a step of its fate."""
    async with (
        open_storage(url, archive_error_rate=1e-6, partitions=PARTITIONS, now=time) as storage,
        open_queue(url, partitions=PARTITIONS, now=time) as queue,
    ):
        for client in (storage._redis, queue.redis):
            await client.ping()
            _make_mortal(client, fate)
        yield Player(storage, queue, slots)


def _make_mortal(client: Redis, fate: Fate) -> None:
    execute: Any = client.execute_command  # of this client alone
    pipeline = client.pipeline

    async def execute_command(*args: Any, **options: Any) -> Any:
        await fate.step()
        return await execute(*args, **options)

    def mortal_pipeline(*args: Any, **options: Any) -> Any:
        made: Any = pipeline(*args, **options)
        execute_all = made.execute

        async def execute_pipeline(*args: Any, **options: Any) -> Any:
            await fate.step()
            return await execute_all(*args, **options)

        made.execute = execute_pipeline
        return made

    vars(client).update(execute_command=execute_command, pipeline=mortal_pipeline)
