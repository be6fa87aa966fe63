"""Which tokens of each row of a batch are kept where the others are left out."""

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch import Tensor

from ..access import TokenLayout
from ..errors import UnsupportedModelError


@dataclass(frozen=True, eq=False)
class Chosen:
    """As many patches of each row, R rows of k.

    layout: where all tokens lie.
    patches: the numbers of those that are kept, (R, k), in reading order counted; they follow one another as listed.
    """

    layout: TokenLayout
    patches: Tensor

    @classmethod
    def of(cls, layout: TokenLayout, kept: Tensor) -> "Chosen":
        """Out of bool (R, patches) with k of each row: they follow one another as in the model."""
        own = cls(layout, torch.empty(0)).own
        in_model = kept[:, own.argsort()].nonzero()[:, 1].view(len(kept), -1)
        return cls(layout, own.argsort()[in_model])

    @cached_property
    def own(self) -> Tensor:
        """The place of each patch among all patches of the model, in reading order, (patches,)."""
        return self._order[self.layout.prefix :].argsort().argsort()

    @property
    def ranks(self) -> Tensor:
        """The places of those that are kept among all patches of the model, (R, k)."""
        return self.own[self.patches]

    @property
    def tokens(self) -> Tensor:
        """The places of all that is kept among all tokens of the model, prefix tokens too, (R, prefix + k).

        These stand behind as many of the model's tokens as they did, less those that are left out.
        """
        places = self._order[self.layout.prefix :][self.patches]
        prefix = self._order[: self.layout.prefix].expand(len(places), -1)
        tokens = torch.cat([prefix, places], 1).sort(1).values
        tokens[torch.isin(tokens, self._order[self.layout.prefix :])] = places.flatten()
        return tokens

    @property
    def _order(self) -> Tensor:
        order = self.layout.order
        return torch.arange(self.layout.tokens) if order is None else order.cpu()

    def of_stream(self, stream: Tensor) -> Tensor:
        """What is kept of a stream (R, N, D) of all tokens, or of all patches where the prefix tokens join later.

        Raises:
            UnsupportedModelError: it is neither.
        """
        patches = prod(self.layout.grid)
        index = {patches: self.ranks, self.layout.tokens: self.tokens}.get(stream.shape[1])
        if stream.dim() != 3 or len(stream) != len(self.patches) or index is None:
            raise UnsupportedModelError(
                f"expected {len(self.patches)} times {self.layout.tokens} tokens at a block, got {tuple(stream.shape)}"
            )
        return stream.gather(1, index.to(stream.device)[..., None].expand(-1, -1, stream.shape[2]))

    def of_rows(self, x: Any) -> Any:
        """Of tensors with a row for each patch, (patches, d) or (heads, patches, d): (R, heads or 1, k, d).

        Raises:
            UnsupportedModelError: they are of another shape.
        """
        if isinstance(x, (tuple, list)):
            return type(x)(map(self.of_rows, x))
        patches = prod(self.layout.grid)
        if x.dim() < 2 or x.shape[-2] != patches or x.shape[:-3].numel() != 1:
            raise UnsupportedModelError(
                f"expected a row for each of {patches} patches beside the tokens of a block, got {tuple(x.shape)}"
            )
        return x.reshape(-1, *x.shape[-2:])[:, self.ranks.to(x.device)].transpose(0, 1)
