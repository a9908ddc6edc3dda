"""SIGINT and SIGTERM: the first one stops the process cleanly, the second one ends it at once."""

import asyncio
import signal
from typing import Final

import structlog

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

log = structlog.get_logger()


def stop_on_signals() -> asyncio.Event:
    """An event that the first signal sets. Call this in the running loop."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
        log.info("run.stop")
        stop.set()

    for number in _SIGNALS:
        loop.add_signal_handler(number, on_signal)
    return stop
