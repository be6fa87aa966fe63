"""Captum's own attributions where a method of ours may stand."""

import inspect
from dataclasses import replace
from functools import cache
from typing import Any, ClassVar

import torch
from captum.attr import Attribution, GuidedGradCam, LayerGradCam, Saliency
from torch import Tensor, nn

from ..access import Adapter, Readout, TokenLayout, unwrap
from ..capture import Inputs, Run, untouched
from ..errors import OptionError, TargetError
from ..facts import Facts
from ..targets import Classes, Output, Target, class_places
from .base import ViTAttribution

GIVEN = {"self", "inputs", "target", "additional_forward_args"}  # what its `attribute` is given anyway


class Scored(nn.Module):
    """A model that gives its scores (N, classes), or one target's (N,), whatever else it returns.

    That is what Captum works on.
    """

    def __init__(self, adapter: Adapter, inputs: Inputs | None = None, target: Target | None = None) -> None:
        super().__init__()
        self.model, self.adapter, self.inputs, self.target = adapter.model, adapter, inputs, target

    def forward(self, images: Tensor) -> Tensor:
        """Scores of images (N, C, H, W)."""
        given = replace(self.inputs or Inputs(images), images=images)
        raw = given.run(self.adapter)
        scores = given.scores(self.adapter, raw)
        return scores if self.target is None else self.target.score(Output(raw, scores, self.adapter.headless))


class CaptumMethod(ViTAttribution):
    """An attribution of Captum: its values of the pixels, summed over channels and over each patch.

    So the map lies on the same grid as all others, and its sum is what Captum's is. It runs the model by itself, as
    often as it needs.
    """

    captum: ClassVar[Any]  # the class, or an object of it
    signed = True
    any_model = True
    no_graph = "Captum lets go of the graph of what it gives"

    @classmethod
    def facts(cls, **options: Any) -> Facts:
        """Of two signs, but for `Saliency`, whose gradients are taken without theirs unless `abs=False`."""
        kind = cls.captum if isinstance(cls.captum, type) else type(cls.captum)
        return replace(super().facts(), signed=not (issubclass(kind, Saliency) and options.get("abs", True)))

    @classmethod
    def options(cls) -> dict[str, Any]:
        """What its own `attribute` takes besides."""
        parameters = inspect.signature(cls.captum.attribute).parameters.values()
        named = (p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
        return {p.name: p.default for p in named if p.name not in GIVEN}

    @classmethod
    def unsuited(cls, adapter: Adapter) -> str | None:
        """Where it is made of more than a model."""
        if adapter.batch_dims != 4:
            return "it is asked about images, and the model takes videos or volumes"
        if not isinstance(cls.captum, type):
            made_of = getattr(cls.captum, "forward_func", None)
            if not isinstance(made_of, nn.Module) or isinstance(made_of, Scored) or unwrap(made_of) is adapter.model:
                return None
            return "it was made of another model"
        if not hasattr(cls.captum, "attribute"):
            return "it is no attribution by itself, but what others are made of"
        _model, *others = [p for p in inspect.signature(cls.captum).parameters.values() if p.default is p.empty]
        lacking = [p.name for p in others if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        if _model.name not in ("forward_func", "model"):
            return f"it is made of {_model.name}, not of a model: make it, and pass the object"
        if issubclass(cls.captum, (LayerGradCam, GuidedGradCam)):
            return (
                "it gives values of a layer, weighs channels by their mean over the image, and would take the tokens "
                "of a ViT for channels: gradcam is that on tokens"
            )
        if any(name in ("layer", "neuron_selector") for name in lacking):
            return f"it gives values of a layer ({', '.join(lacking)}), not of the image"
        return (
            f"it is made of more than a model ({', '.join(lacking)}): make it, and pass the object" if lacking else None
        )

    def layers_kept(self, readout: Readout, flow: bool, **options: Any) -> list[str]:
        """None: it looks at the input."""
        return []

    def flow_layers(self, readout: Readout) -> list[str]:
        """The input stands where others have layers."""
        return ["input"]

    def _maps(self, run: Run, target: Target, *, flow: bool, **options: Any) -> Tensor:
        images = run.inputs.images
        with untouched(self.adapter), torch.enable_grad():
            if isinstance(target, Classes) and target.index is not None:
                places = class_places(target.index, len(images), tuple(run.scores.shape[1:]))
                index = places[:, 0].to(images.device) if places.shape[1] == 1 else list(map(tuple, places.tolist()))
                pixels = self._pixels(Scored(self.adapter, run.inputs), images, index, options)
            elif isinstance(self.captum, type):  # one by one: it repeats images as it likes
                if len(images) > 1 and (run.inputs.args or run.inputs.kwargs):
                    raise TargetError(f"{self.title} takes a class as target for several images with further arguments")
                scored = [Scored(self.adapter, run.inputs, target.of_image(i)) for i in range(len(images))]
                each = zip(scored, images.split(1), strict=True)
                pixels = torch.cat([self._pixels(model, image, None, options) for model, image in each])
            else:
                raise TargetError(f"{self.title} is made already, of a model's scores: its target is a class")
        return summed_over_patches(pixels, run.layout, self.adapter.size_of(images))

    def _pixels(self, model: nn.Module, images: Tensor, target: Any, options: dict[str, Any]) -> Tensor:
        """(N, H, W)."""
        made = self.captum(model) if isinstance(self.captum, type) else self.captum
        for name, default in self.options().items():
            if default is inspect.Parameter.empty and name not in options:
                raise OptionError(f"{self.title} needs the option {name}=...")
        if "internal_batch_size" in self.options():
            options = {"internal_batch_size": len(images), **options}
        own = images.clone().requires_grad_()  # the next method is given the same images
        found = made.attribute(own, target=target, **options)
        if not isinstance(found, Tensor) or found.dim() != 4 or found.shape[2:] != images.shape[2:]:
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise OptionError(f"{self.title} gives {got} for images {tuple(images.shape)}: no value for each pixel")
        return found.detach().sum(1)


def method_of_captum(captum: Any) -> type[ViTAttribution]:
    """A class of Captum's, or an attribution that is made already, as a method of ours."""
    return _of_class(captum) if isinstance(captum, type) else _made(captum)  # an object is not kept: it holds a model


@cache
def _of_class(captum: type) -> type[ViTAttribution]:
    return _made(captum)


def _made(captum: Any) -> type[ViTAttribution]:
    kind = captum if isinstance(captum, type) else type(captum)
    assert issubclass(kind, Attribution)
    facts = {"captum": captum, "title": kind.__name__, "__module__": __name__, "__doc__": kind.__doc__}
    return type(kind.__name__, (CaptumMethod,), facts)


def summed_over_patches(pixels: Tensor, layout: TokenLayout, size: tuple[int, ...]) -> Tensor:
    """Values of pixels (N, H, W), summed over each patch: (N, 1, patches). A pixel between two counts in parts."""
    if layout.view is None:
        scale = [shown / side for side, shown in zip(size, layout.image_size or size, strict=True)]
        offset: tuple[float, ...] = (0.0, 0.0)
    else:  # an owner crops, resizes or pads: the patches lie on a part of the image
        (across, down), (right, below) = layout.view.scale, layout.view.offset
        scale, offset = [down, across], (below, right)
    edges = (
        (torch.arange(cells + 1, dtype=torch.float64) * patch + start) / factor
        for cells, patch, start, factor in zip(layout.grid, layout.patch, offset, scale, strict=True)
    )
    rows, columns = (_shares(each, side).to(pixels) for each, side in zip(edges, size, strict=True))
    return (rows @ pixels @ columns.mT).flatten(1).unsqueeze(1)


def _shares(edges: Tensor, pixels: int) -> Tensor:
    """How much of each pixel lies in each cell, (cells, pixels), of cells between edges that are given in pixels."""
    starts = torch.arange(pixels, dtype=torch.float64)
    return (torch.minimum(edges[1:, None], starts + 1) - torch.maximum(edges[:-1, None], starts)).clamp(min=0)
