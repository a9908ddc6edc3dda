"""httpqueue as several processes, each of which can be cut off from Redis."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from tests.support.processes import HTTPQUEUE, Process, started
from tests.support.proxy import Proxy


@asynccontextmanager
async def behind_proxies(
    cwd: Path, redis_url: str, *parts: str, **settings: object
) -> AsyncIterator[list[tuple[Process, Proxy]]]:
    """The parts as processes, ready, each with a proxy of its own between it and Redis."""
    async with AsyncExitStack() as stack:
        pairs = []
        for part in parts:
            proxy = await stack.enter_async_context(Proxy(redis_url))
            command = started(*HTTPQUEUE, part, cwd=cwd, redis_url=proxy.url, log_format="json", **settings)
            pairs.append((await stack.enter_async_context(command), proxy))
        await asyncio.gather(*(process.until_ready() for process, _ in pairs))
        yield pairs
