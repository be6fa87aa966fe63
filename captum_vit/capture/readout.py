"""Which tokens a score is read from, measured where no adapter can know it."""

from dataclasses import replace

import torch
from torch import Tensor

from ..access import Adapter, Readout
from ..errors import UnsupportedModelError
from ..targets import Target
from .examine import Examined, examine
from .forward import run_forward
from .inputs import Inputs
from .others import own_tensors
from .place import WHOLE, Place
from .plain import Plain
from .still import draws_in_training
from .taps import Keep
from .weighing import AGREE, Weighed, measured


def readout_of(
    adapter: Adapter,
    inputs: Inputs,
    target: Target | None = None,
    *,
    declared: bool = True,
    known: Examined | None = None,
    plain: Plain | None = None,
    weights: bool = True,
) -> Readout:
    """The tokens that a target is read from: as the adapter declares, else measured.

    A measurement is kept for the model as it stands, with its weights, and for inputs of one shape. What an adapter of
    somebody's own declares is measured too, and must agree.

    Args:
        adapter, inputs: the model and what it is called with.
        target: one that is made of more than the scores is always measured.
        declared: whether what the adapter says holds; it does not where a hook changes what passes.
        known: what `examine` found, if it was asked already.
        plain: a plain call of these inputs, or of the first of them, made if it is needed.
        weights: of such a target, whether it is asked by which weights its tokens are read.
    Raises:
        UnsupportedModelError: as `measure_readout`; or the score is read from other tokens than declared.
        TokenLayoutError: as `examine`.
    """
    known = known or examine(adapter, inputs, edited=not declared)
    if target is not None and (target.own_tokens or not target.reads_scores):
        return measure_readout(adapter, inputs, target, known.place, plain=plain, weights=weights)
    said = adapter.readout if declared and known.declared else None
    if said is not None and not known.hands.own:
        return said
    state = weights_of(adapter, known)
    if state not in known.readouts:
        known.readouts.clear()
        before = own_tensors(adapter.model)
        found = measure_readout(adapter, inputs, place=known.place, plain=plain)
        if inputs.beside_each and not draws_in_training(adapter):  # boxes, masks: each image has its own
            measure_readout(adapter, inputs, place=known.place, each=True)
        now = own_tensors(adapter.model)
        known.written |= {key for key in now if before.get(key) != now[key]}
        state = weights_of(adapter, known)
        known.readouts[state] = found
    found = known.readouts[state]
    if found.by_image:
        alike = measure_readout(adapter, inputs, place=known.place, each=True)
        found = alike if not found.by_class else replace(alike, by_class=True, unclear=found.unclear)
    if said is None:
        return found
    _check_said(adapter, said, found)
    return said if _prefix_leads(adapter, inputs) else replace(said, declared=False)


def weights_of(adapter: Adapter, known: Examined) -> tuple:
    """What tells one state of all numbers in a model from another."""
    tensors = (*adapter.model.parameters(), *adapter.model.buffers())
    kept = own_tensors(adapter.model)
    own = tuple(told for key, told in kept.items() if key not in known.written)
    return *((id(t), t._version) for t in tensors if not t.is_inference()), *own


def _prefix_leads(adapter: Adapter, inputs: Inputs) -> bool:
    """Whether the tokens besides the patches stand first, where what spares work on the patches looks for them."""
    layout = adapter.token_layout(adapter.size_of(inputs.images), inputs.kwargs)
    return layout.order is None or torch.equal(layout.order[: layout.prefix].cpu(), torch.arange(layout.prefix))


def _check_said(adapter: Adapter, said: Readout, found: Readout) -> None:
    """What an adapter of somebody's own declares must be what is measured."""
    if said.latents or found.shares is None:
        same = (said.prefix, said.patches, said.latents) == (found.prefix, found.patches, found.latents)
    else:
        total = torch.stack(list(found.shares.values())).sum(0)
        count = len(adapter.prefix_tokens) or max((*said.prefix, *found.prefix, -1)) + 1
        weights = said.weights(count, len(total))
        if found.unclear is not None:  # then only which tokens are read is known
            total, weights = (total > 0).double(), (weights > 0).double()
        same = bool((total - weights).abs().max() < AGREE)
    if not same:
        raise UnsupportedModelError(
            f"{type(adapter).__name__} declares that the score is read from {_told(said)}, and it is read from "
            f"{_told(found)}: correct its `readout`, or return None to have it measured. It may also be that the last "
            f"attention layer is missing in its `attention_layers`"
        )


def _told(readout: Readout) -> str:
    """A readout in words."""
    parts = [f"token {index} before the patches" for index in readout.prefix] + ["the patches"] * readout.patches
    how = "" if readout.unclear is None else f", by weights that are not fixed ({readout.unclear})"
    how += ", each as much as the other" * readout.even
    return f"{' and '.join(parts)}{how}{', through an attention pool' * bool(readout.latents)}"


def measure_readout(
    adapter: Adapter,
    inputs: Inputs,
    target: Target | None = None,
    place: Place = WHOLE,
    *,
    each: bool = False,
    plain: Plain | None = None,
    weights: bool = True,
) -> Readout:
    """The tokens that receive gradient from the scores directly, and by which weights; see `weighing`.

    Where cross-attention reads the tokens, its rows are the latents, and the tokens those of the last layer that has
    them among its queries while attention inputs are constants. Without a target the scores are weighed at random
    (from a generator of its own), so that sums that are constant, as those of a softmax, hide nothing. Needs a forward
    of the first image and of others made of it, and more where several tokens are read; in train mode of all, for the
    sake of batch norms.

    Args:
        adapter, inputs: the model and what it is called with.
        target: what is read; it may have something of its own for each image.
        place: where the tokens lie on the images.
        each: whether all images must be read alike, as they must for a target.
        plain: a plain call of these inputs, or of the first of them: then their blocks need not run again.
        weights: whether it is asked by which weights the tokens are read, and not only which are.
    Raises:
        UnsupportedModelError: the score reads patches that are queries nowhere, or nothing at all; or other tokens in
            one image than in another.
    """
    alone = target is None and not draws_in_training(adapter) and not each
    for part in (inputs.first(), inputs) if alone and len(inputs.images) > 1 else (inputs,):
        found = None
        if not adapter.cross_attention:
            basis = None if plain is None else plain.basis_of(part)
            asked = target or Weighed()
            found = measured(adapter, part, asked, place, alone=alone, basis=basis, weights=weights)
        found = found or _by_rows(adapter, part, target, place)
        if found is not None:
            return found  # the score of a single image can be flat, as behind a ReLU
    raise UnsupportedModelError(
        f"no gradient reaches the last attention layer from the output of {type(adapter.model).__name__}: it does "
        f"not depend on it, or is flat for these images"
    )


def _by_rows(adapter: Adapter, inputs: Inputs, target: Target | None, place: Place) -> Readout | None:
    """The rows of the last attention that has them."""
    prefix, patches, latents = _row_gradients(adapter, inputs, target, place)
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


def _row_gradients(
    adapter: Adapter, inputs: Inputs, target: Target | None, place: Place
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean size of the gradient at each prefix token, at each patch and at each latent of cross-attention; empty
    where there are none among the queries."""
    # of all layers, so that an owner's backward hooks find theirs; with their inputs constant, since patches of an
    # earlier layer also reach the score through the attention of a later one
    forward = run_forward(adapter, inputs, None, Keep(list(adapter.attention_layers())), graph=True, place=place)
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
        own = replace(inputs, images=images.clone())
    forward = run_forward(adapter, own, None, Keep(()), graph=True, constant=adapter.bypass)
    if not forward.output.scores.requires_grad:
        return False
    (gradient,) = forward.gradients(target or Weighed(), [images], held=True)
    return gradient is not None and bool(gradient.any())
