"""Processor time and memory of a process, as Linux reports them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from pathlib import Path


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process and its children, ended ones included.

    It can be compared on a machine that others use, where elapsed times cannot.
    """
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    ticks = 0
    # The parent is read last, because it accounts for a child that ends meanwhile.
    for one in (*children, pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            stat = Path(f"/proc/{one}/stat").read_text().rpartition(") ")[2].split()
            ticks += sum(map(int, stat[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def peak_megabytes(pid: int) -> float:
    """Return the peak memory of a process. Raise `ProcessLookupError` if it has ended."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(f"{pid} has ended")


def watch_until_end(process: subprocess.Popen[bytes]) -> tuple[float, float]:
    """Return peak megabytes and processor seconds of a process, as seen just before its end."""
    megabytes = spent = 0.0
    while process.poll() is None:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            megabytes, spent = peak_megabytes(process.pid), cpu_seconds(process.pid)
        time.sleep(0.2)
    return megabytes, spent
