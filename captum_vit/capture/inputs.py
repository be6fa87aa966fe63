"""What a model is called with, and what it gives."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import ref

import torch
from torch import Tensor

from ..access import Adapter
from ..access.arguments import missing_texts
from ..access.outputs import Choice, chosen
from ..errors import CaptumViTError, InputError
from .untouched import own_forward


@dataclass(frozen=True)
class Inputs:
    """What the model is called with: images (B, C, H, W), then positional and keyword arguments.

    How the images go to the model says its adapter: by themselves, by their name, or as the patches that it takes.

    output: which of the model's outputs are its scores, where somebody chose: a name, a place, or a function of it.
    textless: whether a text beside the images only stands in for none, so that nothing but their features counts.

    >>> Inputs(images).run(adapt(model)).shape
    torch.Size([2, 1000])
    """

    images: Tensor
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    output: Choice | None = None
    textless: bool = False

    def run(self, adapter: Adapter) -> Any:
        """The model's output. While the model is visited, what it draws and changes in train mode is the forward's own.

        Raises:
            InputError: the images are of another type than the model computes in, or a text is missing.
        """
        model, named = adapter.model, adapter.call_with(self.images)
        args, kwargs = self.args if named else (self.images, *self.args), {**self.kwargs, **named}
        try:
            with own_forward(model):
                return model(*args, **kwargs)
        except (TypeError, ValueError, AttributeError) as error:
            missing = [] if isinstance(error, CaptumViTError) else missing_texts(model, args, kwargs)
            if not missing:
                raise
            raise InputError(
                f"{type(model).__name__} takes {' and '.join(missing)} beside images, and fails without: pass "
                f"forward_kwargs={{{missing[0]!r}: ...}}, or explain the part of it that takes images alone. It said: "
                f"{' '.join(str(error).split())[:200]}"
            ) from error
        except RuntimeError as error:
            dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
            of_text = not self.images.is_floating_point()
            if self.images.dtype in dtypes or not dtypes or of_text or isinstance(error, CaptumViTError):
                raise
            names = ", ".join(sorted(map(str, dtypes)))
            raise InputError(
                f"the model computes in {names} and fails on {self.images.dtype}: convert the images"
            ) from error

    def scores(self, adapter: Adapter, raw: Any) -> Tensor:
        """The scores (B, C) or (B, C, ...) in what the model gave: those that were chosen, else as its adapter says.

        Raises:
            UnsupportedModelError: several tensors may be scores, and nobody chose; or none.
            OptionError: there is no such output.
        """
        if self.output is None:
            return adapter.scores(raw)
        return chosen(raw, self.output, type(adapter.model).__name__)

    @property
    def chosen_by(self) -> Hashable:
        """What tells one choice of the output from another, and keeps no function alive: it may hold the model."""
        try:
            found = ref(self.output) if callable(self.output) else self.output
            hash(found)
        except TypeError:  # of a kind that nothing can refer to: then each is another
            return object()
        return found

    @property
    def beside_each(self) -> bool:
        """Whether several images have something of their own beside them."""
        count, beside = len(self.images), [*self.args, *self.kwargs.values()]
        return count > 1 and any(isinstance(x, Tensor) and x.dim() and len(x) == count for x in beside)

    def first(self) -> "Inputs":
        """The first image alone."""
        return self.image(0)

    def image(self, number: int) -> "Inputs":
        """One image alone; tensors with one entry an image are cut with it."""
        count, place = len(self.images), slice(number, number + 1)

        def cut(x: Any) -> Any:
            return x[place] if isinstance(x, Tensor) and x.dim() and len(x) == count else x

        kwargs = {key: cut(value) for key, value in self.kwargs.items()}
        return replace(self, images=self.images[place], args=tuple(map(cut, self.args)), kwargs=kwargs)

    def rows(self, numbers: Tensor) -> "Inputs":
        """The images of these numbers, (R,), with what belongs to each."""
        count = len(self.images)

        def taken(x: Any) -> Any:
            own = isinstance(x, Tensor) and x.dim() > (count == 1) and len(x) == count
            return x[numbers.to(x.device)] if own else x

        kwargs = {key: taken(value) for key, value in self.kwargs.items()}
        return replace(self, images=taken(self.images), args=tuple(map(taken, self.args)), kwargs=kwargs)

    def copies(self, count: int) -> "Inputs":
        """The first image `count` times over, with what belongs to it."""
        return self.rows(torch.zeros(count, dtype=torch.long))
