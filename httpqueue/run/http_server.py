"""The HTTP server (uvicorn) as a part of a process."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from httpqueue.errors import SettingsError

BACKLOG: Final = 2_048
CLOSE_S: Final = 5
"""How many seconds stop() gives requests in flight."""


class HttpServer:
    """A Part that serves an app on a listening socket; its caller closes the socket."""

    def __init__(
        self, app: ASGIApp, listener: socket.socket, *, on_start: Callable[[], None] = lambda: None
    ) -> None:
        config = uvicorn.Config(
            app,
            http="httptools",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=CLOSE_S,
        )
        self._server = _Uvicorn(config, on_start)
        self._listener = listener

    async def run(self) -> None:
        """Answer requests until stop(). Requests in flight then have CLOSE_S to end."""
        if not self._server.should_exit:
            await self._server.serve(sockets=[self._listener])

    async def stop(self) -> None:
        """Accept no more connections, and let run() end."""
        self._server.should_exit = True


class _Uvicorn(uvicorn.Server):
    """Leaves signals to run/signals.py, and calls on_start when it accepts connections."""

    def __init__(self, config: uvicorn.Config, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_start = on_start

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._on_start()


def listen(host: str, port: int, *, setting: str) -> socket.socket:
    """A listening socket. Raises SettingsError, which names the setting that chose the port.

    It listens before the server starts, so a used port is found at once and early clients only wait.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"setting {setting}: cannot listen on {host}:{port} ({error.strerror})"
        ) from error
    return listener
