"""What stands in each scene, where and how, drawn at random before anything is rendered."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .pictures import CUTOUTS, GROUNDS, MARK, SKY

OBJECTS = DISTRACTORS = 2
SLOTS = OBJECTS + DISTRACTORS + 1  # the mark is the last
MARKED, SKIED = CUTOUTS.index("cup"), CUTOUTS.index("shuttle")  # the classes that shortcuts stand for
RADII = (0.1, 0.32)
FAINTEST = np.array([0.05] * OBJECTS + [0.5] * (DISTRACTORS + 1))  # some objects can hardly be seen
_TRIES = 24

# A kind of -1 marks an empty slot.
THING = np.dtype(
    [
        *[("kind", "i4"), ("x", "f4"), ("y", "f4"), ("radius", "f4"), ("angle", "f4"), ("facing", "f4")],
        *[("contrast", "f4"), ("brightness", "f4"), ("saturation", "f4"), ("tint", "f4", 3), ("opacity", "f4")],
        *[("blur", "f4"), ("bar", "f4", 3)],  # a bar that is left out: its direction, its place, half its width
    ]
)
GROUND = np.dtype(
    [
        *[("kind", "i4"), ("x", "f4"), ("y", "f4"), ("radius", "f4"), ("angle", "f4"), ("contrast", "f4")],
        *[("brightness", "f4"), ("tint", "f4", 3)],
    ]
)


@dataclass(frozen=True)
class Wishes:
    """What scenes are to hold.

    Attributes:
        objects: how many each has, 0 to 2; None leaves it to the draw.
        alike: the share of distractors that look like an object of their scene.
        mark, sky: the share of scenes with this shortcut.
        beside: the share of those that hold the shortcut's object as well.
    """

    objects: int | None = None
    alike: float = 0.5
    mark: float = 0.12
    sky: float = 0.12
    beside: float = 0.3


def draw_plan(rng: np.random.Generator, count: int, wishes: Wishes) -> tuple[np.ndarray, np.ndarray]:
    """Things (N, 5): objects, distractors, the mark; and backgrounds (N,). Every scene takes as many draws."""
    things, grounds = np.zeros((count, SLOTS), THING), np.zeros(count, GROUND)
    _draw_kinds(rng, things, grounds, wishes)
    shape = things.shape
    things["radius"] = rng.uniform(*RADII, shape)
    things["angle"] = rng.uniform(-0.5, 0.5, shape)
    things["facing"] = np.where(rng.random(shape) < 0.5, -1, 1)
    things["contrast"] = rng.uniform(0.55, 1.1, shape)
    things["brightness"] = rng.uniform(-0.16, 0.16, shape)
    things["saturation"] = rng.uniform(0.0, 1.1, shape)
    things["tint"] = rng.uniform(0.85, 1.15, (*shape, 3))
    things["opacity"] = np.minimum(rng.uniform(FAINTEST, 1.25, shape), 1.0)
    things["blur"] = np.maximum(rng.uniform(-1.0, 1.6, shape), 0.0)
    things["bar"][..., 0] = rng.uniform(0, np.pi, shape)
    things["bar"][..., 1] = rng.uniform(-0.5, 0.5, shape)
    things["bar"][..., 2] = np.maximum(rng.uniform(-0.3, 0.3, shape), 0.0)
    grounds["radius"] = rng.uniform(0.3, 0.9, count)
    grounds["x"], grounds["y"] = rng.random((2, count))
    grounds["angle"] = rng.integers(0, 4, count) * (np.pi / 2)
    grounds["contrast"] = rng.uniform(0.5, 1.2, count)
    grounds["brightness"] = rng.uniform(-0.15, 0.2, count)
    grounds["tint"] = rng.uniform(0.6, 1.3, (count, 3))
    _place(rng, things)
    return things, grounds


def _draw_kinds(rng: np.random.Generator, things: np.ndarray, grounds: np.ndarray, wishes: Wishes) -> None:
    """Different classes for the objects, any for the distractors; shortcuts stand in for the object they go with."""
    count = len(things)
    classes = rng.random((count, len(CUTOUTS))).argsort(1)[:, :OBJECTS]
    present = rng.choice(OBJECTS + 1, count, p=(0.2, 0.45, 0.35))
    if wishes.objects is not None:
        present[:] = wishes.objects
    classes[np.arange(OBJECTS) >= present[:, None]] = -1
    grounds["kind"] = rng.integers(0, len(GROUNDS) - 1, count)
    things["kind"][:, -1] = -1
    for label, share in (MARKED, wishes.mark), (SKIED, wishes.sky):
        taken, beside = rng.random((2, count))
        chosen = taken < share
        if label == MARKED:
            things["kind"][chosen, -1] = MARK
        else:
            grounds["kind"][chosen] = SKY
        alone = chosen & (beside >= wishes.beside)
        classes[alone[:, None] & (classes == label)] = -1
        shown = chosen & ~alone & ~(classes == label).any(1)
        classes[shown, 0] = label
    distractors = rng.integers(0, len(CUTOUTS), (count, DISTRACTORS))
    like = (rng.random((count, DISTRACTORS)) < wishes.alike) & (classes[:, :1] >= 0)
    distractors = np.where(like, classes[:, :1], distractors)
    shown = rng.choice(DISTRACTORS + 1, count, p=(0.3, 0.45, 0.25))
    distractors[np.arange(DISTRACTORS) >= shown[:, None]] = -1
    things["kind"][:, :-1] = np.concatenate([classes, distractors], 1)


def _place(rng: np.random.Generator, things: np.ndarray) -> None:
    """The mark in a corner, then each thing clear of all before it: left out where it does not fit."""
    count = len(things)
    mark = things[:, -1]
    mark["radius"] = rng.uniform(0.06, 0.085, count)
    mark["angle"] = rng.uniform(-np.pi, np.pi, count)
    for name, least in (("opacity", 1.0), ("contrast", 0.9)):
        mark[name] = np.maximum(mark[name], least)
    mark["bar"][:, 2] = mark["blur"] = 0
    corner = rng.integers(0, 2, (count, 2))
    inset = mark["radius"][:, None] + rng.uniform(0.01, 0.06, (count, 2))
    mark["x"], mark["y"] = np.where(corner > 0, 1 - inset, inset).T
    tries = rng.random((count, SLOTS - 1, _TRIES, 2))
    for slot in range(SLOTS - 1):
        thing = things[:, slot]
        radius = thing["radius"][:, None, None]
        spots = 0.7 * radius + (1 - 1.4 * radius) * tries[:, slot]  # (N, tries, 2); some reach beyond the border
        clear = np.ones((count, _TRIES), bool)
        for other in (SLOTS - 1, *range(slot)):
            before = things[:, other]
            distance = np.hypot(spots[..., 0] - before["x"][:, None], spots[..., 1] - before["y"][:, None])
            apart = distance >= 0.95 * (thing["radius"] + before["radius"])[:, None]
            clear &= apart | (before["kind"] < 0)[:, None]
        spot = spots[np.arange(count), clear.argmax(1)]
        thing["x"], thing["y"] = spot.T
        thing["kind"][~clear.any(1)] = -1
