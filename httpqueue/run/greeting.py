"""What httpqueue prints at its start: its addresses, and a command to try."""

import socket
from typing import Final

from httpqueue import __version__
from httpqueue.webhooks.egress import EgressMode

_MAY_CALL: Final = {
    EgressMode.PUBLIC: "public addresses only",
    EgressMode.PRIVATE: "public, private and loopback addresses",
    EgressMode.PROXY: "what the proxy at HTTPQUEUE_EGRESS_PROXY allows",
}


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


def tell_egress(mode: EgressMode) -> None:
    """Print where webhooks may go: the greeting's last line, for which the store must have answered."""
    print(f"Webhooks may call {_MAY_CALL[mode]} (HTTPQUEUE_EGRESS={mode}).\n", flush=True)  # noqa: T201 - as above
