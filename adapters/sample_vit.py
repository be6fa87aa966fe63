"""The embedded sample model, in the layout of timm or of transformers."""

from __future__ import annotations

from typing import Literal

from torch import nn

from captum_vit import sample


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
