"""Tokens in other orders, stems without a convolution, one block run again and again, volumes, and models in models."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.research.dino import Attention, Dino, dino_parts
from tests.research.layout import (
    CLASSES,
    DEPTH,
    PATCH,
    WIDTH,
    Layout,
    Parts,
    PatchEmbed,
    fused_parts,
    merge,
    randomise,
    split,
)
from tests.research.plain import Block, KeysFirst, projected_parts


class Unfolded(nn.Module):
    """Patches by Unfold, then one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.unfold, self.linear = nn.Unfold(kernel_size=PATCH, stride=PATCH), nn.Linear(3 * PATCH**2, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.unfold(x).transpose(1, 2))


class Permuted(nn.Module):
    """Patches by reshape and permute, columns before rows where asked."""

    def __init__(self, *, columns_first: bool = False) -> None:
        super().__init__()
        self.columns_first, self.linear = columns_first, nn.Linear(3 * PATCH**2, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        x = x.reshape(b, c, h // PATCH, PATCH, w // PATCH, PATCH)
        x = x.permute(0, 4, 2, 3, 5, 1) if self.columns_first else x.permute(0, 2, 4, 3, 5, 1)
        return self.linear(x.reshape(b, -1, PATCH * PATCH * c))


class Overlapping(nn.Module):
    """A stem of strided convolutions that look beyond their patch."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [(3, 8), (8, 16), (16, WIDTH)]
        self.convs = nn.ModuleList([nn.Conv2d(i, o, 3, stride=2, padding=1) for i, o in sizes])

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = F.gelu(conv(x))
        return x.flatten(2).transpose(1, 2)


class Ordered(nn.Module):
    """A class token before the patches, behind them, or none."""

    def __init__(self, stem: nn.Module, patches: int = 16, place: str = "first") -> None:
        super().__init__()
        self.stem, self.place = stem, place
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.zeros(1, patches + (place != "none"), WIDTH))
        self.blocks = nn.ModuleList([Block(KeysFirst()) for _ in range(DEPTH)])
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        cls_token = self.cls_token.expand(len(x), -1, -1)
        x = {"first": [cls_token, x], "last": [x, cls_token], "none": [x]}[self.place]
        x = torch.cat(x, dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return self.head({"first": x[:, 0], "last": x[:, -1], "none": x.mean(1)}[self.place])


class Shared(nn.Module):
    """One block, run three times."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.block = PatchEmbed(), Block(KeysFirst())
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.zeros(1, 17, WIDTH))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), self.embed(x)], dim=1) + self.pos_embed
        for _ in range(DEPTH):
            x = self.block(x)
        return self.head(self.norm(x)[:, 0])


class VolumeAttention(nn.Module):
    """Heads first out of one projection, einsum without a dimension named for q's and k's sum."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out_proj = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH)
        self.drop_weights, self.scale = nn.Dropout(0.1), (WIDTH // 3) ** -0.5

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, 3, WIDTH // 3).permute(2, 0, 3, 1, 4)
        att_mat = (torch.einsum("blxd,blyd->blxy", q, k) * self.scale).softmax(dim=-1)
        x = torch.einsum("bhxy,bhyd->bhxd", self.drop_weights(att_mat), v)
        return self.out_proj(x.transpose(1, 2).reshape(b, n, -1))


def volume_parts(module: VolumeAttention, x: Tensor) -> Parts:
    parts = fused_parts(module, x)
    return Parts(parts.q, parts.k, parts.v, parts.scale, lambda out: module.out_proj(merge(out)))


class Volume(nn.Module):
    """Patches of a volume; scores and the tokens after each block."""

    def __init__(self, patches: int = 24) -> None:
        super().__init__()
        self.patch_embeddings = nn.Conv3d(1, WIDTH, kernel_size=4, stride=4)
        self.position_embeddings = nn.Parameter(torch.zeros(1, patches, WIDTH))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.blocks = nn.ModuleList([Block(VolumeAttention()) for _ in range(DEPTH)])
        self.norm, self.classification_head = nn.LayerNorm(WIDTH), nn.Sequential(nn.Linear(WIDTH, CLASSES), nn.Tanh())

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = self.patch_embeddings(x).flatten(2).transpose(-1, -2) + self.position_embeddings
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
        hidden_states_out = []
        for blk in self.blocks:
            x = blk(x)
            hidden_states_out.append(x)
        return self.classification_head(self.norm(x)[:, 0]), hidden_states_out


class ClassAttention(nn.Module):
    """The class token alone looks at all tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.proj = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q = self.q(x[:, 0]).reshape(b, 1, 3, c // 3).transpose(1, 2) * (c // 3) ** -0.5
        k, v = (layer(x).reshape(b, n, 3, c // 3).transpose(1, 2) for layer in (self.k, self.v))
        return self.proj(((q @ k.transpose(2, 3)).softmax(-1) @ v).transpose(1, 2).reshape(b, 1, c))


def class_parts(module: ClassAttention, x: Tensor) -> Parts:
    q, k, v = split(module.q(x[:, :1])), split(module.k(x)), split(module.v(x))
    return Parts(q, k, v, q.shape[-1] ** -0.5, lambda out: module.proj(merge(out)))


class ClassBlock(Block):
    def forward(self, x: Tensor, cls_token: Tensor) -> Tensor:
        cls_token = cls_token + self.attn(self.norm1(torch.cat([cls_token, x], dim=1)))
        return cls_token + self.mlp(self.norm2(cls_token))


class Late(nn.Module):
    """The class token joins after the patches' own blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.cls_token = PatchEmbed(), nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.zeros(1, 16, WIDTH))
        self.blocks = nn.ModuleList([Block(KeysFirst()) for _ in range(2)])
        self.class_blocks = nn.ModuleList([ClassBlock(ClassAttention()) for _ in range(2)])
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        cls_token = self.cls_token.expand(len(x), -1, -1)
        for block in self.class_blocks:
            cls_token = block(x, cls_token)
        return self.head(self.norm(torch.cat([cls_token, x], dim=1))[:, 0])


class Owner(nn.Module):
    """Normalises the pixels itself, and puts a head of its own on a backbone's feature."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1))
        self.backbone, self.classifier = Dino(), nn.Sequential(nn.Linear(WIDTH, 16), nn.ReLU(), nn.Linear(16, CLASSES))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"logits": self.classifier(self.backbone((image - self.mean) / 0.5))}


OWN = {KeysFirst: projected_parts}
COLUMNS = tuple(1 + col * 4 + row for row in range(4) for col in range(6))  # patches 4 x 6, columns enumerated first
LAYOUTS = [
    Layout("unfold", lambda: randomise(Ordered(Unfolded())), OWN),
    Layout("permute", lambda: randomise(Ordered(Permuted())), OWN),
    Layout("overlapping stem", lambda: randomise(Ordered(Overlapping())), OWN, uncertain=True),
    Layout(
        "columns first",
        lambda: randomise(Ordered(Permuted(columns_first=True), 24)),
        OWN,
        (4, 6),
        size=(32, 48),
        patches=COLUMNS,
    ),
    Layout(
        "class token last",
        lambda: randomise(Ordered(Unfolded(), 24, "last")),
        OWN,
        (4, 6),
        size=(32, 48),
        patches=tuple(range(24)),
        read=(24,),
    ),
    Layout(
        "no class token", lambda: randomise(Ordered(Permuted(), 16, "none")), OWN, extra=0, read=(), reads_patches=True
    ),
    Layout("one block again and again", lambda: randomise(Shared()), OWN, uncertain=True),
    Layout(
        "volume", lambda: randomise(Volume()), {VolumeAttention: volume_parts}, (2, 3, 4), size=(8, 12, 16), channels=1
    ),
    Layout("class token joins late", lambda: randomise(Late()), OWN | {ClassAttention: class_parts}, uncertain=True),
    Layout("in an owner", lambda: randomise(Owner()), {Attention: dino_parts}),
]
