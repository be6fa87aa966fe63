"""Whether a preprocessing does what its description says, seen on images whose pixels are their own coordinates."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .errors import CaptumViTError, PreprocessingError, reason
from .geometry import Size, View

SIZES = ((301, 200), (130, 517), (900, 660))  # no symmetry; smaller and larger than what models take
LEVELS = 1.5  # of 255: both the ramp and what becomes of it are rounded, and some resizes compute in fixed point
PHASES = (0.0, 0.25, 0.5, 0.75)  # of a level, so that the rounding of ramps leaves no bias
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
        told = str(error) if isinstance(error, CaptumViTError) else f"{reason(error)} (on a plain image)"
        raise unknown(name, told) from error
    if problem is not None:
        raise unknown(name, problem)


def unknown(name: str, reason: str) -> PreprocessingError:
    """The error of a preprocessing that is not what it seems."""
    return PreprocessingError(
        f"how a map goes back through {name} is not known: {reason}; pass preprocess=captum_vit.Preprocessing(prepare, "
        f"view) with functions of your own"
    )


def normalises_so(
    prepare: Callable[[Image.Image], Tensor], mean: Sequence[float] | None, std: Sequence[float] | None
) -> bool:
    """Whether black and white leave `prepare` as `mean` and `std` say."""
    if not mean or not std:
        return False
    middle, deviation = torch.tensor(tuple(mean)), torch.tensor(tuple(std))
    black, white = _black_and_white(prepare)
    return all(
        made.shape == wanted.shape and torch.allclose(made, wanted, atol=0.02)
        for made, wanted in (
            (black.flatten(), -middle / deviation),
            (white.flatten(), (1 - middle) / deviation),
        )
    )


def seen_normalisation(
    prepare: Callable[[Image.Image], Tensor],
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """mean and std by which `prepare` normalises, from what becomes of black, grey and white; None of any other way."""
    black, white = _black_and_white(prepare)
    grey = _middle(_pixels(prepare, Image.new("RGB", SIZES[0], (51, 51, 51))))  # a fifth of white
    span = white - black
    if not (span > 1e-6).all() or not torch.allclose(grey, black + span / 5, atol=float(span.max()) * 1e-3):
        return None, None
    std = 1 / span
    return tuple((-black * std).flatten().tolist()), tuple(std.flatten().tolist())


def seen_view(prepare: Callable[[Image.Image], Tensor], name: str, size: Size) -> View:
    """How `prepare` looks at images of a size, from what becomes of ramps: a straight line along each axis.

    Raises:
        PreprocessingError: no straight line, as where it bends, flips or draws at random.
    """
    try:
        black, white = _black_and_white(prepare, size)
        ramps = []
        for axis in (0, 1):
            shifted = [_pixels(prepare, _ramp(size, axis, phase)) for phase in PHASES]
            if not torch.equal(shifted[0], _pixels(prepare, _ramp(size, axis, PHASES[0]))):
                raise unknown(name, "the same image comes out in two ways")
            pixels = torch.stack(shifted).mean(0)
            ramps.append((255 * (pixels - black) / (white - black)).mean(0).numpy() - sum(PHASES) / len(PHASES))
        inside = [_between(ramps[0][len(ramps[0]) // 2]), _between(ramps[1][:, ramps[1].shape[1] // 2])]
        across, left = _line(ramps[0][inside[1]], inside[0], size[0], name)
        down, top = _line(ramps[1].T[inside[0]], inside[1], size[1], name)
        view = replace(View.of(size), size=(pixels.shape[2], pixels.shape[1]), scale=(across, down), offset=(left, top))
        box = [edge if abs(edge - end) > 1 else end for edge, end in zip(view.box, (0, 0, *size), strict=True)]
    except CaptumViTError:
        raise
    except Warning:
        raise
    except Exception as error:  # anybody's function raises whatever it likes
        raise unknown(name, f"{reason(error)} (on a plain image)") from error
    left, top, right, bottom = box
    window = (max(left, 0.0), max(top, 0.0), min(right, float(size[0])), min(bottom, float(size[1])))
    return replace(view, window=window)


def _between(levels: np.ndarray) -> np.ndarray:
    """Where a ramp is, away from its ends: filters bend it there, and there may be padding beyond."""
    return np.flatnonzero((levels > 8) & (levels < 247))


def _line(levels: np.ndarray, places: np.ndarray, side: int, name: str) -> tuple[float, float]:
    """(scale, offset) along the columns of `levels`, which a ramp along them became; at `places` there are no ends."""
    if not len(levels) or len(places) < 8 or np.ptp(places) + 1 != len(places):
        raise unknown(name, "a ramp of grey does not come out as one")
    profile = levels[:, places].mean(0)
    x = profile / 255 * side - 0.5  # where in the image
    step, start = np.polyfit(places, x, 1)
    bent = np.abs(np.polyval((step, start), places) - x).max() > LEVELS * side / 255
    if step <= 0 or bent or np.abs(levels[:, places] - profile).max() > LEVELS:
        raise unknown(name, "a ramp of grey does not come out as one")
    return float(1 / step), float((start + 0.5) / step - 0.5)


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


def _ramp(size: Size, axis: int, phase: float = 0.0) -> Image.Image:
    """Grey that grows along an axis, over all levels; the same in every channel, whatever their order."""
    row = (_levels(np.arange(size[axis]), size[axis]) + phase).round().clip(0, 255).astype(np.uint8)
    plane = np.broadcast_to(row if axis == 0 else row[:, None], (size[1], size[0]))
    return Image.fromarray(np.ascontiguousarray(plane)).convert("RGB")


def _black_and_white(prepare: Callable[[Image.Image], Tensor], size: Size = SIZES[0]) -> tuple[Tensor, Tensor]:
    """What black and white become, (C, 1, 1) each: so a shift of levels is not taken for one of places."""
    black, white = (_middle(_pixels(prepare, Image.new("RGB", size, colour))) for colour in ("black", "white"))
    return black, white


def _middle(pixels: Tensor) -> Tensor:
    """The middle pixel, (C, 1, 1)."""
    return pixels[:, pixels.shape[1] // 2, pixels.shape[2] // 2, None, None]


def _pixels(prepare: Callable[[Image.Image], Tensor], image: Image.Image) -> Tensor:
    made = prepare(image)
    if not isinstance(made, Tensor) or made.dim() != 3 or made.shape[0] not in (1, 3):
        got = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
        raise PreprocessingError(f"it makes {got} of an image, no tensor (C, H, W)")
    return made.detach().float().cpu()


def _text(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
