"""One of the views that an owner makes of each image, looked at by itself."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..access import adapt
from ..errors import OptionError, UnsupportedModelError, brief
from .scopes import unheard


class OneView(nn.Module):
    """A model that makes several views of each image, of which one is looked at: a crop, a flip, an image of a pair.

    It gives the model's own scores. Its ViT is explained on the one view alone, while what it makes of the others
    stays as it is, so that a map lies where that view lies on the image. Views are counted from 0, in the order in
    which the ViT is given them: of several in one batch, or of one call after another.

    >>> class Mirrored(torch.nn.Module):
    ...     def __init__(self, vit):
    ...         super().__init__()
    ...         self.vit = vit
    ...     def forward(self, x):
    ...         return self.vit(torch.cat([x, x.flip(3)])).unflatten(0, (2, -1)).mean(0)
    >>> maps = [AGCAM(OneView(Mirrored(model), view)).attribute(images, 281) for view in (0, 1)]
    >>> torch.cat(maps, 1).shape  # (N, views, rows, cols), each the right way round
    torch.Size([2, 2, 14, 14])

    Gradients go through the one view alone. The ViT runs twice, once for all views and once for this one.

    Args:
        model: the owner of a ViT.
        view: which of the views.
        vit: the ViT in it, where that is code that no adapter knows, or one of several; by default the supported one.
    Raises:
        OptionError: `view` is no number from 0, or `vit` is not inside the model.
        UnsupportedModelError: there is no ViT inside; and when it runs, there is no such view, or which image each view
            is of cannot be told.
    """

    def __init__(self, model: nn.Module, view: int, vit: nn.Module | None = None) -> None:
        super().__init__()
        if not isinstance(view, int) or isinstance(view, bool) or view < 0:
            raise OptionError(f"view counts the views of an image from 0, got {brief(view)}")
        vit = adapt(model).vit if vit is None else vit
        if vit is model or all(module is not vit for module in model.modules()):
            raise OptionError(
                f"expected an owner around a ViT, which makes views of its images, got {type(model).__name__}"
                + (" itself" if vit is model else f", which does not hold this {type(vit).__name__}")
            )
        self.view = view
        self.owner = _with(model, vit, _Part(vit), {})
        self.train(model.training)

    def forward(self, images: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The owner's own output."""
        call = _Call(self, images, args, kwargs)
        with call.running():
            output = self.owner(images, *args, **kwargs)
        if not call.reached:
            made = f"makes {call.count} views of an image" if call.count else "does not call its ViT as a module"
            raise UnsupportedModelError(f"{type(self.owner).__name__} {made}: there is no view {self.view} to look at")
        return output


class _Part(nn.Module):
    """Stands where the ViT stood, and gives it the one view apart."""

    def __init__(self, vit: nn.Module) -> None:
        super().__init__()
        self.vit = vit

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("vit"), name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        call = _calls.get()
        return self.vit(*args, **kwargs) if call is None else call.answer(self.vit, args, kwargs)


class _SeenError(Exception):
    """Carries what the ViT would be given."""

    def __init__(self, pixels: Tensor) -> None:
        super().__init__()
        self.pixels = pixels


_calls: ContextVar["_Call | None"] = ContextVar("captum_vit_view", default=None)


@dataclass
class _Call:
    """One call of the owner.

    count: how many views have come so far.  reached: whether the one was among them.  probing: whether it only has to
    be seen what the ViT is given.
    """

    model: OneView
    images: Tensor
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    probing: bool = False
    count: int = 0
    reached: bool = False

    @contextmanager
    def running(self) -> Iterator[None]:
        token = _calls.set(self)
        try:
            yield
        finally:
            _calls.reset(token)

    def answer(self, vit: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        """What the ViT gives, of the one view listened to."""
        pixels = next((x for x in (*args, *kwargs.values()) if isinstance(x, Tensor) and x.dim() > 2), None)
        batch = len(self.images)
        if pixels is None or len(pixels) % batch:
            found = "no images" if pixels is None else f"{len(pixels)} images"
            raise UnsupportedModelError(
                f"of {batch} images {found} reach the ViT: how many views there are is not clear"
            )
        views = len(pixels) // batch
        own = self.model.view - self.count
        self.count += views
        if own not in range(views):
            with unheard():
                return vit(*args, **kwargs)
        self.reached = True
        if self.probing:
            raise _SeenError(pixels)
        if views == 1:
            return vit(*args, **kwargs)
        rows = self._rows(own, views, pixels)

        def cut(x: Any) -> Any:
            return x[rows] if isinstance(x, Tensor) and x.dim() and len(x) == len(pixels) else x

        def joined(all_views: Any, one: Any) -> Any:
            if not isinstance(one, Tensor) or not one.dim() or len(all_views) != len(pixels):
                return all_views
            return all_views.index_copy(0, rows, one)

        with unheard():
            whole = vit(*args, **kwargs)
        return tree_map(joined, whole, vit(*map(cut, args), **{name: cut(x) for name, x in kwargs.items()}))

    def _rows(self, view: int, views: int, pixels: Tensor) -> Tensor:
        """Where the view of each image stands among all, by what the ViT is given of the first image alone."""
        batch = len(self.images)
        places = torch.arange(len(pixels), device=pixels.device)
        if batch == 1:
            return places[view : view + 1]
        alone = _seen(self.model, self.images, self.args, self.kwargs)
        by_image = {"image": places.view(batch, views), "view": places.view(views, batch).T}
        found = [rows for rows in by_image.values() if alone.shape == pixels[rows[0]].shape]
        found = [rows for rows in found if torch.allclose(alone, pixels[rows[0]], rtol=1e-3, atol=1e-4)]
        if len(found) != 1:
            raise UnsupportedModelError(
                f"which of the {len(pixels)} views of {batch} images are of which image cannot be told: each image's "
                f"stand neither side by side nor one batch apart, or all look the same. Explain one image at a time"
            )
        return found[0][:, view]


def _seen(model: OneView, images: Tensor, args: tuple, kwargs: Mapping[str, Any]) -> Tensor:
    """What the ViT is given of the first image alone."""

    def cut(x: Any) -> Any:
        return x[:1] if isinstance(x, Tensor) and x.dim() and len(x) == len(images) else x

    call = _Call(model, images[:1], (), {}, probing=True)
    try:
        with torch.no_grad(), unheard(), call.running():
            model.owner(images[:1], *map(cut, args), **{name: cut(x) for name, x in kwargs.items()})
    except _SeenError as seen:
        return seen.pixels
    raise UnsupportedModelError(f"{type(model.owner).__name__} makes other views of one image than of several")


def _with(module: nn.Module, vit: nn.Module, part: nn.Module, known: dict[int, nn.Module]) -> nn.Module:
    """The module with another in place of its ViT: copies of what stands around it, which share all else."""
    if module is vit:
        return part
    if all(inner is not vit for inner in module.modules()):
        return module
    if id(module) not in known:
        copy = known[id(module)] = object.__new__(type(module))
        copy.__dict__.update(module.__dict__)
        children = {name: child and _with(child, vit, part, known) for name, child in module._modules.items()}
        copy.__dict__["_modules"] = children
    return known[id(module)]
