"""Private directories for sockets, and for data that is kept in memory only."""

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from httpqueue import clock

_PREFIX: Final = "httpqueue-"
_OWNER: Final = "owner"
"""A file that is locked as long as the process lives whose directory it is."""
_MAKING_MS: Final = 60_000
"""A directory younger than this may be about to be locked."""


@contextmanager
def private_directory() -> Iterator[Path]:
    """A directory that nobody else can read. It is removed at the end; after kill -9, by a later call."""
    _remove_abandoned()
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as name, (Path(name) / _OWNER).open("w") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        yield Path(name)


def _remove_abandoned() -> None:
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_OWNER}"):
        with suppress(OSError), path.open("r+") as owner:  # also when it is locked, or another user's
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.stat().st_mtime * 1000 < clock.now_ms() - _MAKING_MS:
                shutil.rmtree(path.parent, ignore_errors=True)
