"""The embedded sample models: of drawn shapes, in the layout of timm or of transformers, and of photographs."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from captum_vit import sample
from captum_vit.checkpoints import load_weights, read_checkpoint
from captum_vit.errors import ModelLoadError, nearest
from captum_vit.geometry import View
from captum_vit.models import LoadedModel
from captum_vit.preprocessing import Preprocessing
from captum_vit.sample import hard


def build(library: Literal["timm", "transformers"] = "timm", pretrained: bool = True) -> nn.Module:
    """Build the sample model.

    Args:
        library: `"timm"` gives a `VisionTransformer`, `"transformers"` a `ViTForImageClassification`. Both
            take images of (N, 3, 64, 64), normalised with `sample.MEAN` and `sample.STD`, and score each of
            `sample.CLASSES`.
        pretrained: load the shipped weights; otherwise they are random.

    Returns:
        The model in evaluation mode.

    Raises:
        ValueError: the library is neither.
        ImportError: the library is not installed.
    """
    if library == "timm":
        from timm.models.vision_transformer import VisionTransformer

        model: nn.Module = VisionTransformer(**sample.CONFIG)
    elif library == "transformers":
        from transformers import ViTConfig, ViTForImageClassification

        model = ViTForImageClassification(ViTConfig(**sample.hf_config()))
    else:
        raise ValueError(f"expected the library 'timm' or 'transformers', got {library!r}")
    if pretrained:
        model.load_state_dict(sample.state_dict(library), strict=True)
    return model.eval()


def build_hard(pretrained: bool = True) -> nn.Module:
    """Build the hard sample model, a timm `VisionTransformer` in evaluation mode.

    It takes images of (N, 3, 96, 96), normalised with `hard.MEAN` and `hard.STD`, and scores each of `hard.CLASSES`.

    Raises:
        ModelLoadError: its weights are not installed.
    """
    from timm.models.vision_transformer import VisionTransformer

    model: nn.Module = VisionTransformer(**hard.CONFIG)
    if pretrained and not hard.WEIGHTS.exists():
        raise ModelLoadError(
            f"the weights of sample/hard are not here: train them by `python -m captum_vit.sample.hard.train --out "
            f"{hard.WEIGHTS}`, or pass pretrained=False for random ones"
        )
    if pretrained:
        model.load_state_dict(hard.state_dict(), strict=True)
    return model.eval()


def load(
    name: str,
    *,
    checkpoint: str | Path | None = None,
    checkpoint_key: str | None = None,
    pretrained: bool = True,
) -> LoadedModel:
    """A sample model with its preprocessing, which squashes any image to 64 by 64, or 96 by 96 for the hard one.

    Args:
        name: "timm" (also "") or "transformers", the library that builds the sample; or "hard".
        checkpoint: weights under that library's names, instead of the shipped ones.
        checkpoint_key: which of several sets of weights in it.
        pretrained: without a checkpoint, load the shipped weights; else they are random.
    Raises:
        ModelLoadError: another name, or a checkpoint that does not fit.
    """
    if name in ("", "timm"):
        model = build("timm", pretrained and checkpoint is None)
    elif name == "transformers":
        model = build("transformers", pretrained and checkpoint is None)
    elif name == "hard":
        model = build_hard(pretrained and checkpoint is None)
    else:
        samples = [f"sample/{known}" for known in NAMES]
        hint = nearest(f"sample/{name}", samples)
        raise ModelLoadError(f"the sample is {', '.join(samples[:-1])} or {samples[-1]}, got 'sample/{name}'{hint}")
    notes: tuple[str, ...] = ()
    if checkpoint is not None:
        found = read_checkpoint(checkpoint, checkpoint_key).fitted(model.state_dict().keys())
        load_weights(model, found)
        notes = found.notes
    elif pretrained:
        knows_alone = f"{', '.join(hard.CLASSES)} of a few photographs" if name == "hard" else "drawn shapes"
        notes = (f"the sample model knows {knows_alone} alone; name a model for photographs",)
    random = checkpoint is None and not pretrained
    classes, preprocessing = (hard.CLASSES, HARD_PREPROCESSING) if name == "hard" else (sample.CLASSES, PREPROCESSING)
    return LoadedModel(model, preprocessing, dict(enumerate(classes)), multi_label=True, notes=notes, random=random)


def knows(name: str) -> bool:
    """Whether a name is one of the sample models."""
    return name in NAMES


NAMES = ("timm", "transformers", "hard")


def _prepare(image: Image.Image, side: int) -> Tensor:
    small = image.resize((side, side), Image.Resampling.BOX)  # nearest to a scene drawn at this size
    pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 255  # (3, side, side)
    return (pixels - torch.tensor(sample.MEAN).view(3, 1, 1)) / torch.tensor(sample.STD).view(3, 1, 1)


def _view(size: tuple[int, int], side: int) -> View:
    return View.of(size).resized(side, side)


def _squashing(side: int) -> Preprocessing:
    prepare, view = partial(_prepare, side=side), partial(_view, side=side)
    return Preprocessing(prepare, view, sample.MEAN, sample.STD, "the sample's")


PREPROCESSING, HARD_PREPROCESSING = _squashing(sample.CONFIG["img_size"]), _squashing(hard.CONFIG["img_size"])
