"""What a model may do to the pixels before they are patches."""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from tests.research.dino import Attention, Dino, dino_parts
from tests.research.layout import CLASSES, PATCH, WIDTH, Layout, randomise
from tests.research.orders import OWN, Ordered, Permuted


class Oblong(nn.Module):
    """Patches that are wider than high."""

    def __init__(self, height: int = 4, width: int = 16, channels: int = 3) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, WIDTH, (height, width), (height, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class Padded(Oblong):
    """Pixels of nothing around the image until the patches fit."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (0, -x.shape[3] % PATCH, 0, -x.shape[2] % PATCH)))


class Normalised(nn.Module):
    """Convolutions with norms over the whole image between them, so that every pixel moves every token a little."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.proj = nn.Conv2d(3, 8, 4, 4), nn.GroupNorm(2, 8), nn.Conv2d(8, WIDTH, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(F.gelu(self.norm(self.conv(x)))).flatten(2).transpose(1, 2)


class Prepared(nn.Module):
    """A ViT that is given pixels which its owner has changed."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.change, self.vit = change, Dino(CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.vit(self.change(x))


def standardised(x: Tensor) -> Tensor:
    """Each image by its own mean and deviation."""
    return (x - x.mean((2, 3), keepdim=True)) / x.std((2, 3), keepdim=True)


def resized(x: Tensor) -> Tensor:
    """To the size that the ViT wants."""
    return F.interpolate(x, (32, 32), mode="bilinear", antialias=True)


def mirrored(x: Tensor) -> Tensor:
    """Left for right."""
    return x.flip(3)


def prepared(name: str, change: Callable[[Tensor], Tensor], **more: Any) -> Layout:
    """A ViT behind a change of its pixels."""
    return Layout(name, lambda: randomise(Prepared(change)), {Attention: dino_parts}, **more)


MIRRORED = tuple(1 + row * 4 + 3 - col for row in range(4) for col in range(4))
LAYOUTS = [
    Layout("oblong patches", lambda: randomise(Ordered(Oblong())), OWN, (8, 2)),
    Layout("a remainder", lambda: randomise(Dino()), {Attention: dino_parts}, size=(37, 39), patch=(8, 8)),
    Layout("padded", lambda: randomise(Ordered(Padded(8, 8))), OWN, size=(27, 29), patch=(8, 8)),
    Layout("grey", lambda: randomise(Ordered(Oblong(8, 8, 1))), OWN, channels=1),
    Layout("norms in the stem", lambda: randomise(Ordered(Normalised())), OWN, uncertain=True),
    Layout("one row of patches", lambda: randomise(Ordered(Oblong(32, 2))), OWN, (1, 16)),
    Layout("as many patches in two rows", lambda: randomise(Ordered(Permuted())), OWN, (2, 8), size=(16, 64)),
    prepared("standardised", standardised, uncertain=True),
    prepared("resized", resized, size=(48, 64), uncertain=True),
    prepared("mirrored", mirrored, patches=MIRRORED),
]
