"""Scenes of simple shapes on textured backgrounds, drawn from a seed, with an exact mask for every object.

A scene is drawn in coordinates that do not know its size: x and y run from 0 to 1, the edges come from signed
distances and the textures are continuous functions. The same seed therefore gives the same scene at 64 and at
512 pixels. Colour, texture, size and place are drawn independently of the class: only the outline tells it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .plan import MAX_OBJECTS, OBJECT_RADII, OCTAVES, draw_plan
from .shapes import OUTLINES, SHAPES, Array

CLASSES: tuple[str, ...] = SHAPES

_SHADOW = 0.02  # reach of the soft shadow around a thing
_CHUNK = 32 * 64 * 64  # pixels rendered at once: larger arrays fall out of the processor's cache


@dataclass(frozen=True)
class Scene:
    """One drawn scene.

    Attributes:
        image: RGB, uint8, (H, W, 3).
        labels: indices into `CLASSES` of the objects in the scene, ascending, all different.
        masks: pixels of each object, bool, (objects, H, W), in the order of `labels`; they never overlap.
    """

    image: np.ndarray
    labels: tuple[int, ...]
    masks: np.ndarray


def draw_scene(seed: int, *, objects: int | None = None, size: int = 64) -> Scene:
    """Draw the scene of a seed.

    Args:
        seed: any non-negative integer; the same seed gives the same scene at every size.
        objects: number of objects, 1 to 3; by default the seed decides.
        size: height and width in pixels.

    Returns:
        The image, its labels and one mask per object.

    Raises:
        ValueError: `objects` or `size` is out of range.
    """
    images, labels, masks = draw_batch(seed, 1, objects=objects, size=size)
    present = np.flatnonzero(labels[0])
    return Scene(images[0], tuple(int(label) for label in present), masks[0, present])


def draw_batch(
    rng: np.random.Generator | int, count: int, *, objects: int | None = None, size: int = 64
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw many scenes at once.

    Args:
        rng: a numpy generator, which moves on, or a seed.
        count: number of scenes N.
        objects: number of objects in every scene, 1 to 3; by default each scene draws its own number.
        size: height and width in pixels.

    Returns:
        Images, uint8, (N, size, size, 3); labels, float32, (N, 8), 1 where the class is in the scene; masks
        by class, bool, (N, 8, size, size), empty for absent classes.

    Raises:
        ValueError: `objects` or `size` is out of range.
    """
    if objects is not None and not 1 <= objects <= MAX_OBJECTS:
        raise ValueError(f"expected 1 to {MAX_OBJECTS} objects, got {objects}")
    if size < 16:
        raise ValueError(f"expected a size of at least 16 pixels, got {size}")
    things, backgrounds = draw_plan(np.random.default_rng(rng), count, objects)
    images = np.empty((count, size, size, 3), np.uint8)
    masks = np.zeros((count, len(CLASSES), size, size), bool)
    step = max(1, _CHUNK // size**2)
    for start in range(0, count, step):
        part = slice(start, start + step)
        canvas = _render_backgrounds(backgrounds[part], size)
        _render_things(canvas, masks[part], things[part])
        images[part] = (canvas * 255.0 + 0.5).astype(np.uint8).transpose(0, 2, 3, 1)
    return images, _multi_hot(things), masks


def _multi_hot(things: np.ndarray) -> np.ndarray:
    """1 where a class stands in the scene: (N, 8)."""
    kinds = things["kind"][:, :MAX_OBJECTS, None]
    return (kinds == np.arange(len(CLASSES))).any(axis=1).astype(np.float32)


def _render_backgrounds(backgrounds: np.ndarray, size: int) -> Array:
    """Two colours mixed by noise, a gradient and stripes that the noise bends: (N, 3, S, S)."""
    x = ((np.arange(size, dtype=np.float32) + 0.5) / size)[None, :]
    y = x.T
    weights = backgrounds["weights"] / backgrounds["weights"].sum(axis=1, keepdims=True)
    octaves = []
    for cells in OCTAVES:
        spread = _interpolation(size, cells)
        octaves.append(spread @ backgrounds[f"noise{cells}"] @ spread.T)
    field = sum(weights[:, i, None, None] * octave for i, octave in enumerate(octaves))
    field *= 1.2
    slope = backgrounds["gradient"][:, None, None]
    field += 0.5 * (np.cos(slope) * (x - 0.5) + np.sin(slope) * (y - 0.5))
    waves = _stripes(backgrounds, x, y, backgrounds["warp"][:, None, None] * octaves[0])
    field += waves * (0.4 * backgrounds["stripes"][:, None, None])
    mix = np.clip(0.5 + 0.5 * field, 0.0, 1.0)[:, None]
    first, second = np.moveaxis(backgrounds["colours"][..., None, None], 1, 0)
    grain = 0.06 * (octaves[1] + octaves[2])[:, None]
    return np.clip(first + (second - first) * mix + grain, 0.0, 1.0)


def _interpolation(size: int, cells: int) -> Array:
    """Cubic B-splines that spread values on cells + 3 nodes over the pixel centres: (size, cells + 3)."""
    position = (np.arange(size, dtype=np.float32) + 0.5) / size * cells
    offset = np.abs(position[:, None] + 1.0 - np.arange(cells + 3, dtype=np.float32))
    near = 2.0 / 3.0 - offset**2 + offset**3 / 2.0
    far = np.maximum(2.0 - offset, 0.0) ** 3 / 6.0
    return np.where(offset < 1.0, near, far) * np.float32(1.5)  # 1.5 makes up for what smoothing takes away


def _stripes(texture: np.ndarray, x: Array, y: Array, bend: Array | float = 0.0) -> Array:
    """Waves between -1 and 1."""
    direction = texture["direction"][:, None, None]
    turns = (2.0 * np.pi * texture["frequency"])[:, None, None].astype(np.float32)
    along = np.cos(direction) * turns * x + np.sin(direction) * turns * y
    return np.sin(along + texture["phase"][:, None, None] + bend)


def _render_things(canvas: Array, masks: np.ndarray, things: np.ndarray) -> None:
    """Draw objects and distractors, each in a square window around it, onto the canvas and into the masks."""
    size = canvas.shape[-1]
    scene, slot = np.nonzero(things["kind"] >= 0)
    chosen = things[scene, slot]
    window = min(size, int(np.ceil(2.0 * (OBJECT_RADII[1] + 2.0 * _SHADOW) * size)) + 1)
    left = np.clip(np.round(chosen["x"] * size - window / 2).astype(int), 0, size - window)
    top = np.clip(np.round(chosen["y"] * size - window / 2).astype(int), 0, size - window)
    steps = np.arange(window, dtype=np.float32) + 0.5
    x = ((left[:, None] + steps) / size).astype(np.float32)[:, None, :]  # (M, 1, window)
    y = ((top[:, None] + steps) / size).astype(np.float32)[:, :, None]  # (M, window, 1)
    distance = _distances(chosen, x, y)
    cover = np.clip(0.5 - distance * size, 0.0, 1.0)
    keep = (1.0 - cover) * (1.0 - 0.4 * np.exp(np.maximum(distance, 0.0) * (-1.0 / _SHADOW)))
    paint = _paint(chosen, x, y, distance) * cover[:, None]
    inside = distance < 0.0
    for i, (n, row, column) in enumerate(zip(scene, top, left, strict=True)):
        rows, columns = slice(row, row + window), slice(column, column + window)
        canvas[n, :, rows, columns] = canvas[n, :, rows, columns] * keep[i] + paint[i]
        if chosen["kind"][i] < len(CLASSES):
            masks[n, chosen["kind"][i], rows, columns] = inside[i]


def _distances(things: np.ndarray, x: Array, y: Array) -> Array:
    """Signed distance of every window pixel to the outline of its thing: (M, window, window)."""
    radius = things["radius"][:, None, None]
    dx = (x - things["x"][:, None, None]) / radius
    dy = (y - things["y"][:, None, None]) / radius
    cos, sin = np.cos(things["angle"])[:, None, None], np.sin(things["angle"])[:, None, None]
    u, v = cos * dx + sin * dy, cos * dy - sin * dx
    distance = np.sqrt(u * u + v * v) - 1.0  # of the enclosing circle, which cuts off shadows beyond the corners
    for kind, outline in enumerate(OUTLINES):
        chosen = np.flatnonzero(things["kind"] == kind)
        if len(chosen):
            form = things["form"][chosen].T[..., None, None]
            distance[chosen] = np.maximum(distance[chosen], outline(u[chosen], v[chosen], form))
    return distance * radius


def _paint(things: np.ndarray, x: Array, y: Array, distance: Array) -> Array:
    """Colour of the things with stripes, light from above and a darker rim: (M, 3, window, window)."""
    height = (things["y"][:, None, None] - y) / things["radius"][:, None, None]
    shade = 1.0 + 0.1 * height - 0.25 * np.exp(np.minimum(distance, 0.0) * 80.0)
    shade = shade + 0.14 * things["stripes"][:, None, None] * _stripes(things, x, y)
    return np.clip(things["colour"][..., None, None] * shade[:, None], 0.0, 1.0)
