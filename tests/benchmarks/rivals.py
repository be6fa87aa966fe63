"""What other packages need for the same maps: time as a ratio to one plain forward, and memory above it.

    pip install lxt grad-cam torchcam autolrp daam-timm-vit  # any of them
    python tests/benchmarks/rivals.py

Each package has a process of its own, since some of them replace functions of torch or timm for good. In it a plain
forward, our method and theirs alternate, and medians of CPU seconds are compared; a package that takes one image at a
time is given the batch image by image. Maps of one target are compared too, by their correlation: where that is not
1, the package computes something else, for a reason that the table of methods tells.
"""

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import peak
import timm
import torch
import torchvision
from torch import Tensor, nn

import captum_vit.attr

Maps = Callable[[Tensor], Tensor]
TARGET = 1
CASES = {"batch 1": (224, 1), "batch 8": (224, 8), "768 pixels": (768, 1)}


def timm_model(size: int) -> nn.Module:
    name = "vit_base_patch16_224" if size == 224 else "vit_small_patch16_224"
    return timm.create_model(name, img_size=size).eval()


def torchvision_model(size: int) -> nn.Module:
    if size == 224:
        model = torchvision.models.vit_b_16()
    else:
        model = torchvision.models.VisionTransformer(size, 16, 12, 6, 384, 1536)
    nn.init.normal_(model.heads.head.weight, std=0.02)  # it begins at 0, where every map is empty
    return model.eval()


def one_by_one(maps: Maps) -> Maps:
    return lambda x: torch.cat([maps(image) for image in x.split(1)])


def grad_cam(model: nn.Module) -> Maps:
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    side = model.patch_embed.grid_size[0]

    def as_image(tokens: Tensor) -> Tensor:
        return tokens[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)

    cam = GradCAM(model, [model.blocks[-1].norm1], as_image)
    return lambda x: torch.from_numpy(cam(x, [ClassifierOutputTarget(TARGET)] * len(x)))


def torchcam_legrad(model: nn.Module) -> Maps:
    from torchcam.methods import LeGrad

    def maps(x: Tensor) -> Tensor:
        with LeGrad(model, list(model.encoder.layers)) as cam, torch.enable_grad():
            return cam([TARGET] * len(x), model(x), normalized=False)[0]

    return maps


def lxt_cp(model: nn.Module) -> Maps:
    from lxt.efficient import monkey_patch

    monkey_patch(torchvision.models.vision_transformer)
    model.requires_grad_(False)  # as its own examples have it

    def maps(x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        model(x)[:, TARGET].sum().backward()
        return (x * x.grad).sum(1).detach()

    return maps


def auto_lrp(model: nn.Module) -> Maps:
    import autolrp

    def maps(x: Tensor) -> Tensor:
        wrapped = autolrp.tensor(x)
        model(wrapped)[0, TARGET].lrp()
        return wrapped.relevance.sum(1)

    return one_by_one(maps)


def daam_timm_vit(model: nn.Module) -> Maps:
    from daam import DAAM

    def maps(x: Tensor) -> Tensor:
        with DAAM(model) as daam:
            return daam(x, target=TARGET).maps[:, -1]

    return maps


def ours(name: str, **options: object) -> Callable[[nn.Module], Maps]:
    def build(model: nn.Module) -> Maps:
        method = getattr(captum_vit, name)(model)
        return lambda x: method.attribute(x, TARGET, **options).sum(1)

    return build


RIVALS = {  # package: (module, model, its maps, ours)
    "grad-cam": ("pytorch_grad_cam", timm_model, grad_cam, ours("GradCAM")),
    "torchcam, LeGrad": ("torchcam", torchvision_model, torchcam_legrad, ours("LeGrad")),
    "lxt, CP-LRP": ("lxt", torchvision_model, lxt_cp, ours("CPLRP", output_shape="input")),
    "autolrp": ("autolrp", timm_model, auto_lrp, ours("AttnLRP", output_shape="input")),
    "daam-timm-vit": ("daam", timm_model, daam_timm_vit, ours("DAAM")),
}


def compare(rival: str, case: str, rounds: int) -> list[float]:
    """Forwards of ours and of theirs, and the correlation of the maps; in a process that is thrown away."""
    model, x, theirs, our = begun(rival, case)
    ways: dict[str, Maps] = {"plain": partial(plain, model), "ours": our(model)}
    mine, seconds = ways["ours"](x), timed(ways, x, rounds)
    ways = {"plain": ways["plain"], "theirs": theirs(model)}  # from here on the process may be changed
    other, later = ways["theirs"](x), timed(ways, x, rounds)
    return [seconds["ours"] / seconds["plain"], later["theirs"] / later["plain"], correlation(mine, other)]


def memory(rival: str, case: str, whose: str) -> list[float]:
    """MiB that a process which makes these maps holds at most; whatever is measured, both packages are imported."""
    importlib.import_module(RIVALS[rival][0])
    model, x, theirs, our = begun(rival, case)
    way = {"plain": lambda model: partial(plain, model), "ours": our, "theirs": theirs}[whose](model)
    plain(model, x)
    for _ in range(2):
        way(x)
    return [peak.peak_mib()]


def begun(rival: str, case: str) -> tuple[nn.Module, Tensor, Callable[[nn.Module], Maps], Callable[[nn.Module], Maps]]:
    torch.set_num_threads(2)
    torch.manual_seed(0)
    _, build, theirs, our = RIVALS[rival]
    size, batch = CASES[case]
    return build(size), torch.randn(batch, 3, size, size), theirs, our


def plain(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x)


def timed(ways: dict[str, Maps], x: Tensor, rounds: int) -> dict[str, float]:
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.process_time()
            way(x)
            taken[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


def correlation(a: Tensor, b: Tensor) -> float:
    """Of the maps of all images, each brought to the smaller grid of both."""
    a, b = (m.detach().float().reshape(len(m), 1, *m.shape[-2:]) for m in (a, b))
    shape = [min(x, y) for x, y in zip(a.shape[2:], b.shape[2:], strict=True)]
    a, b = (nn.functional.adaptive_avg_pool2d(m, shape).flatten(1) for m in (a, b))
    return torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(a, b, strict=True)]).mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs=3, metavar=("PACKAGE", "CASE", "WHAT"), help="time, plain, ours or theirs")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")  # of packages that are not ours
    if asked.only:
        rival, case, what = asked.only
        print(*(compare(rival, case, asked.rounds) if what == "time" else memory(rival, case, what)))
        return
    print("| package | case | ours, forwards | theirs | correlation | ours, MiB | theirs |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for rival, (module, *_) in RIVALS.items():
        if importlib.util.find_spec(module) is None:
            print(f"{rival} is not installed", file=sys.stderr)
            continue
        for case in CASES:
            print(f"| {rival} | {case} | {row(rival, case, asked.rounds)} |", flush=True)


def row(rival: str, case: str, rounds: int) -> str:
    """The figures of a line, each from a process of its own; or why there are none."""
    figures = {}
    for what in ("time", "plain", "ours", "theirs"):
        command = [sys.executable, __file__, "--rounds", str(rounds), "--only", rival, case, what]
        # glibc returns freed blocks at once, so that what is held is measured, and not how the heap is fragmented
        environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"} if what != "time" else None
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            return done.stderr.strip().splitlines()[-1]
        figures[what] = [float(figure) for figure in done.stdout.splitlines()[-1].split()]
    above = [figures[whose][0] - figures["plain"][0] for whose in ("ours", "theirs")]
    return " | ".join(f"{figure:.4g}" for figure in [*figures["time"], *above])


if __name__ == "__main__":
    main()
