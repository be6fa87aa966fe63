"""Outlines of the shapes as signed distances, negative inside, in units of the enclosing circle.

Every outline takes u and v, (M, h, w), with v pointing down, and four numbers between 0 and 1 per thing that
vary its form, (4, M, 1, 1). Distances need to be true only near the outline, for its edge and its shadow.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Array = np.ndarray
Outline = Callable[[Array, Array, Array], Array]


def _disc(u: Array, v: Array, form: Array) -> Array:
    return np.sqrt(u * u + v * v) - 0.85


def _ring(u: Array, v: Array, form: Array) -> Array:
    return np.abs(np.sqrt(u * u + v * v) - 0.72) - 0.23


def _square(u: Array, v: Array, form: Array) -> Array:
    return np.maximum(np.abs(u), np.abs(v)) - 0.7


def _triangle(u: Array, v: Array, form: Array) -> Array:
    # Around its centroid the triangle would hang high in its circle; 0.08 balances it.
    v = v - 0.08
    return np.maximum(np.abs(u) * np.float32(np.sqrt(0.75)) - v * 0.5, v) - 0.48


def _star(u: Array, v: Array, form: Array) -> Array:
    """Five points: fold the plane onto one half of a point, then measure to its straight side."""
    cos, sin = np.float32(np.cos(np.pi / 5.0)), np.float32(np.sin(np.pi / 5.0))
    u, v = np.abs(u), -v
    for _ in range(2):  # two folds bring all ten half-points together
        beyond = 2.0 * np.maximum(cos * u - sin * v, 0.0)
        u, v = np.abs(u - beyond * cos), v + beyond * sin
    inner = np.float32(0.46)
    across, along = inner * sin, inner * cos - 1  # from the tip to the valley
    length = np.hypot(across, along)
    return ((v - 1.0) * across - u * along) / length


def _cross(u: Array, v: Array, form: Array) -> Array:
    u, v = np.abs(u), np.abs(v)
    return np.maximum(np.maximum(u, v) - 0.92, np.minimum(u, v) - 0.3)


def _crescent(u: Array, v: Array, form: Array) -> Array:
    u = u - 0.08
    bite = np.sqrt((u - 0.55) ** 2 + v * v) - 0.72
    return np.maximum(np.sqrt(u * u + v * v) - 0.93, -bite)


def _heart(u: Array, v: Array, form: Array) -> Array:
    """A square on its corner with a half disc on each upper side."""
    u, v = np.abs(u), -v
    v = v + 0.08
    side = 0.98
    centre = np.float32(side / np.sqrt(8.0))
    lobe = np.sqrt((u - centre) ** 2 + (v - centre) ** 2) - side / 2.0
    return np.minimum(lobe, (u + np.abs(v)) * np.float32(np.sqrt(0.5)) - side / 2.0)


def _bar(u: Array, v: Array, form: Array) -> Array:
    thickness = 0.1 + 0.12 * form[0]
    return np.sqrt(np.maximum(np.abs(u) - (1.0 - thickness), 0.0) ** 2 + v * v) - thickness


def _blob(u: Array, v: Array, form: Array) -> Array:
    """Three lobes of different sizes that flow into each other."""
    total = np.zeros_like(u)
    lobes = ((-0.4, 0.1, 0.36), (0.4, 0.3 * form[0], 0.25 + 0.1 * form[1]), (0.1, -0.2 - 0.3 * form[2], 0.25))
    for x, y, radius in lobes:
        total = total + np.exp(-7.0 * (np.sqrt((u - x) ** 2 + (v - y) ** 2) - radius))
    return np.log(total) / -7.0


def _scribble(u: Array, v: Array, form: Array) -> Array:
    """A wavy line of even thickness."""
    height, pace, phase = 0.15 + 0.15 * form[0], 3.0 + 4.0 * form[1], 6.28 * form[2]
    slope = height * pace * np.cos(pace * u + phase)
    gap = np.abs(v - height * np.sin(pace * u + phase)) / np.sqrt(1.0 + slope * slope)
    return np.maximum(gap - (0.08 + 0.05 * form[3]), np.abs(u) - 0.9)


SHAPES: tuple[str, ...] = ("disc", "ring", "square", "triangle", "star", "cross", "crescent", "heart")
OUTLINES: tuple[Outline, ...] = (
    *(_disc, _ring, _square, _triangle, _star, _cross, _crescent, _heart),
    *(_bar, _blob, _scribble),
)
