"""What other processes use of the machine, as Linux tells in /proc."""

import os
from pathlib import Path

from tests.benchmarks.figures import MissingError


def cpu_s(*pids: int) -> float:
    """Seconds of CPU that processes and their ended children used so far; MissingError without /proc."""
    return sum(_ticks(pid) for pid in pids) / os.sysconf("SC_CLK_TCK")


def peak_mib(pid: int) -> float:
    """The most resident memory a process ever had; MissingError without /proc."""
    [line] = [line for line in _read(pid, "status").splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


def _ticks(pid: int) -> int:
    fields = _read(pid, "stat").rpartition(") ")[2].split()
    return sum(int(field) for field in fields[11:15])  # utime, stime, cutime and cstime of proc(5)


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except OSError as error:
        raise MissingError("needs Linux's /proc") from error
