"""Which methods apply to a model that no adapter knows: they are tried on an image of noise."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..access import Grid, TokenLayout
from ..access.any_model import AnyModel
from ..capture import Inputs, sizes_of, untouched
from ..errors import CaptumViTError, InputError
from ..targets import Output, Target
from .calls import checked_inputs
from .cams import GradCAM
from .conserving import ConservingGradients
from .finding import METHODS
from .starting import start
from .token_cam import TokenCAM


@dataclass(frozen=True)
class Tried:
    """What came of it.

    size: (height, width) of the image.  layout: where the cells of the stem lie, or the image as one cell.
    refusals: name of a method -> why it does not apply.  facts: by heading, where the cells of which kind are.
    """

    size: Grid
    layout: TokenLayout
    refusals: Mapping[str, str]
    facts: Mapping[str, str]


class _Scores(Target):
    """The sum of all scores: a target of any model."""

    def score(self, output: Output) -> Tensor:
        return output.scores.flatten(1).sum(1)


def tried(adapter: AnyModel, size: Grid | None, kwargs: Mapping[str, Any] | None, output: Any) -> Tried:
    """What can be had of a model of any architecture.

    Args:
        adapter: the model.
        size: of the image, (height, width); by default the likeliest that the model takes.
        kwargs, output: keyword arguments of its forward, and which of its outputs are the scores.
    Raises:
        InputError: it takes no image of any size that is tried, or not of the one that was given.
    """
    call = _call(adapter, size, kwargs, output)
    layout = adapter.token_layout(tuple(call.images.shape[2:]), {})
    refusals, facts = dict[str, str](), dict[str, str]()
    for heading, kind in {"cells": ConservingGradients, "last grid": TokenCAM}.items():
        names = [name for name, method in METHODS.items() if issubclass(method, kind)]
        asked = names if kind is ConservingGradients else [name for name in names if METHODS[name] is GradCAM]
        for name in asked:
            method = METHODS[name](adapter.model)
            try:
                with start([(method, {})], call, once=True) as run:
                    method._maps(run, _Scores(), flow=False)
                    found, (place,) = method.place_of(run)
            except CaptumViTError as error:
                refusals |= dict.fromkeys([name] if len(asked) > 1 else names, str(error))
            else:
                layout = found if kind is ConservingGradients else layout
                facts[heading] = f"{' x '.join(map(str, found.grid))} at {place}"
    return Tried(tuple(call.images.shape[2:]), layout, refusals, facts)


def _call(adapter: AnyModel, size: Grid | None, kwargs: Mapping[str, Any] | None, output: Any) -> Inputs:
    """The model on the first image of noise that it takes."""
    failed: Exception | None = None
    known = next((p for p in adapter.model.parameters() if p.is_floating_point()), torch.zeros(()))
    for channels, sides in _sizes(adapter, size):
        images = torch.randn(1, channels, *sides, generator=torch.Generator().manual_seed(0)).to(known)
        call = checked_inputs(adapter, images, None, kwargs, output)
        try:
            with untouched(adapter), torch.no_grad():
                call.scores(adapter, call.run(adapter))
        except CaptumViTError:
            raise
        except Exception as error:  # whatever a model raises on images that it was not made for
            failed = failed or error
            continue
        return call
    raise InputError(
        f"{type(adapter.model).__name__} takes no image of noise of the sizes that were tried: pass image_size. The "
        f"first said: {type(failed).__name__}: {failed}"
    ) from failed


def _sizes(adapter: AnyModel, size: Grid | None) -> Iterator[tuple[int, Grid]]:
    if size is not None:
        yield adapter.channels, size
        return
    if adapter.image_size is not None:
        yield adapter.channels, adapter.image_size
    if adapter.batch_dims == 4:
        yield adapter.channels, (224, 224)
    yield from sizes_of(adapter)
