"""The HTTP server (uvicorn) as a part of a process."""

import socket
from collections.abc import Awaitable, Callable, Iterator
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
        self, app: ASGIApp, listener: socket.socket, *, at_end: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """at_end: is called when the last request was answered."""
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
        self._server = _Uvicorn(config)
        self._listener = listener
        self._at_end = at_end

    async def run(self) -> None:
        """Answer requests until stop(). Requests in flight then have CLOSE_S to end."""
        if not self._server.should_exit:
            await self._server.serve(sockets=[self._listener.dup()])  # uvicorn closes it
        if self._at_end is not None:
            await self._at_end()

    async def stop(self) -> None:
        """Accept no more connections, and let run() end."""
        self._server.should_exit = True


class _Uvicorn(uvicorn.Server):
    """Leaves signals to run/signals.py."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


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
