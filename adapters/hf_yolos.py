"""Hugging Face's YOLOS, a plain ViT with detection tokens behind the patches."""

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import nn

from captum_vit.access import Grid, TokenLayout
from captum_vit.adapters.hf_common import HFAdapter
from captum_vit.adapters.hf_tokens import patch_grid, patch_size


class HFYolos(HFAdapter):
    """The tokens are [class, patches, detection tokens]: each query is read from one of these, which is measured.

    Images of any size are taken. Positions are added between the blocks too, where the configuration says so.
    """

    readouts: Mapping[str, Any] = {"YolosForObjectDetection": None}
    heads = ("class_labels_classifier", "bbox_predictor")
    any_size = True

    @property
    def prefix_tokens(self) -> tuple[str, ...]:
        return ("class", *["detection"] * self.hf.config.num_detection_tokens)

    def token_layout(self, image_size: Grid, arguments: Mapping[str, Any]) -> TokenLayout:
        embeddings = self.backbone.embeddings
        grid = patch_grid(embeddings, image_size, any_size=True)
        patches = prod(grid)
        order = torch.tensor([0, *range(1 + patches, self.prefix + patches), *range(1, 1 + patches)])
        return TokenLayout(grid, self.prefix, patch_size(embeddings), order=order)

    @property
    def first_block(self) -> nn.Module | None:
        return None if self.hf.config.use_mid_position_embeddings else super().first_block  # of all tokens
