"""The preprocessing that torchvision's transforms stand for, and those that timm and open_clip build of them."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from captum_vit.errors import PreprocessingError
from captum_vit.geometry import Size, View, shortest_edge
from captum_vit.preprocessing import Preprocessing

Step = Callable[[View], View]


def read(source: Any) -> Preprocessing | None:
    """The preprocessing of a Compose or a preset; None if it is neither.

    Raises:
        PreprocessingError: a step whose way back is not known: a random one, or one of another package.
    """
    if not _is_known_here(source):
        return None
    if type(source).__name__ == "ImageClassification" and hasattr(source, "crop_size"):  # weights.transforms()
        steps: list[Step] = [_resize(source.resize_size, None), _centre_crop(source.crop_size)]
        return Preprocessing(source, _view(steps), tuple(source.mean), tuple(source.std))
    if type(source).__name__ != "Compose" or not hasattr(source, "transforms"):
        return None
    steps = [step for transform in source.transforms if (step := _step(transform)) is not None]
    normal = next((t for t in source.transforms if type(t).__name__ == "Normalize"), None)
    mean, std = (None, None) if normal is None else (_floats(normal.mean), _floats(normal.std))
    return Preprocessing(source, _view(steps), mean, std)


def _view(steps: Sequence[Step]) -> Callable[[Size], View]:
    def view(size: Size) -> View:
        seen = View.of(size)
        for step in steps:
            seen = step(seen)
        return seen

    return view


_PACKAGES = ("torchvision", "timm", "open_clip", "torch")


def _is_known_here(transform: Any) -> bool:
    """Whether a name means here what it means in torchvision; other packages have a Compose and a Resize too."""
    return _module(transform).split(".")[0] in _PACKAGES


def _module(transform: Any) -> str:
    return str(getattr(transform if hasattr(transform, "__name__") else type(transform), "__module__", None))


def _step(transform: Any) -> Step | None:
    """What a transform does to the geometry; None if nothing."""
    name = getattr(transform, "__name__", type(transform).__name__)
    if not _is_known_here(transform):
        raise PreprocessingError(
            f"the preprocessing holds {name} of {_module(transform)}, and how a map goes back through it is not known: "
            f"steps come from torchvision, timm or open_clip; pass preprocess=captum_vit.Preprocessing(prepare, view)"
        )
    if name in _POINTWISE:
        return None
    if name == "Compose":
        inner = [step for part in transform.transforms if (step := _step(part)) is not None]
        return lambda view: [view := step(view) for step in inner][-1] if inner else view
    if name == "Resize":
        return _resize(transform.size, transform.max_size)
    if name == "CenterCrop":
        return _centre_crop(transform.size)
    if name == "CenterCropOrPad":
        return _centre_crop(transform.size)
    if name == "Pad" and transform.padding_mode in ("constant", "edge"):  # others show parts of the image again
        return _pad(transform.padding)
    if name == "ResizeKeepRatio" and not (transform.random_scale_prob or transform.random_aspect_prob):
        return _keep_ratio(transform.size, transform.longest)
    if name == "TrimBorder":
        return lambda view: _trimmed(view, transform.border_size)
    raise PreprocessingError(
        f"the preprocessing holds {name}, and how a map goes back through it is not known: known are Resize, "
        f"CenterCrop, Pad by a constant or by its edge, timm's ResizeKeepRatio, CenterCropOrPad and TrimBorder, and "
        f"steps that change colours alone; for others pass preprocess=captum_vit.Preprocessing(prepare, view)"
    )


_POINTWISE = {
    "ConvertImageDtype",
    "Grayscale",
    "Identity",
    "MaybeConvertMode",
    "MaybePILToTensor",
    "MaybeToTensor",
    "Normalize",
    "PILToTensor",
    "RGB",
    "ToDtype",
    "ToImage",
    "ToNumpy",
    "ToPureTensor",
    "ToTensor",
    "_convert_to_rgb",
}


def _resize(size: int | Sequence[int] | None, longest: int | None) -> Step:
    if size is None:
        return lambda view: view.resized(*_longest_edge(view.size, longest or 0))
    sides = [size] if isinstance(size, int) else list(size)
    if len(sides) == 1:
        return lambda view: view.resized(*shortest_edge(view.size, sides[0], longest))
    return lambda view: view.resized(sides[1], sides[0])


def _longest_edge(size: Size, longest: int) -> Size:
    """torchvision's own rounding where the longer edge alone is given."""
    short = int(longest * min(size) / max(size))
    return (short, longest) if size[0] <= size[1] else (longest, short)


def _pad(padding: int | Sequence[int]) -> Step:
    """One number for all edges, two for (left and right, top and bottom), or four for left, top, right, bottom."""
    edges = [padding] if isinstance(padding, int) else list(padding)
    left, top, right, bottom = edges if len(edges) == 4 else (edges[0], edges[-1]) * 2
    return lambda view: view.cropped(-left, -top, view.size[0] + left + right, view.size[1] + top + bottom)


def _keep_ratio(size: Sequence[int], longest: float) -> Step:
    def step(view: View) -> View:
        ratios = view.size[1] / size[0], view.size[0] / size[1]
        ratio = max(ratios) * longest + min(ratios) * (1 - longest)
        return view.resized(round(view.size[0] / ratio), round(view.size[1] / ratio))

    return step


def _centre_crop(size: int | Sequence[int]) -> Step:
    sides = [size] if isinstance(size, int) else list(size)
    height, width = sides[0], sides[-1]
    return lambda view: view.cropped(_offset(view.size[0], width), _offset(view.size[1], height), width, height)


def _offset(side: int, crop: int) -> int:
    """Where a centre crop begins; before 0 if it pads."""
    return -((crop - side) // 2) if crop > side else round((side - crop) / 2)


def _trimmed(view: View, border: int) -> View:
    width, height = view.size
    left, top = min(width, border), min(height, border)
    return view.cropped(left, top, max(0, width - 2 * border), max(0, height - 2 * border))


def _floats(values: Iterable[Any]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
