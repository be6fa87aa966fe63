"""What others do to a ViT that is explained: hooks, and replaced methods."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from timm.layers.attention import Attention
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from tests.owners.vits import Vit
from tests.owners.ways import Way

Mixing = Callable[[Tensor], Tensor]  # the tokens of a stream (B, N, D), mixed


@dataclass(frozen=True)
class Hand:
    """What somebody does.

    put: of the ViT and the stack that takes it off, what is done.
    moves: whether tokens are no longer where they were, or other tokens' values are attended to: there is no map.
    mixing: what becomes of the tokens after the last block, as far as its head reads them: of (1, N, N), linear.
    unknown: whether tokens meet after the last attention in a way that leaves no fixed weights.
    twin: what is done to the copy that the truth is taken of, where that is another thing.
    timm: whether it is for timm's ViTs alone.
    way: what becomes of the way of the images.
    at_door: whether it is felt only by those who call the ViT itself.
    """

    name: str
    put: Callable[[Any, Vit, ExitStack], None]
    moves: bool = False
    mixing: Mixing | None = None
    unknown: bool = False
    twin: Callable[[Any, Vit, ExitStack], None] | None = None
    timm: bool = False
    way: Callable[[Way], Way] = lambda way: way
    at_door: bool = False


def on_output(index: int, change: Mixing, path: str = "") -> Callable[[Any, Vit, ExitStack], None]:
    """A hook that returns what it changes."""

    def hook(module: nn.Module, args: tuple, output: Any) -> Any:
        return change(output)

    def put(vit: Any, kind: Vit, stack: ExitStack) -> None:
        module = kind.blocks(vit)[index].get_submodule(path)
        stack.callback(module.register_forward_hook(hook).remove)

    return put


def on_input(path: str, change: Mixing, index: int | None = None) -> Callable[[Any, Vit, ExitStack], None]:
    """A hook before a module of a block, or of the ViT."""

    def hook(module: nn.Module, args: tuple) -> tuple:
        return (change(args[0]), *args[1:])

    def put(vit: Any, kind: Vit, stack: ExitStack) -> None:
        owner = vit if index is None else kind.blocks(vit)[index]
        stack.callback(owner.get_submodule(path).register_forward_pre_hook(hook).remove)

    return put


def on_attention(change: Mixing) -> Callable[[Any, Vit, ExitStack], None]:
    """A hook at the weights of every attention, which are computed in sight."""

    def put(vit: Any, kind: Vit, stack: ExitStack) -> None:
        for block in kind.blocks(vit):
            block.attn.fused_attn = False
            hook = block.attn.attn_drop.register_forward_hook(lambda module, args, out: change(out))
            stack.callback(hook.remove)

    return put


def listening(vit: Any, kind: Vit, stack: ExitStack) -> None:
    heard: dict[str, Any] = {}

    def listen(name: str) -> Callable:
        def hook(module: nn.Module, args: tuple, output: Any) -> None:
            heard[name] = output

        return hook

    for name, module in vit.named_modules():
        stack.callback(module.register_forward_hook(listen(name)).remove)


def everywhere(change: Mixing, kind_of: type[nn.Module] | None = None) -> Callable[[Any, Vit, ExitStack], None]:
    """A hook on all modules of the process, which changes what the second block gives."""

    def put(vit: Any, kind: Vit, stack: ExitStack) -> None:
        second = kind.blocks(vit)[1]

        def hook(module: nn.Module, args: tuple, output: Any) -> Any:
            return change(output) if module is second else None

        stack.callback(register_module_forward_hook(hook).remove)

    return put


def patched_block(change: Mixing) -> Callable[[Any, Vit, ExitStack], None]:
    """The forward of the class replaced; `change` is of the second block's output."""

    def put(vit: Any, kind: Vit, stack: ExitStack) -> None:
        second, before = kind.blocks(vit)[1], Block.forward

        def forward(self: nn.Module, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            out = before(self, x, *args, **kwargs)
            return change(out) if self is second else out

        stack.enter_context(patch.object(Block, "forward", forward))

    return put


def replaced_block(change: Mixing) -> Callable[[Any, Vit, ExitStack], None]:
    """The forward of one block replaced."""

    def put(vit: Any, kind: Vit, stack: ExitStack) -> None:
        second = kind.blocks(vit)[1]
        before = second.forward
        second.forward = lambda *args, **kwargs: change(before(*args, **kwargs))

    return put


def _sharp(factor: float, roll_values: int = 0, roll_keys: int = 0) -> Callable[..., Tensor]:
    def forward(self: Attention, x: Tensor, attn_mask: Any = None, is_causal: bool = False) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = self.q_norm(q), self.k_norm(k).roll(roll_keys, 2), v.roll(roll_values, 2)
        weights = self.attn_drop((q @ k.mT * (self.scale * factor)).softmax(-1))
        return self.proj((weights @ v).transpose(1, 2).flatten(2))

    return forward


def patched_attention(**how: Any) -> Callable[[Any, Vit, ExitStack], None]:
    """The forward of the class replaced."""

    def put(vit: Any, kind: Vit, stack: ExitStack) -> None:
        stack.enter_context(patch.object(Attention, "forward", _sharp(**how)))

    return put


def replaced_attention(**how: Any) -> Callable[[Any, Vit, ExitStack], None]:
    """The forward of each attention layer replaced."""

    def put(vit: Any, kind: Vit, stack: ExitStack) -> None:
        for block in kind.blocks(vit):
            block.attn.forward = _sharp(**how).__get__(block.attn)

    return put


def kernel_patched(factor: float) -> Callable[[Any, Vit, ExitStack], None]:
    """Torch's own kernel, replaced for everybody by one of another temperature."""

    def put(vit: Any, kind: Vit, stack: ExitStack) -> None:
        kernel = F.scaled_dot_product_attention

        def sharper(q: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            return kernel(q * factor, *args, **kwargs)

        stack.enter_context(patch.object(F, "scaled_dot_product_attention", sharper))

    return put


def scaled(factor: float, *, fused: bool) -> Callable[[Any, Vit, ExitStack], None]:
    """The attribute `scale` changed, which counts where attention is not fused."""

    def put(vit: Any, kind: Vit, stack: ExitStack) -> None:
        for block in kind.blocks(vit):
            block.attn.scale *= factor
            block.attn.fused_attn = fused

    return put


def windowed(vit: Any, kind: Vit, stack: ExitStack) -> None:
    """A mask by hooks: tokens look at those nearby."""

    def hook(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        place = torch.arange(args[0].shape[1])
        far = (place[:, None] - place).abs() > 6
        mask = torch.zeros(far.shape, dtype=args[0].dtype).masked_fill(far, -1e4)
        return args, {**kwargs, "attn_mask": mask}

    for block in kind.blocks(vit):
        stack.callback(block.attn.register_forward_pre_hook(hook, with_kwargs=True).remove)


def replaced_features(change: Mixing) -> Callable[[Any, Vit, ExitStack], None]:
    """What makes the features replaced."""

    def put(vit: Any, kind: Vit, stack: ExitStack) -> None:
        before = vit.forward_features
        vit.forward_features = lambda x, *args, **kwargs: change(before(x, *args, **kwargs))

    return put


def mirrored_stem(vit: Any, kind: Vit, stack: ExitStack) -> None:
    stem = next(module for module in vit.modules() if isinstance(module, nn.Conv2d))
    stack.callback(stem.register_forward_pre_hook(lambda module, args: (args[0].flip(-1),)).remove)


def rolled_stem(vit: Any, kind: Vit, stack: ExitStack) -> None:
    stem = next(module for module in vit.modules() if isinstance(module, nn.Conv2d))
    stack.callback(stem.register_forward_hook(lambda module, args, out: out.roll(1, -1)).remove)


@contextmanager
def hand_on(hand: Hand, vit: Any, kind: Vit, *, twin: bool = False) -> Iterator[None]:
    """What somebody does, until the end."""
    with ExitStack() as stack:
        (hand.twin if twin and hand.twin is not None else hand.put)(vit, kind, stack)
        yield
