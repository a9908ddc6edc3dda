"""What httpqueue prints at its start: its addresses, and a command to try."""

import socket

from httpqueue import __version__


def greet(listener: socket.socket, kept_in: str) -> None:
    """Print where the API listens and where the data is kept (kept_in, a text for people)."""
    host, port = listener.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    timer = f'{{"url": "{url}/healthz", "method": "GET", "seconds": 2}}'
    print(  # noqa: T201 - it is for the person at the terminal, not for the log
        f"""httpqueue {__version__}
  API         {url}/timers
  Swagger UI  {url}/docs
  Data        {kept_in}
Try it:
  curl -i {url}/timers -H 'content-type: application/json' -d '{timer}'
""",
        flush=True,
    )
