"""A Call for HTTP clients that only have coroutines: it runs one in a task."""

import asyncio
from collections.abc import Coroutine

from httpqueue.webhooks.client.sender import OnDone
from httpqueue.webhooks.message import Response, SendError


class TaskCall:
    """Runs one call in a task, then calls on_done."""

    def __init__(self, call: Coroutine[None, None, Response], on_done: OnDone) -> None:
        self.written = True  # not known, so the safe answer
        self._task = asyncio.create_task(self._run(call, on_done))

    def cancel(self) -> None:
        """See Call."""
        self._task.cancel()

    @staticmethod
    async def _run(call: Coroutine[None, None, Response], on_done: OnDone) -> None:
        result: Response | SendError
        try:
            result = await call
        except SendError as error:
            result = error
        on_done(result)
