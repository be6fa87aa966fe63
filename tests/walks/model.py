"""A Vision Transformer that no library knows, and how it is loaded by name."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captum_vit import Preprocessing, sample
from captum_vit.geometry import View
from captum_vit.models import LoadedModel

SIDE, PATCH, WIDTH, HEADS = 64, 16, 24, 3


class Block(nn.Module):
    """Attention and an MLP, each beside a skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH)
        self.mlp = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        x = x + F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + self.mlp(x)


class OwnViT(nn.Module):
    """A class token and patches through three blocks."""

    def __init__(self, classes: int = len(sample.CLASSES)) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.place = nn.Parameter(torch.randn(1, 1 + (SIDE // PATCH) ** 2, WIDTH))
        self.blocks = nn.Sequential(Block(), Block(), Block())
        self.head = nn.Linear(WIDTH, classes)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.embed(images).flatten(2).mT
        tokens = torch.cat([self.token.expand(len(images), -1, -1), patches], 1) + self.place
        return self.head(self.blocks(tokens)[:, 0])


def load(name, *, checkpoint=None, **options) -> LoadedModel:
    """The model, whatever its name; with the classes of the sample's scenes."""
    torch.manual_seed(0)
    return LoadedModel(OwnViT().eval(), Preprocessing(prepare, view), dict(enumerate(sample.CLASSES)))


def prepare(image) -> Tensor:
    return torch.from_numpy(np.array(image.resize((SIDE, SIDE)))).permute(2, 0, 1) / 127.5 - 1


def view(size) -> View:
    return View.of(size).resized(SIDE, SIDE)
