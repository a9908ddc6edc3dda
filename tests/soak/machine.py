"""What a soak ran on, without saying whose it is: no host name, no paths."""

import os
import platform
import subprocess

from httpqueue import __version__, clock
from httpqueue.storage.embedded import _binary
from httpqueue.timers.schedule import format_instant
from tests.support.keys import PARTITIONS


def describe() -> list[tuple[str, str]]:
    """(what, value)."""
    valkey = subprocess.run([_binary(), "--version"], capture_output=True, text=True, check=False).stdout
    return [
        ("date", format_instant(clock.now_ms())[:10]),
        ("httpqueue", __version__),
        ("partitions", str(PARTITIONS.count)),
        ("cores", f"{os.cpu_count()}, shared by load, receivers, servers and processes"),
        ("kernel", f"{platform.system()} {platform.release()}"),
        ("Python", platform.python_version()),
        ("server", f"{' '.join(valkey.split()[:3])}, append-only file, appendfsync no"),
    ]
