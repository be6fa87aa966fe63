"""Thousands of small photographs by `captum-vit explain`: memory, a stop by SIGKILL, and time beside classification.

    python tests/benchmarks/many.py               # 3,000 scenes of the sample, JPEGs of 64 to 128 pixels
    python tests/benchmarks/many.py --count 60    # to see that it runs
    python tests/benchmarks/many.py --flow --no-report  # what else is said goes to `explain`

Runs of the command line, each a process of its own: of the first tenth of the files; of all; of all, killed in the
middle; and that once more with --resume. The peak of memory is VmHWM of the running process: it must be the same for a
tenth and for all. What was finished before the kill must stay as it is, and nothing may be left out. Time is CPU
seconds, less those of a run of one file, beside a plain loop that reads and classifies the same files.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import torch
from folder import classify
from PIL import Image

from captum_vit import Explainer
from captum_vit.images import find_images
from captum_vit.sample import draw_scene

RECORD = ".captum-vit.json"
TENTH = 10
TICKS = os.sysconf("SC_CLK_TCK")


def draw(folder: Path, count: int) -> None:
    """Scenes of the sample, of sides that differ."""
    sides = np.random.default_rng(0).integers(64, 129, (count, 2))
    for number, (width, height) in enumerate(sides.tolist()):
        scene = Image.fromarray(draw_scene(number, size=128).image)
        scene.resize((width, height)).save(folder / f"{number:05d}.jpg", quality=90)


def command(files: list[Path], out: Path, more: list[str]) -> list[str]:
    base = [sys.executable, "-m", "captum_vit", "explain", "--method", "agcam", "--resume", "--out", str(out)]
    return [*base, *more, *map(str, files)]


def watched(command: list[str], stop: Callable[[], bool]) -> tuple[float, float, int | None]:
    """Peak memory in MiB and CPU seconds of a process, as last seen, and how it ended; `stop` says when to kill it."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak, spent = 0.0, 0.0
    while process.poll() is None:
        with suppress(OSError, IndexError):  # it ends just now, and holds nothing more
            status = Path(f"/proc/{process.pid}/status").read_text()
            peak = float(status.partition("VmHWM:")[2].split()[0]) / 1024
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            spent = (int(fields[11]) + int(fields[12])) / TICKS
        if stop():
            process.send_signal(signal.SIGKILL)
        time.sleep(0.1)
    return peak, spent, process.returncode


def finished(out: Path) -> dict[Path, int]:
    """Of each file of a finished folder, when it was written."""
    return {
        path: path.stat().st_mtime_ns
        for record in out.glob(f"*/{RECORD}")
        if "made" in json.loads(record.read_text())
        for path in record.parent.iterdir()
    }


def folders(out: Path) -> int:
    return sum(1 for _ in out.iterdir()) if out.exists() else 0


def check(files: list[Path], out: Path, before: dict[Path, int]) -> None:
    """Nothing lost, nothing done twice, nothing left behind."""
    after = finished(out)
    changed = [path for path, written in before.items() if after.get(path) != written]
    complete = sorted({path.parent.name for path in after})
    begun = list(out.rglob("*.tmp"))
    if changed or begun or not complete == sorted(os.listdir(out)) == [file.stem for file in files]:
        raise SystemExit(f"{len(changed)} files written again, {len(begun)} left behind, {len(complete)} complete")


def plain(files: list[Path]) -> float:
    """CPU seconds of a loop that reads, prepares and classifies."""
    torch.set_num_threads(2)
    explainer = Explainer("sample")
    classify(explainer, files[:8])  # warm up
    start = time.process_time()
    classify(explainer, files)
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=3000)
    arguments, more = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as root:
        photos, few, out = (Path(root) / name for name in ("photos", "few", "all"))
        photos.mkdir()
        draw(photos, arguments.count)
        files = find_images([photos])
        tenth = len(files) // TENTH
        one, one_spent, _ = watched(command(files[:1], Path(root) / "one", more), lambda: False)
        first, *_ = watched(command(files[:tenth], few, more), lambda: False)
        _, killed_spent, code = watched(command(files, out, more), lambda: folders(out) > len(files) // 2)
        if code != -signal.SIGKILL:
            raise SystemExit(f"the run was to be killed, and ended with {code}")
        before, begun = finished(out), folders(out)
        rest, rest_spent, code = watched(command(files, out, more), lambda: False)
        if code:
            raise SystemExit(f"the second half ended with {code}")
        check(files, out, before)
        every, every_spent, _ = watched(command(files, Path(root) / "again", more), lambda: False)
        seconds = plain(files)
    done = len({path.parent for path in before})
    print(f"{len(files)} photographs")
    print(
        f"  peak memory: {one:.0f} MiB for one, {first:.0f} for {tenth}, {every:.0f} for all, {rest:.0f} for the rest"
    )
    print(f"  killed after {begun} folders were begun, {done} of them complete; resumed: none lost, none written again")
    print(f"  CPU seconds beside a plain loop ({seconds:.1f} s), less the start ({one_spent:.1f} s):")
    print(f"    in one run {(every_spent - one_spent) / seconds:.2f}")
    print(f"    killed and resumed {(killed_spent + rest_spent - 2 * one_spent) / seconds:.2f}")


if __name__ == "__main__":
    main()
