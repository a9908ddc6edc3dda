"""Hosts that hang, and a healthy one beside them. Hosts are 127.0.x.y, because ports do not count.

`make bench` measures how late the healthy host's webhooks are. Here it only matters that they do not wait for
calls that hang: all of them are delivered before the first of those gives up.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import pytest

from httpqueue.clock import now_ms, sleep
from httpqueue.storage.queue import Queue
from httpqueue.storage.timers import Store
from httpqueue.timers.commands import NewTimer
from httpqueue.timers.names import TimerName
from httpqueue.timers.schedule import Delay, Instant
from httpqueue.timers.spec import Spec
from httpqueue.timers.timer import State
from tests.support.keys import Everywhere
from tests.support.pipeline import QUICK, running
from tests.support.receiver import Received, Receiver, Reply, Writer

TIMERS = 600
"""For each hanging host."""
RATE_S = 0.01
"""Seconds between two timers of the healthy host."""
HEALTHY = 300
HANGS = replace(QUICK, timeout_ms=60_000)


@asynccontextmanager
async def hanging(count: int) -> AsyncIterator[list[str]]:
    """The URLs of hosts that accept connections, and never answer."""

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65_536):
            pass
        writer.close()

    async with AsyncExitStack() as stack:
        urls = []
        for number in range(1, count + 1):
            server = await asyncio.start_server(hang, f"127.0.1.{number}", 0, backlog=1_000)
            await stack.enter_async_context(server)
            host, port = server.sockets[0].getsockname()
            urls.append(f"http://{host}:{port}/")
        yield urls


async def answer_in_50_ms(_: Received, writer: Writer) -> None:
    """As a healthy host does."""
    await sleep(0.05)
    writer.write(Reply(200).encode())


@pytest.mark.parametrize("application", ["healthy", "hog"])
@pytest.mark.parametrize("hosts", [1, 4, 20])
async def test_a_healthy_host_is_on_time_beside_hosts_that_hang(
    store: Store, queue: Queue, hosts: int, application: str
) -> None:
    """They hang in its own application or in another one; it gets 100 timers a second."""
    async with (
        hanging(hosts) as urls,
        Receiver() as receiver,
        running(store, queue, policy=HANGS, grace_s=0) as pipeline,
    ):
        receiver.answer(answer_in_50_ms)
        for number, url in enumerate(urls):
            await store.create(
                [
                    NewTimer(TimerName(application, f"{number}-{n}"), Spec(url, Delay(0)))
                    for n in range(TIMERS)
                ]
            )
        first_ms = now_ms() + 500
        await store.create(
            [
                NewTimer(
                    TimerName("healthy", f"h{n}"),
                    Spec(receiver.url, Instant(first_ms + round(n * RATE_S * 1000))),
                )
                for n in range(HEALTHY)
            ]
        )
        for n in range(HEALTHY):
            timer = await pipeline.until_that(
                f"h{n}", lambda timer: timer.state is State.DONE, application="healthy"
            )
            assert timer.last_attempt is not None
            assert timer.last_attempt.lateness_ms < HANGS.timeout_ms / 2
        assert await Everywhere(store._redis).zcard("running") >= hosts
        for number in range(hosts):
            found = await store.get(TimerName(application, f"{number}-0"))
            assert found is not None
            assert found.timer.log == ()  # no call that hangs has been given up
