"""Attention between an image's patches and the scores that an adapter of somebody's own does not name."""

from dataclasses import replace
from math import prod

import torch
from torch import nn

from ..access import Adapter
from ..errors import UnsupportedModelError
from .finding import Event, Finder, watch
from .inputs import Inputs
from .place import Place
from .which import reached


def check_named(adapter: Adapter, inner: nn.Module, inputs: Inputs, place: Place) -> None:
    """Every attention in which all tokens look at all tokens, and on which the scores depend, must be a named layer.

    Args:
        adapter, inputs: the model and what it is called with.
        inner: the part of it that the adapter was written for.
        place: where the tokens lie on the images.
    Raises:
        UnsupportedModelError: there is another, wherever it stands.
    """
    first = inputs.first()
    layout = adapter.token_layout(place.size or adapter.size_of(first.images), inputs.kwargs)
    prefixes = {0, layout.prefix, *layout.prefixes.values()}
    counts = {prod(grid) + more for grid in (layout.grid, *layout.grids.values()) for more in prefixes}
    names = {module: name for name, module in adapter.model.named_modules()}
    named = [names[module] for module in adapter.calls()]
    with torch.enable_grad():
        images = first.images.detach().clone().requires_grad_()
        given = replace(first, images=images.clone())
        finder = Finder(1)
        output = watch(adapter.model, finder, lambda: given.run(adapter))
        found = [
            event
            for event in reached(finder.events, given.scores(adapter, output))
            if event.queries == event.keys and event.keys in counts and _within(event.module, [names[inner]])
        ]
        missing = [event for event in found if not _within(event.module, named) and _of_image(event, images)]
    if missing:
        where = ", ".join(dict.fromkeys(event.module or "its own forward" for event in missing[:3]))
        raise UnsupportedModelError(
            f"{type(adapter.model).__name__} computes {len(found)} attentions of all its tokens, and {len(missing)} of "
            f"them in none of the layers that its adapter names: {where}. A map would be of fewer layers than ran: a "
            f"layer is missing in its `attention_layers`"
        )


def _within(module: str, others: list[str]) -> bool:
    """Whether a module is one of the others, or stands in one."""
    return any(not other or module == other or module.startswith(f"{other}.") for other in others)


def _of_image(event: Event, images: torch.Tensor) -> bool:
    if not event.values.requires_grad:
        return False
    (gradient,) = torch.autograd.grad(event.values.sum(), images, allow_unused=True, retain_graph=True)
    return gradient is not None and bool(gradient.any())
