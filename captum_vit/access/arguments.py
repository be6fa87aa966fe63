"""Which of a model's arguments are images, and which are texts, by their names."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from .kinds import TEXTS

IMAGES = ("pixel_values", "pixel_values_videos", "images", "image")


def image_argument(model: nn.Module) -> str | None:
    """The name by which images are passed to a model that takes a text first; None where images come first.

    >>> from captum_vit.access.arguments import image_argument
    >>> image_argument(model) is None
    True
    """
    names = list(inspect.signature(model.forward).parameters)
    if not names or names[0] not in TEXTS:
        return None
    return next((name for name in IMAGES if name in names), None)


def missing_texts(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[str]:
    """The texts that a model takes, by name, where it is called without any."""
    signature = inspect.signature(model.forward)
    names = [name for name in signature.parameters if name in TEXTS]
    given = signature.bind_partial(*args, **kwargs).arguments
    return [] if any(given.get(name) is not None for name in names) else names
