"""Bytes -> JSON object: what is ambiguous, lossy or too deep is refused by its path."""

import json
from http import HTTPStatus
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from httpqueue.api.problems import ProblemError
from httpqueue.api.schema.json_body import MAX_DEPTH, check_content_type, parse_object

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=20,
)


def refusal(raw: bytes) -> ProblemError:
    """The problem that this text is answered with."""
    with pytest.raises(ProblemError) as caught:
        parse_object(raw)
    assert caught.value.status == HTTPStatus.BAD_REQUEST
    return caught.value


@given(st.dictionaries(st.text(), JSON))
def test_every_json_object_of_64_bit_numbers_is_read(members: dict[str, Any]) -> None:
    """Strict does not mean picky."""
    assert parse_object(json.dumps(members).encode()) == members


@given(
    st.binary() | st.text().map(str.encode) | st.text('[]{}",:0123456789eE+-.\\untrfalsb \n').map(str.encode)
)
def test_no_bytes_upset_the_parser(raw: bytes) -> None:
    """Whatever comes: an object, or a problem that says what is wrong."""
    try:
        members = parse_object(raw)
    except ProblemError as error:
        members = {"detail": error.detail}
    assert isinstance(members, dict)


@pytest.mark.parametrize(
    "raw",
    [
        *(
            b"",
            b" ",
            b"{",
            b"nonsense",
            b"{'a': 1}",
            b'{"a": 1,}',
            b'{"a": 1} x',
            b'{"a": 01}',
            b'{"a": NaN}',
        ),
        *(b'{"a": Infinity}', b'{"a": -Infinity}', b'{"a": 1e999}', b'{"a": "\xff"}', b'{"a": "\\ud800"}'),
        *(b'{"a": "\n"}', b"\xef\xbb\xbf{}", b'{"a": /* */ 1}', b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}"),
    ],
)
def test_what_is_no_json_is_refused_with_the_place(raw: bytes) -> None:
    """RFC 8259, nothing more: no NaN, no overflow, no broken UTF-8, no lone surrogate, no byte order mark."""
    assert "the body is no JSON: " in refusal(raw).detail
    assert "(line 1, column " in refusal(raw).detail or "(line 2, column " in refusal(raw).detail


@pytest.mark.parametrize("raw", [b"[]", b"null", b"1", b'"text"', b"true", b'[{"url": "http://a"}]'])
def test_json_other_than_an_object_is_refused(raw: bytes) -> None:
    """There are no fields in it."""
    assert "must be a JSON object" in refusal(raw).detail


@pytest.mark.parametrize(
    ("raw", "fields"),
    [
        (b'{"a": 1, "a": 1}', ["a"]),
        (b'{"a": 1, "b": 2, "a": 3, "b": 4, "a": 5}', ["a", "b"]),
        (b'{"body": {"x": [0, {"y": 1, "y": 2}]}}', ["body.x.1.y"]),
        (b'{"a": {"x": 1, "x": 2}, "a": 3}', ["a", "a.x"]),
        (b'{"a": 1, "\\u0061": 2}', ["a"]),
    ],
)
def test_every_name_that_repeats_is_refused_at_any_depth(raw: bytes, fields: list[str]) -> None:
    """Which of the values would count is anybody's guess."""
    problem = refusal(raw)
    assert [error.field for error in problem.errors] == fields
    assert {error.detail for error in problem.errors} == {"is given more than once: send it once"}


@pytest.mark.parametrize(
    "digits", [b"18446744073709551616", b"-9223372036854775809", b"1" + b"0" * 300, b"-" + b"9" * 19]
)
def test_integers_of_more_than_64_bits_are_refused(digits: bytes) -> None:
    """They would lose digits; the error tells the way out."""
    problem = refusal(b'{"body": [1, {"n": ' + digits + b"}]}")
    assert [(error.field, error.detail) for error in problem.errors] == [
        ("body.1.n", "has more than 64 bits: send it as a string")
    ]


@pytest.mark.parametrize("number", [2**64 - 1, -(2**63), 10**18, 999_999_999_999_999_999])
def test_integers_of_64_bits_keep_every_digit(number: int) -> None:
    """As they were sent."""
    assert parse_object(b'{"body": %d}' % number) == {"body": number}


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_nesting_ends_at_64_levels(opening: bytes, closing: bytes) -> None:
    """The request's own object is the first level; the field that goes deeper is named."""
    levels = MAX_DEPTH - 1
    innermost = b"1" if opening != b"[" else b""
    parse_object(b'{"body": ' + opening * levels + innermost + closing * levels + b"}")
    levels += 1
    problem = refusal(b'{"ok": [[]], "body": ' + opening * levels + innermost + closing * levels + b"}")
    assert [error.field for error in problem.errors] == ["body"]
    assert "64 levels" in problem.detail


def test_many_brackets_side_by_side_are_not_deep() -> None:
    """Breadth is free."""
    members: dict[str, Any] = {"body": [[]] * 1000}
    assert parse_object(json.dumps(members).encode()) == members


@pytest.mark.parametrize(
    "content_type",
    [
        *("application/json", "Application/JSON", "application/json;charset=utf-8"),
        *('application/json; charset="UTF-8"', "application/vnd.api+json", "application/json; v=1"),
    ],
)
def test_json_in_utf8_is_accepted(content_type: str) -> None:
    """Whatever its spelling."""
    check_content_type(content_type, None)
    check_content_type(content_type, "identity")


@pytest.mark.parametrize(
    ("content_type", "content_encoding"),
    [
        *(("text/plain", None), ("", None), (None, None), ("json", None)),
        *(("application/x-www-form-urlencoded", None), ("multipart/form-data", None)),
        *(("application/json; charset=latin-1", None), ("application/jsonp", None), ("text/json+json", None)),
        *(("application/json", "gzip"), ("application/json", "")),
    ],
)
def test_other_content_is_refused(content_type: str | None, content_encoding: str | None) -> None:
    """A clear 415 instead of a guess."""
    with pytest.raises(ProblemError) as caught:
        check_content_type(content_type, content_encoding)
    assert caught.value.status == HTTPStatus.UNSUPPORTED_MEDIA_TYPE
