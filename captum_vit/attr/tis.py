"""Transformer input sampling: the mean probability with the patches that a cluster of channels keeps."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from .. import ops
from ..access import Readout
from ..capture import TOKENS, Run
from ..checking import check_number, check_whole
from ..errors import OptionError, UnsupportedModelError
from ..targets import Target
from .clusters import centres
from .patches import patch_tokens
from .perturbing import Forwards, Perturbing, Score, answer, average, drawing


class TIS(Perturbing):
    """Transformer input sampling: how probable the target is on average while a patch is among those that are kept.

    >>> TIS(model).attribute(images, target=281, masks=8).shape
    torch.Size([2, 1, 14, 14])

    sum_m p(tokens of m) m / sum_m m, for masks m of patches: the channels of the tokens after all chosen blocks, one
    vector over the patches each, are put into clusters by k-means, and each mask keeps the patches at which the centre
    of a cluster is highest. The others do not go into the blocks at all: nothing stands in their place. A patch that no
    mask keeps has the mean over all masks, where the published program has none (0 / 0). It takes a forward of part of
    the tokens for every mask, and depends on the seed of the clusters.

    Options of `attribute`:
        masks: how many, by default 1024; where there are fewer channels, as many as these.
        keep: share of the patches that each keeps, by default 0.5.
        score: "probability" (default), the softmax over the classes, or the sigmoid where the model says that each is
            scored for itself; "sigmoid"; or "logit", the target's own number, with which maps may be below 0.
        seed: of the clusters, by default 0.
        batch: how many choices go through the model at once, by default 64.
        progress: whether a bar is drawn on stderr, by default False.

    Source: Englebert et al. 2023, "Explaining through Transformer Input Sampling", ICCV workshops.
    """

    name, title = "tis", "TIS"
    needs = frozenset({TOKENS})
    paper = "doi:10.1109/ICCVW60793.2023.00088"
    costly = "1024 forwards an image, of half the tokens"

    def layers_read(self, readout: Readout) -> list[str]:
        """All that were chosen, whether or not the score is read there."""
        return self.layer_names

    def flow_layers(self, readout: Readout) -> list[str]:
        """The input stands where others have layers."""
        return ["input"]

    def _maps(
        self,
        run: Run,
        target: Target,
        *,
        flow: bool,
        masks: int = 1024,
        keep: float = 0.5,
        score: Score = "probability",
        seed: int = 0,
        batch: int = 64,
        progress: bool = False,
    ) -> Tensor:
        check_whole("masks", masks)
        check_number("keep", keep, 0, 1)
        drawing(seed)  # raises
        patches = prod(run.layout.grid)
        if (count := int(keep * patches)) < 1:
            raise OptionError(f"keep={keep} leaves none of {patches} patches: at least one has to stay")
        kept = torch.stack([self._masks(each, masks, count, seed) for each in self._channels(run)])
        total = kept.shape[:2].numel()
        with Forwards(run, target, score, batch, total=total, progress=progress, title=self.title) as forwards:
            numbers = forwards.of_tokens(kept)
        weights = kept.to(numbers)
        return answer(torch.stack([average(*each) for each in zip(numbers, weights, strict=True)], 1), target)

    def _channels(self, run: Run) -> Sequence[Tensor]:
        """Of each image all channels of the chosen blocks, a vector over the patches each, (channels, patches)."""
        layout, streams = run.layout, run.tokens()
        if layout.grids:
            raise UnsupportedModelError("patches are pooled on the way: channels of several blocks have no common grid")
        found = [patch_tokens(streams[name], layout, name) for name in self.layer_names if name in streams]
        held = [ops.widen(tokens.flatten(1, -2)) for tokens in found if tokens is not None]
        if not held:
            raise UnsupportedModelError(f"after {', '.join(self.layer_names)} no patch is left: choose earlier layers")
        return list(torch.cat(held, 2).mT)

    def _masks(self, channels: Tensor, masks: int, count: int, seed: int) -> Tensor:
        """The patches at which the centre of each cluster is highest, bool (masks, patches)."""
        highest = centres(channels, min(masks, len(channels)), seed).topk(count, 1).indices
        return torch.zeros(len(highest), channels.shape[1], dtype=torch.bool).scatter_(1, highest, True)
