"""Explanations for the tools that people look at images in: FiftyOne, TensorBoard, Weights & Biases, datasets.

None of them is imported here: each is given what its own documentation asks for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from .explanation.explanation import Explanation
from .names import distinct

Array = np.ndarray


class Writer(Protocol):
    """What takes images by a name and a step, as `torch.utils.tensorboard.SummaryWriter` does."""

    def add_image(self, tag: str, img_tensor: Array, global_step: int | None, *, dataformats: str) -> None:
        """Take an image, uint8 (H, W, 3)."""


def heatmaps(explanation: Explanation) -> dict[str, dict[str, Any]]:
    """Each map as FiftyOne's `Heatmap` takes it, by its title without dots and dollars, which no field of it may have.

    >>> from captum_vit.exports import heatmaps
    >>> found = heatmaps(explanation)  # sample[title] = fiftyone.Heatmap(**found[title])
    >>> sorted(next(iter(found.values())))
    ['map', 'range']

    Returns:
        Title -> `map`, float32 (H, W) of the photograph, 0 where the model saw nothing, and `range`, the two values
        between which FiftyOne spreads its colours; with two signs as far below 0 as above.
    """
    found = {}
    titled = list(_singles(explanation))
    fields = distinct(re.sub(r"[.$]", "", title) for title, _ in titled)
    for title, (_, single) in zip(fields, titled, strict=True):
        placed = single.for_captum()[0][..., 0]
        least, greatest = float(placed.min()), float(placed.max())
        if single.attributions[0].signed:
            greatest = max(-least, greatest)
            least = -greatest
        found[title] = {"map": placed, "range": [least, greatest]}
    return found


def log_images(writer: Writer, explanation: Explanation, step: int | None = None, name: str = "") -> None:
    """Write each map on its photograph to TensorBoard.

    >>> from torch.utils.tensorboard import SummaryWriter
    >>> from captum_vit.exports import log_images
    >>> with SummaryWriter("runs/a") as writer: log_images(writer, explanation, step=3)

    Args:
        writer: a `torch.utils.tensorboard.SummaryWriter`, or what takes images as it does.
        explanation: of one image.
        step: of the training.
        name: what the images are called by; by default the photograph's file. Images of one name and title stand under
            one slider of steps.
    """
    for title, single in _singles(explanation):
        tag = f"{name or explanation.source or 'image'}/{title}"
        writer.add_image(tag, np.asarray(single.overlay()), step, dataformats="HWC")


def captioned(explanation: Explanation) -> list[tuple[Array, str]]:
    """Each map on its photograph with its title, as Weights & Biases takes images.

    >>> from captum_vit.exports import captioned
    >>> picture, caption = captioned(explanation)[0]  # run.log({"maps": wandb.Image(picture, caption=caption)})
    >>> picture.shape
    (480, 640, 3)

    Returns:
        uint8 (H, W, 3) and a caption, for each map.
    """
    named = f"{explanation.source}, " if explanation.source else ""
    return [(np.array(single.overlay()), named + title) for title, single in _singles(explanation)]


def columns(explanations: Iterable[Explanation]) -> dict[str, list[Any]]:
    """Maps as a table, a row each, of `datasets` or pandas.

    >>> from captum_vit import explain
    >>> from captum_vit.exports import columns
    >>> from captum_vit.sample import draw_scene
    >>> table = columns([explain(draw_scene(15).image, target=["cross", "disc"])])
    >>> table["method"], table["target"], len(table["map"][0])
    (['agcam', 'agcam'], ['cross', 'disc'], 8)

    Returns:
        Columns for `datasets.Dataset.from_dict` or `pandas.DataFrame`: source, model, method, target (its title, empty
        for a map of no class), score, prediction (the title of the first label), map (rows of patches, floats), and
        overlay (a PIL image).
    """
    found: dict[str, list[Any]] = {
        name: [] for name in ("source", "model", "method", "target", "score", "prediction", "map", "overlay")
    }
    for explanation in explanations:
        first = explanation.labels[0].title if explanation.labels else ""
        for _, single in _singles(explanation):
            attribution = single.attributions[0]
            target = attribution.target
            row = {
                "source": explanation.source,
                "model": explanation.model,
                "method": attribution.method,
                "target": "" if target is None else target.title,
                "score": None if target is None else target.score,
                "prediction": first,
                "map": attribution.map.tolist(),
                "overlay": single.overlay(),
            }
            for name, value in row.items():
                found[name].append(value)
    return found


def _singles(explanation: Explanation) -> Iterable[tuple[str, Explanation]]:
    """An explanation of each map by itself, under its title."""
    for attribution in explanation.attributions:
        yield attribution.title, replace(explanation, attributions=(attribution,))
