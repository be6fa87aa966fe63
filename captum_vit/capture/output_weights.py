"""The weight of each attention layer's output projection, as it was seen at work.

A library may hold the projection inside the attention's module or in another, under any name. What tells it is its
input: the attention's output with the heads side by side.
"""

from torch import Tensor

from ..errors import UnsupportedModelError


class OutputWeights:
    """Watches the linear layers that are called between one attention and the next."""

    def __init__(self) -> None:
        self.found: dict[str, list[Tensor]] = {}
        self._merged: Tensor | None = None
        self._name = ""

    def attended(self, name: str, out: Tensor) -> None:
        """An attention has its output (B, H, M, d), in the model's own order."""
        self._name, self._merged = name, out.detach().transpose(1, 2).flatten(2)
        self.found[name] = []

    def linear(self, input: Tensor, weight: Tensor) -> None:
        """A linear layer is called."""
        if self._merged is not None and _equal(input.detach(), self._merged):
            self.found[self._name].append(weight.detach())

    def of(self, name: str) -> Tensor:
        """The weight, (D, H * d).

        Raises:
            UnsupportedModelError: no linear layer takes the attention's output as it is, or several do.
        """
        weights = self.found.get(name, [])
        if len(weights) == 1:
            return weights[0]
        if not weights:
            raise UnsupportedModelError(
                f"no linear layer takes the output of the attention in layer {name!r} as it is: it has no output "
                f"projection, computes it in another way, or changes the output before, as by a norm or a gate. What "
                f"the projection makes of a value is not known"
            )
        raise UnsupportedModelError(
            f"{len(weights)} linear layers take the output of the attention in layer {name!r}, as where an adapter "
            f"(LoRA) stands beside its projection: merge it into the model, as by merge_and_unload()"
        )


def _equal(input: Tensor, merged: Tensor) -> bool:
    """Whether a linear layer is given the merged output, whatever stands first."""
    if input.dim() != 3 or input.shape[-1] != merged.shape[-1] or input.device != merged.device:
        return False
    ways = [input, input.transpose(0, 1)]
    return any(way.shape == merged.shape and bool((way == merged).all()) for way in ways)
