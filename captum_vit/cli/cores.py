"""How many threads a run should have here, where others may be at work on the same cores."""

import math
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

LOOKS, BETWEEN = 5, 0.01  # at how many processes want to run, and seconds between them


def threads_here(workers: int = 1, *, cores: int | None = None, running: float | None = None) -> int:
    """Threads for each of so many processes: the cores that nobody uses, at least one.

    Threads of one tensor operation wait for each other. Where one of two has no core, both stand still for as long as
    the system lets another program have it: with four programs beside it on two cores, an evaluation with two threads
    took 7 to 10 times as long as one with a single thread, and 8 times the processor's time.

    Args:
        workers: processes that share them.
        cores: that this process may use, by default as the system says.
        running: processes that want to run, by default as the system says.
    """
    cores = usable_cores() if cores is None else cores
    busy = running_processes() if running is None else running
    free = (os.cpu_count() or cores) - busy  # of the whole machine, of which `cores` may be a part
    return max(1, math.floor(min(cores, free) / workers))


def usable_cores(root: Path = Path("/sys/fs/cgroup")) -> int:
    """The cores that this process may use: a container often has fewer than the machine."""
    here = getattr(os, "sched_getaffinity", None)
    cores = len(here(0)) if here else os.cpu_count() or 1
    try:
        quota, period = (root / "cpu.max").read_text().split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no limit, or no such system
        return cores


def running_processes(read: Callable[[], str] = Path("/proc/loadavg").read_text) -> float:
    """Processes of others that run or could at once; 0 where the system does not say."""
    try:
        seen = []
        for _ in range(LOOKS):
            seen.append(int(read().split()[3].partition("/")[0]) - 1)  # this one looks
            time.sleep(BETWEEN)
        return max(statistics.median(seen), 0)
    except (OSError, ValueError, IndexError):
        return 0
