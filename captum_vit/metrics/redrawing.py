"""The weights of a model drawn anew, stage by stage."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from ..access.registry import adapt
from ..errors import UnsupportedModelError


def stages_of(model: nn.Module) -> dict[str, list[nn.Module]]:
    """Modules with parameters of their own, by stage: "head", then the blocks from the last to the first.

    A block is named by the shortest beginning of an attention layer's name that no other layer has, and holds all
    modules below that name. A module outside the blocks belongs to the block registered before it; after the last block
    it belongs to the head, and before the first block to no stage.

    Raises:
        UnsupportedModelError: no adapter knows the blocks of the model.
    """
    try:
        adapter = adapt(model)
    except UnsupportedModelError as error:
        raise UnsupportedModelError(
            f"weights are drawn anew by blocks of attention, which are not known here: {error}"
        ) from error
    names = {id(module): name for name, module in model.named_modules()}
    layers = [names[id(layer)] for layer in adapter.attention_layers().values()]
    blocks = [_block(layer, layers) for layer in layers]
    stages: dict[str, list[nn.Module]] = {name: [] for name in ("head", *reversed(blocks))}
    stage = None
    for name, module in model.named_modules():
        own = next((block for block in blocks if f"{name}.".startswith(f"{block}.")), None)
        if own is not None:
            stage = own
        elif stage == blocks[-1]:
            stage = "head"
        if stage is not None and next(module.parameters(recurse=False), None) is not None:
            stages[stage].append(module)
    return {name: parts for name, parts in stages.items() if parts}


def _block(layer: str, layers: Sequence[str]) -> str:
    """The shortest beginning of a layer's name, in whole words, that no other layer has."""
    words = layer.split(".")
    for count in range(1, len(words)):
        start = ".".join(words[:count])
        if not any(other.startswith(f"{start}.") for other in layers if other != layer):
            return start
    return layer


def draw_anew(module: nn.Module) -> None:
    """Draw a module's own parameters as when it was made, or else from a normal of their own mean and deviation."""
    reset: Callable[[], None] | None = getattr(module, "reset_parameters", None)
    if reset is not None:
        reset()
        return
    with torch.no_grad():
        for parameter in module.parameters(recurse=False):
            mean, deviation = parameter.mean(), parameter.std(unbiased=False)
            parameter.copy_(torch.randn_like(parameter) * deviation + mean)
