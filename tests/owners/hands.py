"""Hooks and replaced methods that models are met with, by name."""

from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.owners.hooks import (
    Hand,
    everywhere,
    kernel_patched,
    listening,
    mirrored_stem,
    on_attention,
    on_input,
    on_output,
    patched_attention,
    patched_block,
    replaced_attention,
    replaced_block,
    replaced_features,
    rolled_stem,
    scaled,
    windowed,
)
from tests.owners.vits import Vit


def with_mean(x: Tensor) -> Tensor:
    return x + x.mean(1, keepdim=True)


def by_mean_in_place(x: Tensor) -> Tensor:
    return x.add_(x.mean(1, keepdim=True))


def zeroed(x: Tensor) -> Tensor:
    x = x.clone()
    x[:, -4] = 0
    return x


def zeroed_in_place(x: Tensor) -> Tensor:
    x[:, -4] = 0
    return x


def swapped(x: Tensor) -> Tensor:
    x = x.clone()
    x[:, [-2, -7]] = x[:, [-7, -2]]
    return x


def swapped_data(x: Tensor) -> Tensor:
    x.data = swapped(x.data)
    return x


def swapped_in_place(x: Tensor) -> Tensor:
    x.data[:, [-2, -7]] = x.data[:, [-7, -2]]
    return x


def rolled(x: Tensor) -> Tensor:
    return torch.cat([x[:, :1], x[:, 1:].roll(1, 1)], 1)


def doubled_data(x: Tensor) -> Tensor:
    x.data.mul_(1.5)
    return x


def one_for_another(x: Tensor) -> Tensor:
    """One is dropped and another one doubled: there are as many."""
    return torch.cat([x[:, :3], x[:, 2:-1]], 1)


def fewer(x: Tensor) -> Tensor:
    """As many are dropped as there are prefix tokens."""
    return x[:, : 16 if x.shape[1] in (16, 17, 21) else None]


def last_merged(x: Tensor) -> Tensor:
    """The last two patches become their mean, both."""
    mean = x[:, -2:].mean(1, keepdim=True)
    return torch.cat([x[:, :-2], mean, mean], 1)


def first_head_off(a: Tensor) -> Tensor:
    return a * torch.tensor([0.0, 1.0, 1.0], dtype=a.dtype)[:, None, None]


def without_last_key(a: Tensor) -> Tensor:
    a = a.clone()
    a[..., -1] = 0
    return a / a.sum(-1, keepdim=True)


def half_even(a: Tensor) -> Tensor:
    return a / 2 + a.mean(-1, keepdim=True) / 2


def keys_swapped(a: Tensor) -> Tensor:
    return a.roll(1, -1)


def _values_rolled(qkv: Tensor) -> Tensor:
    q, k, v = qkv.chunk(3, -1)
    return torch.cat([q, k, v.roll(1, 1)], -1)


def _keys_rolled(qkv: Tensor) -> Tensor:
    q, k, v = qkv.chunk(3, -1)
    return torch.cat([q, k.roll(1, 1), v], -1)


def _cropped(x: Tensor) -> Tensor:
    return F.interpolate(x[..., 4:28, 8:32], x.shape[2:], mode="bilinear")


def _nothing(vit: Any, kind: Vit, stack: ExitStack) -> None:
    return


HANDS = [
    Hand("nobody", _nothing),
    Hand("listening", listening),
    Hand("a head off", on_attention(first_head_off), timm=True),
    Hand("a key off", on_attention(without_last_key), timm=True),
    Hand("even attention", on_attention(half_even), timm=True),
    Hand("attention in place", on_attention(lambda a: a.mul_(0.5)), timm=True),
    Hand("attention by .data", on_attention(lambda a: doubled_data(a)), timm=True),
    Hand("weights rolled", on_attention(keys_swapped), timm=True),
    Hand("mean added", on_output(0, with_mean)),
    Hand("mean added in place", on_output(1, by_mean_in_place)),
    Hand("mean added at the end", on_output(2, with_mean), mixing=with_mean),
    Hand("mean added at the end in place", on_output(2, by_mean_in_place), mixing=with_mean),
    Hand("mean added in an MLP", on_output(0, with_mean, "mlp")),
    Hand("mean added in the last MLP", on_output(2, with_mean, "mlp"), unknown=True),
    Hand("mean added in the last norm", on_output(2, with_mean, "norm2"), unknown=True, timm=True),
    Hand("mean added in the first norm", on_output(1, with_mean, "norm1"), timm=True),
    Hand("a token to zero", on_output(1, zeroed)),
    Hand("a token to zero at the end", on_output(2, zeroed), mixing=zeroed),
    Hand("a token to zero in place", on_output(0, zeroed_in_place)),
    Hand("two exchanged", on_output(0, swapped), moves=True),
    Hand("two exchanged late", on_output(1, swapped), moves=True),
    Hand("two exchanged at the end", on_output(2, swapped), mixing=swapped),
    Hand("two exchanged in place", on_output(1, swapped_in_place), moves=True),
    Hand("two exchanged by .data", on_output(1, swapped_data), moves=True),
    Hand("two exchanged at the end by .data", on_output(2, swapped_in_place), mixing=swapped),
    Hand("rolled", on_output(1, rolled), moves=True),
    Hand("rolled in the last MLP", on_output(2, rolled, "mlp"), unknown=True),
    Hand("rolled behind the last attention", on_output(2, rolled, "attn.proj"), moves=True, timm=True),
    Hand("rolled behind an attention", on_output(1, rolled, "attn.proj"), moves=True, timm=True),
    Hand("rolled before an attention", on_input("attn", rolled, 1), moves=True, timm=True),
    Hand("rolled before the last attention", on_input("attn", rolled, 2), moves=True, timm=True),
    Hand("more by .data", on_output(1, doubled_data)),
    Hand("one for another", on_output(0, one_for_another), moves=True),
    Hand("fewer", on_output(0, fewer), moves=True),
    Hand("the last merged", on_output(1, last_merged), moves=True),
    Hand("values rolled", on_output(1, _values_rolled, "attn.qkv"), moves=True, timm=True),
    Hand("values rolled at first", on_output(0, _values_rolled, "attn.qkv"), moves=True, timm=True),
    Hand("values rolled at last", on_output(2, _values_rolled, "attn.qkv"), moves=True, timm=True),
    Hand("keys rolled", on_output(1, _keys_rolled, "attn.qkv"), timm=True),
    Hand("mirrored by a hook", on_input("", lambda x: x.flip(-1)), way=lambda way: way.flipped(1), at_door=True),
    Hand("mirrored before the patches", mirrored_stem, way=lambda way: way.flipped(1)),
    Hand("patches rolled", rolled_stem, way=lambda way: way.moved(lambda maps: maps.roll(-1, 2))),
    Hand(
        "cropped by a hook",
        on_input("", _cropped),
        way=lambda way: way.cropped(4, 8, (24, 24)).resized((32, 32)),
        at_door=True,
    ),
    Hand("mean added everywhere", everywhere(with_mean)),
    Hand("two exchanged everywhere", everywhere(swapped), moves=True),
    Hand("rolled by the class", patched_block(rolled), moves=True, timm=True),
    Hand("mean added by the class", patched_block(with_mean), timm=True),
    Hand("zeroed by the class", patched_block(zeroed), timm=True),
    Hand("rolled by one block", replaced_block(rolled), moves=True),
    Hand("mean added by one block", replaced_block(with_mean)),
    Hand("sharper by the class", patched_attention(factor=4), twin=scaled(4, fused=False), timm=True),
    Hand("sharper by each", replaced_attention(factor=4), twin=scaled(4, fused=False), timm=True),
    Hand("values rolled by the class", patched_attention(factor=1, roll_values=1), moves=True, timm=True),
    Hand("values rolled by each", replaced_attention(factor=1, roll_values=1), moves=True, timm=True),
    Hand("sharper by the kernel", kernel_patched(3), twin=scaled(3, fused=False), timm=True),
    Hand("scale", scaled(4, fused=False), timm=True),
    Hand("scale of fused", scaled(4, fused=True), twin=_nothing, timm=True),
    Hand("windows", windowed, timm=True),
    Hand("features exchanged by a method", replaced_features(swapped), timm=True, mixing=swapped),
]
