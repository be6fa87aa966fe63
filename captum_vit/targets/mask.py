"""The score of some pixels of a dense output, as of segmentation, depth or pose."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..classes import class_index
from ..errors import OptionError, TargetError, brief
from ..marks import Mark, Point
from .base import Output, Sight, Target
from .given_pixels import check_classes_first, checked, shown
from .masks_of_queries import semantic
from .query import Query

PEAK = "peak"


@dataclass(frozen=True, eq=False)
class Mask(Target):
    """The mean score of a class over some pixels of a dense output, (N, C, h, w), or of one without classes, (N, h, w).

    >>> Mask("person")  # where the model itself says that there is one
    Mask('person')

    category: the class by number or name; None of an output without classes, as depth. A `Query` stands for the mask
        that it gives, of a model that gives masks of queries, as EoMT: the mean of its logits. A class of such a model
        is scored as its semantic map has it: by all queries, each with its class's probability and its mask's.
    pixels: which: an array (H, W) of true and false, or of 0 and 1. None stands for those for which the class has the
        highest score of all (of a query, and of an output of a single class: a score above 0; without classes: all
        pixels). "peak" is the one pixel at which the class's own score is highest, as of a keypoint's heatmap. What the
        model finds so is found once, in the images as they are, and stays the same for changed ones.
    on: what the array lies on. "image": the photograph that `explain` is given, or the images that a method is given,
        of their height and width; each pixel of the output counts by the share of it that the mask covers. "output":
        the output's own grid, (h, w).
    Raises:
        OptionError: `pixels` is no such array, or `on` another word.
        TargetError: (in `score`) the model gives no such output, the array has another size, or no pixel is left.
    """

    category: int | str | Query | None = None
    pixels: Any = None
    on: str = "image"
    settles = True
    own_tokens = True

    def __post_init__(self) -> None:
        if isinstance(self.category, bool) or not isinstance(self.category, (int, str, Query, type(None))):
            raise OptionError(f"a mask is of a class by number or name, a query, or None, got {brief(self.category)}")
        if self.on not in ("image", "output"):
            raise OptionError(f"pixels lie on the 'image' or on the 'output', got on={brief(self.on)}")
        if not (self.pixels is None or (isinstance(self.pixels, str) and self.pixels == PEAK)):
            object.__setattr__(self, "pixels", checked(self.pixels))

    def __repr__(self) -> str:
        given = isinstance(self.pixels, Tensor)
        pixels = f"{tuple(self.pixels.shape)} pixels on the {self.on}" if given else self.pixels and repr(self.pixels)
        return f"Mask({self.category!r}{f', {pixels}' if pixels else ''})"

    @property
    def class_axis(self) -> int | None:  # type: ignore[override]
        """The second, of a class's score."""
        return 1 if isinstance(self.category, (int, str)) else None

    @property
    def reads_scores(self) -> bool:  # type: ignore[override]
        """Whether it is no query's: masks of queries are beside the scores."""
        return not isinstance(self.category, Query)

    @property
    def unit(self) -> str:  # type: ignore[override]
        """The mean of scores, or that at the peak."""
        what = "value" if self.category is None else "logit" if isinstance(self.category, Query) else "score"
        return f"{what} at the peak" if isinstance(self.pixels, str) else f"mean {what}"

    @property
    def by_name(self) -> bool:
        """Whether the class is named."""
        return self.category.by_name if isinstance(self.category, Query) else isinstance(self.category, str)

    def named(self, names: Mapping[int, str], classes: int, model: str) -> "Target":
        """With the number of the class."""
        if isinstance(self.category, Query):
            return replace(self, category=self.category.named(names, classes, model))
        if not isinstance(self.category, str):
            return self
        return replace(self, category=class_index(self.category, names, classes, model))

    def score(self, output: Output) -> Tensor:
        """The mean over the pixels, (N,)."""
        return self.settled(output, None).score(output)

    def among(self, output: Output) -> Tensor:
        """The model's scores; of a semantic map made of queries their logarithm, so that a softmax gives shares."""
        made = semantic(output.raw)
        same = made is not None and made.shape == output.scores.shape and torch.equal(made, output.scores)
        return output.scores.log() if same else output.scores

    def settled(self, output: Output, sight: Sight | None) -> "Region":
        """The mask on the output's grid, as a weight of each pixel."""
        if isinstance(self.category, Query) and self.category.settles:
            return replace(self, category=self.category.settled(output, sight)).settled(output, sight)
        plane = self.plane(output)
        if sight is not None:
            check_classes_first(output.scores, sight)
        if self.pixels is None or isinstance(self.pixels, str):
            weights = self._found(output.scores, plane, shown(plane, sight))
            self._check_found(weights, plane if isinstance(self.category, Query) else output.scores)
        else:
            weights = self._given((plane.shape[1], plane.shape[2]), sight).to(plane.device)
        return Region(self, weights)

    def plane(self, output: Output) -> Tensor:
        """The class's scores, (N, h, w)."""
        scores, category = output.scores, self.category
        if isinstance(category, Query):
            return category.mask(output)
        if isinstance(category, str):
            raise TargetError(f"the number of the class {category!r} is not known here: pass it by number")
        if scores.dim() not in (3, 4):
            raise TargetError(
                f"a mask asks for scores of pixels, (N, classes, h, w) or (N, h, w), and the model gives "
                f"{tuple(scores.shape)}: where these are another of its outputs, choose it by output=..."
            )
        if scores.dim() == 3:
            if category is not None:
                raise TargetError(
                    f"the model gives one number a pixel, {tuple(scores.shape)}, and no classes: pass Mask(None, ...)"
                )
            return scores
        classes = scores.shape[1]
        if category is None and classes > 1:
            raise TargetError(f"the model gives scores of {classes} classes a pixel: say of which the mask is")
        if not -classes <= (category or 0) < classes:
            raise TargetError(f"mask out of range: the model gives {classes} classes, got {category}")
        return scores[:, category or 0]

    def _found(self, scores: Tensor, plane: Tensor, seen: Tensor) -> Tensor:
        """Where the model finds the class among the pixels that show the image, (N, h, w) of 0 and 1."""
        if isinstance(self.pixels, str):
            flat = plane.masked_fill(seen == 0, -torch.inf).flatten(1)
            return torch.zeros_like(flat).scatter(1, flat.argmax(1, keepdim=True), 1.0).view(plane.shape).detach()
        if scores.dim() == 3 and not isinstance(self.category, Query):
            return seen.expand_as(plane)
        if scores.shape[1] == 1 or isinstance(self.category, Query):
            return (plane > 0).to(plane.dtype) * seen
        number = self.category if isinstance(self.category, int) else 0
        return scores.argmax(1).eq(number % scores.shape[1]).to(plane.dtype) * seen

    def _check_found(self, weights: Tensor, scores: Tensor) -> None:
        empty = (weights.flatten(1).sum(1) == 0).nonzero().flatten().tolist()
        if not empty:
            return
        if isinstance(self.category, Query):
            raise TargetError(
                f"the mask of query {self.category.index} has no pixel in image {empty[0]}: ask for pixels of your "
                f"own, Mask(Query({self.category.index}), pixels), or for the one that comes nearest, "
                f"Mask(Query({self.category.index}), 'peak')"
            )
        found = scores[empty[0]].argmax(0) if scores.dim() == 4 else scores.new_zeros(1, dtype=torch.long)
        counts = found.flatten().bincount()
        shares = ", ".join(
            f"{n} ({counts[n] / counts.sum():.0%})" for n in counts.argsort(descending=True)[:3].tolist()
        )
        raise TargetError(
            f"the model finds class {self.category} at no pixel of image {empty[0]}; it finds {shares}. Ask for one of "
            f"these, for pixels of your own, Mask({self.category}, pixels), or for the pixel that comes nearest, "
            f"Mask({self.category}, 'peak')"
        )

    def _given(self, grid: tuple[int, int], sight: Sight | None) -> Tensor:
        """The array on the output's grid, (h, w) in 0..1."""
        size = tuple(self.pixels.shape)
        if self.on == "output" or sight is None:
            if size != grid:
                where = "" if self.on == "output" else ", and how it lies on the image is not known here"
                raise TargetError(f"the mask has {size} pixels, and the output {grid}{where}")
            return self.pixels
        view = sight.of(grid)
        if size != view.original[::-1]:
            raise TargetError(
                f"the mask has (height, width) {size}, and the image {view.original[::-1]}: give one of the image's "
                f"size, or one on the output's own grid {grid} with on='output'"
            )
        weights = torch.from_numpy(view.shares(self.pixels.numpy(), grid))
        if not bool(weights.any()):
            raise TargetError("no pixel of the mask lies in the part of the image that the model sees")
        return weights

    def text(self, names: Mapping[int, str]) -> str:
        """As the command line takes it: "mask:person", or "query:17/mask"."""
        query = self.category
        return f"query:{query.index}/mask" if isinstance(query, Query) else f"mask:{self._name(names)}"

    def title(self, names: Mapping[int, str]) -> str:
        """In words."""
        named = self._name(names)
        if self.pixels is None:
            return named or "all pixels"
        where = "the peak" if isinstance(self.pixels, str) else "these pixels"
        return f"{named}, {where}" if named else where

    def _name(self, names: Mapping[int, str]) -> str:
        if isinstance(self.category, Query):
            return f"mask of {self.category.title(names)}"
        if not isinstance(self.category, int):
            return self.category or ""
        return names.get(self.category, "").split(",")[0].strip() or f"class {self.category}"


@dataclass(frozen=True, eq=False)
class Region(Target):
    """A mask whose pixels are known: weights on the output's grid, (h, w) for all images, or (N, h, w)."""

    mask: Mask
    weights: Tensor
    own_tokens = True

    @property
    def class_axis(self) -> int | None:  # type: ignore[override]
        """That of the mask."""
        return self.mask.class_axis

    @property
    def unit(self) -> str:  # type: ignore[override]
        """That of the mask."""
        return self.mask.unit

    @property
    def reads_scores(self) -> bool:  # type: ignore[override]
        """Whether the mask does."""
        return self.mask.reads_scores

    def among(self, output: Output) -> Tensor:
        """That of the mask."""
        return self.mask.among(output)

    def score(self, output: Output) -> Tensor:
        """sum_p w_p y_p / sum_p w_p, (N,)."""
        plane = self.mask.plane(output)
        if plane.shape[-2:] != self.weights.shape[-2:]:
            raise TargetError(
                f"the mask was found on an output of {tuple(self.weights.shape[-2:])} pixels, and this one has "
                f"{tuple(plane.shape[-2:])}"
            )
        weights = self.weights.to(plane.device, torch.promote_types(plane.dtype, torch.float32))
        return (ops.widen(plane) * weights).sum((-2, -1)) / weights.sum((-2, -1))

    def of_image(self, number: int) -> "Target":
        """The region of one image."""
        several, query = self.weights.dim() == 3 and len(self.weights) > 1, self.mask.category
        own = query.of_image(number) if isinstance(query, Query) else query
        if not several and own is query:
            return self
        return Region(replace(self.mask, category=own), self.weights[number] if several else self.weights)

    def marks(self, output: Output, sight: Sight) -> tuple[Mark, ...]:
        """The outline of the pixels, or their point."""
        weights = (self.weights[0] if self.weights.dim() == 3 else self.weights).cpu()
        if not isinstance(self.mask.pixels, str):
            return sight.outline((weights >= min(0.5, float(weights.max()))).numpy()) if (weights == 0).any() else ()
        left, top, right, bottom = sight.of((weights.shape[0], weights.shape[1])).box
        row, column = divmod(int(weights.argmax()), weights.shape[1])
        cell = (right - left) / weights.shape[1], (bottom - top) / weights.shape[0]
        return (Point(left + (column + 0.5) * cell[0], top + (row + 0.5) * cell[1]),)

    def text(self, names: Mapping[int, str]) -> str:
        """That of the mask."""
        return self.mask.text(names)

    def title(self, names: Mapping[int, str]) -> str:
        """That of the mask."""
        return self.mask.title(names)
