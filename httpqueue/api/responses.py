"""What all handlers share: how long they wait for Redis, and how they answer with JSON."""

import asyncio
from http import HTTPStatus
from typing import Any, Final

import orjson
from starlette.responses import Response

ANSWER_WITHIN_S: Final = 5


def in_time() -> asyncio.Timeout:
    """Limit the time for Redis; the TimeoutError it raises is answered with 503 (see problems.py)."""
    return asyncio.timeout(ANSWER_WITHIN_S)


def json_response(
    content: Any, status: HTTPStatus = HTTPStatus.OK, headers: dict[str, str] | None = None
) -> Response:
    """Anything that orjson can encode -> a JSON answer."""
    return Response(orjson.dumps(content), status, headers, "application/json")
