"""One forward of a model, listened to; and the way back through it."""

import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointError

from ..access import Adapter, AttentionCall, Readout, TokenLayout
from ..access.kinds import why_no_gradient
from ..errors import UnsupportedModelError
from ..targets import Output, Target
from ..targets.base import check_attached
from .given import Given, GivenTokens
from .inputs import Inputs
from .interrupts import INTERRUPTS
from .listeners import Watch
from .place import WHOLE, Place
from .rules import Ruling
from .streams import Streams
from .taps import ForwardTap, Keep, Kept, Valve
from .untouched import own_backward

Listen = Callable[[ExitStack], None]  # registers hooks, until the stack ends


class HookEditedError(Exception):
    """A hook of somebody else's changed what passes, and with it what is known of the model."""


@dataclass(frozen=True)
class Forward:
    """What a forward gave and kept, and where it has a graph, the gradients.

    streams: the token stream by attention layer, if it was asked for.  given: the tokens at other places.
    images: those that the model was given, where gradients can be taken at them.
    create_graph: whether gradients are part of a graph themselves.
    ruling: what stands in place of derivatives.
    """

    adapter: Adapter
    output: Output
    layout: TokenLayout
    kept: Kept
    valve: Valve
    streams: dict[str, Tensor]
    given: dict[str, Given]
    images: Tensor | None = None
    create_graph: bool = False
    ruling: Ruling | None = None

    @property
    def calls(self) -> dict[str, AttentionCall]:
        """The attention of the kept layers."""
        return self.kept.calls

    def gradients(
        self, target: Target, leaves: Collection[Tensor], *, held: bool = False, retain: bool = False
    ) -> list[Tensor | None]:
        """dy/dx for y = the target's score, summed over the batch, and each x of `leaves`; None where y does not
        depend on it.

        Args:
            target: what is differentiated.
            leaves: tensors of the graph.
            held: whether the input of every attention counts as a constant.
            retain: whether the graph is kept for another time.
        """
        with torch.enable_grad(), self.holding(held):
            score = target.score(self.output).sum()
            check_attached(score, self.output, target)
            if not score.requires_grad:
                if self.ruling is not None:
                    self.ruling.check_scores(self.output.scores)
                raise UnsupportedModelError(
                    why_no_gradient(self.adapter.model)
                    or f"the scores of {type(self.adapter.model).__name__} are cut off from its attention layers, as "
                    f"by .detach() or .numpy() in its forward, or by checkpointing with use_reentrant=True: no "
                    f"gradient can be taken"
                )
            graph = self.create_graph
            return list(
                torch.autograd.grad(
                    score, list(leaves), allow_unused=True, retain_graph=retain or graph, create_graph=graph
                )
            )

    def gradients_of_several(self, targets: Sequence[Target], leaves: Sequence[Tensor]) -> list[Tensor]:
        """dy_k/dx for each of K targets, (K, *x.shape), with attention held constant: one batched backward."""
        with torch.enable_grad(), self.holding(True):
            parts = [target.score(self.output).sum() for target in targets]
            for target, part in zip(targets, parts, strict=True):
                check_attached(part, self.output, target)
            scores = torch.stack(parts)
            each = torch.eye(len(targets), device=scores.device, dtype=scores.dtype)
            return list(
                torch.autograd.grad(
                    scores,
                    leaves,
                    each,
                    retain_graph=True,
                    create_graph=self.create_graph,
                    is_grads_batched=True,
                    materialize_grads=True,
                )
            )

    @contextmanager
    def holding(self, held: bool) -> Iterator[None]:
        """The attention held constant on the way back, or not."""
        self.valve.open = not held
        try:
            with own_backward(self.adapter.model), _no_recomputation():
                yield
        finally:
            self.valve.open = True


def run_forward(
    adapter: Adapter,
    inputs: Inputs,
    readout: Readout | None,
    keep: Keep,
    *,
    graph: bool = False,
    streams: bool = False,
    rooted: bool = True,
    pixels: bool = False,
    watched: Iterable[nn.Module] = (),
    constant: Iterable[nn.Module] = (),
    place: Place = WHOLE,
    tap: ForwardTap | None = None,
    also: Callable[[ForwardTap, ExitStack], None] | None = None,
) -> Forward:
    """Run the model once.

    Args:
        adapter, inputs: the model and what it is called with.
        readout: the tokens that the score is read from, as far as they are known.
        keep: what is kept.
        graph: whether gradients can be taken, from the first of the kept layers on.
        streams: whether the token streams are kept.
        rooted: whether the graph begins at the first of them, if there is one.
        pixels: whether the graph begins at the images.
        watched: modules with hooks of others, which must only listen.
        constant: modules whose outputs count as constants on the way back.
        place: where the tokens lie on the images.
        tap: what listens, if it is another than keeps what `keep` says.
        also: registers further hooks, until the stack ends.
    Raises:
        HookEditedError: one of those hooks changed something.
        UnsupportedModelError: gradients are wanted, and its layers let none through; or a hook writes to `.data`.
        LayerNotRecordedError, TokenLayoutError: the model computes otherwise than its adapter says.
    """
    if graph and (reason := why_no_gradient(adapter.model, surely=True)):
        raise UnsupportedModelError(reason)
    tap = tap or ForwardTap(adapter, inputs, readout, keep, graph, place)
    if pixels:
        with torch.enable_grad():
            inputs = replace(inputs, images=inputs.images.detach().clone().requires_grad_())
        if tap.ruling is not None:
            tap.ruling.see(inputs.images)
    kept = None if tap.ruling is None else keep.layers
    stream = Streams(adapter, kept, lambda: tap.active, graph, rooted) if streams else None
    given = GivenTokens(tap, keep.given)
    watch = Watch(watched, lambda: tap.active)
    listeners: list[Listen] = [watch.listen, given.listen, partial(_hold_constant, tap, constant)]
    listeners += [] if stream is None else [stream.listen]
    listeners += [] if also is None else [partial(also, tap)]
    with torch.enable_grad() if graph else torch.no_grad(), _listening(tap, listeners):
        INTERRUPTS.let_through(sys._getframe())
        raw = inputs.run(adapter)
        scores = inputs.scores(adapter, raw)
    if watch.unseen:
        raise UnsupportedModelError(
            f"a hook on {type(watch.unseen[0]).__name__} in {type(adapter.model).__name__} writes where nothing sees "
            f"it, as to `output.data`: neither a gradient nor what follows attention would know of it. Take it off "
            f"while the model is explained, or let it return what it changes"
        )
    if watch.edited:
        raise HookEditedError(type(watch.edited[0]).__name__)
    output = Output(scores if inputs.textless else raw, scores, adapter.headless)
    found = stream.tokens() if stream else {}
    leaf = inputs.images if pixels else None
    graphed = tap.keep.create_graph
    return Forward(adapter, output, tap.layout, tap.kept, tap.valve, found, given.found(), leaf, graphed, tap.ruling)


@contextmanager
def _listening(tap: ForwardTap, listeners: Iterable[Listen]) -> Iterator[None]:
    """A tap and other hooks in place: in a context, so that an interrupt waits until it is known how each comes off."""
    with ExitStack() as stack:
        stack.enter_context(tap.listening())
        for listen in listeners:
            listen(stack)
        yield


def filled(tensors: Mapping[str, Tensor], gradients: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
    """The gradient at each tensor, 0 where there is none."""
    found = {}
    for name, x in tensors.items():
        gradient = gradients.get(name)
        found[name] = torch.zeros_like(x) if gradient is None else gradient
    return found


def check_reached(adapter: Adapter, found: Mapping[str, Tensor | None], names: Collection[str]) -> None:
    """Raise UnsupportedModelError where no gradient reaches a layer; the score need not depend on cross-attention."""
    cut = [name for name in names if found.get(name) is None and name not in adapter.cross_attention]
    if cut:
        raise UnsupportedModelError(
            why_no_gradient(adapter.model)
            or f"the scores are cut off from {', '.join(cut)}, as by checkpointing with use_reentrant=True or by "
            f".detach(): no gradient can be taken"
        )


def _hold_constant(tap: ForwardTap, modules: Iterable[nn.Module], stack: ExitStack) -> None:
    for module in modules:
        stack.callback(module.register_forward_hook(_constant_output(tap)).remove)


def _constant_output(tap: ForwardTap) -> Any:
    def hook(module: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
        return output.detach() if tap.active else None

    return hook


@contextmanager
def _no_recomputation() -> Iterator[None]:
    """Raise UnsupportedModelError where a backward runs parts of the forward again, which nothing listens to, or where
    the forward wrote over what a backward needs."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, CheckpointError) or "use_reentrant=True" in str(error):
            raise UnsupportedModelError(
                "a part of the model runs under torch.utils.checkpoint, which computes it again in the backward, where "
                "its attention is not seen: call the part itself, without checkpoint, while the model is explained"
            ) from error
        if "modified by an inplace operation" not in str(error):
            raise
        raise UnsupportedModelError(
            "the model, or a hook on it, writes in place to what a gradient is taken through, so that no backward is "
            "possible: let it make a new tensor, as `x = x * 0.5` in place of `x.mul_(0.5)`"
        ) from error
