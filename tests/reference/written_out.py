"""Attention modules written out with N x N matrices, so that autograd gives the gradient at the attention itself."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from timm.layers import AttentionPoolLatent
from timm.models.cait import ClassAttn
from timm.models.vision_transformer import Attention
from torch import Tensor, nn
from transformers.models.vit.modeling_vit import ViTAttention

Parts = tuple[Tensor, Tensor, Tensor, float, Callable[[Tensor], Any]]  # q, k, v, scale, and what follows the output


@dataclass
class Step:
    """Of one attention: queries, keys, values (B, H, N, d), weights A (B, H, M, N) and output O (B, H, M, d)."""

    q: Tensor
    k: Tensor
    v: Tensor
    a: Tensor
    o: Tensor


def _heads(module: Any, *parts: Tensor) -> list[Tensor]:
    return [part.unflatten(-1, (module.num_heads, -1)).transpose(1, 2) for part in parts]


def timm_parts(module: Any, x: Tensor, *_: Any, **__: Any) -> Parts:
    q, k, v = _heads(module, *module.qkv(x).chunk(3, -1))
    return module.q_norm(q), module.k_norm(k), v, module.scale, module.proj


def torch_parts(module: Any, query: Tensor, *_: Any, **__: Any) -> Parts:
    q, k, v = _heads(module, *F.linear(query, module.in_proj_weight, module.in_proj_bias).chunk(3, -1))
    return q, k, v, module.head_dim**-0.5, lambda out: (module.out_proj(out), None)


def hf_parts(module: Any, x: Tensor, *_: Any, **__: Any) -> Parts:
    heads = (module.num_attention_heads, -1)
    q, k, v = (layer(x).unflatten(-1, heads).transpose(1, 2) for layer in (module.q_proj, module.k_proj, module.v_proj))
    return q, k, v, module.scaling, lambda out: (module.o_proj(out), None)


def class_parts(module: Any, x: Tensor) -> Parts:
    q, k, v = _heads(module, module.q(x[:, :1]), module.k(x), module.v(x))
    return q, k, v, module.scale, module.proj


def pool_parts(module: Any, x: Tensor, *_: Any) -> Parts:
    q, k, v = _heads(module, module.q(module.latent.expand(len(x), -1, -1)), *module.kv(x).chunk(2, -1))

    def finish(out: Tensor) -> Tensor:
        out = module.proj(out)
        return (out + module.mlp(module.norm(out)))[:, 0]

    return q, k, v, module.scale, finish


PARTS: dict[type[nn.Module], Callable[..., Parts]] = {
    Attention: timm_parts,
    nn.MultiheadAttention: torch_parts,
    ViTAttention: hf_parts,
    ClassAttn: class_parts,
    AttentionPoolLatent: pool_parts,
}


@contextmanager
def written_out(model: nn.Module, parts: dict[type[nn.Module], Callable[..., Parts]] = PARTS) -> Iterator[list[Step]]:
    """Every attention of the model by its formula, noted as it runs."""
    steps: list[Step] = []
    with ExitStack() as stack:
        for module in model.modules():
            if type(module) in parts:
                written = partial(_attend, partial(parts[type(module)], module), steps)
                stack.enter_context(patch.object(module, "forward", written))
        yield steps


def _attend(parts: Callable[..., Parts], steps: list[Step], *args: Any, **kwargs: Any) -> Any:
    q, k, v, scale, finish = parts(*args, **kwargs)
    s = torch.einsum("bhmd,bhnd->bhmn", q, k) * scale
    a = (s - s.amax(-1, keepdim=True)).exp()
    a = a / a.sum(-1, keepdim=True)
    o = torch.einsum("bhmn,bhnd->bhmd", a, v)
    steps.append(Step(q, k, v, a, o))
    return finish(o.transpose(1, 2).flatten(2))
