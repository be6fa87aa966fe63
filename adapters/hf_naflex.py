"""Hugging Face's SigLIP 2 with patches of any shape (NaFlex), which it takes as a sequence, without an image."""

from collections.abc import Mapping
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn

from captum_vit.access import CLASS, PATCHES, Grid, TokenLayout
from captum_vit.adapters.hf_clip import POOLED, HFClip
from captum_vit.adapters.hf_patches import cut
from captum_vit.errors import InputError, TokenLayoutError

READOUTS = {"Siglip2VisionModel": POOLED, "Siglip2ForImageClassification": PATCHES}


class HFNaflex(HFClip):
    """Images of any size that its patches divide: they are cut up as the image processor does, without padding."""

    readouts = READOUTS

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.patch: int = self.backbone.embeddings.patch_size

    def call_with(self, images: Tensor) -> Mapping[str, Any]:
        if images.dim() != 4 or images.shape[1] != self.in_channels:
            raise InputError(
                f"{type(self.model).__name__} is given images here, (N, {self.in_channels}, H, W) with sides that its "
                f"patches of {self.patch} divide, and they are cut for it; got {tuple(images.shape)}. Of the image "
                f"processor's patches captum_vit.adapters.hf_patches.joined(pixel_values, spatial_shapes) makes images "
                f"again, and explain(photo, model, preprocess=processor) takes the photograph itself"
            )
        grid = self.grid(self.size_of(images))
        patches, count = cut(images, self.patch), len(images)
        # the classifier's mean by a mask would be of all tokens, also where some are left out
        mask = torch.ones(patches.shape[:2], dtype=torch.int32, device=images.device) if self.bare else None
        shapes = torch.tensor([grid] * count, device=images.device)
        return {"pixel_values": patches, "pixel_attention_mask": mask, "spatial_shapes": shapes}

    def batch_of(self, arguments: Mapping[str, Any]) -> tuple[int, Grid] | None:
        patches, shapes = arguments.get("pixel_values"), arguments.get("spatial_shapes")
        if patches is None or shapes is None:
            return None
        grids = {tuple(grid) for grid in shapes.tolist()}
        rows, cols = grids.pop()
        if grids or patches.shape[1] != rows * cols:
            raise TokenLayoutError(
                f"the images of one batch reach {type(self.model).__name__} with patches of several shapes, or padded: "
                f"{shapes.tolist()} (rows, columns) in {patches.shape[1]} patches. Give it images of one shape at a "
                f"time, without padding"
            )
        return len(patches), (rows * self.patch, cols * self.patch)

    def grid(self, image_size: Grid) -> Grid:
        """The patches as (rows, columns).

        Raises:
            TokenLayoutError: they do not divide the image.
        """
        height, width = image_size
        if height % self.patch or width % self.patch or 0 in image_size:
            raise TokenLayoutError(
                f"images of {height}x{width} do not divide into patches of {self.patch}x{self.patch}: resize them"
            )
        return height // self.patch, width // self.patch

    def token_layout(self, image_size: Grid, arguments: Mapping[str, Any]) -> TokenLayout:
        return TokenLayout(self.grid(image_size), 0, (self.patch, self.patch), self.readout or CLASS)

    @property
    def image_size(self) -> Grid:
        side = isqrt(self.backbone.config.num_patches) * self.patch  # the square of its position embeddings
        return side, side

    @property
    def in_channels(self) -> int:
        return self.backbone.embeddings.patch_embedding.in_features // self.patch**2
