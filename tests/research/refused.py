"""What looks like attention to the patches and is not: models for which a map would be wrong."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.research.changed import Steps
from tests.research.dino import Dino
from tests.research.layout import CLASSES, WIDTH, Layout, PatchEmbed, randomise
from tests.research.orders import Ordered, Permuted
from tests.research.plain import Block, KeysFirst, Plain, Projected


class OverHeads(Steps):
    """The softmax is over the heads."""

    def softmaxed(self, scores: Tensor) -> Tensor:
        return scores.softmax(dim=1)


class Slots(Steps):
    """The softmax is over the queries, and rows are normalised afterwards."""

    def softmaxed(self, scores: Tensor) -> Tensor:
        weights = scores.softmax(dim=-2) + 1e-8
        return weights / weights.sum(dim=-1, keepdim=True)


class OffByOne(Steps):
    """One more key that has no value."""

    def softmaxed(self, scores: Tensor) -> Tensor:
        return F.pad(scores, (0, 1)).softmax(-1)[..., :-1]


class Rectified(Steps):
    """No softmax at all."""

    def softmaxed(self, scores: Tensor) -> Tensor:
        return scores.relu() / scores.shape[-1]


class Linearised(Projected):
    """Sums over keys are taken first, and there is no softmax."""

    def between(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k = F.elu(q) + 1, F.elu(k) + 1
        state, total = torch.einsum("bnhd,bnhe->bhde", k, v), torch.einsum("bnhd,bhd->bnh", q, k.sum(1))
        return (torch.einsum("bnhd,bhde->bnhe", q, state) / total[..., None]).flatten(2)


class Efficient(Projected):
    """A softmax over the channels of queries, and one over the tokens of keys."""

    def between(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = q.transpose(1, 2).softmax(-1), k.transpose(1, 2).softmax(-2), v.transpose(1, 2)
        return (q @ (k.mT @ v)).transpose(1, 2).flatten(2)


class OverChannels(Projected):
    """Channels look at channels, of which there are as many as tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.head_dim = 16
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(WIDTH, 48) for _ in range(3))
        self.out_proj = nn.Linear(48, WIDTH)

    def between(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (t.permute(0, 2, 3, 1) for t in (q, k, v))  # (B, H, d, N)
        weights = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT * 3).softmax(-1)
        return (weights @ v).permute(0, 3, 1, 2).flatten(2)


class Windowed(Steps):
    """Only the four tokens of a window look at each other."""

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        side = int(n**0.5)
        windows = x.view(b, side // 2, 2, side // 2, 2, c).transpose(2, 3).reshape(-1, 4, c)
        out = super().forward(windows).view(b, side // 2, side // 2, 2, 2, c)
        return out.transpose(2, 3).reshape(b, n, c)


class Pooled(Steps):
    """Keys and values are of pooled patches."""

    def between(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return super().between(q, *(F.avg_pool2d(t.permute(0, 2, 3, 1), (1, 4)).permute(0, 3, 1, 2) for t in (k, v)))


class PruningBlock(Block):
    """The patches that the class token looks at least are gone after each block."""

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        kept = x[:, 1:].norm(dim=-1).topk(x.shape[1] - 5, dim=1).indices.sort(dim=1).values
        return torch.cat([x[:, :1], x[:, 1:].gather(1, kept[..., None].expand(-1, -1, x.shape[2]))], dim=1)


class ShufflingBlock(Block):
    """The patches are in another order after each block."""

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return torch.cat([x[:, :1], x[:, 1:].flip(1)], dim=1)


class Pair(nn.Module):
    """Two ViTs whose features are compared."""

    def __init__(self) -> None:
        super().__init__()
        self.student, self.teacher = Dino(), Dino()

    def forward(self, x: Tensor) -> Tensor:
        return self.student(x) * self.teacher(x)


class Flipped(nn.Module):
    """The mean over an image and its mirror image."""

    def __init__(self) -> None:
        super().__init__()
        self.vit = Dino(CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return (self.vit(x) + self.vit(x.flip(3))) / 2


class Cropped(Flipped):
    """Both in one batch."""

    def forward(self, x: Tensor) -> Tensor:
        return self.vit(torch.cat([x, x.flip(3)])).unflatten(0, (2, -1)).mean(0)


class Convolutions(nn.Module):
    """No attention; the classes are probabilities, which are multiplied with something."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = PatchEmbed(), nn.Linear(WIDTH, CLASSES)
        self.classes = nn.Parameter(torch.zeros(CLASSES, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embed(x).mean(1)).softmax(-1) @ self.classes


class Shuffled(nn.Module):
    """A stem after which the patches stand in an order drawn anew in each forward, as masked autoencoders have them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = Permuted()

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        order = torch.rand(x.shape[:2]).argsort(dim=1)
        return x.gather(1, order[..., None].expand_as(x))


def refused(name: str, why: str, attention: Callable[[], nn.Module], **more: Any) -> Layout:
    """A plain ViT around what is no attention."""
    return Layout(name, lambda: randomise(Plain(attention, **more)), refused=why)


def without_class_token(attention: Callable[[], nn.Module]) -> nn.Module:
    """Sixteen tokens, all of them patches."""
    model = Ordered(Permuted(), place="none")
    model.blocks = nn.ModuleList([Block(attention()) for _ in model.blocks])
    return randomise(model)


CHANGED = r"(?i)between|chang|mix|values|modif|sum"
NONE = r"(?i)attention|softmax"
TOKENS = r"(?i)token|quer|key|patch|grid"
LAYOUTS = [
    refused("softmax over heads", NONE, OverHeads),
    refused("softmax over queries", NONE, Slots),
    refused("one key more", CHANGED, OffByOne),
    refused("no softmax", NONE, Rectified),
    refused("linear attention", NONE, Linearised),
    refused("softmax over channels of q", NONE, Efficient),
    Layout("channels look at channels", lambda: without_class_token(OverChannels), refused=NONE),
    Layout("efficient, no class token", lambda: without_class_token(Efficient), refused=NONE),
    Layout("windows", lambda: without_class_token(Windowed), refused=TOKENS),
    refused("pooled keys", TOKENS, Pooled),
    refused("pruned patches", TOKENS, KeysFirst, block=PruningBlock),
    refused("shuffled patches", TOKENS, KeysFirst, block=ShufflingBlock),
    Layout("random order", lambda: randomise(Ordered(Shuffled())), refused=TOKENS),
    Layout("two ViTs", lambda: randomise(Pair()), refused=r"(?i)two|2|several|token|grid"),
    Layout("an image and its mirror image", lambda: randomise(Flipped()), refused=r"(?i)ran|times|twice|2|again"),
    Layout("mirror images in the batch", lambda: randomise(Cropped()), refused=r"(?i)batch|images"),
    Layout("no ViT", lambda: randomise(Convolutions()), refused=NONE),
]
