"""The body of a request -> a JSON object. JSON that can be understood in two ways is refused.

The JSON libraries accept such texts silently: repeated names, and integers that lose digits.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import orjson
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from httpqueue.api.problems import FieldError, ProblemError, faulty_fields

MAX_BODY_BYTES: Final = 1024 * 1024
MAX_BATCH_BYTES: Final = 8 * MAX_BODY_BYTES
MAX_DEPTH: Final = 64
"""How deep objects and arrays may be nested; the body itself is the first level."""

_MIN_INTEGER: Final = -(2**63)
_MAX_INTEGER: Final = 2**64 - 1
_SAFE_DIGITS: Final = 18  # this many always fit into 64 bits


async def read_object(scope: Scope, receive: Receive, *, max_bytes: int = MAX_BODY_BYTES) -> dict[str, Any]:
    """The members of the body, a JSON object; raises ProblemError (400, 413, 415)."""
    headers: dict[bytes, bytes] = dict(scope["headers"])
    if headers.get(b"content-type") != b"application/json" or b"content-encoding" in headers:
        check_content_type(_text(headers.get(b"content-type")), _text(headers.get(b"content-encoding")))
    return parse_object(await _read_body(headers.get(b"content-length"), receive, max_bytes))


async def read_optional(scope: Scope, receive: Receive) -> dict[str, Any]:
    """The same where the body may be missing, which gives an empty object."""
    headers: dict[bytes, bytes] = dict(scope["headers"])
    body = await _read_body(headers.get(b"content-length"), receive, MAX_BODY_BYTES)
    if not body.strip():
        return {}
    check_content_type(_text(headers.get(b"content-type")), _text(headers.get(b"content-encoding")))
    return parse_object(body)


async def read_nothing(scope: Scope, receive: Receive) -> None:
    """Raise ProblemError (400, 413, 415, 422) unless the body is missing or an empty object."""
    members = await read_optional(scope, receive)
    if errors := [FieldError(name, "is unknown here: remove it") for name in members]:
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


async def _read_body(length: bytes | None, receive: Receive, max_bytes: int) -> bytes:
    """The body; it is refused once it is too large, so that it never fills the memory. ProblemError (413)."""
    if length is not None and length.isdigit() and int(length[:12]) > max_bytes:
        raise _too_large(max_bytes)
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk: bytes = message.get("body", b"")
        body = body + chunk if body else chunk
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
        if not message.get("more_body"):
            return body


def _too_large(max_bytes: int) -> ProblemError:
    detail = f"the body must have at most {max_bytes // MAX_BODY_BYTES} MiB ({max_bytes:,} bytes)"
    return ProblemError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)


def parse_object(raw: bytes) -> dict[str, Any]:
    """JSON text (RFC 8259) -> the members of an object; raises ProblemError (400) that says what is wrong.

    Also refused: repeated names, integers of more than 64 bits (they would lose digits), lone surrogates,
    and more than MAX_DEPTH levels.
    """
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        detail = f"the body is no JSON: {error.msg} (line {error.lineno}, column {error.colno})"
        raise ProblemError(HTTPStatus.BAD_REQUEST, detail) from None
    if not isinstance(value, dict):
        raise ProblemError(HTTPStatus.BAD_REQUEST, "the body must be a JSON object: {…}")
    # Counting brackets is cheap, and only a body with many of them can be nested too deep.
    if raw.count(b"{") + raw.count(b"[") > MAX_DEPTH and (deep := _too_deep(value)):
        raise faulty_fields(HTTPStatus.BAD_REQUEST, deep)
    decoder = _Marker()
    marked = decoder.decode(raw.decode())
    if decoder.has_marked:
        raise faulty_fields(HTTPStatus.BAD_REQUEST, list(_faults(marked, "")))
    return value


def _too_deep(value: dict[str, Any]) -> list[FieldError]:
    detail = f"must not be nested deeper than {MAX_DEPTH} levels"
    return [FieldError(name, detail) for name, member in value.items() if _depth(member) >= MAX_DEPTH]


def _depth(value: Any) -> int:
    """How deep a value is nested. Not recursive: a very deep value would exceed the recursion limit."""
    depth, level = 0, [value]
    while containers := [item for item in level if isinstance(item, dict | list)]:
        depth += 1
        level = [
            child for item in containers for child in (item.values() if isinstance(item, dict) else item)
        ]
    return depth


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
        self.has_marked = False

    def _object(self, pairs: list[tuple[str, Any]]) -> Any:
        members = dict(pairs)
        if len(members) == len(pairs):
            return members
        self.has_marked = True
        return _Object(pairs)

    def _integer(self, digits: str) -> Any:
        if len(digits) <= _SAFE_DIGITS:
            return 0
        if len(digits) <= _SAFE_DIGITS + 2 and _MIN_INTEGER <= int(digits) <= _MAX_INTEGER:
            return 0
        self.has_marked = True
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
