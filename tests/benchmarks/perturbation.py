"""Throughput of the perturbation curves, as a share of plain batched forwards of the same number of images.

    python tests/benchmarks/perturbation.py            # ViT-S/16 at 224
    python tests/benchmarks/perturbation.py --quick    # the embedded model

Both alternate within one run and medians are compared, since machines are shared and noisy. The maps are ready; a curve
adds the ranking, the making of the perturbed images and the scoring. Memory is what the process grows by at its peak
while it draws a curve of few levels, and one of many.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import timm
import torch
from peak import peak_mib
from torch import Tensor, nn

from captum_vit.metrics import perturbation_curve

FEW, MANY = 11, 101


def build(quick: bool, device: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    if quick:
        from captum_vit.adapters import sample_vit

        return sample_vit.build().to(device), torch.randn(32, 3, 64, 64, device=device)
    return timm.create_model("vit_small_patch16_224").eval().to(device), torch.randn(8, 3, 224, 224, device=device)


def plain(model: nn.Module, x: Tensor, levels: int, batch: int) -> None:
    every = x.repeat(-(-batch // len(x)) + 1, 1, 1, 1)
    with torch.no_grad():
        for start in range(0, len(x) * levels, batch):
            model(every[: min(batch, len(x) * levels - start)])


def curve(model: nn.Module, x: Tensor, maps: Tensor, levels: int, batch: int, **options) -> None:
    shares = [i / (levels - 1) for i in range(levels)]
    perturbation_curve(model, x, maps, 1, levels=shares, batch_size=batch, **options).area.sum().item()


def seconds(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def growth_mib(levels: int, quick: bool) -> float:
    """Growth of a fresh process at its peak, over what it had after a plain forward."""
    command = [sys.executable, __file__, "--peak", str(levels), *(["--quick"] if quick else [])]
    # glibc returns freed blocks at once, so that what is held is measured, and not how the heap is fragmented
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"}
    return float(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)


def print_peak(levels: int, quick: bool) -> None:
    model, x = build(quick, "cpu")
    maps = torch.rand(len(x), 14, 14)
    plain(model, x, 2, len(x))
    before = peak_mib()
    curve(model, x, maps, levels, len(x))
    print(peak_mib() - before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.peak:
        return print_peak(args.peak, args.quick)
    model, x = build(args.quick, args.device)
    maps = torch.rand(len(x), 14, 14, device=x.device)
    print("| curve | images a second | share of plain forwards |\n| --- | --- | --- |")
    for name, options in {
        "deletion to 0": {},
        "insertion from blur": {"start": "occluder", "occluder": "blur"},
    }.items():
        plain(model, x, FEW, args.batch), curve(model, x, maps, FEW, args.batch, **options)  # warm up
        pairs = [
            (
                seconds(lambda: plain(model, x, FEW, args.batch)),
                seconds(lambda options=options: curve(model, x, maps, FEW, args.batch, **options)),
            )
            for _ in range(args.rounds)
        ]
        forward, ours = (statistics.median(pair[side] for pair in pairs) for side in (0, 1))
        print(f"| {name} | {len(x) * FEW / ours:.0f} | {forward / ours:.1%} |", flush=True)
    if args.device == "cpu":
        few, many = (growth_mib(levels, args.quick) for levels in (FEW, MANY))
        print(f"\npeak above a plain forward: {few:.0f} MiB with {FEW} levels, {many:.0f} MiB with {MANY}")
    return None


if __name__ == "__main__":
    main()
