"""Hugging Face's TimeSformer where its attention is joint in space and time; frames apart have no map of a video."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from captum_vit.access import CLASS, Grid, TokenLayout
from captum_vit.adapters.hf_video_common import HFVideoAdapter

READOUTS = {"TimesformerForVideoClassification": CLASS, "TimesformerModel": CLASS}
APART = {
    "divided_space_time": "attention runs along each place through time and within each frame, apart: what leads from "
    "one patch to another goes through both, so that neither has a query over the video, and no rollout leads through",
    "space_only": "it gives scores for each frame by itself, (videos * frames, classes), and attention sees one frame",
}
PIXELS = {
    "divided_space_time": "CPLRP(model).attribute(videos, target, output_shape='input') explains its pixels",
    "space_only": "captum.attr.IntegratedGradients(model) explains pixels of its frames",
}


class HFTimesformer(HFVideoAdapter):
    """Videos (N, frames, C, H, W); tokens are [class, rows, columns, frames], the frames of a place side by side."""

    readouts = READOUTS

    @classmethod
    def refusal(cls, model: nn.Module) -> str | None:
        kind: Any = model
        reason = APART.get(kind.config.attention_type)
        return reason and (
            f"{type(model).__name__} with attention_type={kind.config.attention_type!r} is not supported: {reason}. "
            f"{PIXELS[kind.config.attention_type]}; attention_type='joint_space_time' has maps"
        )

    def attention_of(self, block: Any) -> nn.Module:
        return block.attention.attention  # type: ignore[no-any-return]

    def token_layout(self, image_size: Grid, arguments: Mapping[str, Any]) -> TokenLayout:
        self.check_size(image_size)
        (frames, height, width), patch = image_size, self.hf.config.patch_size
        rows, cols = height // patch, width // patch
        places = torch.arange(rows * cols * frames).view(rows * cols, frames).T.flatten()
        order = torch.cat([torch.zeros(1, dtype=torch.long), 1 + places])
        return TokenLayout((frames, rows, cols), 1, (1, patch, patch), CLASS, order=order)

    @property
    def first_block(self) -> nn.Module | None:
        return None
