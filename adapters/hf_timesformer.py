"""Hugging Face's TimeSformer where its attention is joint in space and time; frames apart have no map of a video."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from captum_vit.access import CLASS, Grid, TokenLayout
from captum_vit.adapters.hf_common import HFAdapter
from captum_vit.errors import TokenLayoutError

READOUTS = {"TimesformerForVideoClassification": CLASS, "TimesformerModel": CLASS}
APART = {
    "divided_space_time": "attention runs along each place through time and within each frame, apart: what leads from "
    "one patch to another goes through both, so that neither has a query over the video, and no rollout leads through",
    "space_only": "it gives scores for each frame by itself, (videos * frames, classes), and attention sees one frame",
}


class HFTimesformer(HFAdapter):
    """Videos (N, frames, C, H, W); tokens are [class, rows, columns, frames], the frames of a place side by side."""

    readouts = READOUTS
    batch_dims = 5
    in_channels = None  # the axis of the channels comes behind that of the frames

    @classmethod
    def refusal(cls, model: nn.Module) -> str | None:
        kind: Any = model
        reason = APART.get(kind.config.attention_type)
        return reason and (
            f"{type(model).__name__} with attention_type={kind.config.attention_type!r} is not supported: {reason}. "
            f"captum.attr.IntegratedGradients(model) explains its pixels; attention_type='joint_space_time' has maps"
        )

    def attention_of(self, block: Any) -> nn.Module:
        return block.attention.attention  # type: ignore[no-any-return]

    def size_of(self, images: Tensor) -> Grid:
        return images.shape[1], images.shape[3], images.shape[4]

    def example(self, size: Grid, draw: torch.Generator) -> Tensor:
        channels = self.hf.config.num_channels
        return torch.randn(1, size[0], channels, *size[1:], generator=draw)

    def token_layout(self, image_size: Grid, arguments: Mapping[str, Any]) -> TokenLayout:
        config = self.hf.config
        frames, height, width = image_size
        patch = config.patch_size
        if image_size != self.image_size:
            raise TokenLayoutError(
                f"the model takes videos of {'x'.join(map(str, self.image_size))} (frames, height, width), got "
                f"{'x'.join(map(str, image_size))}: take as many frames, and resize them"
            )
        rows, cols = height // patch, width // patch
        places = torch.arange(rows * cols * frames).view(rows * cols, frames).T.flatten()
        order = torch.cat([torch.zeros(1, dtype=torch.long), 1 + places])
        return TokenLayout((frames, rows, cols), 1, (1, patch, patch), CLASS, order=order)

    @property
    def first_block(self) -> nn.Module | None:
        return None

    @property
    def image_size(self) -> Grid:
        config = self.hf.config
        return config.num_frames, config.image_size, config.image_size
