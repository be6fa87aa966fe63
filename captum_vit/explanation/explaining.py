"""From a model and images to Explanations: one run of the model for a batch, read by all methods for all targets."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..access import Adapter, unwrap
from ..access.any_model import AnyModel, adapt_any
from ..access.outputs import checked_choice
from ..access.two_towers import compares_texts, embedded
from ..attr import RawAttention, ViTAttribution
from ..attr.stated import why_not
from ..checking import check_flag, check_whole, checked_flags
from ..classes import titles
from ..clips import Clip
from ..describing import versions
from ..errors import InputError, OptionError, brief
from ..explained import RANDOM
from ..images import Picture
from ..models import LoadedModel, chosen_device
from ..preprocessing import Preprocessing, covered, read_preprocessing, squashed
from ..wrapped import preprocessing_of, with_names
from .answering import accounted, probabilities, titled
from .arguments import of_each, together
from .asking import Asked, Vocabulary, check_no_class, chosen_methods, listed, shared_options
from .dense import is_dense, noted, wanted_of
from .explanation import Explanation
from .filming import watch
from .judging import attributions
from .reading import Reading
from .removing import removals_of
from .seeing import Seen, batches, see
from .sentences import with_sentences

BATCH = 8  # images at once; the graph of ViT-B/16 takes 70 MiB an image


class Explainer:
    """A model that is ready to explain images: loaded once, asked many times.

    >>> explainer = Explainer("timm/vit_base_patch16_224")
    >>> for photo in photos: explainer(photo, method="agcam").overlay().show()

    Args:
        model, preprocess, checkpoint, tokenizer, class_names, multi_label, layer, output, device: as for `explain`.

    Attributes:
        headless, names: whether the model gives features, not classes; index -> name of the class.
    """

    def __init__(
        self,
        model: str | nn.Module | LoadedModel = "sample",
        *,
        preprocess: Any = None,
        tokenizer: Any = None,
        class_names: Sequence[str] | Mapping[int, str] | str | Path | None = None,
        multi_label: bool | None = None,
        layer: Any = None,
        output: Any = None,
        device: str | torch.device | None = None,
        checkpoint: str | Path | None = None,
    ) -> None:
        if not isinstance(model, (str, nn.Module, LoadedModel)):
            raise InputError(f"a model is a name as timm/NAME, or a torch.nn.Module, got {brief(model)}")
        self.output = checked_choice(output)
        self.loaded, self._preprocess = with_names(model, class_names, checkpoint, self.output), preprocess
        if multi_label is not None:
            check_flag("multi_label", multi_label)
            self.loaded = replace(self.loaded, multi_label=multi_label)
        self.model_name = self.loaded.name or type(unwrap(self.loaded.model)).__name__
        if self.loaded.name:
            self.loaded.model.to(chosen_device(device))
        elif device is not None:
            raise OptionError("device is for models by name: a model itself stays where it is, move it first")
        self.layer = layer
        self.adapter = adapt_any(self.loaded.model)
        self.texts, self.headless = compares_texts(self.adapter, self.output)
        self.tokenizer = self.loaded.tokenizer if tokenizer is None else tokenizer
        self.names = dict(self.loaded.class_names or self.adapter.class_names)
        embed = partial(embedded, self.adapter, tokenizer=self.tokenizer)
        self.vocabulary = Vocabulary(self.names, titles(self.names), self.model_name, embed)
        self._methods: dict[type[ViTAttribution], ViTAttribution] = {}

    @cached_property
    def preprocess(self) -> Preprocessing:
        """The way into the model and back: the one that was given, or its own.

        Raises:
            PreprocessingError: neither is known.
        """
        if not (self._preprocess is None or (isinstance(self._preprocess, str) and self._preprocess == "squash")):
            return read_preprocessing(self._preprocess)
        own = preprocessing_of(self.loaded, self.adapter)
        return own if self._preprocess is None else squashed(own)

    @property
    def squashed(self) -> bool:
        """Whether the model is shown the whole image, whatever its proportions."""
        view = self.preprocess.view((640, 480))
        return view.size == self.preprocess.view((480, 640)).size and view.window == (0.0, 0.0, 640.0, 480.0)

    @property
    def classless(self) -> bool:
        """Whether the model has no classes: it gives features, or values."""
        return self.headless or self.loaded.regression

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
        image: Picture | Clip,
        *,
        method: Any = None,
        target: Any = None,
        top_k: int = 5,
        attention: bool = False,
        verdict: bool = False,
        removals: bool = False,
        words: bool = False,
        forward_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Explanation:
        """Explain one image; arguments and errors are those of `explain`."""
        kept = {"attention": attention, "verdict": verdict, "removals": removals, "words": words}
        asked = self.ask(method=method, target=target, top_k=top_k, **kept, **options)
        return self.answer([self.see(image, *of_each(forward_kwargs, 1))], asked)[0]

    def ask(
        self,
        *,
        method: Any = None,
        target: Any = None,
        top_k: int = 5,
        attention: bool = False,
        verdict: bool = False,
        removals: bool = False,
        words: bool = False,
        **options: Any,
    ) -> Asked:
        """A question, checked before any image is looked at; arguments are those of `explain`.

        Raises:
            OptionError, TargetError, LayerNotFoundError: an unknown method, option, target or layer, or one that does
                not apply to the model.
        """
        check_whole("top_k", top_k)
        kept = checked_flags(attention=attention, verdict=verdict, removals=removals, words=words)
        check_of_images(attention, self.adapter)
        wanted = listed(target)
        if self.classless:
            check_no_class(wanted, self.model_name, "features" if self.headless else "values", texts=self.texts)
        kinds = self.choose(method)
        given = {name: self.options(kinds[name], own) for name, own in shared_options(kinds, options).items()}
        return Asked({name: self.method(kind) for name, kind in kinds.items()}, given, wanted, top_k, **kept)

    def choose(self, method: Any = None) -> dict[str, type[ViTAttribution]]:
        """The methods that are asked for, of all those that apply, or one that suits the model.

        Raises:
            OptionError: an unknown method, or one that does not apply.
        """
        default = default_of(self.adapter, texts=self.texts, headless=self.headless)
        return chosen_methods(default if method is None else method, self.unfit)

    def unfit(self, method: type[ViTAttribution]) -> str | None:
        """Why a method does not apply to the model; None if it does."""
        return why_not(method, self.adapter)

    def method(self, kind: type[ViTAttribution]) -> ViTAttribution:
        """The method of this class on the model."""
        if kind not in self._methods:
            self._methods[kind] = kind(self.loaded.model, self.layer)
        return self._methods[kind]

    def options(self, kind: type[ViTAttribution], options: Mapping[str, Any]) -> dict[str, Any]:
        """The options of a method, and where it asks for probabilities by itself, what these are of this model."""
        known = "logit" if self.classless or self.loaded.shares else "sigmoid" if self.loaded.multi_label else None
        asks = kind.options().get("score") == "probability" and "score" not in options
        return {**options, "score": known} if asks and known else dict(options)

    def see(self, image: Picture | Clip, arguments: Mapping[str, Any] | None = None) -> Seen:
        """The image or video as the model sees it, with the keyword arguments that its forward is given beside it.

        Raises:
            InputError, ImageLoadError, PreprocessingError: what was passed does not hold.
        """
        seen: Callable[..., Seen] = see if self.adapter.batch_dims == 4 else watch
        return seen(image, lambda: self.preprocess, self.adapter, arguments or {})

    def several(self, seen: Iterable[Seen], asked: Asked, batch_size: int = BATCH) -> Iterator[Explanation]:
        """Explain images one batch after another, in their order.

        Raises:
            OptionError: a batch of none.
        """
        check_whole("batch_size", batch_size)
        for batch in batches(seen, batch_size):
            yield from self.answer(batch, asked)

    def answer(self, seen: Sequence[Seen], asked: Asked) -> list[Explanation]:
        """Explain images whose inputs have one size, by one run of the model; masks and queries image by image."""
        if (dense := is_dense(self.loaded.model, asked)) and len(seen) > 1:  # each has its own, read from other tokens
            return [found for one in seen for found in self.answer([one], asked)]
        inputs = torch.stack([one.inputs for one in seen]).to(self.device, self.dtype)
        beside, record = together([one.arguments for one in seen], inputs), RawAttention if asked.attention else None
        reading = Reading(self.adapter, inputs, asked, record and self.method(record), beside, self.output, dense=dense)
        with reading.run:
            shares = None if self.classless or dense else probabilities(self.loaded, reading.scores)
            each = wanted_of(reading, self.vocabulary, asked, shares, self.loaded.multi_label, seen[0].view)
            found = attributions(reading, each, self.loaded, shares, self.vocabulary.label)
            shared = accounted(reading, each, found)
            found, told = with_sentences(reading, each, found, self.tokenizer, asked.words)
            without = asked.removals and removals_of(reading.run, each, reading.output, self.loaded)
            kept, layout = reading.attention(), reading.layout
        labels, notes = self.vocabulary.labels(shares, found, asked.top_k), noted(self.loaded, reading, shares, each)
        name, explanations = f"{self.model_name}{f' ({RANDOM})' * self.loaded.random}", []
        *_, height, width = self.adapter.size_of(inputs)
        for i, one in enumerate(seen):
            more = beside_maps(one, kept[i], (*notes, *told, *one.notes, *shared[i]), without and without[i])
            whole = one.image, covered(one.view, layout, (height, width))
            explanations.append(Explanation(*whole, titled(found[i], self.loaded), labels[i], name, one.source, **more))
        return explanations


def default_of(adapter: Adapter, *, texts: bool, headless: bool) -> str:
    """The method that suits a model, by name."""
    if isinstance(adapter, AnyModel):
        return "attn_lrp"
    return "grad_eclip" if texts else "daam" if headless else "agcam"


def check_of_images(attention: bool, adapter: Adapter) -> None:
    """Raise OptionError where the attention is to be kept of a model that takes no images."""
    if attention and adapter.batch_dims != 4:
        raise OptionError("attention is kept of images, and the model takes videos or volumes: leave it out")


def beside_maps(one: Seen, attention: Any, notes: tuple[str, ...], removals: Any) -> dict[str, Any]:
    """What an explanation of an image has beside its maps and their labels."""
    more: dict[str, Any] = {"versions": dict(versions()), "attention": attention, "notes": notes}
    more |= {"removals": removals} if removals else {}
    return more if one.frames is None else {**more, "frames": one.frames}
