"""Waits for a server that is away. A process logs once when it goes and once when it is back.

No part of a process dies of an error: what is no outage is a bug; it is logged, and the part goes on.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final
from weakref import WeakSet

import structlog

from httpqueue import clock
from httpqueue.errors import RefusedError, UnavailableError
from httpqueue.runtime.metrics import AWAY, BUGS, UNAVAILABLE
from httpqueue.runtime.part import run_until

_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 1.0

_away: Final["WeakSet[Outage]"] = WeakSet()
"""The parts of this process that a server does not answer."""
_refused: Final["WeakSet[Outage]"] = WeakSet()
"""Those whose work a server refuses. A part may have several, one for each partition."""

log = structlog.get_logger()


class Outage:
    """An outage as one part of a process sees it. `part` names the part in logs and metrics."""

    def __init__(self, part: str) -> None:
        self.part = part
        self._pause_s = 0.0
        self._said = ""

    async def wait(self, error: Exception) -> None:
        """A call failed: wait before the next one, as long as `pause_s` says."""
        await clock.sleep(self.pause_s(error))

    def pause_s(self, error: Exception) -> float:
        """A call failed: note it. Returns how long to wait before the next one: 0.1 s, doubled up to 1 s.

        An error that is no UnavailableError is a bug, and logged as such.
        """
        self.note(error)
        self._pause_s = min(self._pause_s * 2 or _FIRST_PAUSE_S, _LONGEST_PAUSE_S)
        return self._pause_s

    def note(self, error: Exception) -> None:
        """A call failed: count it, and say so if that is news.

        The whole process says once that a server is away, and each part once that it refuses to work. A bug
        is said again when it looks different.
        """
        if not isinstance(error, UnavailableError):
            BUGS.labels(self.part).inc()
            if self._said != repr(error):
                log.error("run.bug", part=self.part, exc_info=error)
            self._said = repr(error)
            return
        UNAVAILABLE.labels(self.part).inc()
        is_away = not isinstance(error, RefusedError)
        is_news = not _away if is_away else not any(each.part == self.part for each in _refused)
        self._note_away(is_away=is_away)
        self._said = "away" if is_away else "refused"
        if not is_away:
            _refused.add(self)
        if is_news:
            log.error("redis.away", part=self.part, reason=str(error))

    def over(self) -> None:
        """A call succeeded: the outage, if there was one, is over."""
        if not self._said:
            return
        was_away = self in _away
        self._note_away(is_away=False)
        was_refused = self in _refused
        _refused.discard(self)
        others = any(each.part == self.part for each in _refused)
        if (was_refused and not others) or (was_away and not _away):
            log.info("redis.back", part=self.part)
        self._said, self._pause_s = "", 0.0

    def _note_away(self, *, is_away: bool) -> None:
        if is_away:
            _refused.discard(self)
            _away.add(self)
        else:
            _away.discard(self)
        AWAY.set(len(_away))


async def keep_doing(
    one_pass: Callable[[], Awaitable[object]],
    part: str,
    pause_s: Callable[[], float],
    stopping: asyncio.Event,
) -> None:
    """Do it again and again, with pauses, whatever goes wrong. Set `stopping` to end it after a pass."""
    outage = Outage(part)
    while not stopping.is_set():
        try:
            await one_pass()
        except Exception as error:  # noqa: BLE001 - no part dies of an error
            await run_until(stopping, outage.wait(error))
        else:
            outage.over()
            seconds = pause_s()
            if seconds:
                await run_until(stopping, clock.sleep(seconds))


async def keep_listening(
    listen: Callable[[Callable[[int], None]], Awaitable[None]], tell: Callable[[int], None], part: str
) -> None:
    """Listen to a channel until cancelled: after an error again. `tell` gets what is heard."""
    outage = Outage(part)

    def heard(partition: int) -> None:
        outage.over()
        tell(partition)

    while True:
        try:
            await listen(heard)
        except Exception as error:  # noqa: BLE001 - no part dies of an error
            await outage.wait(error)
