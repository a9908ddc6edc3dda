"""A timer's version in headers: ETag in answers, If-Match in requests."""

import re
from http import HTTPStatus
from typing import Final

from starlette.requests import Request

from httpqueue.api.problems import ProblemError

_ENTITY_TAG: Final = re.compile(r'(W/)?"([\x21\x23-\x7e]*)"')  # RFC 9110 section 8.8.3


def etag(version: str) -> dict[str, str]:
    """A timer's version -> the header ETag."""
    return {"ETag": f'"{version}"'}


def if_match(request: Request) -> frozenset[str] | None:
    """The versions that If-Match accepts (RFC 9110 section 13.1.1); None: every version.

    Raises ProblemError (400) if the header is neither * nor a list of entity tags.
    """
    header = ",".join(request.headers.getlist("if-match"))
    if "if-match" not in request.headers or header.strip() == "*":
        return None
    tags = [_ENTITY_TAG.fullmatch(part.strip()) for part in header.split(",")]
    if not all(tags):
        detail = 'If-Match must be *, or entity tags such as "wPL3xQ0.0.0.s", as ETag gave them'
        raise ProblemError(HTTPStatus.BAD_REQUEST, detail)
    return frozenset(tag[2] for tag in tags if tag and tag[2] and not tag[1])  # a weak tag never matches
