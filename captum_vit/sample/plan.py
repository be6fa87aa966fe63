"""What stands in each scene and where, drawn at random before anything is rendered."""

from __future__ import annotations

import numpy as np

from .shapes import OUTLINES, SHAPES

MAX_OBJECTS = 3
MAX_DISTRACTORS = 3
_DISTRACTOR_KINDS = len(OUTLINES) - len(SHAPES)
OBJECT_RADII = (0.14, 0.235)
_DISTRACTOR_RADII = (0.08, 0.18)
GAP = 0.02  # free space between two things
OCTAVES = (4, 9, 24)  # cells across the scene; 24 stays below the sampling limit at 64 pixels
_LAYOUT_TRIES = 64

# A thing is an object or a distractor; a kind of -1 marks an empty slot.
_TEXTURE = [("direction", "f4"), ("frequency", "f4"), ("phase", "f4"), ("stripes", "f4")]
_THING = np.dtype(
    [
        *[("kind", "i4"), ("x", "f4"), ("y", "f4"), ("radius", "f4"), ("angle", "f4"), ("form", "f4", 4)],
        *[("colour", "f4", 3), *_TEXTURE],
    ]
)
_BACKGROUND = np.dtype(
    [
        *[("colours", "f4", (2, 3)), ("warp", "f4"), ("gradient", "f4"), ("weights", "f4", len(OCTAVES))],
        *[*_TEXTURE, *((f"noise{cells}", "f4", (cells + 3, cells + 3)) for cells in OCTAVES)],
    ]
)


def draw_plan(rng: np.random.Generator, count: int, objects: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Draw what stands in each scene and where; every scene takes the same number of draws."""
    slots = MAX_OBJECTS + MAX_DISTRACTORS
    things = np.zeros((count, slots), _THING)
    backgrounds = np.zeros(count, _BACKGROUND)
    things["kind"] = _draw_kinds(rng, count, objects)
    is_object = np.arange(slots) < MAX_OBJECTS
    low, high = np.where(is_object, np.array(OBJECT_RADII)[:, None], np.array(_DISTRACTOR_RADII)[:, None])
    things["radius"] = low + (high - low) * rng.random((count, slots))
    things["angle"] = rng.uniform(-np.pi, np.pi, (count, slots))
    things["form"] = rng.random((count, slots, 4))
    _draw_textures(rng, things)
    _draw_textures(rng, backgrounds)
    backgrounds["warp"] = rng.uniform(0.0, 2.0, count)
    backgrounds["gradient"] = rng.uniform(0.0, 2.0 * np.pi, count)
    backgrounds["weights"] = rng.uniform(0.1, 1.0, (count, len(OCTAVES))) * (1.0, 0.6, 0.3)
    for cells in OCTAVES:
        backgrounds[f"noise{cells}"] = rng.uniform(-1.0, 1.0, (count, cells + 3, cells + 3))
    _draw_colours(rng, things, backgrounds)
    _place_objects(rng, things[:, :MAX_OBJECTS])
    _place_distractors(rng, things)
    return things, backgrounds


def _draw_kinds(rng: np.random.Generator, count: int, objects: int | None) -> np.ndarray:
    """Different classes for the objects, any kinds for the distractors, -1 for what is absent: (N, slots)."""
    classes = rng.random((count, len(SHAPES))).argsort(axis=1)[:, :MAX_OBJECTS]
    present = rng.integers(1, MAX_OBJECTS + 1, count)
    if objects is not None:
        present[:] = objects
    classes[np.arange(MAX_OBJECTS) >= present[:, None]] = -1
    distractors = len(SHAPES) + rng.integers(0, _DISTRACTOR_KINDS, (count, MAX_DISTRACTORS))
    shown = rng.integers(0, MAX_DISTRACTORS + 1, count)
    distractors[np.arange(MAX_DISTRACTORS) >= shown[:, None]] = -1
    return np.concatenate([classes, distractors], axis=1)


def _draw_textures(rng: np.random.Generator, out: np.ndarray) -> None:
    """Stripes of random direction, frequency, phase and strength, for things and backgrounds alike."""
    out["direction"] = rng.uniform(0.0, np.pi, out.shape)
    out["frequency"] = rng.uniform(3.0, 12.0, out.shape)
    out["phase"] = rng.uniform(0.0, 2.0 * np.pi, out.shape)
    out["stripes"] = np.maximum(rng.uniform(-0.5, 1.0, out.shape), 0.0)


def _draw_colours(rng: np.random.Generator, things: np.ndarray, backgrounds: np.ndarray) -> None:
    """Random hues; the brightness of every thing keeps a distance from that of its background."""
    base = rng.uniform(0.12, 0.88, len(backgrounds))
    shades = base[:, None] + rng.uniform(-0.07, 0.07, (len(backgrounds), 2))
    backgrounds["colours"] = _colour(rng, shades)
    # What remains of [0.05, 0.95] outside base +- 0.35, drawn uniformly.
    below = np.maximum(base - 0.35 - 0.05, 0.0)[:, None]
    above = np.maximum(0.95 - base - 0.35, 0.0)[:, None]
    position = rng.random(things.shape) * (below + above)
    things["colour"] = _colour(rng, np.where(position < below, 0.05 + position, 0.95 - (position - below)))


def _colour(rng: np.random.Generator, brightness: np.ndarray) -> np.ndarray:
    """RGB of the given brightness (ITU-R BT.601) with a random hue and saturation: (..., 3)."""
    hue = rng.uniform(0.0, 2.0 * np.pi, brightness.shape)
    chroma = rng.uniform(0.03, 0.25, brightness.shape)
    blue, red = chroma * np.cos(hue), chroma * np.sin(hue)
    rgb = [brightness + 1.402 * red, brightness - 0.344 * blue - 0.714 * red, brightness + 1.772 * blue]
    return np.clip(np.stack(rgb, axis=-1), 0.0, 1.0)


def _place_objects(rng: np.random.Generator, objects: np.ndarray) -> None:
    """Place the objects clear of each other and of the border: the first of many random layouts that fits."""
    count, slots = objects.shape
    radius = objects["radius"][:, None, :, None]  # (N, 1, slots, 1)
    layouts = radius + (1.0 - 2.0 * radius) * rng.random((count, _LAYOUT_TRIES, slots, 2))
    # The last layout gives each object its own quadrant, which always fits.
    quadrant = rng.random((count, 4)).argsort(axis=1)[:, :slots]
    corner = np.stack([quadrant % 2, quadrant // 2], axis=-1) * 0.5 + 0.25
    layouts[:, -1] = corner + rng.uniform(-1.0, 1.0, corner.shape) * (0.25 - GAP / 2 - radius[:, 0])
    fits = np.ones((count, _LAYOUT_TRIES), bool)
    for one in range(slots):
        for other in range(one):
            distance = np.hypot(*np.moveaxis(layouts[:, :, one] - layouts[:, :, other], -1, 0))
            apart = distance >= (objects["radius"][:, one] + objects["radius"][:, other] + GAP)[:, None]
            fits &= apart | (objects["kind"][:, one] < 0)[:, None]
    chosen = np.where(fits.any(axis=1), fits.argmax(axis=1), _LAYOUT_TRIES - 1)
    objects["x"], objects["y"] = np.moveaxis(layouts[np.arange(count), chosen], -1, 0)


def _place_distractors(rng: np.random.Generator, things: np.ndarray) -> None:
    """Place each distractor clear of all that stands before it; leave it out where it does not fit."""
    count = len(things)
    tries = rng.random((count, MAX_DISTRACTORS, 16, 2))
    for slot in range(MAX_OBJECTS, MAX_OBJECTS + MAX_DISTRACTORS):
        radius = things["radius"][:, slot, None]
        spots = radius[..., None] + (1.0 - 2.0 * radius[..., None]) * tries[:, slot - MAX_OBJECTS]
        before = things[:, None, :slot]
        distance = np.hypot(spots[..., :1] - before["x"], spots[..., 1:] - before["y"])  # (N, 16, slot)
        clear = (distance >= radius[..., None] + before["radius"] + GAP) | (before["kind"] < 0)
        fits = clear.all(axis=-1)
        spot = spots[np.arange(count), fits.argmax(axis=1)]
        things["x"][:, slot], things["y"][:, slot] = spot[:, 0], spot[:, 1]
        things["kind"][~fits.any(axis=1), slot] = -1
