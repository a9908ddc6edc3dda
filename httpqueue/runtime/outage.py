"""Waits for a server that is away. Logs once when it goes and once when it is back."""

from typing import Final

import structlog

from httpqueue import clock
from httpqueue.errors import UnavailableError
from httpqueue.runtime.metrics import UNAVAILABLE

_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 2.0

log = structlog.get_logger()


class Outage:
    """An outage as one part of a process sees it. `part` names the part in logs and metrics."""

    def __init__(self, part: str) -> None:
        self._part = part
        self._pause_s = 0.0

    async def wait(self, error: UnavailableError) -> None:
        """A call failed: wait before the next one. The wait is 0.1 s at first, and doubles up to 2 s."""
        UNAVAILABLE.labels(self._part).inc()
        if not self._pause_s:
            log.error("redis.away", part=self._part, reason=str(error))
        self._pause_s = min(self._pause_s * 2 or _FIRST_PAUSE_S, _LONGEST_PAUSE_S)
        await clock.sleep(self._pause_s)

    def over(self) -> None:
        """A call succeeded: the outage, if there was one, is over."""
        if self._pause_s:
            log.info("redis.back", part=self._part)
            self._pause_s = 0.0
