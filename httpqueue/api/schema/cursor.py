"""The cursor of a list of timers: an opaque text for the place where the next page begins."""

import base64
import binascii
from typing import Final

from httpqueue.api.problems import faulty_field
from httpqueue.timers.commands import Place

_MAX_DIGITS: Final = 17
"""Such a number fits into 64 bits, which is what Redis takes."""


def encode_cursor(place: Place) -> str:
    """A place -> the text of next_cursor."""
    return base64.urlsafe_b64encode(f"{place.due_ms}:{place.member}".encode()).decode().rstrip("=")


def decode_cursor(text: str | None) -> Place | None:
    """The text of next_cursor -> its place; None: the beginning. Raises ProblemError (422)."""
    if text is None:
        return None
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode()
        due_ms, colon, member = raw.partition(":")
        if colon and member.count(":") == 1 and len(due_ms) <= _MAX_DIGITS:
            return Place(int(due_ms), member)
    except (ValueError, binascii.Error):
        pass
    raise faulty_field("cursor", "must be a next_cursor as it was given")
