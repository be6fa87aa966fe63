"""A model whose attention sees chosen keys alone, by no means of the library: torch's functions are put aside.

Whatever computes attention as a softmax over the tokens, step by step or in torch's kernel, has the scores of all other
keys at minus infinity. It is no reference for models that change weights after the softmax.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captum_vit import adapt
from captum_vit.access import Adapter, TokenLayout
from tests.helpers import called

SOFTMAXES = [(torch.Tensor, "softmax"), (torch, "softmax"), (F, "softmax")]


def masked_scores(model: nn.Module, x: Tensor, layout: TokenLayout, kept: Tensor, **kwargs: Any) -> Tensor:
    """The scores (B, ...) where only these patches (patches,) are seen, and read where the readout is of patches."""
    adapter, readout = adapt(model), layout.readout
    order = torch.arange(layout.tokens) if layout.order is None else layout.order
    seen = torch.ones(layout.tokens, dtype=torch.bool)
    seen[order[layout.prefix :]] = kept
    own = seen[order[layout.prefix :].sort().values]  # of layers whose keys are the patches alone
    with keys_masked({len(seen): seen, len(own): own}), ExitStack() as stack:
        if readout.patches and not readout.latents:
            last = [n for n in adapter.reading_layers(readout) if n in adapter.blocks()][-1]
            stack.callback(adapter.blocks()[last].register_forward_hook(_only(adapter, seen, own)).remove)
        return adapter.scores(model(x, **kwargs) if kwargs else called(model, x, adapter)).detach()


def _only(adapter: Adapter, seen: Tensor, own: Tensor) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple, output: Any) -> Any:
        stream = adapter.stream(output)
        part = stream[:, seen if stream.shape[1] == len(seen) else own]
        return part if output is stream else type(output)(part if x is stream else x for x in output)

    return hook


@contextmanager
def keys_masked(seen: dict[int, Tensor]) -> Iterator[None]:
    """Softmaxes over so many keys see the chosen of them."""
    kernel = F.scaled_dot_product_attention

    def bias(count: int, like: Tensor) -> Tensor | None:
        kept = seen.get(count)
        return None if kept is None else torch.zeros(1, count).to(like).masked_fill(~kept, float("-inf"))

    def attention(
        query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *more: Any, **named: Any
    ) -> Tensor:
        own = bias(key.shape[-2], query)
        if own is not None and attn_mask is not None:
            assert attn_mask.dtype != torch.bool
            own = own + attn_mask
        return kernel(query, key, value, attn_mask if own is None else own, *more, **named)

    def softmax(real: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def masked(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            own = bias(x.shape[-1], x) if x.dim() > 2 else None
            return real(x if own is None else x + own, *args, **kwargs)

        return masked

    with ExitStack() as stack:
        for owner, name in SOFTMAXES:
            stack.enter_context(patch.object(owner, name, softmax(getattr(owner, name))))
        stack.enter_context(patch.object(F, "scaled_dot_product_attention", attention))
        yield
