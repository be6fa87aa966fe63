"""What a model is called with, and what it gives."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ..errors import CaptumViTError, InputError
from .untouched import own_forward


@dataclass(frozen=True)
class Inputs:
    """What the model is called with: images (B, C, H, W), then positional and keyword arguments.

    >>> Inputs(images).run(model).shape
    torch.Size([2, 1000])
    """

    images: Tensor
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def run(self, model: nn.Module) -> Any:
        """The model's output. While the model is visited, what it draws and changes in train mode is the forward's own.

        Raises:
            InputError: the images are of another type than the model computes in.
        """
        try:
            with own_forward(model):
                return model(self.images, *self.args, **self.kwargs)
        except RuntimeError as error:
            dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
            if self.images.dtype in dtypes or not dtypes or isinstance(error, CaptumViTError):
                raise
            names = ", ".join(sorted(map(str, dtypes)))
            raise InputError(
                f"the model computes in {names} and fails on {self.images.dtype}: convert the images"
            ) from error

    def first(self) -> "Inputs":
        """The first image alone; tensors with one entry an image are cut with it."""
        count = len(self.images)

        def cut(x: Any) -> Any:
            return x[:1] if isinstance(x, Tensor) and x.dim() and len(x) == count else x

        return Inputs(self.images[:1], tuple(map(cut, self.args)), {k: cut(v) for k, v in self.kwargs.items()})

    def copies(self, count: int) -> "Inputs":
        """The first image `count` times over, with what belongs to it."""
        first, single = self.first(), len(self.images) == 1

        def repeated(x: Any, of: Any) -> Any:
            own = isinstance(x, Tensor) and isinstance(of, Tensor) and of.dim() and len(of) == len(self.images)
            return x.repeat(count, *[1] * (x.dim() - 1)) if own and (not single or x.dim() > 1) else x

        args = tuple(repeated(x, of) for x, of in zip(first.args, self.args, strict=True))
        kwargs = {key: repeated(x, self.kwargs[key]) for key, x in first.kwargs.items()}
        return Inputs(first.images.repeat(count, *[1] * (self.images.dim() - 1)), args, kwargs)
