"""Items of a data set as a model sees them: the input, the object in it, and which pixels count."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from ..access import Adapter, TokenLayout
from ..access.any_model import AnyModel
from ..capture import CellRun, Inputs, placed_layout
from ..classes import class_index
from ..data import Item
from ..errors import CaptumViTError, TargetError
from ..explanation.explaining import Explainer
from ..geometry import View
from ..preprocessing import checked_view, covered


@dataclass(frozen=True)
class Seen:
    """An item as the model sees it."""

    index: int
    id: str
    inputs: Tensor  # (C, H, W)
    target: int | None
    mask: np.ndarray | None  # (H, W), the object in the input
    valid: np.ndarray  # (H, W), what of the input counts
    cover: tuple[int, int]  # (height, width) of the input that the patches cover
    boxes: np.ndarray | None  # (n, 4), in pixels of the input
    known: Mapping[str, str] = field(default_factory=dict)  # what tells the item's content


def see(index: int, item: Item, target: int | None, explainer: Explainer) -> Seen:
    """An item through the model's preprocessing; target is the number of its class, None where it has none."""
    inputs = explainer.preprocess(item.image)
    size = (inputs.shape[1], inputs.shape[2])
    view = checked_view(explainer.preprocess, item.image.size, size[::-1])
    call = Inputs(inputs.unsqueeze(0).to(explainer.device, explainer.dtype))
    seen = covered(view, _layout(explainer.adapter, call), size)
    mask, valid, boxes = on_input(item, view, seen)
    return Seen(index, item.id, inputs, target, mask, valid, seen.size[::-1], boxes)


def _layout(adapter: Adapter, call: Inputs) -> TokenLayout:
    """Where maps lie on inputs like these; of a model that no adapter knows where the cells of its stem do.

    Raises:
        UnsupportedModelError: it has no stem that gives a grid of cells.
    """
    if not isinstance(adapter, AnyModel):
        return placed_layout(adapter, call)
    size = adapter.size_of(call.images)
    if size not in adapter.layouts:
        with CellRun(adapter, call) as run:
            adapter.layouts[size] = run.layout
    return adapter.layouts[size]


def class_of(item: Item, explainer: Explainer, *, required: bool) -> int | None:
    """The model's number of an item's class; None where the item has none, or the model none that is required.

    Raises:
        CaptumViTError: the class is required, and the model does not have it.
    """
    if item.target is None:
        return None
    try:
        classes = max(explainer.names, default=-1) + 1 or 1 << 30
        return class_index(item.target, explainer.names, classes, explainer.model_name)
    except CaptumViTError as error:
        if required:
            raise TargetError(f"{error}; or explain the class that is predicted, by the target 'predicted'") from error
        return None


def on_input(item: Item, view: View, seen: View) -> tuple[np.ndarray | None, np.ndarray, np.ndarray | None]:
    """What an item's annotation says of the model's input.

    A mask is taken pixel by pixel, from what lies under the centre. A pixel does not count if it shows nothing of the
    image, lies beside the last whole patch, or is declared void by the data set.

    Args:
        item: with masks and boxes on the upright image.
        view: from the image to the model's input.
        seen: the same, up to where the patches end.
    Returns:
        The object's mask, bool (H, W), or None; which pixels count, bool (H, W); and the boxes (n, 4) as they are
        written in the annotation, in pixels of the input, or None.
    """
    valid = view.shows()
    valid[seen.size[1] :], valid[:, seen.size[0] :] = False, False
    if item.valid is not None:
        valid &= view.take(item.valid)
    mask = None if item.mask is None else view.take(item.mask) & valid
    written = item.boxes if item.corners is None else item.corners
    if written is None:
        return mask, valid, None
    corners = view.to_input(np.asarray(written, float).reshape(-1, 2, 2) - 0.5) + 0.5  # edges, not centres
    return mask, valid, corners.reshape(-1, 4).round(9)  # whole numbers stay whole, for a protocol that cuts them off


def batches(seen: Sequence[Seen], size: int) -> Iterator[list[Seen]]:
    """At most `size` items at a time, of one input size and with the same annotations, which can be stacked."""
    groups: dict[tuple[int, ...], list[Seen]] = {}
    for one in seen:
        groups.setdefault((*one.inputs.shape, *one.cover, one.mask is None, one.boxes is None), []).append(one)
    for group in groups.values():
        for start in range(0, len(group), size):
            yield group[start : start + size]
