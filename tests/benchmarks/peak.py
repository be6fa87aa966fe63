"""The peak memory of this process."""

import re
from pathlib import Path


def peak_mib() -> float:
    """The most that this process has held, in MiB. On Linux alone: `ru_maxrss` would count the parent before exec."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1)) / 1024
