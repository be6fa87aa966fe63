"""Models of nobody's library with adapters that somebody would register: of videos, and of latents that read images."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captum_vit import Adapter, Readout, TokenLayout
from captum_vit.access import CLASS
from tests.helpers import CLASSES, randomise

WIDTH, HEADS = 12, 2


class Attention(nn.Module):
    """Some tokens look at others, or at each other."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv, self.proj = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def split(self, queries: Tensor, keys: Tensor) -> tuple[Tensor, ...]:
        """q, k, v, (B, H, N, d) each."""
        parts = self.q(queries), *self.kv(keys).chunk(2, -1)
        return tuple(part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in parts)

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        return self.proj(F.scaled_dot_product_attention(*self.split(queries, keys)).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and an MLP; `skip`: whether the queries are carried past the attention."""

    def __init__(self, skip: bool = True) -> None:
        super().__init__()
        self.skip, self.attn = skip, Attention()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))

    def forward(self, x: Tensor, keys: Tensor | None = None) -> Tensor:
        queries = self.norm1(x)
        return self.after(x, self.attn(queries, queries if keys is None else keys))

    def after(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + attended if self.skip else attended
        return x + self.mlp(self.norm2(x))


class Backbone(nn.Module):
    """A class token and patches through two blocks."""

    def __init__(self, patches: nn.Module, count: int) -> None:
        super().__init__()
        self.patches = patches
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + count, WIDTH))
        self.embedded = nn.Identity()
        self.blocks = nn.ModuleList(Block() for _ in range(2))

    def embed(self, x: Tensor) -> Tensor:
        patches = self.patches(x).flatten(2).mT
        return self.embedded(torch.cat([self.cls_token.expand(len(x), -1, -1), patches], 1) + self.pos_embed)

    def encode(self, x: Tensor) -> Tensor:
        tokens = self.embed(x)
        for block in self.blocks:
            tokens = block(tokens)
        return tokens


class VideoViT(Backbone):
    """Videos or volumes of (2, 2, 3) patches, (N, 3, 4, 16, 24)."""

    def __init__(self) -> None:
        super().__init__(nn.Conv3d(3, WIDTH, (2, 8, 8), (2, 8, 8)), 12)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, video: Tensor) -> Tensor:
        return self.head(self.encode(video)[:, 0])


class Reader(Backbone):
    """Three latents read the tokens of an image (N, 3, 16, 24) twice, one time after another; two are scored."""

    def __init__(self, skip: bool) -> None:
        super().__init__(nn.Conv2d(3, WIDTH, 8, 8), 6)
        self.latent_tokens = nn.Parameter(torch.zeros(1, 3, WIDTH))
        self.readers = nn.ModuleList(Block(skip) for _ in range(2))
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens, latents = self.encode(x), self.latent_tokens.expand(len(x), -1, -1)
        for reader in self.readers:
            latents = reader(latents, tokens)
        return self.head(latents[:, :2].mean(1))


class OwnAdapter(Adapter):
    """What the two have in common."""

    kind: type[nn.Module]

    @classmethod
    def matches(cls, model: nn.Module) -> bool:
        return isinstance(model, cls.kind)

    def attention_layers(self) -> dict[str, nn.Module]:
        return {f"blocks.{i}.attn": self.model.get_submodule(f"blocks.{i}.attn") for i in range(2)}

    @property
    def prefix_tokens(self) -> tuple[str, ...]:
        return ("class",)

    @property
    def embedding(self) -> nn.Module:
        return self.model.get_submodule("embedded")


class VideoAdapter(OwnAdapter):
    kind, batch_dims = VideoViT, 5

    def token_layout(self, image_size: tuple[int, ...], arguments: Mapping[str, Any]) -> TokenLayout:
        frames, height, width = image_size
        return TokenLayout((frames // 2, height // 8, width // 8), 1, (2, 8, 8), CLASS)

    @property
    def readout(self) -> Readout:
        return CLASS


class ReaderAdapter(OwnAdapter):
    kind = Reader

    def attention_layers(self) -> dict[str, nn.Module]:
        readers = {name: self.model.get_submodule(name) for name in self.cross_attention}
        return super().attention_layers() | readers

    @property
    def cross_attention(self) -> dict[str, bool]:
        return {f"readers.{i}.attn": reader.skip for i, reader in enumerate(self.model.readers)}

    def token_layout(self, image_size: tuple[int, ...], arguments: Mapping[str, Any]) -> TokenLayout:
        return TokenLayout((image_size[0] // 8, image_size[1] // 8), 1, (8, 8), self.readout)

    @property
    def readout(self) -> Readout:
        return Readout((0,), patches=True, even=True, latents=(0, 1))


def video_vit() -> VideoViT:
    return randomise(VideoViT())


def reader(skip: bool) -> Reader:
    return randomise(Reader(skip))


def videos(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 4, 16, 24, generator=torch.Generator().manual_seed(1))
