"""Score-CAM: channels weighed by what the model says of the image where they are high."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..access import Adapter, TokenLayout
from ..capture import Run
from ..facts import Facts
from ..targets import Target
from .patches import enlarged
from .perturbing import AtOnePlace, Forwards, Score, answer, only_images, shaped_images
from .token_cam import patches, placed

TINY = 1e-8


class ScoreCAM(AtOnePlace):
    """Score-CAM on tokens: channels weighed by the score of the image where each of them is high.

    >>> small = load_model("sample").model  # with 96 channels
    >>> ScoreCAM(small).attribute(torch.randn(2, 3, 64, 64), target=3).shape
    torch.Size([2, 1, 8, 8])

    relu(sum_k w_k a_pk) with w = softmax over the channels k of y(x * u_k), for patches p of what the last attention is
    given, see `TokenCAM` for other layers, and u_k the channel enlarged to the image, between 0 and 1. It takes one
    forward for every channel, and draws nothing. The weights are no evidence by themselves: of a target whose score is
    always the same, all channels weigh alike.

    Options of `attribute`:
        score: "logit" (default), the target's own number; "probability", the softmax over the classes, or the sigmoid
            where the model says that each is scored for itself; or "sigmoid".
        batch: how many masked images go through the model at once, by default 64.
        progress: whether a bar is drawn on stderr, by default False.

    Source: Wang et al. 2020, "Score-CAM: Score-Weighted Visual Explanations for Convolutional Neural Networks"
        (arXiv:1910.01279), with the scores and weights of the program grad-cam.
    """

    name, title = "scorecam", "Score-CAM"
    paper = "arXiv:1910.01279"
    costly = "a forward for each channel of an image, as 768"

    @classmethod
    def facts(cls, **options: Any) -> Facts:
        """Never below 0."""
        return replace(super().facts(**options), signed=False)

    @classmethod
    def unsuited(cls, adapter: Adapter) -> str | None:
        """Of videos and volumes."""
        return only_images(adapter)

    def _maps(
        self,
        run: Run,
        target: Target,
        *,
        flow: bool,
        score: Score = "logit",
        batch: int = 64,
        progress: bool = False,
    ) -> Tensor:
        images = shaped_images(run)
        (name,) = self.layers_given(run.readout, flow)
        given = run.given()[name]
        channels, _ = patches(given, given.values)
        total, maps = len(images) * channels.shape[2], []
        with Forwards(run, target, score, batch, total=total, progress=progress, title=self.title) as forwards:
            for i, (image, own) in enumerate(zip(images, channels, strict=True)):
                grids = own.mT.unflatten(1, given.layout.grid)
                numbers = torch.cat(
                    [
                        forwards.of_images(image * _shown(grids[part], run.layout, images)[:, None].to(image), i)
                        for part in forwards.parts(len(grids))
                    ]
                )
                with ops.full_precision(images.device):
                    maps.append((own @ numbers.to(own).softmax(0)).mT.relu())
        return answer(placed(given, torch.stack(maps, 1)), target)


def _shown(channels: Tensor, layout: TokenLayout, images: Tensor) -> Tensor:
    """Channels (D, rows, cols) enlarged to the images with their outermost cells at the edges, between 0 and 1."""
    large = enlarged(channels, layout, images.shape[2:], corners=True)
    lowest, highest = (extreme(large.flatten(1), 1)[:, None, None] for extreme in (torch.amin, torch.amax))
    return (large - lowest) / (highest - lowest + TINY)
