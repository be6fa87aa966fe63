"""From a model and an image to an Explanation: preprocessing, predictions, targets by name, and the methods."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import torch
from PIL import Image
from torch import Tensor, nn

from ..access.registry import unwrap
from ..attr import DAAM, METHODS, FeatureImportance, RawAttention, ViTAttribution
from ..attr.base import options_of
from ..capture.untouched import untouched
from ..classes import as_targets, class_index, titles
from ..describing import versions
from ..errors import InputError, OptionError, PreprocessingError, TargetError, nearest
from ..explained import AttentionRecord, Attribution, Label
from ..geometry import View
from ..images import Picture, to_image
from ..models import chosen_device, with_names
from ..preprocessing import Preprocessing, checked_view, covered, read_preprocessing, shown, squashed
from .explanation import Explanation

Target = int | str


Method = str | Sequence[str] | None
Targets = Target | Sequence[Target] | None


@overload
def explain(
    images: Picture, model: str | nn.Module = ..., method: Method = ..., target: Targets = ..., **options: Any
) -> Explanation: ...
@overload
def explain(
    images: Sequence[Picture], model: str | nn.Module = ..., method: Method = ..., target: Targets = ..., **options: Any
) -> list[Explanation]: ...
def explain(
    images: Picture | Sequence[Picture],
    model: str | nn.Module = "sample",
    method: Method = None,
    target: Targets = None,
    *,
    preprocess: Any = None,
    class_names: Sequence[str] | Mapping[int, str] | None = None,
    multi_label: bool | None = None,
    layer: Any = None,
    device: str | torch.device | None = None,
    top_k: int = 5,
    attention: bool = False,
    **options: Any,
) -> Explanation | list[Explanation]:
    """Explain images: what the model looked at for each class, laid back on the original.

    Args:
        images: a path, a PIL image, an array (H, W), (H, W, 3) of uint8, a tensor, or a list of these. A uint8 tensor
            (3, H, W) is an image; one of floats, (C, H, W) or (1, C, H, W), is taken as preprocessed already.
        model: `timm/NAME`, `hf/ID`, `hf/FOLDER`, `sample`, or the model itself.
        method: agcam, daam, rollout, gradient_rollout, raw_attention, several of them, or all. By default agcam, and
            daam for a model without classes.
        target: class by number or name, or several. By default the predicted one; of a multi-label model all of the
            `top_k` with a score above one half.
        preprocess: for a model itself: torchvision transforms, an image processor of Hugging Face, or a Preprocessing.
            Models of timm carry their own. "squash" takes the whole image, whatever its proportions, at the size and
            with the normalisation of the model's own, as the published evaluations do.
        class_names: for a model that carries none, or others than its own.
        multi_label: whether each class is scored by itself (sigmoid), not against the others; by default as the model's
            configuration says.
        layer: attention layers to read, as for the methods; all by default.
        device: for a model by name, where to compute; by default cuda if there is one.
        top_k: how many predicted classes to name.
        attention: keep the attention itself, of heads and between patches, for the figures and the report.
        options: of the methods, each of which is given those that it knows: discard_ratio=0.9.
    Returns:
        An Explanation, or for a list of images a list of them.
    Raises:
        CaptumViTError: what was passed does not hold; the message says which and what to do.
    """
    explainer = Explainer(
        model, preprocess=preprocess, class_names=class_names, multi_label=multi_label, layer=layer, device=device
    )
    ask = {"method": method, "target": target, "top_k": top_k, "attention": attention, **options}
    if isinstance(images, (list, tuple)):
        return [explainer(image, **ask) for image in images]
    return explainer(images, **ask)  # type: ignore[arg-type]


class Explainer:
    """A model that is ready to explain images: loaded once, asked many times.

    Args:
        model, preprocess, class_names, multi_label, layer, device: as for `explain`.
        checkpoint: for a model by name, weights to load into it.

    Attributes:
        headless: whether the model gives features, not classes.
        names: index -> name of the class.
    """

    def __init__(
        self,
        model: str | nn.Module = "sample",
        *,
        preprocess: Any = None,
        class_names: Sequence[str] | Mapping[int, str] | None = None,
        multi_label: bool | None = None,
        layer: Any = None,
        device: str | torch.device | None = None,
        checkpoint: str | Path | None = None,
    ) -> None:
        self.loaded, self._preprocess = with_names(model, class_names, checkpoint), preprocess
        if multi_label is not None:
            self.loaded = replace(self.loaded, multi_label=multi_label)
        self.model_name = model if isinstance(model, str) else type(unwrap(model)).__name__
        if isinstance(model, str):
            self.loaded.model.to(chosen_device(device))
        elif device is not None:
            raise OptionError("device is for models by name: a model itself stays where it is, move it first")
        self.layer = layer
        self.adapter = DAAM(self.loaded.model, layer).adapter
        self.headless = self.adapter.headless
        self.names = dict(self.loaded.class_names or self.adapter.class_names)
        self._titles = titles(self.names)
        self._methods: dict[str, ViTAttribution] = {}

    @cached_property
    def preprocess(self) -> Preprocessing:
        """The way into the model and back: the one that was given, or its own.

        Raises:
            PreprocessingError: neither is known.
        """
        if self._preprocess not in (None, "squash"):
            return read_preprocessing(self._preprocess)
        own = self.loaded.preprocess or read_preprocessing(unwrap(self.loaded.model))
        return own if self._preprocess is None else squashed(own)

    @property
    def squashed(self) -> bool:
        """Whether the model is shown the whole image, whatever its proportions."""
        view = self.preprocess.view((640, 480))
        return view.size == self.preprocess.view((480, 640)).size and view.window == (0.0, 0.0, 640.0, 480.0)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next((p.device for p in self.loaded.model.parameters()), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """What the model computes in."""
        return next((p.dtype for p in self.loaded.model.parameters() if p.is_floating_point()), torch.float32)

    def __call__(
        self,
        image: Picture,
        *,
        method: Method = None,
        target: Targets = None,
        top_k: int = 5,
        attention: bool = False,
        **options: Any,
    ) -> Explanation:
        """Explain one image; arguments and errors are those of `explain`."""
        if top_k < 1:
            raise OptionError(f"top_k must be at least 1, got {top_k}")
        chosen = self.choose(method, target)
        given = _options(chosen, options)
        original, inputs, view = self._see(image)
        scores = None if self.headless or self.loaded.regression else self._scores(inputs)
        classes: list[Label] = []
        if scores is not None:
            wanted = self._targets(target, scores, top_k)  # also checked where no method uses them
            if any(METHODS[name].class_specific for name in chosen):
                classes = [self._label(index, scores) for index in wanted]
        kept = self._attention(inputs) if attention else None
        return Explanation(
            original,
            view,
            tuple(self._attributions(inputs, chosen, classes, given)),
            self._labels(scores, classes, top_k),
            self.model_name,
            Path(image).name if isinstance(image, (str, Path)) else "",
            dict(versions()),
            kept,
        )

    def choose(self, method: str | Sequence[str] | None, target: Any = None) -> list[str]:
        """The methods that were asked for, of all those that apply, or one that suits the model.

        Raises:
            OptionError, TargetError: an unknown method, or one that needs classes where the model has none.
        """
        if (self.headless or self.loaded.regression) and as_targets(target):
            what = "features" if self.headless else "values"
            raise TargetError(f"a target needs a classifier, and {self.model_name!r} gives {what}, not classes")
        if method is None:
            return ["daam" if self.headless else "agcam"]
        asked = [method] if isinstance(method, str) else list(method)
        chosen = check_methods(asked)
        if "all" in asked:
            return [name for name in chosen if self.unfit(name) is None]
        unfit = [name for name in chosen if self.headless and METHODS[name].class_specific and name != "daam"]
        if unfit:
            others = [name for name in METHODS if self.unfit(name) is None]
            raise OptionError(
                f"{' and '.join(unfit)} cannot be drawn: {self.unfit(unfit[0])}; choose among {', '.join(others)}"
            )
        return chosen

    def unfit(self, method: str) -> str | None:
        """Why a method does not apply to the model; None if it does."""
        if self.headless and METHODS[method].class_specific and method != "daam":
            return f"explaining a class needs a classifier, and {self.model_name!r} gives features, not classes"
        return METHODS[method].unsuited(self.adapter)

    def method(self, name: str) -> ViTAttribution:
        """The method of this name on the model."""
        if name not in self._methods:
            self._methods[name] = METHODS[name](self.loaded.model, self.layer)
        return self._methods[name]

    def _see(self, image: Picture) -> tuple[Image.Image, Tensor, View]:
        """The original image, the model's input (1, C, H, W), and how it looks at the original."""
        if isinstance(image, Tensor) and image.is_floating_point():
            inputs = image if image.dim() == 4 else image.unsqueeze(0)
            if inputs.dim() != 4 or len(inputs) != 1:
                raise InputError(f"expected one image (C, H, W) or (1, C, H, W), got {tuple(image.shape)}: pass a list")
            original = shown(inputs[0], self._normalisation())
            view = View.of(original.size)
        else:
            original = to_image(image)
            inputs = self._prepared(original).unsqueeze(0)
            view = checked_view(self.preprocess, original.size, (inputs.shape[3], inputs.shape[2]))
        inputs = inputs.to(self.device, self.dtype)
        return original, inputs, covered(view, self.adapter, (inputs.shape[2], inputs.shape[3]))

    def _prepared(self, image: Image.Image) -> Tensor:
        """The model's input (C, H, W), checked: a preprocessing may be anybody's."""
        prepared = self.preprocess(image)
        if not isinstance(prepared, Tensor) or prepared.dim() != 3 or not prepared.is_floating_point():
            got = (
                f"{prepared.dtype} {tuple(prepared.shape)}" if isinstance(prepared, Tensor) else type(prepared).__name__
            )
            raise PreprocessingError(f"a preprocessing gives a tensor of floats (C, H, W), got {got}: add ToTensor()")
        channels = self.adapter.in_channels
        if channels is not None and channels != len(prepared) and self.adapter.vit is self.adapter.model:
            raise PreprocessingError(
                f"the model takes {channels} channels, and the preprocessing gives {len(prepared)}: pass another "
                f"preprocess=..., for one channel with torchvision's Grayscale()"
            )
        return prepared

    def _normalisation(self) -> Preprocessing | None:
        """For showing a preprocessed tensor, which needs no preprocessing that is known."""
        try:
            return self.preprocess
        except PreprocessingError:
            return None

    def _scores(self, inputs: Tensor) -> Tensor:
        """Scores of the classes in 0..1, (classes,)."""
        with untouched(self.adapter), torch.no_grad():
            logits = self.adapter.scores(self.loaded.model(inputs))[0]
        if max(self.loaded.class_names, default=-1) >= len(logits):
            raise OptionError(f"{len(self.loaded.class_names)} class names, and the model has {len(logits)} scores")
        return self.loaded.probabilities(logits.float()).cpu()

    def _targets(self, target: Any, scores: Tensor, top_k: int) -> list[int]:
        """The asked classes; else those predicted: the best, and of a multi-label model others above one half."""
        wanted = as_targets(target)
        if wanted:
            return list(dict.fromkeys(class_index(each, self.names, len(scores), self.model_name) for each in wanted))
        best, *others = scores.argsort(descending=True)[:top_k].tolist()
        return [best, *(i for i in others if self.loaded.multi_label and scores[i] > 0.5)]

    def _label(self, index: int, scores: Tensor) -> Label:
        return Label(index, self.names.get(index, ""), scores[index].item(), self._titles.get(index, ""))

    def _labels(self, scores: Tensor | None, explained: list[Label], top_k: int) -> tuple[Label, ...]:
        """The best classes and the explained ones, best first."""
        if scores is None:
            return ()
        wanted = {label.index for label in explained}
        ranked = scores.argsort(descending=True).tolist()
        return tuple(self._label(i, scores) for rank, i in enumerate(ranked) if rank < top_k or i in wanted)

    def _attributions(
        self, inputs: Tensor, methods: list[str], classes: list[Label], options: Mapping[str, dict[str, Any]]
    ) -> Iterable[Attribution]:
        """Class by class; methods that show none come last, once."""
        for label in classes:
            for name in methods:
                if METHODS[name].class_specific:
                    yield self._attribution(inputs, name, label, options[name])
        for name in methods:
            if self.headless or self.loaded.regression or not METHODS[name].class_specific:
                yield self._attribution(inputs, name, None, options[name])

    def _attribution(self, inputs: Tensor, name: str, label: Label | None, options: dict[str, Any]) -> Attribution:
        method = self.method(name)
        if label is None and method.class_specific and self.headless:
            options = {"importance": FeatureImportance(), **options}
        flow = method.attribute_flow(inputs, target=label and label.index, **options)[0].float().cpu()
        return Attribution(name, label, flow, tuple(method.flow_layers()), options)

    def _attention(self, inputs: Tensor) -> AttentionRecord:
        method = self.method("raw_attention")
        assert isinstance(method, RawAttention)
        heads, patches = method.attention(inputs)
        return AttentionRecord({n: h[0].cpu() for n, h in heads.items()}, {n: p[0].cpu() for n, p in patches.items()})


def check_methods(names: Sequence[str]) -> list[str]:
    """The methods that the names stand for, each once.

    Raises:
        OptionError: an unknown name.
    """
    for name in names:
        if name != "all" and name not in METHODS:
            raise OptionError(f"no method {name!r}; there are all, {', '.join(METHODS)}{nearest(name, list(METHODS))}")
    return list(METHODS) if "all" in names else list(dict.fromkeys(names))


def _options(methods: Sequence[str], options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What of the options each method knows."""
    known = {name: options_of(METHODS[name]) for name in methods}
    for option in options:
        if not any(option in those for those in known.values()):
            there = {f"{o} ({name})": None for name, those in known.items() for o in those}
            raise OptionError(
                f"{' and '.join(methods)} {'has' if len(methods) == 1 else 'have'} no option {option!r}; there is: "
                f"{', '.join(there) or 'none'}"
            )
    return {name: {o: value for o, value in options.items() if o in those} for name, those in known.items()}
