"""Train the hard sample model: `python -m captum_vit.sample.hard.train --out weights.safetensors --state run.pt`.

Half of the steps see scenes with tokens left out, alone or by regions, so that leaving some out is nothing new to the
model; what must then be answered follows from what can still be seen. Some scenes come twice in a step, once without
a thing in it: what does not change in the answer must not change in the scores either, which is how the model learns
that negatives decide nothing. As in `captum_vit.sample.train` every patch token names what lies under it for a part of
the run, which the class token alone would learn too slowly.

The state of the run is written as it goes; started again with the same state, the run goes on from there.
"""

from __future__ import annotations

import argparse
import copy
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..train import advance, initialise, normalise, optimisers, patch_loss, save, update_average
from . import CLASSES, CONFIG
from .judging import device_of, evaluate, interventions
from .plan import DISTRACTORS, MARKED, OBJECTS, SKIED
from .recipe import Recipe
from .scenes import Batch, Plan

PATCHES = (CONFIG["img_size"] // CONFIG["patch_size"]) ** 2


class Learner(nn.Module):
    """The model on some of its tokens, with the heads that only training needs."""

    def __init__(self, model: nn.Module, blocks: tuple[int, ...]) -> None:
        """Put a head behind each of the given blocks."""
        super().__init__()
        self.model: Any = model
        self.blocks = blocks
        width = CONFIG["embed_dim"]
        self.heads = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, len(CLASSES) + 1)) for _ in blocks
        )

    def forward(self, images: Tensor, kept: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Logits of the classes, (N, 6), and of the patches after each chosen block, (N, k, 7).

        kept: the numbers of the patches that stay, (N, k).
        """
        model = self.model
        x = model.patch_embed(images) + model.pos_embed[:, 1:]
        if kept is not None:
            x = x.gather(1, kept[..., None].expand(-1, -1, x.shape[2]))
        x = torch.cat([(model.cls_token + model.pos_embed[:, :1]).expand(len(x), -1, -1), x], 1)
        named: list[Tensor] = []
        for index, block in enumerate(model.blocks):
            x = block(x)
            if index in self.blocks:
                named.append(self.heads[len(named)](x[:, 1:]))
        return model.head(model.norm(x)[:, 0]), named


def covers(masks: np.ndarray) -> Tensor:
    """The share of each patch that is covered, (N, C, P), from masks (N, C, H, W)."""
    return F.avg_pool2d(torch.from_numpy(masks).float(), CONFIG["patch_size"]).flatten(2)


def draw_kept(rng: np.random.Generator, count: int, keep: int) -> Tensor:
    """Which patches stay, (N, keep): those highest in noise that is fine, coarse or both."""
    side = round(PATCHES**0.5)
    coarse = torch.from_numpy(rng.random((count, 1, 4, 4), np.float32))
    field = F.interpolate(coarse, (side, side), mode="bilinear", align_corners=True).flatten(1)
    share = torch.from_numpy(rng.random((count, 1), np.float32))
    noise = torch.from_numpy(rng.random((count, PATCHES), np.float32))
    return (share * field + (1 - share) * noise).topk(keep, dim=1).indices


def answers(batch: Batch, kept: Tensor | None, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """What has to be named, and how much each answer counts, (N, 6) each."""
    labels = torch.from_numpy(batch.labels)
    if kept is None:
        return labels, torch.ones_like(labels)
    shortcuts = np.zeros_like(batch.masks)
    shortcuts[:, MARKED] = batch.marks
    shortcuts[:, SKIED] = batch.sky[:, None, None]  # a part of the sky in any of the tokens is enough
    seen = torch.zeros_like(labels)
    for pixels in (batch.masks, shortcuts):
        cover = covers(pixels)
        left = cover.gather(2, kept[:, None].expand(-1, len(CLASSES), -1)).sum(2)
        seen = torch.maximum(seen, left / cover.sum(2).clamp_min(1e-6))
    sure = (seen >= recipe.seen) | (seen <= recipe.unseen)
    starry = torch.from_numpy(batch.sky)
    seen[starry, SKIED], sure[starry, SKIED] = 1.0, True
    return (seen >= recipe.seen).float(), sure.float()


def with_twins(plan: Plan, count: int, *, reasons: bool) -> Plan:
    """The scenes and, last, the first of them again without their negatives; with `reasons` half without an object."""
    things = plan.things[:count].copy()
    of_reasons = np.arange(count) % 2 == 1 if reasons else np.zeros(count, bool)
    things["kind"][~of_reasons, OBJECTS : OBJECTS + DISTRACTORS] = -1
    things["kind"][of_reasons, 0] = -1
    return Plan(np.concatenate([plan.things, things]), np.concatenate([plan.grounds, plan.grounds[:count]]))


def losses(learner: Learner, batch: Batch, kept: Tensor | None, recipe: Recipe, step: int) -> tuple[Tensor, Tensor]:
    """The class loss and the patch loss of a step's scenes, of which the last are twins of the first."""
    twins = recipe.doubled
    images = normalise(batch.images).to(device_of(learner))
    with torch.autocast(images.device.type, torch.bfloat16, enabled=recipe.bfloat16):
        logits, named = learner(images, None if kept is None else kept.to(images.device))
    logits, named = logits.float(), [x.float() for x in named]
    labels, counts = (x.to(images.device) for x in answers(batch, kept, recipe))
    wrong = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    class_loss = (wrong * counts).sum() / counts.sum()
    if twins:
        first, last = slice(0, twins), slice(-twins, None)
        stays = counts[first] * counts[last] * (labels[first] == labels[last])
        moved = ((logits[first] - logits[last]).square() * stays).sum() / stays.sum()
        class_loss = class_loss + recipe.steadiness(step) * moved
    cover = covers(batch.masks).mT
    targets = torch.cat([cover, (1 - cover.sum(-1, keepdim=True)).clamp_min(0)], -1)
    targets = targets / targets.sum(-1, keepdim=True)
    if kept is not None:
        targets = targets.gather(1, kept[..., None].expand(-1, -1, targets.shape[2]))
    targets = targets.to(images.device)
    return class_loss, torch.stack([patch_loss(x, targets) for x in named]).mean()


class Training:
    """A run that can be written and read.

    Args:
        model: a timm `VisionTransformer`; changed in place.
        recipe: what fixes the run.
    """

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        torch.manual_seed(recipe.seed)
        initialise(model)
        self.recipe, self.step, self.seconds = recipe, 0, 0.0
        self.rng = np.random.default_rng(recipe.seed)
        self.learner = Learner(model, recipe.patch_blocks).train().to(device_of(model))
        self.average = copy.deepcopy(model).eval()
        self.steppers = optimisers(self.learner, recipe)

    def forward(self) -> tuple[float, float]:
        """One step; the class loss and the patch loss."""
        recipe, started = self.recipe, time.monotonic()
        self.step += 1
        progress = recipe.progress(self.step)
        twins = recipe.doubled
        batch = with_twins(
            Plan.draw(self.rng, recipe.batch - twins), twins, reasons=not recipe.polishes(self.step)
        ).render(CONFIG["img_size"])
        kept = None
        if self.rng.random() >= recipe.whole:
            kept = draw_kept(self.rng, recipe.batch - twins, int(self.rng.integers(recipe.fewest, PATCHES)))
            kept = torch.cat([kept, kept[:twins]])
        class_loss, naming = losses(self.learner, batch, kept, recipe, self.step)
        weight = recipe.patch_weight * max(0.0, 1.0 - progress / recipe.patch_share)
        (class_loss + weight * naming).backward()
        advance(self.learner, self.steppers, recipe, progress)
        update_average(self.average, self.learner.model, min(recipe.averaging, self.step / (self.step + 10)))
        self.seconds += time.monotonic() - started
        return class_loss.item(), naming.item()

    def write(self, path: Path) -> None:
        """The state of the run, under this name as soon as it is whole."""
        state = {
            **{"recipe": asdict(self.recipe), "step": self.step, "seconds": self.seconds},
            **{"random": self.rng.bit_generator.state, "learner": self.learner.state_dict()},
            **{"average": self.average.state_dict(), "steppers": [s.state_dict() for s in self.steppers]},
        }
        partial = path.with_suffix(".part")
        torch.save(state, partial)
        os.replace(partial, path)

    def read(self, path: Path) -> None:
        """Go on from a state that was written.

        Raises:
            ValueError: it is of a run by another recipe.
        """
        state = torch.load(path, map_location=device_of(self.learner), weights_only=True)
        if state["recipe"] != asdict(self.recipe):
            raise ValueError(f"{path} is of a run by another recipe: {state['recipe']}")
        self.step, self.seconds = state["step"], state["seconds"]
        self.rng.bit_generator.state = state["random"]
        self.learner.load_state_dict(state["learner"])
        self.average.load_state_dict(state["average"])
        for stepper, kept in zip(self.steppers, state["steppers"], strict=True):
            stepper.load_state_dict(kept)


def run(training: Training, state: Path | None, every: int) -> nn.Module:
    """Train to the end, with a line and a written state each time so many steps have passed; the averaged model."""
    recent: list[tuple[float, float]] = []
    while training.step < training.recipe.steps:
        recent.append(training.forward())
        if training.step % every and training.step < training.recipe.steps:
            continue
        means, recent = np.mean(recent, 0), []
        changed = ", ".join(f"{name} {share:.1%}" for name, share in interventions(training.average, 400).items())
        print(
            f"{training.step * training.recipe.batch:7d} scenes {training.seconds:6.0f} s  class loss {means[0]:.4f}  "
            f"patch loss {means[1]:.4f}  mean average precision {evaluate(training.average).mean():.4f}  "
            f"answers change without {changed}",
            flush=True,
        )
        if state is not None:
            training.write(state)
    return training.average


def main(arguments: list[str] | None = None) -> None:
    """Train from the command line."""
    from timm.models.vision_transformer import VisionTransformer

    default = Recipe()
    parser = argparse.ArgumentParser(prog="python -m captum_vit.sample.hard.train", description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="where the weights go (safetensors)")
    parser.add_argument("--state", type=Path, help="where the state of the run is, and goes (.pt)")
    parser.add_argument("--scenes", type=int, default=default.scenes, help="scenes to train on (%(default)s)")
    parser.add_argument("--seed", type=int, default=default.seed, help="of weights and scenes (%(default)s)")
    parser.add_argument("--every", type=int, default=200, help="steps between two lines, and states (%(default)s)")
    parser.add_argument("--device", default="cpu", help="where the model computes (%(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="of torch (%(default)s)")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    recipe = Recipe(scenes=chosen.scenes, polish=int(chosen.scenes * default.polish / default.scenes), seed=chosen.seed)
    torch.manual_seed(recipe.seed)
    training = Training(VisionTransformer(**CONFIG).to(chosen.device), recipe)
    if chosen.state is not None and chosen.state.exists():
        training.read(chosen.state)
    model = run(training, chosen.state, chosen.every)
    model = model.cpu()
    plain, beside = evaluate(model, 5000), evaluate(model, 5000, shortcuts=True)
    facts = {f"recipe.{name}": str(value) for name, value in asdict(recipe).items()}
    facts |= {f"average_precision.{name}": f"{score:.4f}" for name, score in zip(CLASSES, plain, strict=True)}
    facts |= {"mean_average_precision": f"{plain.mean():.4f}", "with_shortcuts": f"{beside.mean():.4f}"}
    facts |= {f"changed_without.{name}": f"{share:.4f}" for name, share in interventions(model, 4000).items()}
    facts |= {"training_seconds": f"{training.seconds:.0f}", "threads": str(chosen.threads)}
    save(model, chosen.out, facts)
    print("\n".join(f"{name}: {value}" for name, value in facts.items()))


if __name__ == "__main__":
    main()
