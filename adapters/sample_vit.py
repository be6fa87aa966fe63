"""The embedded sample model, in the layout of timm or of transformers."""

from __future__ import annotations

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


def load(
    name: str,
    *,
    checkpoint: str | Path | None = None,
    checkpoint_key: str | None = None,
    pretrained: bool = True,
) -> LoadedModel:
    """The sample model with its preprocessing, which squashes any image to 64 by 64.

    Args:
        name: "timm" (also "") or "transformers", the library that builds it.
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
    else:
        libraries = ["sample/timm", "sample/transformers"]
        hint = nearest(f"sample/{name}", libraries)
        raise ModelLoadError(f"the sample is {' or '.join(libraries)}, got 'sample/{name}'{hint}")
    notes: tuple[str, ...] = ()
    if checkpoint is not None:
        found = read_checkpoint(checkpoint, checkpoint_key).fitted(model.state_dict().keys())
        load_weights(model, found)
        notes = found.notes
    elif pretrained:
        notes = ("the sample model knows drawn shapes alone; name a model for photographs",)
    random = checkpoint is None and not pretrained
    names = dict(enumerate(sample.CLASSES))
    return LoadedModel(model, PREPROCESSING, names, multi_label=True, notes=notes, random=random)


def knows(name: str) -> bool:
    """Whether a name is one of the libraries that build the sample model."""
    return name in ("timm", "transformers")


def _prepare(image: Image.Image) -> Tensor:
    small = image.resize((_SIDE, _SIDE), Image.Resampling.BOX)  # nearest to a scene drawn at this size
    pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 255  # (3, side, side)
    return (pixels - torch.tensor(sample.MEAN).view(3, 1, 1)) / torch.tensor(sample.STD).view(3, 1, 1)


_SIDE = sample.CONFIG["img_size"]
PREPROCESSING = Preprocessing(
    _prepare, lambda size: View.of(size).resized(_SIDE, _SIDE), sample.MEAN, sample.STD, "the sample's"
)
