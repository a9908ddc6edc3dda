"""How many timers the API takes, one a request and a thousand a request."""

import sys
from typing import Final

from httpqueue.clock import sleep
from tests.benchmarks.figures import Figure, LostError, MissingError, Row, at_least
from tests.benchmarks.lab import Lab, Load, Server, Shot, part, port_of, server, shoot, timer
from tests.support.processes import REPOSITORY, started

CONNECTIONS: Final = 64
BATCH: Final = 1_000
TIMER: Final = timer("http://127.0.0.1:9/hooks/of/a/customer/#", seconds=86_400)
WARM_UP: Final = Shot(TIMER, CONNECTIONS * 4, connections=CONNECTIONS)


def _all_created(load: Load, count: int) -> None:
    if load.statuses != {"201": count}:
        raise LostError(f"{count} timers were posted, the answers were {load.statuses}: {load.bodies[0]}")


async def post_httpqueue(count: int, *, on: Server) -> float:
    """POST /timers over 64 connections to one API process; timers/s."""
    pending = await on.pending()
    async with part("api", on) as api:
        port = await port_of(api)
        await shoot(port, WARM_UP)
        load = await shoot(port, Shot(TIMER, count, connections=CONNECTIONS))
    _all_created(load, count)
    stored = await on.pending() - pending - WARM_UP.count
    if stored != count:
        raise LostError(f"{count} timers were accepted, {stored} stored")
    return count / load.seconds


async def _post_rival(count: int) -> float:
    async with (
        server() as on,
        started(
            sys.executable, "-m", "tests.benchmarks.rivals.one_transaction", on.socket, cwd=REPOSITORY
        ) as api,
    ):
        while not api.stdout:
            await sleep(0.01)
        port = int(api.stdout[0])
        await shoot(port, WARM_UP)
        load = await shoot(port, Shot(TIMER, count, connections=CONNECTIONS))
    _all_created(load, count)
    return count / load.seconds


async def post(lab: Lab) -> list[Figure]:
    """POST /timers with 64 keep-alive connections to one API process, timers due in a day.

    Beside it a Starlette application on uvicorn that writes the same in one redis-py transaction a request.
    """
    count = lab.count(20_000, 1_000)
    async with server() as on:
        own = await post_httpqueue(count, on=on)
    rival = await _post_rival(count)
    return [
        Figure("httpqueue", own, "timers/s", at_least(4_000)),
        Figure("one transaction a request", rival, "timers/s"),
        Figure("httpqueue / one transaction a request", own / rival, "x", at_least(2.5)),
    ]


async def batch(lab: Lab) -> list[Figure]:
    """POST /timers/batch with 1,000 timers a request over 4 connections to one API process."""
    requests = lab.count(100, 4)
    async with server() as on, part("api", on) as api:
        shot = Shot(TIMER, requests, path="/timers/batch", connections=4, batch=BATCH)
        load = await shoot(await port_of(api), shot)
        if load.statuses.keys() & {"404", "405"}:
            raise MissingError("POST /timers/batch is not there yet")
        if await on.pending() != requests * BATCH:
            raise LostError(f"{await on.pending()} of {requests * BATCH} timers stored: {load.bodies[0]}")
    return [Figure("httpqueue", requests * BATCH / load.seconds, "timers/s", at_least(30_000))]


ROWS: Final = (
    Row("post", "POST /timers, one API process", post),
    Row("batch", "POST /timers/batch, 1,000 timers a request", batch),
)
