"""A method of somebody's own package."""

import torch
from torch import Tensor

from captum_vit.attr import ViTAttribution
from captum_vit.capture import ATTENTION, GRADIENTS, Run
from captum_vit.targets import Target


class ValueGradient(ViTAttribution):
    """Size of the score's gradient at the values of each patch, in each layer by itself.

    >>> ValueGradient(model).attribute(images, target=281, power=2.0).shape
    torch.Size([2, 1, 14, 14])

    |dy/dv_lj|^power over heads and channels; `attribute` gives the last layer.

    Options of `attribute`:
        power: above 1 few patches stand out, by default 1.

    Source: an example.
    """

    name, title = "value_gradient", "value gradient"
    class_specific, signed, unit = True, False, "evidence"
    accumulates = False
    needs = frozenset({ATTENTION, GRADIENTS})

    def _maps(self, run: Run, target: Target, *, flow: bool, power: float = 1.0) -> Tensor:
        gradients = run.gradients(target)  # layer -> dy/dO, (B, H, M, d)
        maps = []
        for name, call in run.calls(self.layers_read(run.readout), {ATTENTION}).items():
            values = call.pull(gradients[name])  # dy/dv = A^T dy/dO, (B, H, N, d)
            maps.append(call.layout.to_map(values.norm(dim=(1, 3)) ** power))  # (B, patches)
        return torch.stack(maps if flow else maps[-1:], 1)  # (B, layers or 1, patches)
