"""What is done with the attention of a running model: kept, or made part of a graph."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..access import Adapter, AttentionCall, LayerLayout, Readout
from ..errors import UnsupportedModelError
from .constants import constant_parameters
from .inputs import Inputs
from .linears import KnownRows, on_prefix
from .needs import (
    ATTENTION,
    GRADIENTS,
    HELD_GRADIENTS,
    OUTPUT_WEIGHTS,
    READ_ATTENTION,
    VALUES,
    Need,
    Reduction,
    UnderRules,
)
from .output_weights import OutputWeights
from .place import WHOLE, Place
from .rules import Ruling
from .scopes import Attention, CarriedError
from .shelf import Shelf, part_of
from .tap import Tap
from .twice import twice_differentiable


@dataclass
class Valve:
    """Where the attention of a graph can be held constant: shut, no gradient passes."""

    open: bool = True

    def __call__(self, x: Tensor) -> Tensor:
        """`x` behind the valve."""
        return _Gate.apply(x, self) if x.requires_grad else x


class _Gate(torch.autograd.Function):
    """The identity, whose gradient passes while its valve is open."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, valve: Valve) -> Tensor:
        ctx.valve = valve
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None]:
        return gradient if ctx.valve.open else None, None


@dataclass(frozen=True)
class Keep:
    """What a forward keeps of the attention layers.

    layers: the names of those that are kept.  needs: what of them.  replay: what a replay needs of all layers.
    tail: whether all tokens count after the last attention, as where somebody listens there.
    given: places whose tokens are kept, by name: the input of an attention layer, the output of another module.
    starts: whether a graph may begin at the output of each kept layer, and not only at what is given.
    apart: whether gradients are taken from the stream after a block to the attention in it alone, so that the attention
        itself needs no graph.
    create_graph: whether the graph begins at the parameters, and can be differentiated twice.
    """

    layers: Collection[str]
    needs: frozenset[Need] = frozenset()
    replay: bool = False
    tail: bool = False
    given: Collection[str] = ()
    starts: bool = True
    apart: bool = False
    create_graph: bool = False

    @property
    def reductions(self) -> list[Reduction]:
        """What is taken of each attention while the model runs."""
        return [need for need in self.needs if not isinstance(need, (str, UnderRules))]

    @property
    def of_attention(self) -> bool:
        """Whether anything of the attention is kept."""
        return not self.needs.isdisjoint({ATTENTION, READ_ATTENTION, VALUES, GRADIENTS, HELD_GRADIENTS})

    def fields(self, name: str) -> set[str]:
        """Which tensors of a layer's attention are kept."""
        found = {"out"} if self.replay else set()
        if name in self.layers:
            found |= {"q", "k"} if self.needs & {ATTENTION, READ_ATTENTION} else set()
            found |= {"v"} if VALUES in self.needs else set()
        return found


@dataclass
class Kept:
    """What a forward kept: calls and reductions by layer, and what linear layers gave for the prefix.

    layouts: how the tokens lie in each attention layer that was seen.
    """

    calls: dict[str, AttentionCall] = field(default_factory=dict)
    layouts: dict[str, LayerLayout] = field(default_factory=dict)
    reduced: dict[Reduction, dict[str, Any]] = field(default_factory=dict)
    linears: KnownRows | None = None
    weights: OutputWeights | None = None


class ForwardTap(Tap):
    """A forward that keeps what was asked for.

    changing: what is made of the output of a function (function, arguments, output), by whoever looks for a place.

    With `graph` gradients can be taken at the outputs of the kept layers: the graph begins at the first of them, and
    parameters enter it as constants, so that nothing is held for them, unless `keep` says that it begins at them. A
    `ruling` computes what has a rule.
    """

    def __init__(
        self,
        adapter: Adapter,
        inputs: Inputs,
        readout: Readout | None,
        keep: Keep,
        graph: bool,
        place: Place = WHOLE,
        ruling: Ruling | None = None,
    ) -> None:
        super().__init__(adapter, inputs, readout, place)
        self.keep, self.graph, self.ruling = keep, graph, ruling
        self.detached = not keep.create_graph
        self.kept, self.valve = Kept(), Valve()
        self.changing: Callable[[Any, tuple, Any], Any] | None = None
        self.shelf = Shelf(len(self.layers))
        if keep.replay:
            self.kept.linears = KnownRows(self.shelf)
        if OUTPUT_WEIGHTS in keep.needs:
            self.kept.weights = OutputWeights()

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if self.ruling is None:
            return self._in_grad_mode(func, types, args, kwargs)
        try:
            args, kwargs = self.ruling.checked(args, kwargs or {})
            return self.ruling.seen(self._in_grad_mode(func, types, args, kwargs), args)
        except UnsupportedModelError as error:  # from inside an operator, as +, Python would make another of it
            raise CarriedError from error

    def _in_grad_mode(self, func: Any, types: Any, args: tuple, kwargs: dict | None) -> Any:
        if not self.graph or torch.is_grad_enabled() or func is torch._C._set_grad_enabled:
            return super().__torch_function__(func, types, args, kwargs)
        with torch.enable_grad():  # a frozen backbone often runs under a no_grad of its owner
            return super().__torch_function__(func, types, args, kwargs)

    def other(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        trains = self.keep.create_graph
        if (self.ruling is not None or trains) and func is F.multi_head_attention_forward:  # of no layer
            return self.multi_head(args, kwargs, lambda q, k, v, **given: self.kernel((q, k, v), given))
        if trains:
            out = twice_differentiable(func)(*args, **kwargs)
        else:
            out = constant_parameters(func, args, kwargs, self.ruling) if self.graph else func(*args, **kwargs)
        return out if self.changing is None else self.changing(func, args, out)

    def kernel(self, args: tuple, kwargs: dict) -> Tensor:
        if self.ruling is None and not self.keep.create_graph:
            return super().kernel(args, kwargs)
        return self.other(F.scaled_dot_product_attention, args, kwargs)

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        def layer(x: Tensor) -> Tensor:
            return super(ForwardTap, self).linear(x, weight, bias)

        over = self.readout is not None and self.readout.only_prefix and len(self.seen) == len(self.layers)
        first = self.layout.order is None  # the tokens that are read stand first in the model too
        if over and first and not self.keep.tail and self.is_tokens(input):
            out = on_prefix(input, self.layout.prefix, layer)
        else:
            out = layer(input)
        if self.kept.weights is not None:
            self.kept.weights.linear(input, weight)
        if self.kept.linears is not None and self.is_tokens(out):
            self.kept.linears.add(weight, out, self.layout.prefix)
        return out

    def in_order(self, call: AttentionCall, run: Attention) -> Tensor:
        out = super().in_order(call, run)
        if self.kept.weights is not None:
            self.kept.weights.attended(call.name, out)
        return out

    def attend(self, call: AttentionCall, run: Attention) -> Tensor:
        self._check_batch(call)
        out = self._in_graph(call, run) if self.graph else run(_as_it_is)
        self._keep(replace(call, out=out))
        return out

    def _check_batch(self, call: AttentionCall) -> None:
        if call.batch != len(self.inputs.images):
            raise UnsupportedModelError(
                f"{len(self.inputs.images)} images come in, and {call.batch} reach the attention of layer "
                f"{call.name!r}, as where a model makes several views, crops or frames of each: which of them a map "
                f"belongs to is not known. Explain the module that takes one view, on each of them, "
                f"or captum_vit.OneView(model, 0)"
            )

    def _in_graph(self, call: AttentionCall, run: Attention) -> Tensor:
        """The output behind the valve, as the place where the gradient is taken."""
        if self.keep.apart:
            with torch.no_grad():
                out = run(_as_it_is).detach()
            return out.requires_grad_() if call.name in self.keep.layers and not call.layout.cross else out
        with torch.enable_grad():  # a layer that computes its attention in steps may stand under a no_grad of its owner
            # of cross-attention the values are how the tokens reach the score: they stay in the graph
            out = run(self.valve) if call.layout.cross else self.valve(run(_as_it_is))
            wanted = self.keep.starts and call.name in self.keep.layers and not out.requires_grad
            return out.detach().requires_grad_() if wanted else out

    def _keep(self, call: AttentionCall) -> None:
        self.kept.layouts[call.name] = call.layout
        if call.name in self.keep.layers and self.keep.reductions:
            with torch.set_grad_enabled(self.keep.create_graph):
                for reduction in self.keep.reductions:
                    self.kept.reduced.setdefault(reduction, {})[call.name] = reduction(call)
        part_of_graph = self.keep.create_graph or (self.graph and (self.keep.starts or call.out.requires_grad))
        if self.keep.apart:
            leaf = call.name in self.keep.layers
            kept = part_of(call, self.keep.fields(call.name) - ({"out"} if leaf else set()), _apart)
            self.kept.calls[call.name] = replace(kept, out=call.out) if leaf else kept
        elif part_of_graph and (self.ruling is None or self.keep.of_attention):
            self.kept.calls[call.name] = call  # its tensors are held by the graph
        elif fields := self.keep.fields(call.name):
            if self.keep.replay or (self.readout is not None and self.readout.only_prefix):
                short = call.first_rows(call.layout.prefix)
                call = replace(call, out=short.out) if ATTENTION in self.keep.needs else short
            self.kept.calls[call.name] = self.shelf.put_call(call, *fields)


def _as_it_is(x: Tensor) -> Tensor:
    return x


def _apart(x: Tensor) -> Tensor:
    return x.detach().clone()
