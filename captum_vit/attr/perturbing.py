"""What methods share that ask the model about changed images."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from copy import copy
from dataclasses import replace
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm  # type: ignore[import-untyped]

from .. import ops
from ..access import Adapter, Layer, Readout
from ..capture import GIVEN, Run
from ..checking import check_flag, check_whole
from ..errors import LayerNotFoundError, OptionError, UnsupportedModelError, brief
from ..facts import Facts
from ..targets import Several, Target
from .base import ViTAttribution
from .patches import mean_of_patches, patch_of_pixels
from .pixels import Probability
from .token_cam import AtTokens

Score = Literal["probability", "sigmoid", "logit"]
SCORES = ("probability", "sigmoid", "logit")


class Perturbing(ViTAttribution):
    """A method that changes the image, or what of it goes into the blocks, and asks what becomes of the score.

    It runs the model once for every change, `batch` of them at once, and has one map: a flow is that map alone. All
    targets share the forwards. What is drawn comes from a generator of its own that begins at `seed`, the same for each
    image of a batch: the same seed gives the same map, and nobody's random numbers are touched.
    """

    class_specific, signed, unit, accumulates = True, False, "evidence", False
    costly = "hundreds of forwards an image"
    no_graph = "they are made of forwards of changed images, and the graphs of all would have to be held at once"

    @classmethod
    def facts(cls, **options: Any) -> Facts:
        """Of two signs where scores are not probabilities."""
        return replace(super().facts(), signed=cls.signed or options.get("score") == "logit")

    def layers_kept(self, readout: Readout, flow: bool, **options: Any) -> list[str]:
        """None: of the attention itself nothing is read."""
        return []

    def _class_maps(self, run: Run, targets: Sequence[Target], *, flow: bool, **options: Any) -> Any:
        yield self._maps(run, Several(tuple(targets)), flow=flow, **options)


class OfInput(Perturbing):
    """Of the image alone, whatever the layers do."""

    def __init__(self, model: nn.Module, layer: Layer | Sequence[Layer] | None = None, **options: Any) -> None:
        if layer is not None:
            raise LayerNotFoundError(f"{self.get_name()} changes the input and reads no layer: leave layer out")
        super().__init__(model, **options)

    def flow_layers(self, readout: Readout) -> list[str]:
        """The input stands where others have layers."""
        return ["input"]


class AtOnePlace(Perturbing, AtTokens):
    """Of the channels that the tokens have at one place: see `TokenCAM` for which, and for others."""

    needs = frozenset({GIVEN})

    def layers_given(self, readout: Readout, flow: bool) -> list[str]:
        """The last of the chosen ones."""
        return self.layers_read(readout)[-1:]

    def flow_layers(self, readout: Readout) -> list[str]:
        """The same."""
        return self.layers_read(readout)[-1:]


class OfPixels(Perturbing):
    """Of images whose pixels change: the map has a value for each of them, and on the grid the mean over each patch."""

    at_pixels = False

    @classmethod
    def unsuited(cls, adapter: Adapter) -> str | None:
        """Of videos and volumes."""
        return only_images(adapter)

    def reader(self, output_shape: str) -> Any:
        """One that gives the values of the pixels, where they are asked for."""
        reader = copy(self)
        reader.at_pixels = output_shape != "grid"
        return reader

    def shaped(self, maps: Tensor, run: Run, output_shape: str) -> Tensor:
        """Maps over the patches, or over the pixels, (N, 1, P), in one of the output shapes."""
        if not self.at_pixels:
            return super().shaped(maps, run, output_shape)
        spatial = maps.unflatten(-1, run.inputs.images.shape[2:])
        if output_shape == "spatial":
            return spatial
        channels = run.inputs.images.shape[1]
        return (spatial / channels).expand(-1, channels, -1, -1).contiguous()

    def _placed(self, pixels: Tensor, run: Run, target: Target) -> Tensor:
        """What `_maps` gives, of values (K, N, H, W); pixels that no patch holds were not seen, and have 0."""
        patches = patch_of_pixels(run.layout, pixels.shape[2:])
        if self.at_pixels:
            return answer((pixels * (patches >= 0).to(pixels.device)).flatten(2), target)
        return answer(mean_of_patches(pixels, patches, prod(run.layout.grid)), target)


class Forwards(AbstractContextManager["Forwards"]):
    """The forwards of one method's maps, with a bar of those that are done.

    Args:
        run: what is asked.
        target: one, or `Several`.
        score: what is made of the scores first.
        batch: how many changed images go through the model at once.
        total: how many there are in all, as far as that is known.
        progress: whether a bar is drawn, on stderr.
        title: what stands before it.
    """

    def __init__(
        self, run: Run, target: Target, score: str, batch: int, *, total: int, progress: bool, title: str
    ) -> None:
        check_whole("batch", batch)
        check_flag("progress", progress)
        targets = target.targets if isinstance(target, Several) else [target]
        self.run, self.batch = run, batch
        self.target = Several([_scored(one, score, run.adapter) for one in targets])
        self.bar = tqdm(total=total, unit="image", desc=title, disable=not progress)

    def __exit__(self, *exception: Any) -> None:
        self.bar.close()

    def parts(self, count: int) -> list[slice]:
        """So many changes, as many at once as go through the model."""
        return [slice(i, min(i + self.batch, count)) for i in range(0, count, self.batch)]

    def of_images(self, images: Tensor, place: int) -> Tensor:
        """The targets' numbers of changed images in the place of one, (R, K)."""
        found = self.run.on_images(images, self.target.of_image(place), place=place)
        self.bar.update(len(images))
        return found

    def of_tokens(self, kept: Tensor) -> Tensor:
        """The targets' numbers with only some of the patches of each image, (N, S, K), of choices (N, S, patches)."""
        parts = []
        for part in self.parts(kept.shape[1]):
            parts.append(self.run.on_tokens(kept[:, part], self.target, batch=self.batch))
            self.bar.update(parts[-1].shape[:2].numel())
        return torch.cat(parts, 1).to(self.run.inputs.images.device)


def answer(maps: Tensor, target: Target) -> Tensor:
    """Maps (K, N, P) as `_maps` gives them: (N, 1, P) of one target, (K, N, 1, P) of several."""
    return maps.unsqueeze(2) if isinstance(target, Several) else maps[0].unsqueeze(1)


def shaped_images(run: Run) -> Tensor:
    """The images of a run, (N, C, H, W).

    Raises:
        UnsupportedModelError: their axes stand otherwise, so that a mask of pixels does not lie on them.
    """
    images = run.inputs.images
    if tuple(run.adapter.size_of(images)) != tuple(images.shape[2:]):
        raise UnsupportedModelError(
            f"{type(run.adapter.model).__name__} takes images with their axes in another order than (N, C, H, W): "
            f"pixels cannot be covered there. Methods that leave out tokens apply, as tis"
        )
    return images


def only_images(adapter: Adapter) -> str | None:
    """Why a method that changes pixels does not apply to a model; None if it does."""
    return None if adapter.batch_dims == 4 else "it covers pixels of images, and the model takes videos or volumes"


def between_0_and_1(masks: Tensor) -> Tensor:
    """Each of (K, ...) less its lowest value, divided by what is then its highest; a constant one is left out."""
    masks = masks - masks.flatten(1).amin(1).view(-1, *[1] * (masks.dim() - 1))
    highest = masks.flatten(1).amax(1)
    return masks[highest > 0] / highest[highest > 0].view(-1, *[1] * (masks.dim() - 1))


def average(numbers: Tensor, masks: Tensor) -> Tensor:
    """The mean of numbers (S, K) over the masks that keep each place, (K, P), of masks (S, P) from 0 to 1.

    Of a place that none keeps nothing is known: it has the mean over all masks, so that it neither stands out nor
    divides by 0, and maps stay linear in the numbers.
    """
    total = masks.sum(0)
    with ops.full_precision(masks.device):
        found = numbers.to(masks).mT @ masks / total.where(total > 0, 1)
    return found.where(total > 0, numbers.mean(0)[:, None] if len(numbers) else 0)


def working(images: Tensor) -> torch.dtype:
    """What masks and sums of images are computed in."""
    return ops.widen(images[:0]).dtype


def drawing(seed: int) -> torch.Generator:
    """Random numbers of its own, on the processor, so that they are the same on all devices."""
    check_whole("seed", seed, least=0)
    return torch.Generator().manual_seed(seed)


def _scored(target: Target, score: str, adapter: Adapter) -> Target:
    """The number that is asked of every changed image."""
    if not isinstance(score, str) or score not in SCORES:
        raise OptionError(f"score must be one of {', '.join(SCORES)}, got {brief(score)}")
    if score == "logit":
        return target
    return Probability(target, sigmoid=score == "sigmoid" or each_for_itself(adapter))


def each_for_itself(adapter: Adapter) -> bool:
    """Whether a model says of itself that each of its classes is scored for itself."""
    problem = getattr(getattr(adapter.model, "config", None), "problem_type", None)
    return problem == "multi_label_classification"
