"""The cursor of a list of timers: an opaque text for the place where the next page begins."""

import base64
import binascii
from typing import Final

import orjson

from httpqueue.api.problems import faulty_field
from httpqueue.timers.commands import Position
from httpqueue.timers.names import TimerName

MAX_DUE_MS: Final = 2**53
"""Redis scores are doubles: greater numbers are not exact there, and were not written by us."""


def encode_cursor(position: Position) -> str:
    """A position -> the text of next_cursor."""
    return (
        base64.urlsafe_b64encode(orjson.dumps([position.due_ms, *(position.name or ())])).decode().rstrip("=")
    )


def decode_cursor(text: str | None) -> Position | None:
    """The text of next_cursor -> its position; None: the beginning. Raises ProblemError (422)."""
    if text is None:
        return None
    try:
        match orjson.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)):
            case [int(due_ms), str(application), str(timer_id)] if abs(due_ms) <= MAX_DUE_MS:
                return Position(due_ms, TimerName(application, timer_id))
    except (ValueError, binascii.Error):
        pass
    raise faulty_field("cursor", "must be a next_cursor as it was given")
