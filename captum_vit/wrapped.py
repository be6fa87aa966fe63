"""A model as it is passed, with what is known of it; also of one inside somebody's own module.

What a ViT's configuration says is true of the module around it only where that module passes images and scores on as
they are: that is seen by running it once.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .access import Adapter, unwrap
from .access.any_model import adapt_any
from .access.nested import NestedAdapter
from .access.outputs import Choice
from .access.two_towers import TwoTowers
from .capture import Inputs, untouched
from .errors import OptionError, PreprocessingError, brief
from .files import lines_of
from .models import LoadedModel, load_model
from .plugins import is_path
from .preprocessing import Preprocessing, read_preprocessing


@dataclass(frozen=True)
class Inside:
    """The supported ViT inside somebody's own module.

    model, name: the ViT, and where it stands.
    same_images: whether it is given the images as the outer module takes them; None if that could not be seen.
    outputs: what the outer module makes of its scores: "same", "probabilities", or "others".
    """

    model: nn.Module
    name: str
    same_images: bool | None
    outputs: str


def look_inside(adapter: Adapter, output: Choice | None = None) -> Inside | None:
    """What a wrapper does with images and scores, by one run on two images of noise; None of a model itself.

    output: which of the outputs are the scores, where somebody chose.
    """
    if not isinstance(adapter, NestedAdapter):
        return None
    unseen = Inside(adapter.inner.model, adapter.name, None, "others")
    if adapter.image_size is None or adapter.batch_dims != 4:
        return unseen
    draw = torch.Generator().manual_seed(0)
    weight = next((p for p in adapter.vit.parameters() if p.is_floating_point()), torch.zeros(()))
    images = torch.cat([adapter.example(adapter.image_size, draw) for _ in range(2)]).to(weight)
    pixels: list[Tensor] = []
    scores: list[Any] = []
    with untouched(adapter), torch.no_grad(), _heard(adapter, pixels, scores):
        try:
            call = Inputs(images, output=output)
            outer = call.scores(adapter, call.run(adapter))
            inner = adapter.inner.scores(scores[0]) if len(scores) == 1 else None
        except Exception:  # it wants more than images, or is anybody's: then nothing is known of it
            return unseen
    same = _same_images(images, pixels)
    return replace(unseen, same_images=same, outputs="others" if inner is None else _relation(outer, inner))


@contextmanager
def _heard(adapter: NestedAdapter, pixels: list[Tensor], scores: list[Any]) -> Iterator[None]:
    """Notes what the ViT is given, and what it gives."""
    first = next((m for m in adapter.vit.modules() if isinstance(m, nn.Conv2d)), None)
    with ExitStack() as stack:
        if first is not None:
            handle = first.register_forward_pre_hook(lambda _, args: pixels.extend(args[:1]))
            stack.callback(handle.remove)
        stack.callback(adapter.inner.model.register_forward_hook(lambda *args: scores.append(args[2])).remove)
        yield


def _same_images(images: Tensor, pixels: list[Tensor]) -> bool | None:
    if not pixels:
        return None
    return all(p.shape[1:] == images.shape[1:] and torch.equal(p[: len(images)], images) for p in pixels)


def _relation(outer: Tensor, inner: Tensor) -> str:
    """Whether scores mean what those inside mean: the same, but for a temperature, or their probabilities."""
    if outer.shape != inner.shape or outer.dim() != 2:
        return "others"
    outer, inner = outer.double(), inner.double()
    factor = (outer * inner).sum() / (inner * inner).sum().clamp_min(1e-30)
    if _close(outer, inner) or _close(outer, inner.log_softmax(-1)) or (factor > 0 and _close(outer, factor * inner)):
        return "same"
    return "probabilities" if _close(outer, inner.softmax(-1)) or _close(outer, inner.sigmoid()) else "others"


def _close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-4, atol=1e-5)


def with_names(
    model: str | nn.Module | LoadedModel,
    class_names: Any,
    checkpoint: str | Path | None,
    output: Choice | None = None,
) -> LoadedModel:
    """A model by name or the module itself, with the names of its classes, or with others."""
    if isinstance(model, str):
        found = load_model(model, checkpoint=checkpoint)
    elif checkpoint is not None:
        raise OptionError("checkpoint is for models by name: load the weights into a model itself before")
    else:
        found = model if isinstance(model, LoadedModel) else _of_module(model, output)
    if is_path(found.name) and found.preprocess is None and not found.class_names:  # somebody's own, by its name
        seen = _of_module(found.model, output)
        found = replace(seen, name=found.name, notes=(*found.notes, *seen.notes))
    if class_names is None:
        return found
    return replace(found, class_names=_numbered(class_names))


def _numbered(class_names: Any) -> dict[int, str]:
    """Names of classes by number.

    Raises:
        OptionError: something else.
    """
    if isinstance(class_names, np.ndarray):
        class_names = class_names.tolist()
    wanted = "class_names must be a list of names, a dictionary by number, or a file with one on each line"
    if isinstance(class_names, (str, Path)):
        try:
            class_names = lines_of(class_names)
        except OptionError as error:
            raise OptionError(f"{wanted}: {error}") from error
    if not isinstance(class_names, (Mapping, Sequence)) or isinstance(class_names, bytes):
        raise OptionError(f"{wanted}, got {brief(class_names)}")
    names = dict(class_names if isinstance(class_names, Mapping) else enumerate(class_names))
    wrong = next(((n, name) for n, name in names.items() if not (isinstance(n, int) and isinstance(name, str))), None)
    if wrong is not None:
        raise OptionError(f"class_names must hold a text for each number, got {brief(wrong[0])}: {brief(wrong[1])}")
    return names


def _of_module(model: nn.Module, output: Choice | None) -> LoadedModel:
    """What a module says of itself, and of a ViT inside it what is true of the outer scores."""
    adapter = adapt_any(model)
    # what compares images with texts is itself one model of its library, and has no classes: nothing to look for
    inside = None if isinstance(adapter, TwoTowers) else look_inside(adapter, output)
    if inside is None:
        return _scored(LoadedModel(model, class_names=adapter.class_names), adapter.model)
    assert isinstance(adapter, NestedAdapter)
    names = adapter.inner.class_names
    told = f"{type(inside.model).__name__} inside {type(adapter.model).__name__} ({inside.name})"
    if inside.outputs == "others":
        lost = f"classes: the names that the {told} has are not used, since its scores are not those of the whole"
        notes = (f"{lost}: class_names=... (--class-names) names them",) if names else ()
        return LoadedModel(model, class_names=adapter.class_names, notes=notes)
    shares = inside.outputs == "probabilities"
    notes = (f"classes: named by the {told}",) if names else ()
    return _scored(LoadedModel(model, class_names=names, shares=shares, notes=notes), inside.model)


def _scored(found: LoadedModel, model: nn.Module) -> LoadedModel:
    """The model with the kind of scores that a configuration states."""
    problem = getattr(getattr(model, "config", None), "problem_type", None)
    return replace(found, multi_label=problem == "multi_label_classification", regression=problem == "regression")


def preprocessing_of(loaded: LoadedModel, adapter: Adapter) -> Preprocessing:
    """The preprocessing that belongs to a model: that it was loaded with, its own, or that of the ViT inside it.

    Raises:
        PreprocessingError: none is known, or the module around the ViT changes images before the ViT sees them.
    """
    if loaded.preprocess is not None:
        return loaded.preprocess
    model = unwrap(loaded.model)
    if not isinstance(adapter, NestedAdapter):
        return read_preprocessing(model)
    own = _own(model)
    if own is not None:
        return own
    found = read_preprocessing(adapter.inner.model)
    inside, outer = look_inside(adapter), type(model).__name__
    assert inside is not None
    if inside.same_images is False:
        raise PreprocessingError(
            f"{outer} changes the images before the {type(inside.model).__name__} inside it ({inside.name}) sees them, "
            f"so that the preprocessing of that one is not the whole: pass preprocess=..., up to what {outer} takes"
        )
    unchecked = "" if inside.same_images else f", unless {outer} prepares images itself"
    return replace(found, origin=f"{found.origin}, which stands inside {outer} ({inside.name}){unchecked}")


def _own(model: nn.Module) -> Preprocessing | None:
    try:
        return read_preprocessing(model)
    except PreprocessingError:
        return None
