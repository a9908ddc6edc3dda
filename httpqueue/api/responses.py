"""What all handlers share: how long they wait for Redis, and how they answer with JSON."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from http import HTTPStatus
from typing import Any, Final, TypeVar

import orjson
from starlette.responses import Response

from httpqueue import clock

ItemT = TypeVar("ItemT")

AT_ONCE: Final = 10
"""Items of a batch that are handled at once. A hard one (cron, IDNA) takes a millisecond."""

ANSWER_WITHIN_S: Final = 5


def in_time() -> asyncio.Timeout:
    """Limit the time for Redis; the TimeoutError it raises is answered with 503 (see problems.py)."""
    return asyncio.timeout(ANSWER_WITHIN_S)


async def in_turns(items: Iterable[ItemT]) -> AsyncIterator[ItemT]:
    """The items of a batch; other requests have their turn in between."""
    for n, item in enumerate(items, start=1):
        yield item
        if n % AT_ONCE == 0:
            await clock.sleep(0)


def json_response(
    content: Any, status: HTTPStatus = HTTPStatus.OK, headers: dict[str, str] | None = None
) -> Response:
    """Anything that orjson can encode -> a JSON answer."""
    return Response(orjson.dumps(content), status, headers, "application/json")
