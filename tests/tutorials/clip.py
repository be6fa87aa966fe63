"""A clip of the sample's photographs, and models of videos: what the page on videos shows and runs."""

import numpy as np
import torch
import transformers
from torch import Tensor, nn

from captum_vit import load_model
from captum_vit.models import LoadedModel
from captum_vit.preprocessing import read_preprocessing
from tests.families.hf import small

FRAMES, WINDOW = 8, 256
PROCESSED = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}


class Inflated(nn.Module):
    """An image model that is given all frames at once: its class token, and all patches of all frames, attend together.

    Nothing is trained anew: a position says where in its frame a patch lies, and not in which.
    """

    def __init__(self, vit: nn.Module, frames: int) -> None:
        super().__init__()
        flat = vit.patch_embed.proj
        self.stem = nn.Conv3d(3, flat.out_channels, (1, *flat.kernel_size), stride=(1, *flat.stride))
        self.stem.weight.data, self.stem.bias.data = flat.weight.data[:, :, None].clone(), flat.bias.data.clone()
        self.cls_token, self.positions = vit.cls_token, vit.pos_embed
        self.blocks, self.norm, self.head = vit.blocks, vit.norm, vit.head
        self.image_size = (frames, *vit.patch_embed.img_size)

    def forward(self, video: Tensor) -> Tensor:
        patches = self.stem(video).flatten(3).permute(0, 2, 3, 1) + self.positions[:, None, 1:]  # (B, T, patches, D)
        first = (self.cls_token + self.positions[:, :1]).expand(len(video), -1, -1)
        tokens = torch.cat([first, patches.flatten(1, 2)], 1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(self.norm(tokens)[:, 0])


def inflated() -> LoadedModel:
    """The sample's model of photographs as one of videos."""
    sample = load_model("sample/hard")
    return LoadedModel(Inflated(sample.model, FRAMES).eval(), sample.preprocess, sample.class_names)


def panned(photo: np.ndarray) -> np.ndarray:
    """A window that goes over a photograph from left to right, (T, H, W, 3)."""
    top = (photo.shape[0] - WINDOW) // 2
    lefts = np.linspace(0, photo.shape[1] - WINDOW, FRAMES).round().astype(int)
    return np.stack([photo[top : top + WINDOW, left : left + WINDOW] for left in lefts])


def tiny() -> LoadedModel:
    """VideoMAE with random weights, in place of one that would have to be downloaded."""
    made = small("VideoMAEForVideoClassification", "VideoMAEConfig", num_frames=4)()
    read = transformers.VideoMAEVideoProcessor(**PROCESSED)
    return LoadedModel(made, read_preprocessing(read), {0: "juggling", 1: "surfing"})
