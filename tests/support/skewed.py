"""The command httpqueue with a wrong clock, or with a name server of the test's own.

A test cannot turn a machine's clock or its name server. So this command goes through the project's seams:

SKEW_MS=3600000         the process's clock is an hour ahead
SERVER_SKEW=<file>      the server's clock is ahead by the ms in this file (httpqueue.clock.StoreNow); its
                        content may change while the process runs
NAMES=<JSON>            {host: [answer, …]}: each look-up takes the next answer, the last one for ever. An
                        answer is a list of addresses, or a getaddrinfo error such as "EAI_AGAIN"
"""

import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

import orjson

from httpqueue.cli import main
from httpqueue.run import wiring

_true_time_ns = time.time_ns


def turn_clock(skew_ms: int) -> None:
    """This process's clock is wrong."""
    time.time_ns = lambda: _true_time_ns() + skew_ms * 1_000_000


def turn_server_clock(file: Path) -> None:
    """The server's clock is wrong, or jumps."""
    vars(wiring)["server_time"] = lambda: _true_time_ns() // 1_000_000 + int(file.read_text())


def answer_names(names: dict[str, list[Any]]) -> None:
    """Name servers answer so."""
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **options: Any) -> Any:
        if host not in names:
            return real(host, *args, **options)
        answer = names[host].pop(0) if len(names[host]) > 1 else names[host][0]
        if isinstance(answer, str):
            raise socket.gaierror(getattr(socket, answer), answer)
        return [found for address in answer for found in real(address, *args, **options)]

    socket.getaddrinfo = getaddrinfo


if __name__ == "__main__":
    environment = os.environ  # noqa: TID251 - a test's own
    if "SKEW_MS" in environment:
        turn_clock(int(environment["SKEW_MS"]))
    if "SERVER_SKEW" in environment:
        turn_server_clock(Path(environment["SERVER_SKEW"]))
    if "NAMES" in environment:
        answer_names(orjson.loads(environment["NAMES"]))
    sys.exit(main())
