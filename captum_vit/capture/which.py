"""Which of the attentions that were seen in a forward are over the tokens of the image."""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UnsupportedModelError
from .finding import Event, Finder

MOST_PREFIX = 17  # tokens besides the patches


@dataclass(frozen=True)
class Attentions:
    """The attention layers of a model.

    layers: by the name of a module, what each attention in it is called; None for one that is no layer.
    cross: those whose queries are tokens of their own.
    bare, alone: those whose tokens are the patches alone, and those whose queries are the tokens besides them.
    tokens: the most keys of any layer.
    patches: the keys that are patches.
    """

    layers: dict[str, list[str | None]]
    cross: tuple[str, ...]
    bare: tuple[str, ...]
    alone: tuple[str, ...]
    tokens: int
    patches: int


def reached(events: Sequence[Event], scores: Tensor) -> list[Event]:
    """Those that the scores depend on."""
    if not scores.requires_grad or not events:
        return []
    flat = scores.flatten(1)
    weights = torch.rand(flat.shape[1], generator=torch.Generator().manual_seed(0)).to(scores)
    outs = [event.out for event in events]
    found = torch.autograd.grad((flat @ weights).sum(), outs, allow_unused=True, retain_graph=True)
    for event, gradient in zip(events, found, strict=True):
        event.reached = gradient is not None and bool(gradient.any())
    return [event for event in events if event.reached]


def first_of_tokens(finder: Finder, events: Sequence[Event], kind: str) -> Event:
    """The first attention in which tokens look at tokens.

    Raises:
        UnsupportedModelError: there is none; or not as many images come to it as are given.
    """
    if not finder.events:
        told = f"; there is {finder.other[0]}" if finder.other else ""
        raise UnsupportedModelError(
            f"in {kind} no attention was found: no softmax over keys that is then multiplied with values{told}"
        )
    first = next((event for event in events if event.queries == event.keys), None)
    if first is None:
        raise UnsupportedModelError(
            f"in {kind} no attention was found in which tokens look at tokens and that the score depends on"
        )
    if len(first.values) != finder.batch:
        raise UnsupportedModelError(
            f"of {finder.batch} images {len(first.values)} reach the attention of {kind}, as where a model makes "
            f"several views, crops or windows of each in one batch: which of them a map belongs to is not known. "
            f"Explain the module that takes one view, on each of them, or captum_vit.OneView(model, 0, vit=...)"
        )
    return first


def attentions(finder: Finder, events: Sequence[Event], patches: int, kind: str) -> Attentions:
    """Which of the attentions that were seen are over the tokens of the image.

    Args:
        events: those that the score depends on.
        patches: how many patches the image has.
    Raises:
        UnsupportedModelError: what was seen is no attention to single patches all the way.
    """
    most = max(
        event.keys for event in events if event.queries == event.keys or event.keys - patches in range(MOST_PREFIX)
    )
    layers: dict[str, list[str | None]] = {}
    cross, bare, alone = [], [], []
    counts = Counter(event.module for event in finder.events)
    trunk = 0
    for event in finder.events:
        names = layers.setdefault(event.module, [])
        name = event.module or "attention"
        name = f"{name}#{len(names)}" if counts[event.module] > 1 or not event.module else name
        if not event.reached or (event.queries != event.keys and event.keys - patches not in range(MOST_PREFIX)):
            names.append(None)
            continue
        _check(event, name, kind, patches, most)
        names.append(name)
        if event.queries == event.keys:
            trunk = max(trunk, event.keys)
            bare += [name] if event.keys < most else []
        elif event.keys <= trunk:
            cross.append(name)
        else:
            alone.append(name)
    _check_again(finder.events, layers, kind)
    _check_heads([event for event in finder.events if event.reached], kind)
    return Attentions(
        {k: v for k, v in layers.items() if any(v)}, tuple(cross), tuple(bare), tuple(alone), most, patches
    )


def _check(event: Event, name: str, kind: str, patches: int, most: int) -> None:
    if event.mixed:
        raise UnsupportedModelError(
            f"{kind} lets its heads talk to each other between softmax and values ({name}), so that no head has an "
            f"attention of its own"
        )
    if event.sources > 1:
        raise UnsupportedModelError(
            f"in {kind} the attention of {name} is made of {event.sources} softmaxes: which of them a map should show "
            f"is not known"
        )
    if event.queries == event.keys and event.keys not in (patches, most):
        raise UnsupportedModelError(
            f"in {kind} the attention of {name} is over {event.keys} tokens, and others are over {most}, of which "
            f"{patches} are patches: tokens are dropped, merged, added or put into windows on the way, and which patch "
            f"each stands for is not known"
        )


def _check_again(events: Sequence[Event], layers: Mapping[str, Sequence[str | None]], kind: str) -> None:
    """A module that runs again must go on from where it ended: else it looks at another view."""
    for module, names in layers.items():
        own = [event for event in events if event.module == module and event.reached]
        if sum(name is not None for name in names) < 2:
            continue
        for one, other in itertools.pairwise(own):
            (gradient,) = torch.autograd.grad(other.values.sum(), one.out, allow_unused=True, retain_graph=True)
            if gradient is None:
                raise UnsupportedModelError(
                    f"in {kind} {module or 'the model'} ran {len(own)} times in one forward, and not on what it gave "
                    f"before, as where several views of an image go through one after another: which of them a map "
                    f"belongs to is not known. Explain the module that takes one view, on each of them, "
                    f"or captum_vit.OneView(model, 0, vit=...)"
                )


def _check_heads(events: Sequence[Event], kind: str) -> None:
    """Attentions side by side, of one head each, are heads of one layer, and not layers."""
    for one, other in itertools.pairwise(events):
        if one.values.shape[1] > 1 or other.values.shape[1] > 1 or one.keys != other.keys:
            continue
        (gradient,) = torch.autograd.grad(other.values.sum(), one.out, allow_unused=True, retain_graph=True)
        if gradient is None:
            raise UnsupportedModelError(
                f"in {kind} heads are modules of their own, as {one.module} and {other.module}: which of them "
                f"belong to one layer is not known"
            )
