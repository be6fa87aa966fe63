"""Peak memory of an evaluation of few images and of many: it should be the same.

    python tests/benchmarks/evaluation_memory.py            # 100 and 2000 scenes
    python tests/benchmarks/evaluation_memory.py --quick    # 20 and 200

Each run is a process of its own on the local engine, with the embedded model on scenes of the sample, two questions
about each. Its peak is split where the evaluation ends: what comes after, the leaderboard, holds all rows at once and
draws its bootstrap over all images.
"""

import argparse
import subprocess
import sys
import tempfile
import time

import torch
from peak import peak_mib

from captum_vit.evaluation import Leaderboard, Plan, evaluate

QUICK, FULL = (20, 200), (100, 2000)


def print_peaks(scenes: int) -> None:
    """Peak before a run's leaderboard is read, at the end, and the seconds that all took."""
    peaks: list[float] = []
    read = Leaderboard.read

    def watched(*args, **kwargs) -> Leaderboard:
        peaks.append(peak_mib())
        return read(*args, **kwargs)

    Leaderboard.read = watched
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        plan = Plan(data=f"sample:{scenes}", methods=("agcam", "rollout"), metrics=("localization",))
        evaluate(plan, folder).to_markdown()
        print(peaks[0], peak_mib(), time.perf_counter() - start)


def measured(scenes: int, threads: int) -> list[float]:
    command = [sys.executable, __file__, "--peak", str(scenes), "--threads", str(threads)]
    return [float(x) for x in subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.peak:
        return print_peaks(args.peak)
    print("| scenes | peak of the evaluation, MiB | with the leaderboard, MiB | seconds |\n| --- | --- | --- | --- |")
    for scenes in QUICK if args.quick else FULL:
        evaluation, whole, seconds = measured(scenes, args.threads)
        print(f"| {scenes} | {evaluation:.0f} | {whole:.0f} | {seconds:.0f} |", flush=True)
    return None


if __name__ == "__main__":
    main()
