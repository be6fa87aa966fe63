"""Trains a shortcut out of the hard sample model, by its maps, and measures by interventions whether it is gone.

    python tutorials/shortcut.py --out runs/shortcut
    python tutorials/shortcut.py --quick

In the scenes of the training a sticker never comes without a cup, nor the starry sky without a shuttle, so that their
labels alone can't tell which of the two is the reason. One copy of the model is trained on the labels, another on the
same scenes by the same steps and on its maps as well. All figures are of scenes that no training has seen. The weights
are not kept.
"""

import argparse
import copy
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from captum_vit import AGCAM, LeGrad, explain, load_model
from captum_vit.metrics.localization import energy_inside
from captum_vit.sample.hard import CLASSES, CONFIG, MARKED, SKIED, Plan
from captum_vit.sample.hard.judging import scores_of
from captum_vit.sample.train import average_precision, normalise
from captum_vit.training import MapLoss
from captum_vit.visualization import overlay, sheet

SHORTCUTS = {"sticker": MARKED, "sky": SKIED}
UNSEEN = 2**32 + 7  # beyond the seeds of any training
MODELS = {"as it comes": None, "labels alone": 0.0, "labels and maps": 3.0}  # the weight of the map loss
PICTURED = {"sticker": 5, "sky": 3}  # which of the unseen scenes is shown
Figure = tuple[float, float, float]  # and the bounds of its 95 % interval


@dataclass(frozen=True)
class Profile:
    """How much is done.

    steps, batch, rate: of the training; the rate falls to 0 in a line.
    scenes: for each share of answers, and each mean over maps.  plain: for the average precision.
    """

    steps: int = 160
    batch: int = 24
    rate: float = 3e-4
    scenes: int = 400
    plain: int = 1000
    drawn: int = 1000  # times that scenes are drawn again for an interval


QUICK = Profile(steps=1, batch=2, scenes=4, plain=24, drawn=20)


@dataclass(frozen=True)
class Lesson:
    """Scenes of a step.

    images (N, 3, S, S).  truth (N, 6): which objects are there.  asked (N,): the class whose map is looked at.
    reasons bool (N, S, S): where its object is.
    """

    images: Tensor
    truth: Tensor
    asked: Tensor
    reasons: Tensor


def lesson(rng: np.random.Generator, count: int) -> Lesson:
    """Scenes in which no shortcut comes without its object; the class that is asked about has one if any does."""
    batch = Plan.draw(rng, 3 * count, mark=0.4, sky=0.4, beside=1.0).render(CONFIG["img_size"])
    truth, tempting = batch.masks.any((2, 3)), batch.shortcuts.any((2, 3))
    rows = np.flatnonzero((truth | ~tempting).all(1) & truth.any(1))[:count]
    rank = truth[rows] * (1 + rng.random((len(rows), len(CLASSES)))) + 2 * tempting[rows]
    asked = rank.argmax(1)
    reasons = batch.masks[rows, asked]
    return Lesson(
        normalise(batch.images[rows]),
        torch.from_numpy(truth[rows]).float(),
        torch.from_numpy(asked),
        torch.from_numpy(reasons),
    )


def trained(model: nn.Module, weight: float, profile: Profile) -> nn.Module:
    """A copy of the model after some steps on labels, and with this weight on where its maps lie."""
    model = copy.deepcopy(model).requires_grad_(True)
    maps, rng = MapLoss(AGCAM(model)), np.random.default_rng(1)
    optimiser = torch.optim.AdamW(model.parameters(), profile.rate)
    for step in range(profile.steps):
        seen = lesson(rng, profile.batch)
        loss = F.binary_cross_entropy_with_logits(model(seen.images), seen.truth)
        if weight:
            loss = loss + weight * maps.outside(seen.images, seen.reasons, seen.asked).mean()
        optimiser.param_groups[0]["lr"] = profile.rate * (1 - step / profile.steps)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.requires_grad_(False)


def with_shortcut(name: str, count: int, *, beside: bool) -> Plan:
    """Unseen scenes with one shortcut, beside its object or instead of it."""
    label = SHORTCUTS[name]
    wishes = {"mark": float(label == MARKED), "sky": float(label == SKIED), "beside": float(beside)}
    return Plan.draw(UNSEEN + label + 100 * beside, count, **wishes)


def share(hits: np.ndarray) -> Figure:
    """How often something is so, with Wilson's interval."""
    n, p, z = len(hits), float(np.mean(hits)), 1.96
    middle, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return p, float((middle - half) / (1 + z * z / n)), float((middle + half) / (1 + z * z / n))


def over_scenes(values: np.ndarray, statistic, drawn: int) -> Figure:
    """A statistic of rows, each of one scene, with the interval that drawing the scenes again gives."""
    rng = np.random.default_rng(0)
    again = [statistic(values[rng.integers(0, len(values), len(values))]) for _ in range(drawn)]
    low, high = np.nanquantile(again, (0.025, 0.975))
    return float(statistic(values)), float(low), float(high)


def named(model: nn.Module, plan: Plan, label: int) -> np.ndarray:
    return scores_of(model, plan)[:, label] > 0


def of_answers(model: nn.Module, profile: Profile) -> dict[str, Figure]:
    """How often an answer changes without a thing: of all scenes of a kind, so that it is 0 where none rests on it."""
    found = {}
    for name, label in SHORTCUTS.items():
        alone = with_shortcut(name, profile.scenes, beside=False)
        changed = named(model, alone, label) != named(model, alone.without_shortcut(label), label)
        found[f"{name} alone: the answer changes without it"] = share(changed)
        beside = with_shortcut(name, profile.scenes, beside=True)
        before = named(model, beside, label)
        for thing, without in (name, beside.without_shortcut), (CLASSES[label], beside.without_objects):
            changed = before != named(model, without(label), label)
            found[f"{name} and {CLASSES[label]}: the answer changes without the {thing}"] = share(changed)
    return found


def of_maps(model: nn.Module, profile: Profile) -> dict[str, Figure]:
    """How much of the maps lies on the shortcut and on the object beside it: by the method of the loss, and another."""
    found = {}
    for name, label in SHORTCUTS.items():
        batch = with_shortcut(name, profile.scenes, beside=True).render(CONFIG["img_size"])
        rows = np.flatnonzero(batch.masks[:, label].any((1, 2)))
        for kind in (AGCAM, LeGrad):
            lying = {name: [], CLASSES[label]: []}
            for part in np.array_split(rows, -(-len(rows) // 25)):
                maps = kind(model).attribute(normalise(batch.images[part]), label, output_shape="spatial")[:, 0]
                for thing, masks in (name, batch.shortcuts), (CLASSES[label], batch.masks):
                    lying[thing].append(energy_inside(maps, torch.from_numpy(masks[part, label])).numpy())
            for thing, shares in lying.items():
                text = f"{name} and {CLASSES[label]}: share of {kind.title}'s map on the {thing}"
                found[text] = over_scenes(np.concatenate(shares), np.nanmean, profile.drawn)
    return found


def of_plain_scenes(model: nn.Module, profile: Profile) -> dict[str, Figure]:
    """How good the answers are where no shortcut is."""
    plan = Plan.draw(UNSEEN, profile.plain, mark=0.0, sky=0.0)
    scores, labels = scores_of(model, plan), plan.labels

    def mean_precision(both: np.ndarray) -> float:
        return float(np.mean(average_precision(both[:, 0], both[:, 1])))

    right = ((scores > 0) == (labels > 0)).mean(1)
    return {
        "no shortcut: mean average precision": over_scenes(
            np.stack([scores, labels], 1), mean_precision, profile.drawn
        ),
        "no shortcut: answers that are right": over_scenes(right, np.mean, profile.drawn),
    }


def figures(model: nn.Module, profile: Profile) -> dict[str, Figure]:
    return {**of_answers(model, profile), **of_plain_scenes(model, profile), **of_maps(model, profile)}


def table(found: dict[str, dict[str, Figure]]) -> str:
    """The figures of each model, in per cent with their intervals, as a table of Markdown."""

    def cell(value: float, low: float, high: float) -> str:
        return f"{100 * value:.1f} ({100 * low:.1f} to {100 * high:.1f})"

    lines = [f"| in per cent | {' | '.join(found)} |", f"| --- |{' --- |' * len(found)}"]
    for text in next(iter(found.values())):
        lines.append(f"| {text} | {' | '.join(cell(*figures[text]) for figures in found.values())} |")
    return "\n".join(lines)


def picture(models: dict[str, nn.Module]) -> Image.Image:
    """Scenes with a shortcut beside its object, and the map of each model."""
    loaded, rows = load_model("sample/hard"), []
    for name, label in SHORTCUTS.items():
        scene = with_shortcut(name, 40, beside=True)[[PICTURED[name]]].render(384).images[0]
        cells = [(f"{name} and {CLASSES[label]}", Image.fromarray(scene))]
        for text, model in models.items():
            e = explain(scene, replace(loaded, model=model), "agcam", label)
            (found,) = e.attributions
            cells.append((f"{text}: {found.target.score:.1%}", overlay(e.image, found.map, e.view)))
        rows.append(cells)
    return sheet(rows)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a run of seconds, whose figures say nothing")
    parser.add_argument("--out", type=Path, help="a folder for figures.json and maps.webp")
    chosen = parser.parse_args(arguments)
    profile = QUICK if chosen.quick else Profile()
    torch.set_num_threads(1)
    shipped, models, found = load_model("sample/hard").model, {}, {}
    for text, weight in MODELS.items():
        began = time.process_time()
        models[text] = shipped if weight is None else trained(shipped, weight, profile)
        between = time.process_time()
        found[text] = figures(models[text], profile)
        print(f"{text}: trained {between - began:.0f} s, judged {time.process_time() - between:.0f} s", flush=True)
    print(f"\n{table(found)}")
    if chosen.out is not None:
        chosen.out.mkdir(parents=True, exist_ok=True)
        (chosen.out / "figures.json").write_text(json.dumps(found, indent=1))
        picture(models).save(chosen.out / "maps.webp", quality=80, method=6)


if __name__ == "__main__":
    main()
