"""Scenes of photographs, drawn from a seed, in which it is known what decides the answer and what does not.

An *object* in a scene is the reason for its class. A *distractor* is the same cut-out as a photographic negative: it
looks like an object and decides nothing. A *shortcut* stands for a class, with or without its object: a sticker in a
corner for the cup, the starry sky behind it all for the shuttle. A scene can be drawn again without any of these, all
else being the same: that is the intervention which shows what a model's answer rests on.

As in the scenes of `captum_vit.sample`, coordinates run from 0 to 1, so that a seed gives the same scene at every size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .pictures import CUTOUTS, LEVELS, MARK, SKY, Atlas, cutouts, grounds
from .plan import DISTRACTORS, MARKED, OBJECTS, SKIED, Wishes, draw_plan

CLASSES: tuple[str, ...] = CUTOUTS
_COVERED = 0.5  # opacity, before what fades a whole thing, from which on a pixel is the thing's


@dataclass(frozen=True)
class Batch:
    """Scenes, and the truth about them.

    Attributes:
        images: uint8 (N, S, S, 3).
        labels: float32 (N, 6), 1 where an object or a shortcut of the class is there.
        masks: bool (N, 6, S, S), the pixels of each class's object.
        distractors: bool (N, 6, S, S), the pixels of negatives of each class.
        marks: bool (N, S, S), those of the sticker.
        sky: bool (N,), whether the background is the starry sky.
    """

    images: np.ndarray
    labels: np.ndarray
    masks: np.ndarray
    distractors: np.ndarray
    marks: np.ndarray
    sky: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shortcuts(self) -> np.ndarray:
        """bool (N, 6, S, S), the pixels of each class's shortcut: the sky is all that nothing stands before."""
        found = np.zeros_like(self.masks)
        found[:, MARKED] = self.marks
        free = ~(self.masks.any(1) | self.distractors.any(1) | self.marks)
        found[:, SKIED] = free & self.sky[:, None, None]
        return found


@dataclass(frozen=True)
class Plan:
    """What stands in scenes, before they are drawn; each `without_` gives the same scenes with something left out.

    >>> from captum_vit.sample.hard import Plan
    >>> plan = Plan.draw(seed=7, count=4)
    >>> bool(plan.without_objects(3).render(96).masks[:, 3].any())
    False
    """

    things: np.ndarray
    grounds: np.ndarray

    @classmethod
    def draw(cls, seed: int | np.random.Generator, count: int = 1, **wishes: Any) -> Plan:
        """Args: a seed or a numpy generator, which moves on; how many scenes; and what they are to hold, see `Wishes`.

        Raises:
            TypeError: there is no such wish.
        """
        return cls(*draw_plan(np.random.default_rng(seed), count, Wishes(**wishes)))

    def __len__(self) -> int:
        return len(self.things)

    def __getitem__(self, rows: slice | np.ndarray | list[int]) -> Plan:
        return Plan(self.things[rows], self.grounds[rows])

    def without_objects(self, label: int) -> Plan:
        """Without the object of a class."""
        return self._without(slice(0, OBJECTS), label)

    def without_distractors(self, label: int) -> Plan:
        """Without the negatives of a class."""
        return self._without(slice(OBJECTS, OBJECTS + DISTRACTORS), label)

    def without_shortcut(self, label: int) -> Plan:
        """Without the sticker, or with another background than the sky: the shortcut of this class."""
        if label == MARKED:
            return self._without(slice(OBJECTS + DISTRACTORS, None), MARK)
        grounds = self.grounds.copy()
        if label == SKIED:
            starry = grounds["kind"] == SKY
            grounds["kind"][starry] = np.arange(len(grounds))[starry] % SKY
        return replace(self, grounds=grounds)

    def _without(self, slots: slice, kind: int) -> Plan:
        things = self.things.copy()
        part = things["kind"][:, slots]
        part[part == kind] = -1
        return replace(self, things=things)

    def render(self, size: int = 96) -> Batch:
        """The scenes as images of so many pixels on a side."""
        count = len(self)
        canvas = _ground(self.grounds, size)
        masks = torch.zeros(count, len(CLASSES), size, size, dtype=torch.bool)
        distractors, marks = torch.zeros_like(masks), masks.new_zeros(count, size, size)
        for slot in range(self.things.shape[1]):
            rows = np.flatnonzero(self.things["kind"][:, slot] >= 0)
            if not len(rows):
                continue
            things, at = self.things[rows, slot], torch.from_numpy(rows)
            negative = OBJECTS <= slot < OBJECTS + DISTRACTORS
            colour, opacity = _thing(things, size, negative=negative)
            shown = opacity * _column(things["opacity"])
            canvas[at] = canvas[at] * (1 - shown) + colour * shown
            own = opacity[:, 0] > _COVERED
            if slot == self.things.shape[1] - 1:
                marks[at] = own
            else:
                (distractors if negative else masks)[at, torch.from_numpy(things["kind"].astype(int))] |= own
        images = (canvas.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        return Batch(
            images.numpy(),
            labels=self.labels,
            masks=masks.numpy(),
            distractors=distractors.numpy(),
            marks=marks.numpy(),
            sky=self.grounds["kind"] == SKY,
        )

    @property
    def looks_like(self) -> np.ndarray:
        """bool (N, 6): of which classes there are negatives."""
        kinds = self.things["kind"][:, OBJECTS : OBJECTS + DISTRACTORS, None]
        found: np.ndarray = (kinds == np.arange(len(CLASSES))).any(1)
        return found

    @property
    def labels(self) -> np.ndarray:
        """float32 (N, 6)."""
        kinds = self.things["kind"][:, :OBJECTS, None]
        found = (kinds == np.arange(len(CLASSES))).any(1)
        found[:, MARKED] |= self.things["kind"][:, -1] == MARK
        found[:, SKIED] |= self.grounds["kind"] == SKY
        return found.astype(np.float32)


def _turned(fields: np.ndarray, x: Tensor, y: Tensor) -> Tensor:
    """Where pixels lie in pictures that are turned, (M, S, S, 2)."""
    cos, sin = (_column(f(fields["angle"]))[:, 0] for f in (np.cos, np.sin))
    return torch.stack([cos * x + sin * y, cos * y - sin * x], -1)


def _levels(texels: np.ndarray, size: int) -> np.ndarray:
    """The resolution in which so many texels over a scene of this size are read."""
    return np.clip(np.floor(np.log2(np.maximum(texels / size, 1))), 0, LEVELS - 1).astype(int)


def _axis(size: int) -> Tensor:
    return (torch.arange(size, dtype=torch.float32) + 0.5) / size


def _column(values: np.ndarray) -> Tensor:
    """One number for each picture, or one for each channel of it, before pixels."""
    found = torch.from_numpy(np.ascontiguousarray(values))
    return found.view(len(found), -1, 1, 1)


def _ground(fields: np.ndarray, size: int) -> Tensor:
    """The backgrounds, (N, 3, S, S)."""
    axis = _axis(size) * 2 - 1
    radius = _column(fields["radius"])
    places = _turned(fields, axis[None, None, :].expand(1, size, size), axis[None, :, None].expand(1, size, size))
    centre = torch.from_numpy(np.stack([fields["x"], fields["y"]], -1) * 2 - 1).view(-1, 1, 1, 2)
    places = places * radius + centre * (1 - radius)
    atlas: Atlas = grounds()
    colour = atlas.laid(fields["kind"], places, _levels(atlas.levels[0].shape[-1] * fields["radius"], size))
    tint = np.where((fields["kind"] == SKY)[:, None], 1.0, fields["tint"]).astype(np.float32)
    return ((colour - 0.5) * _column(fields["contrast"]) + 0.5 + _column(fields["brightness"])) * _column(tint)


def _thing(fields: np.ndarray, size: int, *, negative: bool) -> tuple[Tensor, Tensor]:
    """The colour (M, 3, S, S) and the opacity (M, 1, S, S) of cut-outs on their scenes."""
    axis, radius = _axis(size), _column(fields["radius"])[:, 0]
    x = (axis[None, None, :] - _column(fields["x"])[:, 0]) / radius
    y = (axis[None, :, None] - _column(fields["y"])[:, 0]) / radius
    x, y = torch.broadcast_tensors(x, y)
    places = _turned(fields, x, y)
    direction, middle, half = (_column(fields["bar"][:, i])[:, 0] for i in range(3))
    across = direction.cos() * places[..., 0] + direction.sin() * places[..., 1]
    places = torch.stack([places[..., 0] * _column(fields["facing"])[:, 0], places[..., 1]], -1)
    atlas = cutouts()
    texels = atlas.levels[0].shape[-1] / (2 * fields["radius"]) * 2 ** fields["blur"]
    found = atlas.laid(fields["kind"], places, _levels(texels, size))
    colour, opacity = found[:, :3], found[:, 3:]
    colour = 1 - colour if negative else colour
    grey = colour.mean(1, keepdim=True)
    colour = grey + (colour - grey) * _column(fields["saturation"])
    colour = (colour - 0.5) * _column(fields["contrast"]) + 0.5 + _column(fields["brightness"])
    return colour * _column(fields["tint"]), opacity * ((across - middle).abs() >= half)[:, None]
