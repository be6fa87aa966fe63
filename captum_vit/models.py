"""Models by name: `timm/vit_base_patch16_224`, `hf/<id or folder>`, `sample`.

What stands before the first slash chooses a loader from the entry-point group `captum_vit.loaders`; the rest is for
the loader. So the core knows no framework, and a package can bring loaders of its own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor, nn

from .errors import ModelLoadError

LOADERS = "captum_vit.loaders"

Size = tuple[int, int]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class LoadedModel:
    """A model in eval mode with what belongs to it.

    preprocess: RGB image -> model input (C, H, W), normalised.
    seen: size (width, height) of an image -> the part of it that `preprocess` lets through, (left, top, right,
        bottom) in pixels of the image.
    class_names: index -> name; empty if nobody knows.
    """

    model: nn.Module
    preprocess: Callable[[Image.Image], Tensor]
    seen: Callable[[Size], Box]
    class_names: Mapping[int, str] = field(default_factory=dict)


def load_model(spec: str, *, checkpoint: str | Path | None = None, **options: Any) -> LoadedModel:
    """The model that `spec` names.

    Args:
        spec: `loader/name`, or `loader` alone where it has a default.
        checkpoint: file with weights to load into it, .safetensors or a state dict for torch.load(weights_only=True).
        options: for the loader, as `pretrained=False`.
    Raises:
        ModelLoadError: no such loader or model, a missing package, or weights that do not fit.
    """
    loader, _, name = spec.partition("/")
    points = {point.name: point for point in entry_points(group=LOADERS)}
    if loader not in points:
        raise ModelLoadError(f"a model is named {' or '.join(f'{p}/NAME' for p in sorted(points))}, got {spec!r}")
    try:
        load = points[loader].load()
    except ModuleNotFoundError as error:
        raise ModelLoadError(
            f"{spec!r} needs the package {error.name!r}, which is not installed: pip install 'captum-vit[all]'"
        ) from error
    return load(name, checkpoint=checkpoint, **options)


def nearest(name: str, known: list[str]) -> str:
    """A hint with the known names most like `name`, or nothing."""
    close = get_close_matches(name, known, n=3, cutoff=0.5)
    return f"; nearest: {', '.join(close)}" if close else ""
