"""Whether a preprocessing does what its description says, seen on images whose pixels are their own coordinates."""

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .errors import CaptumViTError, PreprocessingError
from .geometry import Size, View
from .preprocessing import Preprocessing

SIZES = ((301, 200), (130, 517), (900, 660))  # no symmetry; smaller and larger than what models take
LEVELS = 1.5  # of 255: both the ramp and what becomes of it are rounded, and some resizes compute in fixed point
_REACH = 3  # pixels that the widest filter, Lanczos', reaches to either side


def check_view(prepare: Callable[[Image.Image], Tensor], view: Callable[[Size], View], name: str) -> None:
    """Send ramps through `prepare` and compare each pixel with the place that `view` names.

    Raises:
        PreprocessingError: they differ, or `prepare` makes no image (C, H, W) of an image.
    """
    try:
        problem = _difference(prepare, view)
    except Warning:
        raise
    except Exception as error:  # a foreign processor raises whatever it likes
        reason = str(error) if isinstance(error, CaptumViTError) else f"{type(error).__name__} on a plain image"
        raise unknown(name, reason) from error
    if problem is not None:
        raise unknown(name, problem)


def unknown(name: str, reason: str) -> PreprocessingError:
    """The error of a preprocessing that is not what it seems."""
    return PreprocessingError(
        f"how a map goes back through {name} is not known: {reason}; pass preprocess=captum_vit.Preprocessing(prepare, "
        f"view) with functions of your own"
    )


def normalises_so(preprocessing: Preprocessing) -> bool:
    """Whether black and white leave `prepare` as `mean` and `std` say."""
    if preprocessing.mean is None or preprocessing.std is None:
        return False
    mean, std = torch.tensor(preprocessing.mean), torch.tensor(preprocessing.std)
    black, white = _black_and_white(preprocessing.prepare)
    return all(
        made.shape == wanted.shape and torch.allclose(made, wanted, atol=0.02)
        for made, wanted in ((black.flatten(), -mean / std), (white.flatten(), (1 - mean) / std))
    )


def _difference(prepare: Callable[[Image.Image], Tensor], view: Callable[[Size], View]) -> str | None:
    """What is not as described, in words."""
    black, white = _black_and_white(prepare)
    if not ((white - black).abs() > 1e-6).all():
        return "black and white come out of it alike"
    for size in SIZES:
        seen = view(size)
        for axis in (0, 1):
            pixels = _pixels(prepare, _ramp(size, axis))
            made = pixels.shape[2], pixels.shape[1]
            if made != seen.size:
                return f"it makes {_text(made)} pixels of {_text(size)}, and its attributes say {_text(seen.size)}"
            levels = (255 * (pixels - black) / (white - black)).numpy()
            if not _as_seen(levels, seen, axis):
                return f"the pixels that it makes of an image of {_text(size)} do not lie where its attributes say"
    return None


def _as_seen(levels: np.ndarray, view: View, axis: int) -> bool:
    """Whether the levels (C, H, W) of a ramp along an axis are those of the places that the view names."""
    columns, rows = (np.arange(side, dtype=float) for side in view.size)
    x = view.to_original(np.stack([columns, 0 * columns], -1))[:, 0]
    y = view.to_original(np.stack([0 * rows, rows], -1))[:, 1]
    across, down = _inside(view, 0, x), _inside(view, 1, y)
    part = levels[:, down][:, :, across]
    wanted = _levels(x[across][None, :] if axis == 0 else y[down][:, None], view.original[axis])
    return part.size > 0 and bool((np.abs(part - wanted) <= LEVELS).all())


def _inside(view: View, axis: int, positions: np.ndarray) -> np.ndarray:
    """Whether the filter around a place does not reach over the image's edge, where it would bend the ramp."""
    margin = _REACH * max(1.0, 1 / view.scale[axis])
    return (positions > margin) & (positions < view.original[axis] - 1 - margin)


def _levels(positions: np.ndarray, side: int) -> np.ndarray:
    return 255 * (positions + 0.5) / side


def _ramp(size: Size, axis: int) -> Image.Image:
    """Grey that grows along an axis, over all levels; the same in every channel, whatever their order."""
    row = _levels(np.arange(size[axis]), size[axis]).round().astype(np.uint8)
    plane = np.broadcast_to(row if axis == 0 else row[:, None], (size[1], size[0]))
    return Image.fromarray(np.ascontiguousarray(plane)).convert("RGB")


def _black_and_white(prepare: Callable[[Image.Image], Tensor]) -> tuple[Tensor, Tensor]:
    """What black and white become, (C, 1, 1) each: so a shift of levels is not taken for one of places."""
    black, white = (_pixels(prepare, Image.new("RGB", SIZES[0], colour)) for colour in ("black", "white"))
    row, column = black.shape[1] // 2, black.shape[2] // 2
    return black[:, row, column, None, None], white[:, row, column, None, None]


def _pixels(prepare: Callable[[Image.Image], Tensor], image: Image.Image) -> Tensor:
    made = prepare(image)
    if not isinstance(made, Tensor) or made.dim() != 3 or made.shape[0] not in (1, 3):
        got = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
        raise PreprocessingError(f"it makes {got} of an image, no tensor (C, H, W)")
    return made.detach().float().cpu()


def _text(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
