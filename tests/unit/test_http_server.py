"""The HTTP server as a part of a process."""

import asyncio

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from httpqueue.errors import SettingsError
from httpqueue.run.http_server import HttpServer, listen


async def test_it_serves_until_it_is_stopped() -> None:
    """A request in flight is still answered, what has to follow is done, and the port is free again."""
    arrived, go_on = asyncio.Event(), asyncio.Event()
    ended: list[bool] = []

    async def at_end() -> None:
        ended.append(go_on.is_set())

    async def slow(_: Request) -> Response:
        arrived.set()
        await go_on.wait()
        return Response("late")

    with listen("127.0.0.1", 0, setting="PORT") as listener:
        port = listener.getsockname()[1]
        server = HttpServer(Starlette(routes=[Route("/", slow)]), listener, at_end=at_end)
        async with asyncio.timeout(30), asyncio.TaskGroup() as tasks, httpx.AsyncClient() as client:
            tasks.create_task(server.run())
            request = tasks.create_task(client.get(f"http://127.0.0.1:{port}/"))
            await arrived.wait()
            await server.stop()
            await server.stop()
            go_on.set()
            assert (await request).text == "late"
    assert ended == [True]
    with listen("127.0.0.1", port, setting="PORT"):
        pass


async def test_one_that_is_stopped_before_it_runs() -> None:
    """It never accepts a connection."""
    with listen("127.0.0.1", 0, setting="PORT") as listener:
        server = HttpServer(Starlette(), listener)
        await server.stop()
        async with asyncio.timeout(30):
            await server.run()
        assert not server._server.started


def test_a_port_in_use_names_its_setting() -> None:
    """The message says what to change, and where it could not listen."""
    with listen("127.0.0.1", 0, setting="PORT") as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=rf"^setting PORT: cannot listen on 127\.0\.0\.1:{port} \("):
            listen("127.0.0.1", port, setting="PORT")
