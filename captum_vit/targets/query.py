"""A query of a detector or segmenter: the score of its class, or an edge of its box."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..classes import class_index
from ..errors import OptionError, TargetError, brief, nearest
from ..marks import Box, Mark
from .base import Output, Sight, Target
from .masks_of_queries import CLASSES, MASKS, tensor_in

BOXES = "pred_boxes"  # as detectors of the DETR kind call them: centre x and y, width and height, in 0..1
EDGES = {  # weights of these four, and of which side of the input the number is a share
    "left": ((1.0, 0.0, -0.5, 0.0), "width"),
    "top": ((0.0, 1.0, 0.0, -0.5), "height"),
    "right": ((1.0, 0.0, 0.5, 0.0), "width"),
    "bottom": ((0.0, 1.0, 0.0, 0.5), "height"),
    "width": ((0.0, 0.0, 1.0, 0.0), "width"),
    "height": ((0.0, 0.0, 0.0, 1.0), "height"),
}


@dataclass(frozen=True, eq=False)
class Query(Target):
    """The score (logit) that a query gives a class, or an edge of the box that it gives. `Mask(Query(17))` is its mask.

    >>> Query(17, "car"), Query(17, box="left")
    (Query(17, 'car'), Query(17, box='left'))

    The model's scores are (N, queries, classes + 1) as of YOLOS and DETR, whose last class says "no object", or (N,
    queries, classes); where its scores are of pixels, they are the output `class_queries_logits`, as of EoMT.

    index: which query; one output of the model for each, as `target_sizes` or any post-processing counts them.
    category: the class by number or name; None stands for the one with the highest score, "no object" left out.
    box: in place of a class's score, "left", "top", "right", "bottom", "width" or "height" of its box, as a share of
        the input's side. Boxes are read from the output `pred_boxes`.
    empty: whether a query may be asked that says "no object" itself; else that is an error.
    background: the number of the class that says so, by default the last one; None of a model without, whose classes
        are scored one by one (sigmoid).
    Raises:
        OptionError: another word for a box's edge.
        TargetError: (when asked) no such query or class, no boxes, or the query says "no object".
    """

    index: int
    category: Any = None
    box: str | None = None
    empty: bool = False
    background: int | None = -1
    classes: int | None = None  # how many classes have names; filled in
    reads_scores = False  # boxes are beside them
    own_tokens = True

    def __post_init__(self) -> None:
        if isinstance(self.index, bool) or not isinstance(self.index, int):
            raise OptionError(f"a query is asked by its number, got {brief(self.index)}")
        if self.box is not None and self.box not in EDGES:
            close = nearest(str(self.box), list(EDGES))
            raise OptionError(f"of a box there is {', '.join(EDGES)}, got {brief(self.box)}{close}")

    def __repr__(self) -> str:
        shown = [repr(self.index), *([repr(self.category)] if self.category is not None else [])]
        shown += [f"box={self.box!r}"] if self.box else []
        shown += ["empty=True"] if self.empty else []
        shown += [f"background={self.background}"] if self.background != -1 else []
        return f"Query({', '.join(shown)})"

    @property
    def settles(self) -> bool:  # type: ignore[override]
        """Whether it has to be seen what the query says."""
        return self.category is None or not self.empty

    @property
    def class_axis(self) -> int | None:  # type: ignore[override]
        """The last, of a class's score."""
        return None if self.box else 2

    @property
    def unit(self) -> str:  # type: ignore[override]
        """A logit, or a share of the input's side."""
        return f"share of the input's {EDGES[self.box][1]}" if self.box else "logit"

    @property
    def by_name(self) -> bool:
        """Whether names are wanted: also to see which of the scores is none of a class."""
        return self.classes is None

    def named(self, names: Mapping[int, str], classes: int, model: str) -> "Query":
        """With the number of the class, and how many there are."""
        found = self.category
        if isinstance(found, str):
            found = class_index(found, names, max(names, default=-1) + 1, model)
        return replace(self, category=found, classes=len(names))

    def settled(self, output: Output, sight: Sight | None) -> "Query":
        """With the class that the query says, if none was named, and that it says one."""
        rows = self._rows(output).detach().clone()  # (N, classes)
        nothing = None if self.background is None else self.background % rows.shape[1]
        objects = rows.clone()
        if nothing is not None:
            objects[:, nothing] = -torch.inf
        best = objects.argmax(1)
        silent = [] if nothing is None else (rows.argmax(1) == nothing).nonzero().flatten().tolist()
        if silent and not self.empty:
            i, shares = silent[0], self._shares(rows)[silent[0]]
            raise TargetError(
                f"query {self.index} finds no object in image {i} ({shares[nothing]:.1%}), the class that comes "
                f"nearest is {int(best[i])} ({shares[best[i]]:.1%}): ask for a query that finds one, or pass empty=True"
            )
        if self.category is not None:
            self._categories(rows)
            return replace(self, empty=True)
        found = best.tolist()
        return replace(self, category=found[0] if len(set(found)) == 1 else tuple(found), empty=True)

    def score(self, output: Output) -> Tensor:
        """The logit, or the edge, (N,)."""
        rows = self._rows(output)
        if self.box is not None:
            weights = torch.tensor(EDGES[self.box][0])
            boxes = boxes_of(output)[:, self.index]
            return (boxes * weights.to(boxes)).sum(1)
        if self.category is None:
            return self.settled(output, None).score(output)
        return rows.gather(1, self._categories(rows)[:, None])[:, 0]

    def told(self, output: Output) -> tuple[Tensor, str]:
        """Of a class its share in 0..1."""
        if self.box is not None:
            return self.score(output), self.unit
        rows = self._rows(output)
        return self._shares(rows).gather(1, self._categories(rows)[:, None])[:, 0], "confidence"

    def among(self, output: Output) -> Tensor:
        """Those of all queries, (N, queries, classes)."""
        own = tensor_in(output.raw, CLASSES)
        return output.scores if own is None or output.scores.dim() == 3 else own

    def mask(self, output: Output) -> Tensor:
        """The logits of its mask, (N, h, w).

        Raises:
            TargetError: the model gives no masks under the name `masks_queries_logits`, or has no such query.
        """
        self._rows(output)
        found = tensor_in(output.raw, MASKS)
        if found is None:
            raise TargetError(
                f"the model gives no masks of queries: they are read from an output of the name {MASKS!r}"
            )
        return found[:, self.index]

    def of_image(self, number: int) -> "Query":
        """The query of one image."""
        return replace(self, category=self.category[number]) if isinstance(self.category, tuple) else self

    def marks(self, output: Output, sight: Sight) -> tuple[Mark, ...]:
        """The box of the query, or the outline of its mask, if the model gives them."""
        if tensor_in(output.raw, MASKS) is not None:
            return sight.outline((self.mask(output)[0] > 0).cpu().numpy())
        if tensor_in(output.raw, BOXES) is None:
            return ()
        return (_placed(boxes_of(output)[0, self.index], sight),)

    def text(self, names: Mapping[int, str]) -> str:
        """As the command line takes it: "query:17/car"."""
        return f"query:{self.index}/{self.box or self._name(names)}"

    def title(self, names: Mapping[int, str]) -> str:
        """In words."""
        named = f"{self._name(names)}, query {self.index}"
        return f"{self.box} of the box of {named}" if self.box else named

    def _name(self, names: Mapping[int, str]) -> str:
        if not isinstance(self.category, int):
            return str(self.category or "any class")
        return names.get(self.category, "").split(",")[0].strip() or f"class {self.category}"

    def _rows(self, output: Output) -> Tensor:
        """The scores of the query, (N, classes)."""
        scores = self.among(output)
        if scores.dim() != 3:
            raise TargetError(
                f"a query asks for scores (N, queries, classes), and the model gives {tuple(scores.shape)}: where "
                f"these are another of its outputs, choose it by output=..."
            )
        if not -scores.shape[1] <= self.index < scores.shape[1]:
            raise TargetError(f"query out of range: the model has 0 to {scores.shape[1] - 1}, got {self.index}")
        if self.background is not None and self.classes and scores.shape[2] == self.classes:
            raise TargetError(
                f"the model gives {scores.shape[2]} scores a query and has as many classes, so that none says 'no "
                f"object': pass background=None"
            )
        return scores[:, self.index]

    def _categories(self, rows: Tensor) -> Tensor:
        """The number of the class of each image, (N,)."""
        wanted = list(self.category) if isinstance(self.category, tuple) else [self.category] * len(rows)
        known = rows.shape[1]
        for each in wanted:
            if isinstance(each, bool) or not isinstance(each, int):
                raise TargetError(f"a query's class is a number here, got {brief(each)}")
            if not -known <= each < known or (self.background is not None and each % known == self.background % known):
                raise TargetError(
                    f"class out of range: the model has {known - (self.background is not None)} a query, got {each}"
                )
        if len(wanted) == 1:
            wanted = wanted * len(rows)
        return torch.tensor(wanted, device=rows.device) % known

    def _shares(self, rows: Tensor) -> Tensor:
        """Scores in 0..1."""
        return rows.sigmoid() if self.background is None else rows.softmax(-1)


def boxes_of(output: Output) -> Tensor:
    """The boxes of a detector, (N, queries, 4): centre x and y, width and height, as shares of the input's sides.

    Raises:
        TargetError: the model gives none under the name `pred_boxes`.
    """
    found = tensor_in(output.raw, BOXES)
    if found is None:
        raise TargetError(f"the model gives no boxes: they are read from an output of the name {BOXES!r}")
    return found


def _placed(box: Tensor, sight: Sight) -> Box:
    """A box of shares of the input's sides, on the image."""
    x, y, width, height = box.detach().double().tolist()
    left, top, right, bottom = sight.input.box
    across, down = right - left, bottom - top
    return Box(
        left + (x - width / 2) * across,
        top + (y - height / 2) * down,
        left + (x + width / 2) * across,
        top + (y + height / 2) * down,
    )
