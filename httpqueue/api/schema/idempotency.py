"""The header Idempotency-Key (draft-ietf-httpapi-idempotency-key-header-07, section 2)."""

import re
from http import HTTPStatus
from typing import Final

from starlette.types import Scope

from httpqueue.api.problems import ProblemError, faulty_field

MAX_KEY_CHARACTERS: Final = 255
HEADER: Final = "Idempotency-Key"

_QUOTED: Final = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')  # a string of RFC 9651 section 3.3.3
_BARE: Final = re.compile(r"[!#-~]+")
_ESCAPED: Final = re.compile(r"\\(.)")


def idempotency_key(scope: Scope) -> str | None:
    """The key of a request; None: it has none. Raises ProblemError (400) for one that cannot be read.

    The draft wants quotes around it; many clients send none, and mean the same key.
    """
    values = [value for name, value in scope["headers"] if name == b"idempotency-key"]
    if not values:
        return None
    text = values[0].decode("latin-1").strip()
    quoted = _QUOTED.fullmatch(text)
    key = _ESCAPED.sub(r"\1", quoted[1]) if quoted else text if _BARE.fullmatch(text) else ""
    if len(values) > 1 or not 0 < len(key) <= MAX_KEY_CHARACTERS:
        detail = (
            f'{HEADER} must be one text of 1 to {MAX_KEY_CHARACTERS} ASCII characters, such as "8e03978e"'
        )
        raise ProblemError(HTTPStatus.BAD_REQUEST, detail)
    return key


def key_reused() -> ProblemError:
    """422: another request had this key (section 2.7 of the draft)."""
    return faulty_field(HEADER, "was sent with another request before: use a new key for a new request")
