"""What attention layers are given, and what other modules give: the tokens at one place of a running model."""

from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from ..access import LayerLayout
from ..errors import TokenLayoutError, UnsupportedModelError
from .shelf import Shelf
from .taps import ForwardTap


@dataclass(frozen=True)
class Given:
    """The tokens at one place, as the model has them.

    >>> run = Run(adapt(model), Inputs(images), needs={GIVEN}, given=lambda readout: ["blocks.11.attn"])
    >>> run.given()["blocks.11.attn"].values.shape  # what the norm before the last attention gives
    torch.Size([2, 197, 768])

    tokens: (B, N, D), or (N, B, D) where `tokens_first`; part of the graph if there is one.
    layout: where they lie on the image.
    attached: whether `values` are part of that graph too.
    """

    tokens: Tensor
    layout: LayerLayout
    tokens_first: bool = False
    attached: bool = False

    @property
    def values(self) -> Tensor:
        """The prefix tokens, then the patches in reading order, (B, N, D)."""
        return self.arranged(self.tokens if self.attached else self.tokens.detach())

    def arranged(self, x: Tensor) -> Tensor:
        """Anything of the shape of the tokens, as a gradient, in the order of `values`."""
        x = x.transpose(0, 1) if self.tokens_first else x
        order = self.layout.order
        return x if order is None else x[:, order.to(x.device)]


class GivenTokens:
    """Hooks that keep them while the model runs.

    Where an attention layer begins with a norm of its tokens, as a block that is one module, the attention is given
    what comes out of that norm: before it, the gradient is at right angles to each token.

    In a graph each is a node of its own: the gradient there is of what passes this place alone. Where nothing before it
    has a gradient, the graph begins with it.

    Args:
        tap: what listens to the forward.
        names: attention layers, of which the input is kept, and other modules, of which the output is.
    """

    def __init__(self, tap: ForwardTap, names: Collection[str]) -> None:
        self.tap, self.names = tap, names
        self._found: dict[str, tuple[Tensor, bool]] = {}
        self._entered: dict[int, tuple[str, Tensor]] = {}  # by the module's id, the tokens that it has now
        self._normed: set[str] = set()
        self._shelf = Shelf(len(names))

    def listen(self, stack: ExitStack) -> None:
        """Register the hooks, until the stack ends."""
        for module, names in self.tap.names.items():
            if any(name in self.names for name in names):
                stack.callback(module.register_forward_pre_hook(self._before, with_kwargs=True).remove)
                for norm in (part for part in module.modules() if "Norm" in type(part).__name__):
                    stack.callback(norm.register_forward_hook(self._after_norm(module)).remove)
        others = [name for name in self.names if name not in self.tap.layers]
        modules = dict(self.tap.adapter.model.named_modules(remove_duplicate=False)) if others else {}
        for name in others:
            stack.callback(modules[name].register_forward_hook(self._after(name)).remove)

    def found(self) -> dict[str, Given]:
        """The tokens at each place, in the order in which they were there.

        Raises:
            UnsupportedModelError: a layer is not given its tokens, or a module did not run.
            TokenLayoutError: the tokens are others than the layer's keys.
        """
        found = {}
        for name, (tokens, tokens_first) in self._found.items():
            count = tokens.shape[0 if tokens_first else 1]
            layout = self.tap.kept.layouts.get(name)
            if layout is None:
                layout = self.tap.layout.of_layer(name, count, count)
            if layout.keys != count:
                raise TokenLayoutError(f"{name} is given {count} tokens, and its attention has {layout.keys} keys")
            found[name] = Given(tokens, layout, tokens_first, self.tap.keep.create_graph)
        self._check_all(found)
        return found

    def _check_all(self, found: dict[str, Given]) -> None:
        for name in self.names:
            if name in found or (name in self.tap.cross and not self.tap.seen[name]):
                continue
            if name in self.tap.layers:
                raise UnsupportedModelError(
                    f"{type(self.tap.layers[name]).__name__} computes several attentions in one call, so that what the "
                    f"attention {name} alone is given is not known"
                )
            raise UnsupportedModelError(f"the module {name} did not run: it gives no tokens")

    def _before(self, module: nn.Module, args: tuple, kwargs: dict | None = None) -> tuple[tuple, dict] | None:
        if not self.tap.active or kwargs is None or (name := self.tap.layer) not in self.names:
            return None
        assert name is not None
        tokens_first = self.tap.adapter.tokens_first
        if isinstance(module, nn.MultiheadAttention):  # which may be called with axes exchanged for it alone
            tokens_first = not module.batch_first
        given = next((x for x in (*args, *kwargs.values()) if self._holds_tokens(x, name, tokens_first)), None)
        if given is None:
            raise UnsupportedModelError(
                f"the attention layer {name} ({type(module).__name__}) is not given its tokens as one tensor (B, N, D)"
                f": what its gradient would be taken at is not known"
            )
        tokens = self._put(name, given, tokens_first)
        self._entered[id(module)] = name, tokens

        def replaced(x: Any) -> Any:
            return tokens if x is given else x

        return tuple(map(replaced, args)), {key: replaced(x) for key, x in kwargs.items()}

    def _after_norm(self, layer: nn.Module) -> Any:
        def hook(module: nn.Module, args: tuple, output: Any) -> Tensor | None:
            name, tokens = self._entered.get(id(layer), ("", None))
            if not self.tap.active or tokens is None or not args or args[0] is not tokens or self.tap.seen[name]:
                return None
            if name in self._normed:
                raise UnsupportedModelError(
                    f"the attention layer {name} ({type(layer).__name__}) has several norms of its tokens before it "
                    f"attends, and which of them the attention is given is not known: choose one of these as the layer"
                )
            self._normed.add(name)
            return self._put(name, output, self._found[name][1])

        return hook

    def _after(self, name: str) -> Any:
        def hook(module: nn.Module, args: tuple, output: Any) -> Any:
            if not self.tap.active:
                return None
            given = output[0] if isinstance(output, (tuple, list)) and len(output) else output
            tokens_first = self.tap.adapter.tokens_first
            if name in self._found or not self._holds_tokens(given, name, tokens_first):
                again = "runs more than once" if name in self._found else "does not give the tokens as (B, N, D)"
                raise UnsupportedModelError(
                    f"the module {name} ({type(module).__name__}) {again}: choose an attention layer, a block, or a "
                    f"module whose output is the token stream"
                )
            tokens = self._put(name, given, tokens_first)
            return tokens if given is output else type(output)((tokens, *output[1:]))

        return hook

    def _holds_tokens(self, x: Any, name: str, tokens_first: bool) -> bool:
        """Whether it holds all tokens, or all patches, of each image."""
        if not isinstance(x, Tensor) or x.dim() != 3 or not x.is_floating_point():
            return False
        layout = self.tap.layout
        patches = prod(layout.grids.get(name, layout.grid))
        batch, count = (x.shape[1], x.shape[0]) if tokens_first else x.shape[:2]
        return batch == self.tap.batch and count - patches in layout.prefixes_of(name)

    def _put(self, name: str, given: Tensor, tokens_first: bool) -> Tensor:
        """The tokens that go on in place of those that came."""
        if not self.tap.graph:
            self._found[name] = self._shelf.put(given), tokens_first
            return given
        with torch.enable_grad():  # a frozen backbone often runs under a no_grad of its owner
            tokens = given.clone()
            tokens = tokens if tokens.requires_grad else tokens.requires_grad_()
            self._found[name] = tokens, tokens_first
            return tokens.clone()  # somebody may write to it
