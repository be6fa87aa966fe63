"""What the adapters of Hugging Face's video models share."""

from typing import Any

import torch
from torch import Tensor, nn

from captum_vit.access import Grid
from captum_vit.adapters.hf_common import HFAdapter
from captum_vit.errors import TokenLayoutError


class HFVideoAdapter(HFAdapter):
    """Videos (N, frames, C, H, W), of which a size is (frames, height, width)."""

    batch_dims = 5
    in_channels = None  # the axis of the channels comes behind that of the frames

    def size_of(self, images: Tensor) -> Grid:
        return images.shape[1], images.shape[3], images.shape[4]

    def example(self, size: Grid, draw: torch.Generator) -> Tensor:
        return torch.randn(1, size[0], self.channels, *size[1:], generator=draw)

    def framed(self, video: Tensor) -> Tensor:
        return video

    @property
    def channels(self) -> int:
        """Of each frame."""
        return int(self.hf.config.num_channels)

    @property
    def tubelet(self) -> Grid:
        """(frames, height, width) that a token stands for, as the first convolution takes them together."""
        stem: Any = next(m for m in self.backbone.embeddings.modules() if isinstance(m, nn.Conv3d))
        return tuple(stem.kernel_size)

    @property
    def image_size(self) -> Grid:
        """(frames, height, width) that the model was built for."""
        return int(self.backbone.config.num_frames), *super().image_size

    def check_size(self, size: Grid) -> None:
        """Raise TokenLayoutError for videos of another size than the model was built for."""
        if size == self.image_size:
            return
        frames, height, width = self.image_size
        got = "x".join(map(str, size))
        raise TokenLayoutError(
            f"the model takes videos of {frames}x{height}x{width} (frames, height, width), got {got}: "
            f"take {frames} frames of them, and resize these to {height}x{width}"
        )
