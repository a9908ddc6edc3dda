"""The rival in Python: stock arq, one httpx POST a job. Run as: arq_drain.py SOCKET URL COUNT.

It is given the best of its settings: 100 jobs at once, a poll every 10 ms, no results kept, connections kept.
When its queue is full it says `filled`, and works once it gets SIGUSR2.
"""

import asyncio
import signal
import sys
from datetime import timedelta
from typing import Any, Final

import httpx
import uvloop
from arq import create_pool
from arq.connections import RedisSettings
from arq.worker import Worker, func

CONCURRENCY: Final = 100
ENQUEUE_AT_ONCE: Final = 100
AT_ONCE: Final = timedelta(milliseconds=1)


async def call(ctx: dict[str, Any], url: str) -> None:
    """The job: one webhook."""
    client: httpx.AsyncClient = ctx["client"]
    (await client.post(url)).raise_for_status()


async def main(socket: str, url: str, count: int) -> None:
    """Enqueue as many jobs that are due, then work them off; runs until it is killed."""
    redis = await create_pool(RedisSettings(unix_socket_path=socket))
    for first in range(0, count, ENQUEUE_AT_ONCE):
        numbers = range(first, min(first + ENQUEUE_AT_ONCE, count))
        await asyncio.gather(
            *(redis.enqueue_job("call", f"{url}{number}", _defer_by=AT_ONCE) for number in numbers)
        )
    limits = httpx.Limits(max_connections=CONCURRENCY, max_keepalive_connections=CONCURRENCY)
    async with httpx.AsyncClient(limits=limits) as client:
        worker = Worker(
            [func(call, name="call")],
            redis_pool=redis,
            max_jobs=CONCURRENCY,
            poll_delay=0.01,
            keep_result=0,
            ctx={"client": client},
        )
        await _told()
        await worker.async_run()


async def _told() -> None:
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, told.set)
    sys.stdout.write("filled\n")
    sys.stdout.flush()
    await told.wait()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
