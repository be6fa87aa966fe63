"""A small T2T-ViT of the published module layout, written for the tests."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.families.family import Family
from tests.helpers import CLASSES, randomise


class SoftAttention(nn.Module):
    """Attention of one head over the tokens of a soft split, to narrower tokens; its values are the skip."""

    def __init__(self, wide: int, narrow: int) -> None:
        super().__init__()
        self.norm1, self.qkv, self.proj = nn.LayerNorm(wide), nn.Linear(wide, 3 * narrow), nn.Linear(narrow, narrow)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).chunk(3, -1)
        attn = (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).softmax(-1)
        return v + self.proj(attn @ v)


class TokensToToken(nn.Module):
    """Soft splits by strides of 4, 2 and 2, with attention between them."""

    def __init__(self, width: int, narrow: int = 8) -> None:
        super().__init__()
        self.soft_split0 = nn.Unfold(7, stride=4, padding=2)
        self.soft_split1 = nn.Unfold(3, stride=2, padding=1)
        self.soft_split2 = nn.Unfold(3, stride=2, padding=1)
        self.attention1 = SoftAttention(3 * 49, narrow)
        self.attention2 = SoftAttention(narrow * 9, narrow)
        self.project = nn.Linear(narrow * 9, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self._folded(self.attention1(self.soft_split0(x).mT))
        x = self._folded(self.attention2(self.soft_split1(x).mT))
        return self.project(self.soft_split2(x).mT)

    @staticmethod
    def _folded(x: Tensor) -> Tensor:
        side = math.isqrt(x.shape[1])
        return x.mT.unflatten(2, (side, side))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads, self.scale = heads, width**-0.5  # of the width, as the published weights have it
        self.qkv, self.proj = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.attn_drop, self.proj_drop = nn.Dropout(0.1), nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        attn = self.attn_drop(((q @ k.transpose(-2, -1)) * self.scale).softmax(dim=-1))
        return self.proj_drop(self.proj((attn @ v).transpose(1, 2).flatten(2)))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2 = nn.LayerNorm(width), Attention(width, heads), nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class SmallT2T(nn.Module):
    def __init__(self, size: int = 64, width: int = 24, heads: int = 3, depth: int = 2) -> None:
        super().__init__()
        self.tokens_to_token = TokensToToken(width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, (size // 16) ** 2 + 1, width), requires_grad=False)
        self.pos_drop = nn.Dropout(0.1)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.tokens_to_token(x)
        x = self.pos_drop(torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


T2T = [
    Family("T2T-ViT", "own code", "of the published layout", lambda: randomise(SmallT2T()), 2, (64, 64), explicit=True)
]
