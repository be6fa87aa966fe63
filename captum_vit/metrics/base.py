"""What a metric is given (`Case`), what it gives (`Metric`), and what becomes of it (`Figure`)."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..access import adapt
from ..capture import Inputs, Need, Run
from ..describing import described
from ..errors import InputError


@dataclass(frozen=True)
class Case:
    """A batch of questions, an image and a class each, with the maps that answer them; all on one device.

    images: (N, C, H, W), normalised as the model expects.
    targets: (N,), the class that each map explains.
    maps: (N, rows, cols), one value a patch, or a pixel if they have the input's size; not normalised.
    masks: (N, H, W), bool, the object of the target in the model's input; empty where none is known.
    valid: (N, H, W), bool, what the model saw of the photograph (the rest is padding); None for all.
    logits: (N, classes) of the unchanged images.
    model: images -> logits (N, classes).
    mean, std: of each channel, with which the images were normalised.
    method: what made the maps, with `attribute(images, target=...)`; options: further arguments of that call.
    boxes: for each image (n, 4), the target's boxes (left, top, right, bottom) as they stand in the annotation, brought
        to pixels of the model's input.
    labels: (N,), the images' own classes, whatever the maps explain, -1 where unknown; None if they are the targets.
    cover: (height, width) of the part of the input, from its upper left corner, that whole patches cover and the maps
        lie on; None for all of it. Maps of the input's own size lie on all of it in any case.
    run: of the model on these images, for what is made of its tokens.
    others: maps of other methods for the same questions, by name.
    """

    images: Tensor
    targets: Tensor
    maps: Tensor
    masks: Tensor | None = None
    valid: Tensor | None = None
    logits: Tensor | None = None
    model: Callable[[Tensor], Tensor] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    method: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)
    boxes: Sequence[Tensor] | None = None
    labels: Tensor | None = None
    cover: tuple[int, int] | None = None
    run: Run | None = None
    others: Mapping[str, Tensor] = field(default_factory=dict)
    found: dict[str, tuple[Any, ...]] = field(default_factory=dict, repr=False, compare=False)  # see `once`

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the model's input."""
        height, width = self.images.shape[-2:]
        return height, width

    def enlarged(self) -> Tensor:
        """The maps at the size of the input, (N, H, W); where none of their patches lies, each has its minimum."""
        if self.cover in (None, self.size) or self.maps.shape[1:] == self.size:
            return enlarge(self.maps, self.size)
        inner = enlarge(self.maps, self.cover)
        whole = inner.amin((1, 2), keepdim=True).repeat(1, *self.size)
        whole[:, : self.cover[0], : self.cover[1]] = inner
        return whole

    def on_patches(self, maps: Tensor | None = None) -> Tensor:
        """Maps, by default the case's own, on the grid of the model's patches, (N, rows, cols): means over each.

        Raises:
            InputError: there is neither a run nor a model whose grid could be asked for.
        """
        maps = self.maps if maps is None else maps
        grid = self.of_run().layout.grid
        if maps.shape[1:] == grid:
            return maps
        if self.cover is not None and maps.shape[1:] == self.size:
            maps = maps[:, : self.cover[0], : self.cover[1]]
        maps = maps.float() if maps.dtype in (torch.float16, torch.bfloat16) else maps
        return F.interpolate(maps[:, None], grid, mode="area")[:, 0]

    def of_run(self) -> Run:
        """The run, of the model if none was given.

        Raises:
            InputError: the model is a function, in which no tokens are seen.
        """
        return self.once("run", lambda: run_of(self.required("model") if self.run is None else self.run, self.images))

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """What is the same for the maps of all methods, made when it is first asked for.

        It is known by its name; a case with other images or targets, made of this one by `replace`, makes its own.
        """
        asked = (self.images, self.targets, self.model, self.run)
        *before, value = self.found.get(name, (None,))
        if len(before) != len(asked) or any(one is not other for one, other in zip(before, asked, strict=True)):
            value = make()
            self.found[name] = (*asked, value)
        return value

    def required(self, name: str) -> Any:
        """A field that a metric cannot do without.

        Raises:
            InputError: it is None.
        """
        value = getattr(self, name)
        if value is None:
            raise InputError(f"the metric needs the {name} of the case, which are None: pass Case({name}=...)")
        return value

    def scores(self) -> Tensor:
        """The logits, computed if they were not given.

        Raises:
            InputError: there is no model to compute them with.
        """
        if self.logits is not None:
            return self.logits
        if self.model is None:
            raise InputError("the predicted classes are needed: pass Case(logits=...) or Case(model=...)")
        with torch.no_grad():
            return self.model(self.images)


@dataclass(frozen=True)
class Figure:
    """How the values of single images become one figure of a data set.

    higher_is_better: whether a higher figure is a better method.
    columns: the columns that it is made of: one, or over pixels the four counts tp, fp, fn and tn.
    over: "images", the mean of the column; "classes", the mean over classes of each class's mean; "pixels", a score of
        the counts summed over all images.
    score: over pixels which one, "pixel_accuracy" or "miou".
    words: what it asks of a map, in a line.
    contest: whether a higher figure than a baseline's says anything; not of a check, which noise may pass as well.
    rank: a table that shows a few figures takes those of the lowest rank: 0 of the one that sums a metric up.
    """

    higher_is_better: bool
    columns: tuple[str, ...]
    over: Literal["images", "classes", "pixels"] = "images"
    score: str = ""
    words: str = ""
    contest: bool = True
    rank: int = 2


def means(words: Mapping[str, str] = MappingProxyType({}), /, **higher_is_better: bool) -> dict[str, Figure]:
    """Figures that are means over images of the column of their name.

    Args:
        words: what each of them asks, in a line.
        higher_is_better: of each.
    """
    return {name: Figure(better, (name,), words=words.get(name, "")) for name, better in higher_is_better.items()}


def graded(figures: Mapping[str, Figure], *first: str, contest: bool = True) -> dict[str, Figure]:
    """Figures in the order in which a table takes them: those named first have the ranks 0, 1 and so on."""
    ranks = {name: rank for rank, name in enumerate(name for name in first if name in figures)}
    return {
        name: replace(figure, rank=ranks.get(name, len(ranks) + 1), contest=contest) for name, figure in figures.items()
    }


class Metric(ABC):
    """A group of figures that share their work. A call gives columns, with one value for each image, or NaN.

    name: of the group.
    figures: what a leaderboard makes of the columns.
    published: what a published protocol asks of a run: "target", "label" or "predicted"; "preprocess", "squash".
    curves: columns that hold a curve for each image, with their first and last level; levels are evenly spaced.
    needs: which fields of a Case must be there besides images, targets and maps: "masks", "model", "method", "run"
        (or a model that is a module), "others" (of which there may be none).
    reads: what it asks of the run, so that one forward serves the methods and it.
    """

    name: ClassVar[str]
    needs: frozenset[str] = frozenset()
    reads: frozenset[Need] = frozenset()
    published: Mapping[str, str] = MappingProxyType({})
    figures: Mapping[str, Figure]
    curves: Mapping[str, tuple[float, float]] = MappingProxyType({})

    @property
    def title(self) -> str:
        """The name, with the protocol behind a colon."""
        preset = getattr(self, "preset", None)
        return f"{self.name}:{preset}" if preset else self.name

    @abstractmethod
    def __call__(self, case: Case) -> dict[str, Tensor]:
        """The columns by name: values (N,), and of curves scores (N, levels); float64, on the device of the maps.

        Raises:
            InputError: the case lacks something that the metric needs.
        """

    def describe(self) -> dict[str, Any]:
        """What a manifest says of the metric, as JSON: its class, its settings and its figures."""
        settings = {name: described(value) for name, value in vars(self).items() if name not in FACTS}
        return {**described(type(self)), "settings": settings, "figures": list(self.figures)}


def figures_of(metrics: Iterable[Metric]) -> dict[str, Figure]:
    """The figures of several metrics, by name."""
    return {name: figure for metric in metrics for name, figure in metric.figures.items()}


def curves_of(metrics: Iterable[Metric]) -> dict[str, tuple[float, float]]:
    """The columns of several metrics that hold curves, with their first and last level."""
    return {name: span for metric in metrics for name, span in metric.curves.items()}


FACTS = ("figures", "curves", "needs", "reads", "published")  # of a metric; they follow from its settings


def enlarge(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (N, rows, cols) at a size (H, W): bilinear, `align_corners=False`."""
    if maps.dim() != 3:
        raise InputError(f"expected maps of shape (N, rows, cols), got {tuple(maps.shape)}")
    if maps.shape[1:] == size:
        return maps
    maps = maps.float() if maps.dtype in (torch.float16, torch.bfloat16) else maps
    return F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def blank(values: Tensor, undefined: Tensor) -> Tensor:
    """Values (N, ...), NaN for the images that are undefined, bool (N,)."""
    return values.masked_fill(undefined.view(-1, *[1] * (values.dim() - 1)), torch.nan)


def finite(maps: Tensor) -> tuple[Tensor, Tensor]:
    """The maps (N, ...), those with a NaN or infinite value replaced by 0, and which those are, bool (N,)."""
    bad = ~maps.isfinite().flatten(1).all(1)
    return maps.masked_fill(bad.view(-1, *[1] * (maps.dim() - 1)), 0), bad


def run_of(asked: Any, images: Tensor) -> Run:
    """The run of a model on some images.

    Raises:
        InputError: what is there is a function of images, in which no tokens can be seen; or a run of other images.
    """
    if isinstance(asked, Run):
        if len(asked.inputs.images) != len(images):
            raise InputError(f"the run is of {len(asked.inputs.images)} images, and {len(images)} are asked about")
        return asked
    if isinstance(asked, nn.Module):
        return Run(adapt(asked), Inputs(finite(images)[0]))
    raise InputError(
        f"tokens are seen in a model, or in a run of it on these images: got {type(asked).__name__}, which "
        f"gives scores alone"
    )
