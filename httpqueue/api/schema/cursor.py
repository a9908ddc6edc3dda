"""The cursor of a list of timers: an opaque text for the place where the next page begins."""

import base64
import binascii
from typing import Final

from httpqueue.api.problems import faulty_field
from httpqueue.timers.commands import Position
from httpqueue.timers.names import TimerName

_MAX_DIGITS: Final = 17
"""Such a number fits into 64 bits, which is what Redis takes."""


def encode_cursor(position: Position) -> str:
    """A position -> the text of next_cursor."""
    return base64.urlsafe_b64encode(f"{position.due_ms}:{position.name}".encode()).decode().rstrip("=")


def decode_cursor(text: str | None) -> Position | None:
    """The text of next_cursor -> its position; None: the beginning. Raises ProblemError (422)."""
    if text is None:
        return None
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode()
        due_ms, application, timer_id = raw.split(":")
        if len(due_ms) <= _MAX_DIGITS:
            return Position(int(due_ms), TimerName(application, timer_id))
    except (ValueError, binascii.Error):
        pass
    raise faulty_field("cursor", "must be a next_cursor as it was given")
