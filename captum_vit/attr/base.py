"""The base class of all methods: inputs in, maps out, in captum's way."""

import inspect
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from captum.attr import GradientAttribution, LayerAttribution
from captum.log import log_usage
from torch import Tensor, nn

from .. import ops
from ..access import CLASS, Adapter, Layer, Readout, TokenLayout
from ..access.registry import adapt, select_layers
from ..capture.running import Inputs, Score, measure_readout
from ..capture.untouched import untouched
from ..errors import InputError, LayerNotFoundError, OptionError, TargetError, UnsupportedModelError

OUTPUT_SHAPES = ("grid", "spatial", "input")
Images = Tensor | tuple[Tensor]


class ViTAttribution(LayerAttribution):
    """Attribution of an image to its patches by the attention layers of an unmodified Vision Transformer.

    A method implements `_maps`; everything else is the same for all.

    Args:
        model: any timm or Hugging Face ViT, or a module with one inside.
        layer: attention layers to read, each by name, index (negative too) or module; None reads all. An index counts
            all attention layers, as `captum_vit.inspect(model)` lists them. Where a class token joins late, it is read
            in the last of them alone; those before have a part only in methods that multiply attention through them.
    Raises:
        UnsupportedModelError: no adapter knows the model, or the method does not apply to it.
        LayerNotFoundError: a layer that the model does not have, or none in which the score is read; where the readout
            is measured, that is known with the first map.
    """

    class_specific: ClassVar[bool]  # whether the map depends on the target
    multiplies_layers: ClassVar[bool] = False  # whether it needs all attention between the image and the score

    def __init__(self, model: nn.Module, layer: Layer | Sequence[Layer] | None = None, **options: Any) -> None:
        if options:
            call = ", ".join(f"{name}={value!r}" for name, value in options.items())
            raise OptionError(
                f"{self.get_name()} is made of a model and layers, options go into its call: .attribute(images, {call})"
            )
        self.adapter = adapt(model)
        reason = self.unsuited(self.adapter)
        if reason is not None:
            raise UnsupportedModelError(f"{self.get_name()} does not apply to {type(model).__name__}: {reason}")
        self.layer_names = select_layers(self.adapter, layer)
        if self.adapter.readout is not None:
            self._leading(self.adapter.readout)
        modules = self.adapter.attention_layers()
        LayerAttribution.__init__(self, model, [modules[name] for name in self.layer_names])
        self._measured: Readout | None = None

    @classmethod
    def get_name(cls) -> str:
        return cls.__name__

    @property
    def multiplies_by_inputs(self) -> bool:
        return False

    def has_convergence_delta(self) -> bool:
        return False

    @classmethod
    def unsuited(cls, adapter: Adapter) -> str | None:
        """Why the method does not apply to a model; None if it does."""
        return adapter.gap if cls.multiplies_layers else None

    @log_usage()
    def attribute(
        self,
        inputs: Images,
        target: Any = None,
        additional_forward_args: Any = None,
        *,
        forward_kwargs: Mapping[str, Any] | None = None,
        output_shape: str = "grid",
        **options: Any,
    ) -> Images:
        """The map of each image.

        Args:
            inputs: images, (N, C, H, W), normalised as the model expects; a tuple of one gives a tuple of one.
            target: class of each image, as captum takes it: int, (N,) tensor or list. Or, where the output is a
                feature, an embedding in floating point to compare it with, as of a text, (D,) or one an image (N, D):
                the score is the cosine of both. Unused where the class attribute `class_specific` is False.
            additional_forward_args: further positional arguments of the model's forward.
            forward_kwargs: keyword arguments of the model's forward, as `interpolate_pos_encoding=True`.
            output_shape: "grid" (N, 1, rows, cols), "spatial" (N, 1, H, W; bilinear), or "input" (N, C, H, W;
                the spatial map divided by C, so that the channels sum to it).
            options: what the method itself offers.
        Returns:
            Map in patch units, detached, never normalised over the batch.
        Raises:
            InputError, TargetError, OptionError, TokenLayoutError: what was passed does not hold.
            LayerNotRecordedError: the model computed attention in a way that its adapter does not see.
        """
        maps = self._run(inputs, target, additional_forward_args, forward_kwargs, output_shape, False, options)
        return (maps,) if isinstance(inputs, tuple) else maps

    @log_usage()
    def attribute_flow(
        self,
        inputs: Images,
        target: Any = None,
        additional_forward_args: Any = None,
        *,
        forward_kwargs: Mapping[str, Any] | None = None,
        output_shape: str = "grid",
        **options: Any,
    ) -> Images:
        """The map as it stands after each block: (N, layers, rows, cols), or (N, layers, H, W) for "spatial".

        The layers are the chosen ones among which the score is read.

        The arguments are those of `attribute`, and the last slice is its result.
        """
        if output_shape == "input":
            raise OptionError("a flow has one channel a layer: output_shape must be 'grid' or 'spatial', got 'input'")
        flow = self._run(inputs, target, additional_forward_args, forward_kwargs, output_shape, True, options)
        return (flow,) if isinstance(inputs, tuple) else flow

    def flow_layers(self) -> list[str]:
        """Names of the layers that the slices of a flow belong to; where the readout is measured, known after a map."""
        reading = self.adapter.reading_layers(self.adapter.readout or self._measured or CLASS)
        return [name for name in self.layer_names if name in reading]

    @abstractmethod
    def _maps(self, *args: Any, **kwargs: Any) -> tuple[Tensor, TokenLayout]:
        """The method itself: `_maps(inputs, target, *, flow, ...)`, what follows being the options of `attribute`.

        Returns the maps over the patches after each layer, (N, layers, patches), or for `flow=False` only the last,
        (N, 1, patches).
        """

    def _run(
        self,
        inputs: Images,
        target: Any,
        args: Any,
        kwargs: Mapping[str, Any] | None,
        output_shape: str,
        flow: bool,
        options: Mapping[str, Any],
    ) -> Tensor:
        check_output_shape(output_shape)
        check_options(type(self), options)
        call = self._inputs(inputs, args, kwargs)
        with untouched(self.adapter), torch.no_grad():
            maps, layout = self._maps(call, target, flow=flow, **options)
            return shape_maps(layout.to_grid(maps).detach(), layout, call.images, output_shape)

    def _inputs(self, inputs: Images, args: Any, kwargs: Mapping[str, Any] | None) -> Inputs:
        """The model's call, checked."""
        images = inputs[0] if isinstance(inputs, tuple) and len(inputs) == 1 else inputs
        channels = self.adapter.in_channels or "C"
        if not isinstance(images, Tensor) or images.dim() != 4:
            got = f"shape {tuple(images.shape)}" if isinstance(images, Tensor) else f"{type(images).__name__}"
            raise InputError(
                f"expected one torch tensor of images, (N, {channels}, H, W), got {got}: preprocess each image as the "
                f"model expects, and torch.stack them"
            )
        if len(images) == 0:
            raise InputError("the batch holds no image: N must be at least 1")
        if not images.is_floating_point():
            raise InputError(f"expected normalised images in floating point, got {images.dtype}: convert and normalise")
        if not torch.isfinite(images).all():
            bad = (~torch.isfinite(images)).flatten(1).any(1).nonzero().flatten().tolist()
            raise InputError(f"NaN or infinite values in image {', '.join(map(str, bad))} of the batch")
        if channels not in ("C", images.shape[1]) and self.adapter.vit is self.adapter.model:
            raise InputError(f"the model takes {channels} channels, got images of shape {tuple(images.shape)}")
        if args is None:
            args = ()
        call = Inputs(images.detach(), args if isinstance(args, tuple) else (args,), dict(kwargs or {}))
        try:
            inspect.signature(self.adapter.model.forward).bind(call.images, *call.args, **call.kwargs)
        except TypeError as error:
            raise InputError(f"{type(self.adapter.model).__name__}.forward: {error}") from error
        return call

    def _read(self, inputs: Inputs) -> tuple[Readout, list[str]]:
        """The readout that the adapter declares, else the measured one, measured once; and the layers to read."""
        readout = self.adapter.readout or self._measured
        if readout is None:
            readout = self._measured = measure_readout(self.adapter, inputs)
        return readout, self._leading(readout)

    def _leading(self, readout: Readout) -> list[str]:
        """The chosen layers in which the score is read; with those before them, if the method multiplies layers."""
        reading = self.adapter.reading_layers(readout)
        read = [name for name in self.layer_names if name in reading]
        if not read:
            raise LayerNotFoundError(
                f"{', '.join(self.layer_names)}: no query there is a token that the score is read from. Choose at "
                f"least one of {', '.join(reading)}"
            )
        return self.layer_names[: self.layer_names.index(read[-1]) + 1] if self.multiplies_layers else read


class GradientViTAttribution(ViTAttribution, GradientAttribution):
    """A method that differentiates the target's score; captum's NoiseTunnel asks for the GradientAttribution."""

    class_specific = True

    def __init__(self, model: nn.Module, layer: Layer | Sequence[Layer] | None = None, **options: Any) -> None:
        ViTAttribution.__init__(self, model, layer, **options)
        self.gradient_func = torch.autograd.grad

    def _score(self, target: Any) -> Score:
        """The target's score, which is differentiated."""
        return lambda scores: select_scores(scores, target, headless=self.adapter.headless)


def options_of(method: type[ViTAttribution]) -> dict[str, Any]:
    """The options of a method's `attribute` with their defaults."""
    parameters = inspect.signature(method._maps).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "flow"}


def check_options(method: type[ViTAttribution], options: Mapping[str, Any]) -> None:
    """Raise OptionError unless the method has all these options."""
    known = options_of(method)
    for name in options:
        if name not in known:
            raise OptionError(
                f"{method.get_name()} has no option {name!r}; it has: {', '.join(known)}. Keyword arguments of the "
                f"model go through forward_kwargs={{...}}"
            )


def check_output_shape(output_shape: str) -> None:
    """Raise OptionError unless maps come in this shape."""
    if output_shape not in OUTPUT_SHAPES:
        raise OptionError(f"output_shape must be one of {', '.join(OUTPUT_SHAPES)}, got {output_shape!r}")


def select_scores(scores: Tensor, target: Any, *, headless: bool = False) -> Tensor:
    """The target's score of each image: (N, C) -> (N,).

    Raises:
        TargetError: None for several scores, out of range, or not one for each image.
    """
    count, classes = scores.shape
    if isinstance(target, Tensor) and target.is_floating_point():
        return _similarity(scores, target)
    if target is None:
        if classes == 1:
            return scores[:, 0]
        if headless:
            raise TargetError(
                f"the model has no classification head, its {classes} scores are features: pass "
                f"importance=FeatureImportance(...) to DAAM, an embedding to compare with, as of a text, or the number "
                f"of a single feature"
            )
        raise TargetError(
            f"target is needed: the model gives {classes} scores an image; the predicted class is "
            f"model(images).argmax(-1)"
        )
    index = target_indices(target, count, classes).to(scores.device)
    return scores.gather(1, index[:, None])[:, 0]


def _similarity(features: Tensor, target: Tensor) -> Tensor:
    """Cosine of each feature (N, D) with an embedding (D,), (1, D) or (N, D): (N,)."""
    count, width = features.shape
    fits = target.shape in ((width,), (1, width), (count, width))
    if not fits or width == 1:  # the cosine with a single number is but its sign
        shapes = f"({width},) or one an image, ({count}, {width})" if width > 1 else "for an output of several numbers"
        raise TargetError(
            f"a class must be an integer, an embedding to compare with must be {shapes}: got {target.dtype} of shape "
            f"{tuple(target.shape)}"
        )
    target = ops.widen(target.detach().to(features.device))
    return F.cosine_similarity(ops.widen(features), target.reshape(-1, width), dim=1)


def target_indices(target: Any, count: int, classes: int) -> Tensor:
    """A target in any of captum's forms as (count,) indices >= 0."""
    if isinstance(target, tuple):  # one for all images, with an index for each dimension of a score
        target = _only(target, classes)
        target = torch.tensor(target) if isinstance(target, int) else target
    elif isinstance(target, list):  # one for each image
        target = [_only(t, classes) if isinstance(t, (list, tuple)) else t for t in target]
    kinds = (int, list, Tensor)
    if isinstance(target, bool) or not isinstance(target, kinds):
        raise TargetError(f"target must be an int, a list of ints or an integer tensor, got {type(target).__name__}")
    try:
        index = torch.as_tensor(target)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TargetError(f"target must hold integers only, got {target!r}") from error
    if index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
        raise TargetError(f"target must hold integers, got {index.dtype}")
    single = index.numel() == 1 and not isinstance(target, list)
    if index.dim() > 1 or not (single or index.numel() == count):
        raise TargetError(f"target must be one class or one an image: {count} images, got shape {tuple(index.shape)}")
    if bool(((index < -classes) | (index >= classes)).any()):
        raise TargetError(f"target out of range: the model gives {classes} scores, 0 to {classes - 1}, got {target!r}")
    return (index.long() % classes).flatten().expand(count)


def _only(target: Sequence[Any], classes: int) -> Any:
    if len(target) != 1:
        raise TargetError(f"the scores are (N, {classes}): a target is one class an image, got {target!r}")
    return target[0]


def shape_maps(maps: Tensor, layout: TokenLayout, images: Tensor, output_shape: str) -> Tensor:
    """Maps (N, L, rows, cols) in one of the output shapes, contiguous.

    Pixels outside the patches (a size that is no multiple of the patch) get 0: they were not seen.
    """
    if output_shape == "grid":
        return maps.contiguous()
    height, width = images.shape[2:]
    seen = layout.image_size or (height, width)
    covered = (
        round(maps.shape[2] * layout.patch[0] * height / seen[0]),
        round(maps.shape[3] * layout.patch[1] * width / seen[1]),
    )
    spatial = F.interpolate(maps, covered, mode="bilinear", align_corners=False)
    spatial = F.pad(spatial, (0, width - covered[1], 0, height - covered[0]))
    if output_shape == "spatial":
        return spatial.contiguous()
    channels = images.shape[1]
    return (spatial / channels).expand(-1, channels, -1, -1).contiguous()
