"""The body of a request -> a JSON object. JSON that can be understood in two ways is refused.

The JSON libraries accept such texts silently: repeated names, and integers that lose digits.
"""

import asyncio
import gc
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from itertools import accumulate, islice
from typing import Any, Final

import orjson
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from httpqueue import clock
from httpqueue.api.problems import MAX_ERRORS, FieldError, ProblemError, faulty_fields
from httpqueue.api.request_body import note_read

READ_WITHIN_S: Final = 10
"""How long a client may take to send a body. After that, it gets 408 and the connection is closed."""
MAX_BODY_BYTES: Final = 1024 * 1024
MAX_BATCH_BYTES: Final = 8 * MAX_BODY_BYTES
MAX_DEPTH: Final = 64
"""How deep objects and arrays may be nested; the body itself is the first level."""
MAX_CONTAINERS: Final = 100_000
"""The most objects and arrays in a body of MAX_BODY_BYTES. Each takes 2 bytes of it, but 100 of memory."""

LARGE_BYTES: Final = 64 * 1024
"""After a body of more than this was read or checked, other requests have their turn."""
MAX_SEARCHED_BYTES: Final = 32 * 1024
"""In a larger body, finding out which field is ambiguous would take too long."""
MAX_NAMED: Final = 1_000
"""How many members are searched for the one that is nested too deep."""

_MIN_INTEGER: Final = -(2**63)
_MAX_INTEGER: Final = 2**64 - 1
_SAFE_DIGITS: Final = 18  # this many always fit into 64 bits
_LONG_INTEGER: Final = b"0" * (_SAFE_DIGITS + 1)
_DIGITS_TO_0: Final = bytes.maketrans(b"123456789", b"0" * 9)
_TO_STEPS: Final = bytes.maketrans(b"{[}]", bytes([1, 1, 255, 255]))  # 255 is -1 in a signed byte
_TO_BLANKS: Final = bytes.maketrans(b",:{[}]\t\r\n", b" " * 9)
_NO_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in b"{}[]")


async def read_object(scope: Scope, receive: Receive, *, max_bytes: int = MAX_BODY_BYTES) -> dict[str, Any]:
    """The members of the body, a JSON object; raises ProblemError (400, 413, 415)."""
    headers: dict[bytes, bytes] = dict(scope["headers"])
    if headers.get(b"content-type") != b"application/json" or b"content-encoding" in headers:
        check_content_type(_text(headers.get(b"content-type")), _text(headers.get(b"content-encoding")))
    return await _parse(
        await _read_body(scope, headers.get(b"content-length"), receive, max_bytes), max_bytes
    )


async def read_optional(scope: Scope, receive: Receive) -> dict[str, Any]:
    """The same where the body may be missing, which gives an empty object."""
    headers: dict[bytes, bytes] = dict(scope["headers"])
    body = await _read_body(scope, headers.get(b"content-length"), receive, MAX_BODY_BYTES)
    if not body.strip():
        return {}
    check_content_type(_text(headers.get(b"content-type")), _text(headers.get(b"content-encoding")))
    return await _parse(body, MAX_BODY_BYTES)


async def read_nothing(scope: Scope, receive: Receive) -> None:
    """Raise ProblemError (400, 413, 415, 422) unless the body is missing or an empty object."""
    members = await read_optional(scope, receive)
    if errors := [FieldError(name, "is unknown here: remove it") for name in islice(members, MAX_ERRORS)]:
        raise faulty_fields(HTTPStatus.UNPROCESSABLE_ENTITY, errors)


def check_content_type(content_type: str | None, content_encoding: str | None) -> None:
    """Raise ProblemError (415) unless the body is JSON in UTF-8, not compressed; None: not said.

    A body whose type is not said is refused, too: any web page may make a browser send such a body, but not
    one that is said to be JSON (a CORS preflight comes first).
    """
    if content_encoding not in {None, "identity"}:
        detail = "Content-Encoding is not supported: send the JSON as it is"
        headers = {"Accept-Encoding": "identity"}
        raise ProblemError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, detail, headers=headers)
    if content_type is None:
        detail = "Content-Type is missing: it must be application/json"
        raise ProblemError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, detail)
    media_type, *parameters = (part.strip().lower() for part in content_type.split(";"))
    main, _, sub = media_type.partition("/")
    json_type = main == "application" and (sub == "json" or sub.endswith("+json"))
    named = dict(parameter.partition("=")[::2] for parameter in parameters)
    if not json_type or named.get("charset", "utf-8").strip('"') != "utf-8":
        detail = "Content-Type must be application/json (in UTF-8)"
        raise ProblemError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, detail)


def _text(header: bytes | None) -> str | None:
    return None if header is None else header.decode("latin-1")


async def _read_body(scope: Scope, length: bytes | None, receive: Receive, max_bytes: int) -> bytes:
    """The body. It is refused once it is too large or too late, so that it fills no memory: 408, 413."""
    if length is not None and length.isdigit() and int(length[:12]) > max_bytes:
        raise _too_large(max_bytes)
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(READ_WITHIN_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                chunk: bytes = message.get("body", b"")
                size += len(chunk)
                if size > max_bytes:
                    raise _too_large(max_bytes)
                chunks.append(chunk)
                if not message.get("more_body"):
                    note_read(scope)
                    return b"".join(chunks)
    except TimeoutError:
        note_read(scope)  # who is so slow is not waited for again
        detail = f"the body must arrive within {READ_WITHIN_S} s: send it faster, or less at once"
        headers = {"Connection": "close"}  # RFC 9110 section 15.5.9
        raise ProblemError(HTTPStatus.REQUEST_TIMEOUT, detail, headers=headers) from None


async def _parse(body: bytes, max_bytes: int) -> dict[str, Any]:
    if len(body) <= LARGE_BYTES:
        return parse_object(body)
    await clock.sleep(0)
    _check_containers(body, MAX_CONTAINERS * max_bytes // MAX_BODY_BYTES)
    members = _load(body)
    await clock.sleep(0)
    _check(body, members)
    await clock.sleep(0)
    return members


def _too_large(max_bytes: int) -> ProblemError:
    detail = f"the body must have at most {max_bytes // MAX_BODY_BYTES} MiB ({max_bytes:,} bytes)"
    return ProblemError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)


def parse_object(raw: bytes) -> dict[str, Any]:
    """JSON text (RFC 8259) -> the members of an object; raises ProblemError (400) that says what is wrong.

    Also refused: repeated names, integers of more than 64 bits (they would lose digits), lone surrogates,
    and more than MAX_DEPTH levels.
    """
    value = _load(raw)
    _check(raw, value)
    return value


def _load(raw: bytes) -> dict[str, Any]:
    try:
        with _no_collection():
            value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        detail = f"the body is no JSON: {error.msg} (line {error.lineno}, column {error.colno})"
        raise ProblemError(HTTPStatus.BAD_REQUEST, detail) from None
    if not isinstance(value, dict):
        raise ProblemError(HTTPStatus.BAD_REQUEST, "the body must be a JSON object: {…}")
    return value


def _check(raw: bytes, value: dict[str, Any]) -> None:
    # Counting brackets is cheap, and only a body with many of them can be nested too deep.
    if _count_containers(raw) > MAX_DEPTH and _depth(raw) > MAX_DEPTH:
        raise _too_deep(value)
    if _repeats_names(raw, value) or _has_long_integers(raw):
        raise _ambiguous(raw)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Collect no garbage: to look for it among a million new lists takes longer than to make them."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


# The following checks work on the text as a whole. A look at each value, in Python, would take 100 times as
# long. What they say of a text that is no JSON means nothing.


def _check_containers(raw: bytes, most: int) -> None:
    """Raise ProblemError (400) for too many objects and arrays."""
    if _count_containers(raw) > most and _count_containers(_outside_of_strings(raw)) > most:
        detail = f"the body must have at most {most:,} arrays and objects: send a part of it as a string"
        raise ProblemError(HTTPStatus.BAD_REQUEST, detail)


def _count_containers(raw: bytes) -> int:
    return raw.count(b"{") + raw.count(b"[")


def _depth(raw: bytes) -> int:
    """How deep the text is nested."""
    steps = _outside_of_strings(raw).translate(_TO_STEPS, _NO_BRACKETS)
    return max(accumulate(memoryview(steps).cast("b")), default=0)


def _repeats_names(raw: bytes, value: Any) -> bool:
    """Whether an object has a name twice: then the text has more strings than what was read from it."""
    return _without_escapes(raw).count(b'"') != _without_escapes(orjson.dumps(value)).count(b'"')


def _outside_of_strings(raw: bytes) -> bytes:
    return b" ".join(_without_escapes(raw).split(b'"')[::2])


def _without_escapes(raw: bytes) -> bytes:
    r"""The text without \ and ": each quote that is left begins or ends a string."""
    return raw.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in raw else raw


def _has_long_integers(raw: bytes) -> bool:
    """Whether there is an integer of more than 64 bits, which orjson reads as a float."""
    if _LONG_INTEGER not in raw.translate(_DIGITS_TO_0):
        return False
    return any(
        len(token) > _SAFE_DIGITS
        and token.lstrip(b"-").isdigit()
        and not _MIN_INTEGER <= int(token) <= _MAX_INTEGER
        for token in _outside_of_strings(raw).translate(_TO_BLANKS).split()
    )


def _too_deep(value: dict[str, Any]) -> ProblemError:
    detail = f"must not be nested deeper than {MAX_DEPTH} levels"
    deep = (name for name, member in islice(value.items(), MAX_NAMED) if _is_too_deep(member))
    errors = [FieldError(name, detail) for name in islice(deep, MAX_ERRORS)]
    if errors:
        return faulty_fields(HTTPStatus.BAD_REQUEST, errors)
    return ProblemError(HTTPStatus.BAD_REQUEST, f"the body {detail}")


def _is_too_deep(member: Any) -> bool:
    try:
        return _depth(orjson.dumps(member)) >= MAX_DEPTH
    except orjson.JSONEncodeError:  # deeper than orjson goes
        return True


def _ambiguous(raw: bytes) -> ProblemError:
    """The problem of a text with repeated names or long integers."""
    if len(raw) <= MAX_SEARCHED_BYTES:
        marked = _Marker().decode(raw.decode())
        return faulty_fields(HTTPStatus.BAD_REQUEST, list(islice(_faults(marked, ""), MAX_ERRORS)))
    detail = (
        "the body must not have a name twice in one object, or an integer of more than 64 bits: send each "
        f"name once, and such integers as strings (if the body has at most {MAX_SEARCHED_BYTES // 1024} KiB, "
        "the answer says where)"
    )
    return ProblemError(HTTPStatus.BAD_REQUEST, detail)


@dataclass(frozen=True, slots=True)
class _Object:
    """Stands for an object with repeated names; has all of its pairs."""

    pairs: list[tuple[str, Any]]


class _Oversized:
    """Stands for an integer of more than 64 bits."""


class _Marker(json.JSONDecoder):
    """Reads the text again, and marks what orjson accepts silently; _faults then finds the marks by path."""

    def __init__(self) -> None:
        super().__init__(object_pairs_hook=self._object, parse_int=self._integer)

    def _object(self, pairs: list[tuple[str, Any]]) -> Any:
        members = dict(pairs)
        return members if len(members) == len(pairs) else _Object(pairs)

    def _integer(self, digits: str) -> Any:
        if len(digits) <= _SAFE_DIGITS:
            return 0
        if len(digits) <= _SAFE_DIGITS + 2 and _MIN_INTEGER <= int(digits) <= _MAX_INTEGER:
            return 0
        return _Oversized()


def _faults(value: Any, path: str) -> Iterator[FieldError]:
    match value:
        case _Oversized():
            yield FieldError(path, "has more than 64 bits: send it as a string")
        case _Object(pairs):
            for name, times in Counter(name for name, _ in pairs).items():
                if times > 1:
                    yield FieldError(_join(path, name), "is given more than once: send it once")
            yield from _faults_of(pairs, path)
        case dict():
            yield from _faults_of(value.items(), path)
        case list():
            yield from _faults_of(enumerate(value), path)


def _faults_of(members: Any, path: str) -> Iterator[FieldError]:
    for name, member in members:
        yield from _faults(member, _join(path, str(name)))


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
