"""After unilm's BEiT, Chefer's and older copies of timm's ViT, and ports with separate projections."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.research.layout import (
    CLASSES,
    DEPTH,
    HEADS,
    WIDTH,
    Layout,
    Mlp,
    Parts,
    PatchEmbed,
    fused_parts,
    merge,
    randomise,
    split,
)


class BeitAttention(nn.Module):
    """One weight for q, k and v, biases of q and v alone, and a bias of the scores by relative position."""

    def __init__(self, rows: int, cols: int) -> None:
        super().__init__()
        self.num_heads, self.scale = HEADS, (WIDTH // HEADS) ** -0.5
        self.qkv = nn.Linear(WIDTH, WIDTH * 3, bias=False)
        self.q_bias, self.v_bias = nn.Parameter(torch.zeros(WIDTH)), nn.Parameter(torch.zeros(WIDTH))
        between = (2 * rows - 1) * (2 * cols - 1)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(between + 3, HEADS))
        places = torch.cartesian_prod(torch.arange(rows), torch.arange(cols))
        apart = places[:, None] - places[None] + torch.tensor([rows - 1, cols - 1])
        index = torch.empty(rows * cols + 1, rows * cols + 1, dtype=torch.long)
        index[1:, 1:] = apart[..., 0] * (2 * cols - 1) + apart[..., 1]
        index[0], index[:, 0], index[0, 0] = between, between + 1, between + 2
        self.register_buffer("relative_position_index", index)
        self.attn_drop, self.proj = nn.Dropout(0.1), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, rel_pos_bias: Tensor | None = None) -> Tensor:
        b, n, _ = x.shape
        qkv_bias = torch.cat((self.q_bias, torch.zeros_like(self.v_bias, requires_grad=False), self.v_bias))
        qkv = F.linear(input=x, weight=self.qkv.weight, bias=qkv_bias)
        q, k, v = qkv.reshape(b, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q = q * self.scale
        attn = q @ k.transpose(-2, -1)
        bias = self.relative_position_bias_table[self.relative_position_index.view(-1)].view(n, n, -1)
        attn = attn + bias.permute(2, 0, 1).contiguous().unsqueeze(0)
        if rel_pos_bias is not None:
            attn = attn + rel_pos_bias
        attn = self.attn_drop(attn.softmax(dim=-1))
        x = (attn @ v).transpose(1, 2).reshape(b, n, -1)
        return self.proj(x)


class BeitBlock(nn.Module):
    def __init__(self, rows: int, cols: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(WIDTH), BeitAttention(rows, cols)
        self.norm2, self.mlp = nn.LayerNorm(WIDTH), Mlp()
        self.gamma_1, self.gamma_2 = nn.Parameter(torch.ones(WIDTH)), nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: Tensor, rel_pos_bias: Tensor | None = None) -> Tensor:
        x = x + self.gamma_1 * self.attn(self.norm1(x), rel_pos_bias=rel_pos_bias)
        return x + self.gamma_2 * self.mlp(self.norm2(x))


class Beit(nn.Module):
    """No positions but the relative ones; the score is read from the mean of the patches."""

    def __init__(self, rows: int = 4, cols: int = 4) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.blocks = nn.ModuleList([BeitBlock(rows, cols) for _ in range(DEPTH)])
        self.norm, self.fc_norm = nn.Identity(), nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), self.patch_embed(x)), dim=1)
        for blk in self.blocks:
            x = blk(x, rel_pos_bias=None)
        x = self.norm(x)
        return self.head(self.fc_norm(x[:, 1:, :].mean(1)))


def beit_parts(module: BeitAttention, x: Tensor, rel_pos_bias: Tensor | None = None) -> Parts:
    q, k, v = (split(x @ weight.T) for weight in module.qkv.weight.chunk(3))
    q, v = q + split(module.q_bias[None, None]), v + split(module.v_bias[None, None])
    bias = module.relative_position_bias_table.T[:, module.relative_position_index]
    return Parts(q, k, v, q.shape[-1] ** -0.5, lambda out: module.proj(merge(out)), bias)


class Einsum(nn.Module):
    """A product as a module, as relevance propagation wants it."""

    def __init__(self, equation: str) -> None:
        super().__init__()
        self.equation = equation

    def forward(self, operands: list[Tensor]) -> Tensor:
        return torch.einsum(self.equation, *operands)


class RelpropAttention(nn.Module):
    """Every operation is a module, and identities stand where hooks are to be put."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = HEADS
        self.matmul1, self.matmul2 = Einsum("bhid,bhjd->bhij"), Einsum("bhij,bhjd->bhid")
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH)
        self.scores_hook, self.softmax, self.weights_hook = nn.Identity(), nn.Softmax(dim=-1), nn.Identity()
        self.attn_drop, self.proj_drop = nn.Dropout(0.0), nn.Dropout(0.0)
        self.attn: Tensor | None = None

    def save_attn(self, attn: Tensor) -> None:
        self.attn = attn

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        dots = self.scores_hook(self.matmul1([q, k]) * q.shape[-1] ** -0.5)
        attn = self.weights_hook(self.attn_drop(self.softmax(dots)))
        self.save_attn(attn)
        out = self.matmul2([attn, v])
        return self.proj_drop(self.proj(out.permute(0, 2, 1, 3).reshape(b, n, -1)))


class Add(nn.Module):
    def forward(self, inputs: list[Tensor]) -> Tensor:
        return torch.add(*inputs)


class RelpropBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.attn, self.add1 = nn.LayerNorm(WIDTH), RelpropAttention(), Add()
        self.norm2, self.mlp, self.add2 = nn.LayerNorm(WIDTH), Mlp(), Add()

    def forward(self, x: Tensor) -> Tensor:
        x = self.add1([x, self.attn(self.norm1(x))])
        return self.add2([x, self.mlp(self.norm2(x))])


class IndexSelect(nn.Module):
    def forward(self, inputs: Tensor, dim: int, indices: Tensor) -> Tensor:
        return torch.index_select(inputs, dim, indices)


class Relprop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.zeros(1, 17, WIDTH))
        self.add = Add()
        self.blocks = nn.ModuleList([RelpropBlock() for _ in range(DEPTH)])
        self.norm, self.pool, self.head = nn.LayerNorm(WIDTH), IndexSelect(), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat((self.cls_token.expand(len(x), -1, -1), self.patch_embed(x)), dim=1)
        x = self.add([x, self.pos_embed])
        for blk in self.blocks:
            x = blk(x)
        x = self.pool(self.norm(x), dim=1, indices=torch.tensor(0))
        return self.head(x.squeeze(1))


class SeparateAttention(nn.Module):
    """Layers of their own for query, key and value; the weights may be asked for."""

    def __init__(self, vis: bool) -> None:
        super().__init__()
        self.vis = vis
        self.num_attention_heads, self.attention_head_size = HEADS, WIDTH // HEADS
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.out = nn.Linear(WIDTH, WIDTH)
        self.attn_dropout, self.softmax = nn.Dropout(0.1), nn.Softmax(dim=-1)

    def transpose_for_scores(self, x: Tensor) -> Tensor:
        x = x.view(*x.size()[:-1], self.num_attention_heads, self.attention_head_size)
        return x.permute(0, 2, 1, 3)

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor | None]:
        query_layer = self.transpose_for_scores(self.query(hidden_states))
        key_layer = self.transpose_for_scores(self.key(hidden_states))
        value_layer = self.transpose_for_scores(self.value(hidden_states))
        attention_scores = torch.matmul(query_layer, key_layer.transpose(-1, -2))
        attention_scores = attention_scores / math.sqrt(self.attention_head_size)
        attention_probs = self.softmax(attention_scores)
        weights = attention_probs if self.vis else None
        context_layer = torch.matmul(self.attn_dropout(attention_probs), value_layer)
        context_layer = context_layer.permute(0, 2, 1, 3).contiguous().flatten(2)
        return self.out(context_layer), weights


class SeparateBlock(nn.Module):
    def __init__(self, vis: bool) -> None:
        super().__init__()
        self.attention_norm, self.ffn_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn, self.ffn = SeparateAttention(vis), Mlp()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        y, weights = self.attn(self.attention_norm(x))
        x = x + y
        return x + self.ffn(self.ffn_norm(x)), weights


class Embeddings(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch_embeddings = nn.Conv2d(3, WIDTH, 8, 8)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.position_embeddings = nn.Parameter(torch.zeros(1, 17, WIDTH))
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embeddings(x).flatten(2).transpose(-1, -2)
        return self.dropout(torch.cat((self.cls_token.expand(len(x), -1, -1), x), dim=1) + self.position_embeddings)


class Encoder(nn.Module):
    def __init__(self, vis: bool) -> None:
        super().__init__()
        self.layer = nn.ModuleList([SeparateBlock(vis) for _ in range(DEPTH)])
        self.encoder_norm = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        kept = []
        for block in self.layer:
            x, weights = block(x)
            if weights is not None:
                kept.append(weights)
        return self.encoder_norm(x), kept


class Separate(nn.Module):
    """Scores and a list of weights, in a tuple."""

    def __init__(self, vis: bool) -> None:
        super().__init__()
        self.transformer = nn.ModuleDict({"embeddings": Embeddings(), "encoder": Encoder(vis)})
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> tuple[Tensor, list[Tensor]] | Tensor:
        x, weights = self.transformer["encoder"](self.transformer["embeddings"](x))
        logits = self.head(x[:, 0])
        return logits, weights


def separate_parts(module: SeparateAttention, x: Tensor) -> Parts:
    q, k, v = (split(layer(x)) for layer in (module.query, module.key, module.value))
    return Parts(q, k, v, q.shape[-1] ** -0.5, lambda out: (module.out(merge(out)), None))


BEIT = {BeitAttention: beit_parts}
MEAN = {"read": (), "reads_patches": True}
LAYOUTS = [
    Layout("BEiT", lambda: randomise(Beit()), BEIT, **MEAN),
    Layout("BEiT, wide", lambda: randomise(Beit(4, 6)), BEIT, (4, 6), size=(32, 48), **MEAN),
    Layout("Chefer", lambda: randomise(Relprop()), {RelpropAttention: fused_parts}),
    Layout("query, key, value", lambda: randomise(Separate(vis=False)), {SeparateAttention: separate_parts}),
    Layout("query, key, value; weights", lambda: randomise(Separate(vis=True)), {SeparateAttention: separate_parts}),
]
