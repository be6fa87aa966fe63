"""The three ways to run a model and keep its attention; the model is left exactly as it was found.

- `record`: a forward without gradients; what a method keeps of each call is decided while it runs.
- `differentiate`: a forward whose graph begins at the first chosen attention output, for gradients at them.
- `replay`: after `record`, the same on the prefix tokens alone, the attention outputs being given.

After the last attention tokens no longer meet. So where a known head reads the score from prefix tokens, the linear
layers that follow are computed for these alone, forwards and backwards.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointError

from ..access import Adapter, AttentionCall, Readout, TokenLayout
from ..errors import CaptumViTError, InputError, UnsupportedModelError
from .taps import GradientTap, GraphTap, Linears, RecordTap, ReplayTap

Score = Callable[[Tensor], Tensor]  # the scores (B, C) -> the one that is explained, (B,)
T = TypeVar("T")


@dataclass(frozen=True)
class Inputs:
    """What the model is called with: images (B, C, H, W), then positional and keyword arguments."""

    images: Tensor
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def run(self, model: nn.Module) -> Any:
        try:
            return model(self.images, *self.args, **self.kwargs)
        except RuntimeError as error:
            dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
            if self.images.dtype in dtypes or not dtypes or isinstance(error, CaptumViTError):
                raise
            names = ", ".join(sorted(map(str, dtypes)))
            raise InputError(
                f"the model computes in {names} and fails on {self.images.dtype}: convert the images"
            ) from error

    def first(self) -> "Inputs":
        """The first image alone; tensors with one entry an image are cut with it."""
        count = len(self.images)

        def cut(x: Any) -> Any:
            return x[:1] if isinstance(x, Tensor) and x.dim() and len(x) == count else x

        return Inputs(self.images[:1], tuple(map(cut, self.args)), {k: cut(v) for k, v in self.kwargs.items()})


@dataclass(frozen=True)
class Recording(Generic[T]):
    """A forward without gradients: its layout, and what was kept of each attention layer.

    linears: the prefix rows that each linear layer gave for the token sequence, in order, if they were asked for.
    """

    layout: TokenLayout
    kept: dict[str, T]
    linears: Linears


@dataclass(frozen=True)
class Differentiable:
    """A forward with a graph from the attention outputs to the scores (B, C)."""

    scores: Tensor
    layout: TokenLayout
    calls: dict[str, AttentionCall]

    def gradients(self, score: Score, *, optional: Iterable[str] = ()) -> dict[str, Tensor]:
        """`dy/dO` of every call for y = score(scores), (B, H, M, d) each; frees the graph.

        It is 0 for a call that the score does not depend on, which only a pool or one of `optional` may be.
        """
        outs = [call.out for call in self.calls.values()]
        with torch.enable_grad(), _no_recomputation():
            gradients = torch.autograd.grad(score(self.scores).sum(), outs, allow_unused=True)
        found = dict(zip(self.calls, gradients, strict=True))
        needed = (name for name, call in self.calls.items() if call.layout.skip and name not in optional)
        cut = [name for name in needed if found[name] is None]
        if cut:
            raise UnsupportedModelError(
                f"the scores are cut off from {', '.join(cut)}, as by checkpointing with use_reentrant=True or by "
                f".detach(): no gradient can be taken"
            )
        return {n: torch.zeros_like(self.calls[n].out) if g is None else g for n, g in found.items()}

    def class_gradients(self, classes: Tensor) -> dict[str, Tensor]:
        """`dy_c/dO` for each of the classes (K,), (K, B, H, M, d) each, in one batched backward."""
        picks = F.one_hot(classes, self.scores.shape[1]).to(self.scores).unsqueeze(1).expand(-1, len(self.scores), -1)
        outs = [call.out for call in self.calls.values()]
        with _no_recomputation():
            gradients = torch.autograd.grad(
                self.scores, outs, picks, retain_graph=True, is_grads_batched=True, materialize_grads=True
            )
        return dict(zip(self.calls, gradients, strict=True))


@contextmanager
def _no_recomputation() -> Iterator[None]:
    """Raise UnsupportedModelError where a backward runs parts of the forward again, which nothing listens to."""
    try:
        yield
    except CheckpointError as error:
        raise UnsupportedModelError(
            "a part of the model runs under torch.utils.checkpoint, which computes it again in the backward, where its "
            "attention is not seen: call the part itself, without checkpoint, while the model is explained"
        ) from error


def record(
    adapter: Adapter,
    inputs: Inputs,
    keep: Callable[[AttentionCall], T],
    readout: Readout | None = None,
    *,
    for_replay: bool = False,
) -> Recording[T]:
    """One forward without gradients; `keep` reduces each attention call, while it runs, to what is kept of it."""
    tap = RecordTap(adapter, inputs, readout, keep, for_replay)
    with torch.no_grad(), tap.listening():
        inputs.run(adapter.model)
    return Recording(tap.layout, tap.kept, tap.linears)


def differentiate(
    adapter: Adapter,
    inputs: Inputs,
    layers: Iterable[str],
    readout: Readout | None = None,
    *,
    detach_attention: bool = False,
) -> Differentiable:
    """One forward whose graph holds what the gradients at the outputs of `layers` need, and no more.

    With `detach_attention` the input of every attention layer counts as a constant, so that gradients flow only
    through skip connections and MLPs.
    """
    tap = GradientTap(adapter, inputs, readout, set(layers), detach_attention)
    with torch.enable_grad(), tap.listening():
        scores = adapter.scores(inputs.run(adapter.model))
    return _result(tap, scores)


def replay(
    adapter: Adapter,
    inputs: Inputs,
    recording: Recording[AttentionCall],
    layers: Iterable[str],
    copies: int | None = None,
) -> Differentiable:
    """The model on its prefix tokens alone, each attention answered by its recorded `out` (B, H, prefix, d).

    Linear layers are answered by what they gave in the recording, so that only the backward reads their weights.
    With `copies` the tokens of a single image run as a batch of so many, for as many scores.

    Equal to `differentiate(..., detach_attention=True)` where the scores are read from prefix tokens: with the
    attention outputs given, tokens no longer meet.
    """
    tap = ReplayTap(adapter, inputs, recording, set(layers), copies)
    with torch.enable_grad(), tap.listening(), tap.slicing():
        scores = adapter.scores(inputs.run(adapter.model))
    return _result(tap, scores)


def measure_readout(adapter: Adapter, inputs: Inputs) -> Readout:
    """The readout as the query rows that receive gradient from the scores while attention inputs are constants.

    Prefix tokens are found in the last attention layer, patches in the last that has them among its queries; where an
    attention pool reads the tokens, its rows are the latents. The scores are weighed at random (from a generator of
    its own), so that sums that are constant, as those of a softmax, hide nothing. Needs a forward of the first image;
    in train mode of all, for the sake of batch norms.

    Raises:
        UnsupportedModelError: the score reads patches that are queries nowhere, or nothing at all.
    """
    for part in (inputs,) if adapter.training or len(inputs.images) == 1 else (inputs.first(), inputs):
        prefix, patches, pool = _row_gradients(adapter, part)
        read = prefix.nonzero().flatten().tolist()
        if not len(patches) and _reads_past_attention(adapter, part):
            raise UnsupportedModelError(
                f"the score of {type(adapter.model).__name__} is read from the patches, and patches are queries in "
                f"none of its attention layers that are seen ({', '.join(adapter.attention_layers())}): there is no "
                f"attention to explain it by. Let it be read from the class token, as with global_pool='token'"
            )
        if read or patches.any():
            break  # the score of a single image can be flat, as behind a ReLU
    else:
        raise UnsupportedModelError(
            f"no gradient reaches the last attention layer from the output of {type(adapter.model).__name__}: it does "
            f"not depend on it, or is flat for these images"
        )
    # between a mean over all tokens (ratio 1) and a class token beside the mean of n patches (ratio n)
    even = bool(read and patches.any() and prefix[read].mean() < len(patches) ** 0.5 * patches.mean())
    latents = tuple(pool.nonzero().flatten().tolist())
    return Readout(tuple(read), bool(patches.any()), even, latents, declared=False)


def _row_gradients(adapter: Adapter, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    """Mean size of the gradient at each prefix token, at each patch and at each latent of an attention pool; empty
    where there are none among the queries."""
    # of all layers, so that an owner's backward hooks find theirs; with their inputs constant, since patches of an
    # earlier layer also reach the score through the attention of a later one
    run = differentiate(adapter, inputs, adapter.attention_layers(), detach_attention=True)
    tokens = {name: call for name, call in run.calls.items() if name != adapter.pool}
    *_, last = tokens
    seen = next((name for name, call in reversed(tokens.items()) if call.q.shape[2] > call.layout.prefix), None)
    run = replace(run, calls={n: call for n, call in run.calls.items() if n in (seen, last, adapter.pool)})
    weights = _weights(run.scores)
    gradients = run.gradients(lambda scores: scores @ weights, optional=[n for n in run.calls if n != last])
    sizes = {name: gradient.abs().mean((0, 1, 3)) for name, gradient in gradients.items()}
    none = weights.new_empty(0)
    patches = none if seen is None else sizes[seen][tokens[seen].layout.prefix :]
    return sizes[last][: tokens[last].layout.prefix], patches, sizes.get(adapter.pool or "", none)


def _reads_past_attention(adapter: Adapter, inputs: Inputs) -> bool:
    """Whether the scores depend on the images while attention inputs are constants, but for what adapters name."""
    images = inputs.images.clone().requires_grad_()
    tap = GradientTap(adapter, inputs, None, set(), True)
    with torch.enable_grad(), tap.listening(), tap.cutting(adapter.bypass):
        scores = adapter.scores(replace(inputs, images=images.clone()).run(adapter.model))
    if not scores.requires_grad:
        return False
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad((scores @ _weights(scores)).sum(), images, allow_unused=True)
    return gradient is not None and bool(gradient.any())


def _weights(scores: Tensor) -> Tensor:
    """A random weight for each score, (C,)."""
    return torch.rand(scores.shape[1], generator=torch.Generator().manual_seed(0)).to(scores)


def _result(tap: GraphTap, scores: Tensor) -> Differentiable:
    if not scores.requires_grad:
        raise UnsupportedModelError(
            f"the scores of {type(tap.adapter.model).__name__} are cut off from its attention layers, "
            f"as by .detach() or .numpy() in its forward, or by checkpointing with use_reentrant=True: no gradient can "
            f"be taken"
        )
    return Differentiable(scores, tap.layout, tap.calls)
