"""The score of each layer: what the model's own head makes of the tokens after a block, and its gradient there."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UnsupportedModelError
from ..targets import Joined, Output, Target, as_target
from ..targets.base import check_attached
from .backward import Backward, check_alike
from .few import ReplayTap
from .forward import Forward
from .head import Head, Pooled, check_once
from .inputs import Inputs
from .listeners import unheard
from .needs import LAYER_GRADIENTS, MEAN_LAYER_GRADIENTS, OUTPUTS, TOKENS
from .replay import check_same
from .streams import stream_of, with_stream
from .untouched import untouched


class Layerwise(Backward):
    """What a run knows of the score of each layer."""

    def layer_gradients(self, target: Any, names: Collection[str], *, mean: bool = False) -> dict[str, Pooled]:
        """ds_l/dO_l, the gradient of each layer's score at its own attention, and that attention with its values.

        s_l is the target's score of what the model's own head makes of the tokens after the block of layer l. Where
        the score is read from prefix tokens the gradient is of these alone, (B, H, prefix, d), and comes of a replay.
        Where an attention pool reads the tokens it is taken there, as the pool reads those after block l.

        Args:
            target: what is explained.
            names: attention layers with a block around them.
            mean: whether the mean over all tokens that the block gives stands in the place of each.
        Raises:
            UnsupportedModelError: the tokens of one block alone are nothing that the head could read.
        """
        target, names = as_target(target), [name for name in self.adapter.attention_layers() if name in names]
        check_once(self.adapter, names)
        need = MEAN_LAYER_GRADIENTS if mean else LAYER_GRADIENTS
        forward = self.kept.forward({need} | ({OUTPUTS} if not target.reads_scores else set()))
        check_alike(self.kept, [target])
        listened = bool(self.kept.listened)
        if not mean and self.kept.replays:
            return _replayed(forward, self.inputs, target, names, listened=listened)
        readout = self.kept.readout
        with untouched(self.adapter):
            head = Head(forward, self.inputs, readout, listened=listened)
            blocks = self.adapter.blocks()
            firsts = {
                blocks[name]: name for name in names
            }  # a stream for each block, whatever stands in it side by side
            streams = [forward.streams[name] for name in firsts.values()]
            if readout.latents and not mean:
                pooled = dict(zip(firsts, head.pool_gradients(target, streams), strict=True))
                return {name: pooled[blocks[name]] for name in names}
            given = [stream.mean(1, keepdim=True) for stream in streams] if mean else streams
            found = dict(zip(firsts, head.gradients(target, given), strict=True))
            return {name: _through_block(forward, name, found[blocks[name]]) for name in names}

    def head_scores(self, tokens: Tensor) -> Tensor:
        """What the model's own head makes of single tokens (K, D), as they stand after a block, (K, C).

        Each token stands at every place behind the last block, so that a head that reads one token, or a mean of them,
        reads it alone.

        Raises:
            UnsupportedModelError: the head reads several depths, or does not take such tokens.
        """
        forward, readout = self.kept.forward({TOKENS}), self.kept.readout
        return Head(forward, self.inputs, readout, listened=bool(self.kept.listened)).of_tokens(tokens)


def _through_block(forward: Forward, name: str, gradient: Tensor) -> Pooled:
    """From a stream after a block, (B, N, D), or its mean, (B, 1, D), to the attention in the block."""
    stream, call = forward.streams[name], forward.calls[name]
    if gradient.shape != stream.shape:
        gradient = (gradient / stream.shape[1]).expand_as(stream)
    with torch.enable_grad(), forward.holding(False):
        (found,) = torch.autograd.grad(
            stream, [call.out], gradient, retain_graph=True, allow_unused=True, create_graph=forward.create_graph
        )
    if found is None:
        raise UnsupportedModelError(f"the tokens after the block of {name} do not depend on its attention")
    return call, found


class _LayerReplayTap(ReplayTap):
    """A replay whose last block gives the prefix tokens after several blocks, side by side as one larger batch.

    wanted: those blocks, in order.
    """

    def __init__(self, *args: Any, wanted: list[nn.Module]) -> None:
        super().__init__(*args)
        self.wanted, self.streams = wanted, list[Tensor]()
        self.blocks = list(dict.fromkeys(self.adapter.blocks().values()))
        self.reached = False

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return (
            self.other(torch.nn.functional.linear, (input, weight, bias), {})
            if self.reached
            else super().linear(input, weight, bias)
        )

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Hooks after the blocks. What goes on to the next is constant: each score has its own block's gradient."""
        hooks = [block.register_forward_hook(self._after) for block in self.blocks]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _after(self, module: nn.Module, args: tuple, output: Any) -> Any:
        if not self.active:
            return None
        stream = stream_of(self.adapter, output)
        if module in self.wanted:
            self.streams.append(stream)
        if module is not self.blocks[-1]:
            return with_stream(self.adapter, output, stream.detach().clone())  # somebody may write to it
        self.reached = True
        own = [] if module in self.wanted else [stream.detach()]  # last, as what shows that the head gives the same
        return with_stream(self.adapter, output, torch.cat(self.streams + own))


def _replayed(
    forward: Forward, inputs: Inputs, target: Target, names: list[str], *, listened: bool
) -> dict[str, Pooled]:
    """The gradients where the score is read from prefix tokens, (B, H, prefix, d): one replay of these."""
    adapter = unheard(forward.adapter, listened=listened)
    blocks = adapter.blocks()
    wanted = list(dict.fromkeys(blocks[name] for name in names))
    tap = _LayerReplayTap(adapter, inputs, forward.layout, forward.kept, names, wanted=wanted)
    with untouched(adapter), torch.enable_grad():
        with tap.listening(), tap.slicing(forward.layout.prefix), tap.reading():
            raw = inputs.run(adapter)
            output = Output(raw, inputs.scores(adapter, raw), adapter.headless)
        count = len(forward.output.scores)
        check_same(forward.output.scores.detach(), output.scores[-count:].detach(), adapter)
        parts = Output(raw, output.scores[: count * len(wanted)], output.headless)
        score = Joined([target] * len(wanted)).score(parts)
        check_attached(score, output, target)
        found = torch.autograd.grad(score.sum(), [tap.outs[name] for name in names], allow_unused=True)
    for name, gradient in zip(names, found, strict=True):
        if gradient is None:
            raise UnsupportedModelError(f"the tokens after the block of {name} do not depend on its attention")
    return {name: (forward.calls[name], g) for name, g in zip(names, found, strict=True) if g is not None}
