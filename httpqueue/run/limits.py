"""Settings of the process itself: the limit of open files, and garbage collection."""

import gc
import resource
from contextlib import suppress
from typing import Final

MAX_FILES: Final = 65_536


def allow_many_connections() -> None:
    """Raise the limit of open files: each call in flight needs one, and macOS allows only 256 by default."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if most == resource.RLIM_INFINITY else min(MAX_FILES, most)
    with suppress(ValueError, OSError):  # the system allows even less than it said
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def collect_garbage_less_often() -> None:
    """Almost nothing here is garbage, so Python's default (a collection every 700 allocations) wastes CPU."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
