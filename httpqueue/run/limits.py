"""Settings of the process itself: the limit of open files, and garbage collection."""

import gc
import resource
from contextlib import suppress
from typing import Final

import structlog

MAX_FILES: Final = 65_536
SPARE_FILES: Final = 200
"""Open files for everything but calls: connections to Redis, clients of the API, logs."""

log = structlog.get_logger()


def allow_many_connections() -> None:
    """Raise the limit of open files: each call in flight needs one, and macOS allows only 256 by default."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if most == resource.RLIM_INFINITY else min(MAX_FILES, most)
    with suppress(ValueError, OSError):  # the system allows even less than it said
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def affordable_calls(wanted: int) -> int:
    """How many calls this process may have in flight, of so many wanted: each has a socket.

    When the limit of open files allows fewer, this says so. Calls without a socket would only fail.
    """
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY or wanted + SPARE_FILES <= most:
        return wanted
    calls = max(1, most - SPARE_FILES)
    log.warning("run.few_open_files", limit=most, calls=calls, remedy=f"ulimit -n {wanted + SPARE_FILES}")
    return calls


def collect_garbage_less_often() -> None:
    """Almost nothing here is garbage, so Python's default (a collection every 700 allocations) wastes CPU."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
