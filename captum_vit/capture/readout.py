"""Which tokens a score is read from, measured where no adapter can know it."""

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..access import Adapter, Readout
from ..errors import UnsupportedModelError
from ..targets import Output, Target
from .depths import measured
from .forward import run_forward
from .inputs import Inputs
from .taps import Keep

PLAIN = (bool, int, float, str, type(None))
_measured: "WeakKeyDictionary[nn.Module, dict[Any, Readout]]" = WeakKeyDictionary()


def readout_of(adapter: Adapter, inputs: Inputs, target: Target | None = None, *, declared: bool = True) -> Readout:
    """The tokens that a target is read from: as the adapter declares, else measured.

    A measurement is kept for the model as it stands: its modules with their hooks, its weights, and images of one size.

    Args:
        adapter, inputs: the model and what it is called with.
        target: one that is made of more than the scores is always measured.
        declared: whether what the adapter says holds; it does not where a hook changes what passes.
    Raises:
        UnsupportedModelError: as `measure_readout`.
    """
    own = target is not None and not target.reads_scores
    if declared and not own and adapter.readout is not None:
        return adapter.readout
    if own:
        return measure_readout(adapter, inputs, target)
    given = [*inputs.args, *(part for item in sorted(inputs.kwargs.items()) for part in item)]
    if not all(isinstance(value, (*PLAIN, Tensor)) for value in given):
        return measure_readout(adapter, inputs)
    told = [value if isinstance(value, PLAIN) else (value.shape, value.dtype) for value in given]
    key = repr((declared, model_state(adapter.model), inputs.images.shape[1:], inputs.images.dtype, told))
    known = _measured.setdefault(adapter.model, {})
    if key not in known:
        known.clear()  # of a model that was changed since
        known[key] = measure_readout(adapter, inputs)
    return known[key]


def model_state(model: nn.Module) -> tuple:
    """What tells that a model was changed: its modules, their modes, hooks and methods, and versions of its tensors."""
    modules = tuple(
        (
            id(m),
            m.training,
            id(type(m).forward),
            *m._forward_hooks,
            *m._forward_pre_hooks,
            *(value if isinstance(value, PLAIN) else id(value) for value in vars(m).values() if _decides(value)),
        )
        for m in model.modules()
    )
    return modules, tuple((id(t), t._version) for t in (*model.parameters(), *model.buffers()) if not t.is_inference())


def _decides(value: Any) -> bool:
    return callable(value) or isinstance(value, PLAIN)


def measure_readout(adapter: Adapter, inputs: Inputs, target: Target | None = None) -> Readout:
    """The tokens that receive gradient from the scores directly, and by which weights; see `depths`.

    Where cross-attention reads the tokens, its rows are the latents, and the tokens those of the last layer that has
    them among its queries while attention inputs are constants. Without a target the scores are weighed at random
    (from a generator of its own), so that sums that are constant, as those of a softmax, hide nothing. Needs a forward
    of the first image, and more where several tokens are read; in train mode of all, for the sake of batch norms.

    Raises:
        UnsupportedModelError: the score reads patches that are queries nowhere, or nothing at all.
    """
    alone = target is None and not adapter.training  # a target may have something of its own for each image
    for part in (inputs.first(), inputs) if alone and len(inputs.images) > 1 else (inputs,):
        found = None if adapter.cross_attention or not adapter.blocks() else _by_depth(adapter, part, target, alone)
        found = found or _by_rows(adapter, part, target)
        if found is not None:
            return found  # the score of a single image can be flat, as behind a ReLU
    raise UnsupportedModelError(
        f"no gradient reaches the last attention layer from the output of {type(adapter.model).__name__}: it does "
        f"not depend on it, or is flat for these images"
    )


def _by_depth(adapter: Adapter, inputs: Inputs, target: Target | None, alone: bool) -> Readout | None:
    return measured(adapter, inputs, target or Weighed(), alone=alone)


def _by_rows(adapter: Adapter, inputs: Inputs, target: Target | None) -> Readout | None:
    """The rows of the last attention that has them."""
    prefix, patches, latents = _row_gradients(adapter, inputs, target)
    read = prefix.nonzero().flatten().tolist()
    if not len(patches) and _reads_past_attention(adapter, inputs, target):
        raise UnsupportedModelError(
            f"the score of {type(adapter.model).__name__} is read from the patches, and patches are queries in "
            f"none of its attention layers that are seen ({', '.join(adapter.attention_layers())}): there is no "
            f"attention to explain it by. Let it be read from the class token, as with global_pool='token'"
        )
    if not read and not patches.any():
        return None
    # between a mean over all tokens (ratio 1) and a class token beside the mean of n patches (ratio n)
    even = bool(read and patches.any() and prefix[read].mean() < len(patches) ** 0.5 * patches.mean())
    return Readout(tuple(read), bool(patches.any()), even, tuple(latents.nonzero().flatten().tolist()), declared=False)


def _row_gradients(adapter: Adapter, inputs: Inputs, target: Target | None) -> tuple[Tensor, Tensor, Tensor]:
    """Mean size of the gradient at each prefix token, at each patch and at each latent of cross-attention; empty
    where there are none among the queries."""
    # of all layers, so that an owner's backward hooks find theirs; with their inputs constant, since patches of an
    # earlier layer also reach the score through the attention of a later one
    forward = run_forward(adapter, inputs, None, Keep(list(adapter.attention_layers())), graph=True)
    calls = forward.calls
    tokens = [name for name, call in calls.items() if not call.layout.cross]
    last = calls[tokens[-1]]
    found = forward.gradients(target or Weighed(), [call.out for call in calls.values()], held=True)
    sizes = {
        name: torch.zeros_like(call.out[0, 0, :, 0]) if gradient is None else gradient.abs().mean((0, 1, 3))
        for (name, call), gradient in zip(calls.items(), found, strict=True)
    }
    none = last.out.new_empty(0)
    seen = next((name for name in reversed(tokens) if calls[name].queries > calls[name].layout.prefix), None)
    patches = none if seen is None else sizes[seen][calls[seen].layout.prefix :]
    latents = [sizes[name] for name in calls if name not in tokens]
    return sizes[last.name][: last.layout.prefix], patches, torch.stack(latents).sum(0) if latents else none


def _reads_past_attention(adapter: Adapter, inputs: Inputs, target: Target | None) -> bool:
    """Whether the scores depend on the images while attention inputs are constants, but for what adapters name."""
    images = inputs.images.clone().requires_grad_()
    with torch.enable_grad():
        own = Inputs(images.clone(), inputs.args, inputs.kwargs)
    forward = run_forward(adapter, own, None, Keep(()), graph=True, constant=adapter.bypass)
    if not forward.output.scores.requires_grad:
        return False
    (gradient,) = forward.gradients(target or Weighed(), [images], held=True)
    return gradient is not None and bool(gradient.any())


class Weighed(Target):
    """All scores, each with a random weight."""

    def score(self, output: Output) -> Tensor:
        """Their sum, (N,)."""
        flat = output.scores.flatten(1)
        return flat @ torch.rand(flat.shape[1], generator=torch.Generator().manual_seed(0)).to(flat)
