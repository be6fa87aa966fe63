"""The attention itself, where an explanation keeps it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, eq=False)
class AttentionRecord:
    """The attention itself, on the grid of the maps.

    heads: layer -> (heads, rows, cols), what the score's tokens look at.
    patches: layer -> (rows*cols, rows*cols), what each patch (row) looks at, the mean over heads; of the layers in
        which patches look at patches.
    """

    heads: Mapping[str, Tensor] = field(repr=False)
    patches: Mapping[str, Tensor] = field(repr=False)
