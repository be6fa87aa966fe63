"""What a model is called with beside the images, image by image: so that any batch of them is called rightly."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..checking import check_by_name
from ..errors import InputError


def of_each(forward_kwargs: Mapping[str, Any] | None, count: int) -> list[dict[str, Any]]:
    """Keyword arguments of the model's forward for each of `count` images.

    >>> from captum_vit.explanation.arguments import of_each
    >>> rows = of_each({"table": torch.zeros(2, 5), "scale": torch.ones(1, 1), "training": False}, count=2)
    >>> rows[1]["table"].shape, rows[1]["scale"].shape, rows[1]["training"]
    (torch.Size([1, 5]), torch.Size([1, 1]), False)

    Args:
        forward_kwargs: a tensor of `count` rows has one for each image; one of a single row, and whatever is no tensor
            or has no dimension, is the same for all.
        count: how many images there are.
    Raises:
        InputError: a tensor of neither one row nor `count` of them.
    """
    given: dict[str, Any] = {}
    if forward_kwargs is not None:
        check_by_name("forward_kwargs", forward_kwargs)
        given = dict(forward_kwargs)
    for name, value in given.items():
        if isinstance(value, Tensor) and value.dim() and len(value) not in (1, count):
            wanted = "(1, ...), for one image" if count == 1 else f"(1, ...) for all images, or ({count}, ...) of each"
            raise InputError(f"forward_kwargs[{name!r}] is a tensor {tuple(value.shape)}: expected {wanted}")
    return [{name: _row(value, i) for name, value in given.items()} for i in range(count)]


def _row(value: Any, image: int) -> Any:
    return value[image : image + 1] if isinstance(value, Tensor) and value.dim() and len(value) > 1 else value


def together(each: Sequence[Mapping[str, Any]], like: Tensor) -> dict[str, Any]:
    """Keyword arguments of one call for several images, on the device of `like`; floats in its type.

    Raises:
        InputError: rows that do not fit together.
    """
    joined: dict[str, Any] = {}
    for name, value in each[0].items():
        if not isinstance(value, Tensor):
            joined[name] = value
            continue
        try:
            rows = torch.cat([one[name] for one in each]) if value.dim() else value
        except RuntimeError as error:
            raise InputError(f"forward_kwargs[{name!r}]: rows of one batch must have one shape ({error})") from error
        joined[name] = rows.to(like.device, like.dtype if rows.is_floating_point() else rows.dtype)
    return joined
