"""The cursor of a list: an opaque text for the place where the next page begins."""

import base64
import binascii
import re
from collections.abc import Sequence
from typing import Any, Final

import orjson

from httpqueue.api.problems import ProblemError, faulty_field
from httpqueue.timers.audit import AuditPosition
from httpqueue.timers.commands import Position
from httpqueue.timers.names import TimerName

MAX_DUE_MS: Final = 2**53
"""Redis scores are doubles: greater numbers are not exact there, and were not written by us."""


_STREAM_ID: Final = re.compile(r"\+|[0-9]{1,15}-[0-9]{1,15}", re.ASCII)


def encode_cursor(position: Position) -> str:
    """A position -> the text of next_cursor."""
    return _encode([position.due_ms, *(position.name or ())])


def decode_cursor(text: str | None) -> Position | None:
    """The text of next_cursor -> its position; None: the beginning. Raises ProblemError (422)."""
    if text is None:
        return None
    match _decode(text):
        case [int(due_ms), str(application), str(timer_id)] if abs(due_ms) <= MAX_DUE_MS:
            return Position(due_ms, TimerName(application, timer_id))
    raise _not_given()


def encode_audit_cursor(position: AuditPosition) -> str:
    """A position in the audit log -> the text of next_cursor."""
    return _encode(position)


def decode_audit_cursor(text: str | None) -> AuditPosition | None:
    """The inverse; None: the latest entry. Raises ProblemError (422)."""
    if text is None:
        return None
    match _decode(text):
        case [str(timers), str(settings)] if _STREAM_ID.fullmatch(timers) and _STREAM_ID.fullmatch(settings):
            return AuditPosition(timers, settings)
    raise _not_given()


def _encode(value: Sequence[Any]) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(list(value))).decode().rstrip("=")


def _decode(text: str) -> Any:
    """The value; None for what is no cursor."""
    try:
        return orjson.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
    except (ValueError, binascii.Error):
        return None


def _not_given() -> ProblemError:
    return faulty_field("cursor", "must be a next_cursor as it was given")
