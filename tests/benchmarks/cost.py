"""What each method costs: time as a ratio to one plain forward, and memory above it.

    python tests/benchmarks/cost.py            # the whole table, as markdown
    python tests/benchmarks/cost.py --quick    # one small case and few rounds, to see that it runs

Plain forward and method alternate within one run and medians of CPU seconds are compared, since machines are shared
and noisy; OMP_WAIT_POLICY=passive keeps waiting threads from counting as work. For `explain` the calls of the patch
embedding are counted beside it, so that noise cannot hide a second pass; a replay of the prefix tokens is one.
Memory is the peak of a process that ran the method, less the peak of one that ran the plain forward.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import first_call
import peak
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from captum_vit import AGCAM, DAAM, AttentionRollout, GradientRollout, RawAttention, explain
from captum_vit.attr import METHODS as BY_NAME
from captum_vit.attr import start
from captum_vit.capture import Inputs, untouched
from captum_vit.targets import Classes

THREADS = 2
CASES = {  # model, image size, batch
    "ViT-B/16, 224, batch 1": ("vit_base_patch16_224", 224, 1),
    "ViT-B/16, 224, batch 8": ("vit_base_patch16_224", 224, 8),
    "ViT-S/16, 768, batch 1": ("vit_small_patch16_224", 768, 1),
}
QUICK = {"ViT-Ti/16, 96, batch 2": ("vit_tiny_patch16_224", 96, 2)}
METHODS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "RawAttention": lambda model, x: RawAttention(model).attribute(x),
    "AttentionRollout": lambda model, x: AttentionRollout(model).attribute(x),
    "AGCAM": lambda model, x: AGCAM(model).attribute(x, 1),
    "DAAM": lambda model, x: DAAM(model).attribute(x, 1),
    "GradientRollout": lambda model, x: GradientRollout(model).attribute(x, 1),
}
ALL_CLASSES = 'AGCAM.attribute_classes(x, "all")'


def plain(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x)


def build(case: tuple[str, int, int]) -> tuple[nn.Module, Tensor]:
    name, size, batch = case
    torch.manual_seed(0)
    return timm.create_model(name, img_size=size).eval(), torch.randn(batch, 3, size, size)


def all_maps(model: nn.Module, x: Tensor) -> list[Tensor]:
    """What an evaluation asks of every batch: the maps of all methods for one target, from one run."""
    readers = [(method(model), {}) for method in BY_NAME.values()]
    with untouched(readers[0][0].adapter), torch.no_grad():
        run, target = start(readers, Inputs(x), flow=False, once=True), Classes(1)
        return [method._maps(run, target, flow=False) for method, _ in readers]


def forward_and_backward(model: nn.Module, x: Tensor) -> None:
    """The floor of a gradient method: one forward and one backward to the tokens before the first block."""
    found: list[Tensor] = []
    constant = [p for p in model.parameters() if p.requires_grad]
    for p in constant:
        p.requires_grad_(False)
    hook = model.blocks[0].register_forward_pre_hook(lambda module, args: found.append(args[0].requires_grad_()))
    model(x)[:, 1].sum().backward(inputs=found)
    hook.remove()
    for p in constant:
        p.requires_grad_(True)


@contextmanager
def listened(model: nn.Module) -> Iterator[None]:
    """With a hook that listens on every module, as of a logger."""
    hooks = [module.register_forward_hook(lambda module, args, output: None) for module in model.modules()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class Convolutions(TorchFunctionMode):
    """Counts them: a plain ViT has one, its patch embedding. A hook or a patched class would be examined."""

    count = 0

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        self.count += func is F.conv2d
        return func(*args, **kwargs or {})


def passes(run: Callable[[], object]) -> int:
    """How often the patch embedding runs."""
    with Convolutions() as seen:
        run()
    return seen.count


def time_ratio(method: Callable[[], object], baseline: Callable[[], object], rounds: int) -> float:
    """Median time of the method over the median time of the baseline, taken in turns."""
    method(), baseline()  # warm up
    pairs = [(first_call.seconds(baseline), first_call.seconds(method)) for _ in range(rounds)]
    return statistics.median(p[1] for p in pairs) / statistics.median(p[0] for p in pairs)


def peak_mib(case: str, method: str) -> float:
    """Peak memory of a fresh process that runs the method twice, in MiB."""
    command = [sys.executable, __file__, "--peak", method, "--case", case]
    # glibc returns freed blocks at once, so that what is held is measured, and not how the heap is fragmented
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"}
    return float(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)


def print_peak(case: str, method: str) -> None:
    model, x = build((CASES | QUICK)[case])
    run = plain if method == "plain" else METHODS[method]
    plain(model, x)
    for _ in range(2):
        run(model, x)
    print(peak.peak_mib())


def table(cases: dict[str, tuple[str, int, int]], rounds: int, methods: list[str]) -> None:
    print(f"{platform.processor() or platform.machine()}, {THREADS} threads, torch {torch.__version__}, float32\n")
    print("| method |" + "".join(f" {case}: time | memory |" for case in cases))
    print("| --- |" + " --- | --- |" * len(cases))
    built = {name: build(case) for name, case in cases.items()}
    floor = {name: peak_mib(name, "plain") for name in cases}
    for method in methods:
        cells = []
        for name, (model, x) in built.items():
            ratio = time_ratio(partial(METHODS[method], model, x), partial(plain, model, x), rounds)
            cells.append(f" {ratio:.2f} | {peak_mib(name, method) - floor[name]:.0f} MiB |")
        print(f"| {method} |" + "".join(cells), flush=True)
    model, x = next(iter(built.values()))
    every = partial(AGCAM(model).attribute_classes, x[:1], "all")
    print(f"| {ALL_CLASSES} | {time_ratio(every, partial(plain, model, x[:1]), max(rounds // 4, 2)):.2f} | |")
    whole_jobs(model, x[:1], max(rounds // 2, 2))
    first_call.table(max(rounds // 2, 2))


def whole_jobs(model: nn.Module, x: Tensor, rounds: int) -> None:
    """`explain` and an evaluation's maps, with their passes."""
    image = Image.effect_noise((500, 400), 60).convert("RGB")
    agcam = partial(explain, image, model, method="agcam")
    jobs = {
        'explain(photo, model, method="agcam")': agcam,
        'explain(photo, model, method="all", target=[1, 2, 3])': partial(
            explain, image, model, method="all", target=[1, 2, 3]
        ),
        "one forward and one backward": partial(forward_and_backward, model, x),
        "an evaluation's maps of all methods, one target": partial(all_maps, model, x),
    }
    print("\n| job | time | passes |\n| --- | --- | --- |")
    for name, job in jobs.items():
        print_job(name, job, partial(plain, model, x), rounds)
    with listened(model):
        print_job("explain by agcam with a hook that listens on every module", agcam, partial(plain, model, x), rounds)


def print_job(name: str, job: Callable[[], object], baseline: Callable[[], object], rounds: int) -> None:
    """A line of the table."""
    print(f"| {name} | {time_ratio(job, baseline, rounds):.2f} | {passes(job)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--case", help="only this case")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    if args.peak:
        return print_peak(args.case, args.peak)
    cases = QUICK if args.quick else CASES
    cases = {args.case: cases[args.case]} if args.case else cases
    return table(cases, 3 if args.quick else args.rounds, args.methods)


if __name__ == "__main__":
    main()
