"""The audit log, kept in two streams: changes of timers, and of settings.

Whoever makes very many timers pushes old changes of timers out of the log, but none of what an admin did.
"""

from collections.abc import Sequence
from typing import Final

from redis.asyncio import Redis

from httpqueue.storage.connection import redis_errors
from httpqueue.storage.keys import audit_keys
from httpqueue.storage.scripts import Script, pack
from httpqueue.timers.audit import AuditEntry, AuditPage, AuditPosition

KEPT: Final = 100_000
"""How many changes each stream keeps, at least. One takes some 50 to 100 bytes."""
LOOK: Final = 1_000
"""How many entries of a stream one page reads to find those of an application."""

_BEGINNING: Final = AuditPosition("+", "+")
_END: Final = "-"

_Raw = tuple[bytes, dict[bytes, bytes]]


class Audit:
    """Writes and reads the log. Methods raise UnavailableError when the server is away."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._keys = audit_keys()
        self._append = Script(redis, "audit", [self._keys])

    async def append(self, entries: Sequence[AuditEntry]) -> None:
        """Write changes down, in this order."""
        await self._append(0, KEPT, pack(_flat(entries)))

    async def page(self, position: AuditPosition | None, *, limit: int, application: str | None) -> AuditPage:
        """The latest entries from there on. A page may be short although there are more.

        application: only its entries; None: all entries.
        """
        start = position or _BEGINNING
        look = limit if application is None else LOOK
        with redis_errors():
            pipeline = self._redis.pipeline(transaction=False)
            for key, before in zip((self._keys.timers, self._keys.settings), start, strict=True):
                # "(": without that id itself
                newest = before if before == "+" else f"({before}"
                pipeline.xrevrange(key, newest, _END, count=look)
            found: list[list[_Raw]] = await pipeline.execute()
        return _merged(found, start, look=look, limit=limit, application=application)


def _flat(entries: Sequence[AuditEntry]) -> list[bool | str]:
    return [part for entry in entries for part in (entry.is_setting, _text(entry))]


def _merged(
    found: Sequence[list[_Raw]], start: AuditPosition, *, look: int, limit: int, application: str | None
) -> AuditPage:
    """Both streams together, the latest first, up to the limit or to what has not been read."""
    entries: list[AuditEntry] = []
    places = list(start)
    taken = [0, 0]
    while len(entries) < limit:
        left = [stream for stream in (0, 1) if taken[stream] < len(found[stream])]
        is_cut = any(taken[stream] == len(found[stream]) == look for stream in (0, 1))
        if not left or is_cut:
            break
        stream = max(left, key=lambda each: _order(found[each][taken[each]][0]))
        raw_id, fields = found[stream][taken[stream]]
        taken[stream] += 1
        places[stream] = raw_id.decode()
        entry = _entry(raw_id, fields, is_setting=stream == 1)
        if entry is not None and application in {None, entry.application}:
            entries.append(entry)
    has_more = any(taken[stream] < len(found[stream]) or len(found[stream]) == look for stream in (0, 1))
    return AuditPage(entries, AuditPosition(*places) if has_more else None)


def _order(stream_id: bytes) -> tuple[int, int]:
    ms, _, number = stream_id.partition(b"-")
    return int(ms), int(number)


def _text(entry: AuditEntry) -> str:
    """One text, because each further field costs Redis half a microsecond. No part has a space."""
    parts = (entry.action, entry.application, entry.target, str(entry.status), entry.key_id)
    text = " ".join(parts)
    if text.count(" ") >= len(parts):  # what came with a request that failed may be anything
        text = " ".join(part.replace(" ", "+") for part in parts)
    return text


def _entry(raw_id: bytes, fields: dict[bytes, bytes], *, is_setting: bool) -> AuditEntry | None:
    """None: it is no entry of ours."""
    try:
        action, application, target, status, key_id = fields[b"change"].decode().split(" ")
        return AuditEntry(
            key_id, action, application, target, int(status), is_setting=is_setting, at_ms=_order(raw_id)[0]
        )
    except (KeyError, ValueError):
        return None
