"""What is kept of images of which there are too many to hold their tokens: on the disk, one file of each."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .components import check_finite
from .patches import PatchTokens
from .similarity import cosine

BEST = 3  # classes of each patch


@dataclass(frozen=True, eq=False)
class Kept:
    """Of one image the tokens after one block, and what was asked of all blocks.

    features: (*grid, D).
    norms: by block (*grid), float64.
    numbers, shares: by block (*grid, 3), the best classes of each patch and their probabilities, the best first.
    similarity: (*grid), the cosine with a chosen token; None where none was chosen.
    """

    features: Tensor
    norms: Mapping[str, Tensor]
    numbers: Mapping[str, Tensor] = field(default_factory=dict)
    shares: Mapping[str, Tensor] = field(default_factory=dict)
    similarity: Tensor | None = None

    @classmethod
    def of(cls, photo: PatchTokens, block: str, token: Tensor | None = None) -> "Kept":
        """Of a photograph whose tokens are in memory.

        Args:
            photo: with the tokens of all blocks.
            block: after which the tokens themselves are kept.
            token: (D,), with which they are compared.
        Raises:
            InputError: tokens with NaN or infinite values, or one of zeros where they are compared.
        """
        for each in photo.features.values():
            check_finite(each)
        norms = {name: each.double().norm(dim=-1) for name, each in photo.features.items()}
        best = {name: each.topk(min(BEST, each.shape[-1]), dim=-1) for name, each in photo.called.items()}
        numbers, shares = ({name: found[i] for name, found in best.items()} for i in (1, 0))
        features = photo.features[block]
        return cls(features, norms, numbers, shares, None if token is None else cosine(token, features))

    def write(self, path: Path) -> None:
        """Into a new file, `.npz`."""
        found: dict[str, Any] = {"features": self.features, **self.arrays}
        np.savez(path, **found)

    @classmethod
    def read(cls, path: Path) -> "Kept":
        """What `write` wrote."""
        with np.load(path) as file:
            found = {name: torch.from_numpy(file[name]) for name in file.files}
        norms, numbers, shares = (
            {name.partition(".")[2]: each for name, each in found.items() if name.startswith(f"{kind}.")}
            for kind in ("norms", "classes", "shares")
        )
        return cls(found["features"], norms, numbers, shares, found.get("similarity"))

    @property
    def arrays(self) -> dict[str, Tensor]:
        """All but the tokens by name: `norms.BLOCK`, `classes.BLOCK`, `shares.BLOCK`, and `similarity`."""
        named = {"norms": self.norms, "classes": self.numbers, "shares": self.shares}
        found = {f"{kind}.{block}": each for kind, blocks in named.items() for block, each in blocks.items()}
        return found if self.similarity is None else {**found, "similarity": self.similarity}


def features_in(path: Path) -> Tensor:
    """The tokens alone of what `Kept.write` wrote."""
    with np.load(path) as file:
        return torch.from_numpy(file["features"])
