"""What goes into a method and comes out of it: the model's call, checked, and maps in the shape that is wanted."""

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import NoneType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..access import Adapter, TokenLayout
from ..access.arguments import missing_texts
from ..access.outputs import checked_choice
from ..access.tokens import ENLARGING
from ..access.two_towers import TwoTowers
from ..capture import Inputs, Run
from ..checking import check_flag
from ..errors import InputError, OptionError, brief
from ..targets import Target
from ..unusual import note_once, unusual_inputs, unusual_scores
from .options import check_options

OUTPUT_SHAPES = ("grid", "spatial", "input")
Images = Tensor | tuple[Tensor]


def checked_inputs(
    adapter: Adapter, inputs: Images, args: Any = None, kwargs: Mapping[str, Any] | None = None, output: Any = None
) -> Inputs:
    """The model's call, and which of its outputs are the scores, if somebody chose.

    Raises:
        InputError: not one finite floating-point batch of the model's channels, or arguments that it does not take.
        OptionError: `output` is no choice.
    """
    images = inputs[0] if isinstance(inputs, tuple) and len(inputs) == 1 else inputs
    of_images = adapter.batch_dims == 4
    channels = adapter.in_channels or "C" if of_images else "C"
    if not isinstance(images, Tensor) or images.dim() != adapter.batch_dims:
        if isinstance(images, Tensor):
            adapter.call_with(images)  # which says it in its own words where images are not all that the model takes
        got = f"shape {tuple(images.shape)}" if isinstance(images, Tensor) else f"{type(images).__name__}"
        wanted = f"images, (N, {channels}, H, W)" if of_images else f"{adapter.batch_dims} dimensions"
        raise InputError(
            f"expected one torch tensor of {wanted}, got {got}: preprocess each image as the model expects, and "
            f"torch.stack them"
        )
    if len(images) == 0:
        raise InputError("the batch holds no image: N must be at least 1")
    if not images.is_floating_point():
        raise InputError(f"expected normalised images in floating point, got {images.dtype}: convert and normalise")
    _check_device(adapter, images)
    if not torch.isfinite(images).all():
        bad = (~torch.isfinite(images)).flatten(1).any(1).nonzero().flatten().tolist()
        raise InputError(f"NaN or infinite values in image {', '.join(map(str, bad))} of the batch")
    if channels not in ("C", images.shape[1]) and adapter.vit is adapter.model:
        adapter.call_with(images)
        raise InputError(f"the model takes {channels} channels, got images of shape {tuple(images.shape)}")
    if not isinstance(kwargs, (Mapping, NoneType)) or not all(isinstance(name, str) for name in kwargs or ()):
        raise InputError(f"forward_kwargs are arguments of the model's forward by name, a dict, got {brief(kwargs)}")
    given = () if args is None else args if isinstance(args, tuple) else (args,)
    call = _with_a_text(adapter, Inputs(images.detach(), given, dict(kwargs or {}), checked_choice(output)))
    signature, own = inspect.signature(adapter.model.forward), adapter.call_with(call.images)
    if twice := sorted(own.keys() & call.kwargs.keys()):
        name = type(adapter.model).__name__
        raise InputError(f"{name} is given {', '.join(twice)} with its images here, made of them: leave it out")
    try:
        if own:  # of a text that comes first, what depends on it is asked by its name
            bound = signature.bind(*call.args, **{**call.kwargs, **own})
            named = dict(zip(signature.parameters, bound.args, strict=False)) | bound.kwargs
            return replace(call, args=(), kwargs={key: value for key, value in named.items() if key not in own})
        signature.bind(call.images, *call.args, **call.kwargs)
    except TypeError as error:
        missing = re.match("missing a required argument: '([^']+)'", str(error))
        hint = f", pass it by forward_kwargs={{{missing[1]!r}: ...}}" if missing else ""
        raise InputError(f"{type(adapter.model).__name__}.forward: {error}{hint}") from error
    return call


def _with_a_text(adapter: Adapter, call: Inputs) -> Inputs:
    """The call of a model of images and texts, with the shortest text there is where none was given."""
    if not isinstance(adapter, TwoTowers) or call.output is not None:
        return call
    stands_in = adapter.without_text()
    if not stands_in or not missing_texts(adapter.model, call.args, call.kwargs):
        return call
    return replace(call, kwargs={**call.kwargs, **stands_in}, textless=True)


def check_text_given(adapter: Adapter, call: Inputs, target: Target) -> None:
    """Raise InputError where a target is of texts, of which none was given beside the images."""
    if call.textless and not target.of_features:
        name = next(iter(missing_texts(adapter.model, (), {})))
        raise InputError(
            f"{type(adapter.model).__name__} takes {name} beside images, and its scores are of these texts: pass them, "
            f"with output='logits_per_image', by forward_kwargs={{{name!r}: ...}}, or explain how like one text an "
            f"image is, by target=captum_vit.targets.Text('a cat on a sofa')"
        )


def _check_device(adapter: Adapter, images: Tensor) -> None:
    """Raise InputError where the model lies on one device, and the images on another."""
    devices = {weight.device for weight in adapter.model.parameters()}
    if images.device in devices or len(devices) != 1:
        return
    (device,) = devices
    moved = any(hasattr(module, "_hf_hook") for module in adapter.model.modules())  # accelerate brings inputs along
    if device.type == "meta" and not moved:
        raise InputError(f"{type(adapter.model).__name__} has no weights (it is on the meta device): load them first")
    if not moved:
        raise InputError(
            f"the model is on {device}, the images are on {images.device}: pass images.to({str(device)!r})"
        )


def note_unusual(adapter: Adapter, run: Run, target: Target | None) -> None:
    """Warn, once a model, of images that nobody normalised, and of a target whose scores are probabilities already.

    target: None where the scores are no matter.
    """
    if adapter.batch_dims == 4:
        note_once(adapter.model, "inputs", unusual_inputs(run.inputs.images))
    if target is not None and target.reads_scores and not adapter.headless:
        note_once(adapter.model, "scores", unusual_scores(run.scores))


def check_output_shape(output_shape: str) -> None:
    """Raise OptionError unless maps come in this shape."""
    if not isinstance(output_shape, str) or output_shape not in OUTPUT_SHAPES:
        raise OptionError(f"output_shape must be one of {', '.join(OUTPUT_SHAPES)}, got {brief(output_shape)}")


def check_one_image(call: Inputs) -> None:
    """Raise InputError unless several targets are asked of one image."""
    if len(call.images) != 1:
        raise InputError(f"attribute_classes takes one image, got a batch of {len(call.images)}")


def check_asked(method: Any, output_shape: str, options: Mapping[str, Any], create_graph: bool) -> None:
    """Raise OptionError unless maps of this method come so: differentiable, in this shape, with these options."""
    check_trains(method, create_graph)
    check_output_shape(output_shape)
    check_options(method.get_name(), method.options(), options)


def check_trains(method: Any, create_graph: bool) -> None:
    """Raise OptionError where maps of this method can train no model, or nothing of its model is trained."""
    check_flag("create_graph", create_graph)
    if create_graph and method.no_graph:
        raise OptionError(
            f"maps of {method.get_name()} cannot be differentiated by the model's parameters: {method.no_graph}. Ask "
            f"without create_graph, or a method that reads attention or gradients of one forward, as AGCAM"
        )
    model = method.adapter.model
    if create_graph and not any(p.requires_grad for p in model.parameters()):
        raise OptionError(
            f"create_graph=True is for training, and no parameter of this {type(model).__name__} asks for gradients: "
            f"let those that are trained do so, by .requires_grad_()"
        )


def in_graph(name: str, maps: Tensor, run: Run, output_shape: str) -> Tensor:
    """The maps of the method of this name, differentiable by the model's parameters where the run has its graph.

    Raises:
        OptionError: they have none, and the run has.
    """
    if not run.kept.create_graph:
        return maps.detach()
    model = type(run.adapter.model).__name__
    if not maps.requires_grad:
        raise OptionError(
            f"the maps of {name} on this {model} cannot be differentiated by its parameters: none that asks for "
            f"gradients has a part in them, or something cuts that off"
        )
    if output_shape != "grid" and run.layout.view is not None:
        raise OptionError(
            f"this {model} sees a part of its images, on which maps are placed without a "
            f"graph: with create_graph=True ask for output_shape='grid'"
        )
    return maps


def shape_maps(maps: Tensor, layout: TokenLayout, adapter: Adapter, images: Tensor, output_shape: str) -> Tensor:
    """Maps (N, L, *grid) in one of the output shapes, contiguous.

    Pixels outside the patches get 0: they were not seen, where an owner crops, or the size is no multiple of the patch.
    """
    if output_shape == "grid":
        return maps.contiguous()
    spatial = _spatial(maps, layout, adapter.size_of(images))
    if output_shape == "spatial":
        return spatial.contiguous()
    if images.dim() != 4:
        raise OptionError("output_shape='input' is for images: a map of a video or volume is 'grid' or 'spatial'")
    channels = images.shape[1]
    return (spatial / channels).expand(-1, channels, -1, -1).contiguous()


def _spatial(maps: Tensor, layout: TokenLayout, size: Sequence[int]) -> Tensor:
    """Maps (N, L, *grid) over the pixels of the given images."""
    seen = tuple(layout.image_size or size)
    if layout.view is not None:
        covered = [round(cells * patch) for cells, patch in zip(maps.shape[2:], layout.patch, strict=True)]
        view = layout.view.cropped(0, 0, covered[1], covered[0])
        placed = [[view.place(one) for one in flow] for flow in maps]
        return torch.from_numpy(np.nan_to_num(np.array(placed))).to(maps)
    covered = [
        round(cells * patch * side / shown)
        for cells, patch, side, shown in zip(maps.shape[2:], layout.patch, size, seen, strict=True)
    ]
    spatial = F.interpolate(maps, covered, mode=ENLARGING[len(size)], align_corners=False)
    margins = [n for side, part in zip(size[::-1], covered[::-1], strict=True) for n in (0, side - part)]
    return F.pad(spatial, margins)
