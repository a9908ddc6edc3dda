"""What other processes use of the machine, as Linux tells in /proc."""

import os
from pathlib import Path

from tests.benchmarks.figures import MissingError


def cpu_s(pid: int) -> float:
    """Seconds of CPU that a process used so far; MissingError without /proc."""
    fields = _read(pid, "stat").rpartition(") ")[2].split()
    user_ticks, system_ticks = int(fields[11]), int(fields[12])  # utime and stime of proc(5)
    return (user_ticks + system_ticks) / os.sysconf("SC_CLK_TCK")


def peak_mib(pid: int) -> float:
    """The most resident memory a process ever had; MissingError without /proc."""
    [line] = [line for line in _read(pid, "status").splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except OSError as error:
        raise MissingError("needs Linux's /proc") from error
