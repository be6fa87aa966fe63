"""An explanation made by hand: no model, so that its figures change only with the code that draws them."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from captum_vit.explained import AttentionRecord, Attribution, Label
from captum_vit.explanation.explanation import Explanation
from captum_vit.facts import Facts
from captum_vit.geometry import View

LAYERS = tuple(f"blocks.{i}.attn" for i in range(4))
FACTS = {
    "agcam": Facts("AGCAM"),
    "daam": Facts("DAAM"),
    "rollout": Facts("attention rollout", "attention", class_specific=False),
    "signed": Facts("LRP", signed=True),
}
CAT, DOG = Label(0, "cat, grimalkin", 0.9, "cat"), Label(7, "dog", 0.001)


def photograph(width: int = 240, height: int = 160) -> Image.Image:
    """A slope of grey with a dark disc in it."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([255 * x / width, 255 * y / height, 128 + 0 * x], -1)
    pixels[(x - width * 0.6) ** 2 + (y - height * 0.5) ** 2 < (height * 0.3) ** 2] = 30
    return Image.fromarray(pixels.astype(np.uint8))


def centre_crop(width: int = 240, height: int = 160) -> View:
    """What a model that is shown the middle square of a picture sees, at 64 pixels."""
    side = min(width, height)
    scale = 64 / side
    return (
        View.of((width, height))
        .resized(round(width * scale), round(height * scale))
        .cropped(round((width - side) / 2 * scale), round((height - side) / 2 * scale), 64, 64)
    )


def growing(row: int, col: int, height: float = 1.0) -> Tensor:
    """A flow on 4 x 4 patches that first grows everywhere and then at one place."""
    blocks = torch.linspace(0.1, 0.3, 16).reshape(1, 4, 4).repeat(len(LAYERS), 1, 1)
    blocks[1:, row, col] += torch.tensor([0.5, 1.0, 2.0])
    return height * blocks.cumsum(0)


def against(method: str) -> Tensor:
    """What is taken off at another place, and a little everywhere."""
    return growing(2, 0, 0.7) + 0.2 if method == "signed" else torch.zeros(())


def explanation(
    methods: tuple[str, ...] = ("agcam",), classes: tuple[Label, ...] = (CAT,), size: tuple[int, int] = (240, 160)
) -> Explanation:
    """A flow of its own for each method and class, rollout for none; of the method "signed" with values below 0."""
    found = [
        Attribution(m, c, growing(i, 3 - j, 1 + i + 10 * j) - against(m), LAYERS, facts=FACTS[m])
        for j, c in enumerate(classes)
        for i, m in enumerate(methods)
        if m != "rollout"
    ]
    if "rollout" in methods:
        found.append(Attribution("rollout", None, growing(3, 3, 0.1).flip(1), LAYERS, facts=FACTS["rollout"]))
    heads = {name: torch.stack([growing(i, i)[-1] for i in range(4)]) for name in LAYERS}
    kept = AttentionRecord(heads, {})
    return Explanation(photograph(*size), centre_crop(*size), tuple(found), classes, "model", attention=kept)
