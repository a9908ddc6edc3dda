"""How many timers the API takes, one a request and a thousand a request."""

import sys
from typing import Final

from httpqueue.clock import sleep
from tests.benchmarks.figures import Figure, LostError, MissingError, Row, at_least
from tests.benchmarks.lab import POLL_S, Lab, Server, part, port_of, server
from tests.benchmarks.rivals import node
from tests.benchmarks.traffic import BATCH, Shot, all_created, shoot, timer
from tests.support.processes import REPOSITORY, started

CONNECTIONS: Final = 64
TIMER: Final = timer("http://127.0.0.1:9/hooks/of/a/customer/#", seconds=86_400)
WARM_UP: Final = Shot(TIMER, CONNECTIONS * 4, connections=CONNECTIONS)


async def _rate(port: int, count: int) -> float:
    """POST /timers over 64 connections; timers/s."""
    await shoot(port, WARM_UP)
    load = await shoot(port, Shot(TIMER, count, connections=CONNECTIONS))
    all_created(load, count)
    return count / load.seconds


async def post_httpqueue(count: int, *, on: Server) -> float:
    """POST /timers over 64 connections to one API process; timers/s."""
    pending = await on.pending()
    async with part("api", on) as api:
        rate = await _rate(await port_of(api), count)
    stored = await on.pending() - pending - WARM_UP.count
    if stored != count:
        raise LostError(f"{count} timers were accepted, {stored} stored")
    return rate


async def _post_rival(count: int, *command: str) -> float:
    async with server() as on, started(*command, on.socket, cwd=REPOSITORY) as api:
        while not api.stdout:
            await sleep(POLL_S)
        return await _rate(int(api.stdout[0]), count)


async def _post_node(count: int) -> float | None:
    try:
        command = await node.command("post.mjs")
    except MissingError:
        return None
    return await _post_rival(count, *command)


async def post(lab: Lab) -> list[Figure]:
    """POST /timers with 64 keep-alive connections to one API process, timers due in a day.

    Beside it, each in one process too: Node's http with one BullMQ `add` a request, and a Starlette
    application on uvicorn that writes what httpqueue writes in one redis-py transaction a request.
    """
    count = lab.count(20_000, 1_000)
    async with server() as on:
        own = await post_httpqueue(count, on=on)
    figures = [Figure("httpqueue", own, "timers/s", at_least(4_000))]
    if (bullmq := await _post_node(count)) is not None:
        figures += [
            Figure("Node's http + BullMQ", bullmq, "timers/s"),
            Figure("httpqueue / Node's http + BullMQ", own / bullmq, "x", at_least(1)),
        ]
    rival = await _post_rival(count, sys.executable, "-m", "tests.benchmarks.rivals.one_transaction")
    return [
        *figures,
        Figure("one transaction a request", rival, "timers/s"),
        Figure("httpqueue / one transaction a request", own / rival, "x", at_least(2.5)),
    ]


async def batch(lab: Lab) -> list[Figure]:
    """POST /timers/batch with 1,000 timers a request over 4 connections to one API process.

    Beside it Node's http with one BullMQ `add` a request, as above.
    """
    requests = lab.count(100, 4)
    async with server() as on, part("api", on) as api:
        shot = Shot(TIMER, requests, path="/timers/batch", connections=4, batch=BATCH)
        load = await shoot(await port_of(api), shot)
        if await on.pending() != requests * BATCH:
            raise LostError(f"{await on.pending()} of {requests * BATCH} timers stored: {load.bodies[0]}")
    own = requests * BATCH / load.seconds
    figures = [Figure("httpqueue", own, "timers/s", at_least(30_000))]
    if (bullmq := await _post_node(lab.count(10_000, 1_000))) is not None:
        figures += [
            Figure("Node's http + BullMQ", bullmq, "timers/s"),
            Figure("httpqueue / Node's http + BullMQ", own / bullmq, "x", at_least(5)),
        ]
    return figures


ROWS: Final = (
    Row("post", "POST /timers, one API process", post, "1 application"),
    Row("batch", "POST /timers/batch, 1,000 timers a request", batch, "1 application"),
)
