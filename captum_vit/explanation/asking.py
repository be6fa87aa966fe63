"""What is asked about an image: which methods with which options, and which targets."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from torch import Tensor

from ..attr import METHODS, ViTAttribution, find_method, in_all
from ..classes import class_index
from ..errors import OptionError, TargetError, brief, nearest
from ..explained import Attribution, Label
from ..marks import Mark
from ..plugins import is_path
from ..targets import Classes, Contrast, Output, Target, as_target, target_at, target_indices
from ..targets.classes import plain
from ..targets.texts import of_text

KEYWORDS = (
    *("method", "target", "layer", "output", "preprocess", "checkpoint", "class_names", "multi_label", "device"),
    *("top_k", "attention", "verdict", "removals", "words", "tokenizer", "batch_size", "forward_kwargs"),
)
_LOADING = "a model is loaded so by load_model(NAME, {}=...), which explain takes as model"
ELSEWHERE = {name: _LOADING.format(name) for name in ("checkpoint_key", "img_size", "pretrained")}
ELSEWHERE |= dict.fromkeys(("mean", "std"), "a normalisation is part of preprocess=...")


@dataclass(frozen=True)
class Asked:
    """A question, checked: methods by name with their options, and targets as they were given.

    Empty targets stand for the predicted classes; top_k says how many classes are named, attention whether the
    attention itself is kept, verdict whether maps are judged, removals whether scores without patches are measured,
    words whether a text is asked without each of its words.
    """

    methods: Mapping[str, ViTAttribution]
    options: Mapping[str, Mapping[str, Any]]
    targets: Sequence[Any] = ()
    top_k: int = 5
    attention: bool = False
    verdict: bool = False
    removals: bool = False
    words: bool = False


@dataclass(frozen=True)
class Wanted:
    """A target for a batch of images, with its label for each; None where one map is drawn for whatever there is.

    marks: what was asked about in each image.
    """

    target: Target
    labels: Sequence[Label | None]
    marks: Sequence[tuple[Mark, ...]] = ()


@dataclass(frozen=True)
class Vocabulary:
    """How a model's classes are called.

    names: number -> name.  titles: number -> what stands over pictures.  model: the model's own name.
    embed: makes the target of a text.
    """

    names: Mapping[int, str]
    titles: Mapping[int, str]
    model: str
    embed: Callable[[Any], Target] | None = None

    def label(self, index: int, probabilities: Tensor) -> Label:
        """A class with its score of one image, whose scores of all classes are given."""
        return Label(index, self.names.get(index, ""), probabilities[index].item(), self.titles.get(index, ""))

    def title(self, name: str) -> str:
        """What stands over pictures of a class that is named in another way, as by a folder.

        Raises:
            TargetError: it is no class.
        """
        index = class_index(name, self.names, max(self.names, default=-1) + 1, self.model)
        return self.titles.get(index) or self.names.get(index) or f"class {index}"

    def parse(self, target: Any, classes: int) -> Target:
        """A target as a person names it: a class by number or name, "one/other" for a contrast, `module:object`, or an
        object.

        Raises:
            TargetError: an unknown class, a text that the model cannot take, or something that is no target.
            OptionError: `module:object` that cannot be imported.
        """
        found = self._parsed(target, classes)
        return found if self.embed is None else found.with_texts(self.embed)

    def _parsed(self, target: Any, classes: int) -> Target:
        if isinstance(target, str):
            return self._named(target, classes)
        if isinstance(target, int) and not isinstance(target, bool):
            return Classes(class_index(target, self.names, classes, self.model))
        found = as_target(target).named(self.names, classes, self.model)
        if type(found) is Classes and type(found.index) is int:
            return Classes(int(target_indices(found.index, 1, classes)))
        return found

    def parsed(self, targets: Sequence[Any], classes: int) -> list[Target]:
        """Several, each class once."""
        found = [self.parse(each, classes) for each in targets]
        return list({t.index if type(t) is Classes and type(t.index) is int else id(t): t for t in found}.values())

    def _named(self, text: str, classes: int) -> Target:
        try:
            return Classes(class_index(text, self.names, classes, self.model))
        except TargetError:
            dense = of_text(text)
            if dense is not None:
                return dense.named(self.names, classes, self.model)
            if is_path(text.strip()):
                return target_at(text.strip()).named(self.names, classes, self.model)
            one, slash, other = text.partition("/")
            if not (slash and one.strip() and other.strip()):
                raise
        return Contrast(self._named(one, classes), self._named(other, classes))

    def wanted(self, target: Target, output: Output, probabilities: Tensor) -> Wanted:
        """A target that is the same for all images of a batch, with its labels."""
        measured, unit = target.told(output)
        values = measured.detach().float().tolist()
        each = [target.of_image(i) for i in range(len(values))]
        if probabilities.dim() == 2 and all(type(one) is Classes and isinstance(one.index, int) for one in each):
            pairs = zip(each, probabilities, strict=True)
            return Wanted(target, [self.label(one.index % len(scores), scores) for one, scores in pairs])  # type: ignore[attr-defined]
        return Wanted(
            target,
            [
                Label(None, one.text(self.names), value, one.title(self.names), unit)
                for one, value in zip(each, values, strict=True)
            ],
        )

    def several(
        self, targets: Sequence[Target], output_of: Callable[[Target], Output], probabilities: Tensor
    ) -> list[Wanted]:
        """Targets with labels that tell them apart: of two functions of one name the second is called "function 2"."""
        found, named = [], Counter[str]()
        for target in targets:
            wanted = self.wanted(target, output_of(target), probabilities)
            text = wanted.labels[0].name if wanted.labels[0] and wanted.labels[0].index is None else ""
            named[text] += bool(text)
            if named[text] > 1:
                number = f" {named[text]}"
                told = [
                    label and replace(label, name=label.name + number, title=label.title + number)
                    for label in wanted.labels
                ]
                wanted = replace(wanted, labels=told)
            found.append(wanted)
        return found

    def predicted(self, probabilities: Tensor, top_k: int, multi_label: bool) -> list[Wanted]:
        """The classes that are explained where none is asked for: of each image the best, and of a multi-label model
        all of the `top_k` above one half."""
        if probabilities.dim() != 2:
            Classes(None).score(Output(None, probabilities))  # raises: there is no best class of an image
        ranked = probabilities.argsort(dim=1, descending=True)[:, :top_k].tolist()
        each = [
            [first, *(i for i in rest if multi_label and scores[i] > 0.5)]
            for (first, *rest), scores in zip(ranked, probabilities, strict=True)
        ]
        wanted = []
        for place in range(max(map(len, each))):
            indices = [found[min(place, len(found) - 1)] for found in each]  # who has fewer repeats its last
            labels = [
                self.label(index, scores) if place < len(found) else None
                for index, found, scores in zip(indices, each, probabilities, strict=True)
            ]
            wanted.append(Wanted(Classes(indices), labels))
        return wanted

    def labels(
        self, probabilities: Tensor | None, found: Sequence[Sequence[Attribution]], top_k: int
    ) -> list[tuple[Label, ...]]:
        """Of each image the best classes and the explained ones, best first, then other targets."""
        labels = []
        for i, attributions in enumerate(found):
            explained = dict.fromkeys(a.target for a in attributions if a.target is not None)
            others = [label for label in explained if label.index is None]
            if probabilities is None or probabilities.dim() != 2:
                labels.append(tuple(others))
                continue
            ranked = probabilities[i].argsort(descending=True).tolist()
            wanted = {label.index for label in explained}
            best = [n for rank, n in enumerate(ranked) if rank < top_k or n in wanted]
            labels.append((*(self.label(n, probabilities[i]) for n in best), *others))
        return labels


def listed(target: Any) -> list[Any]:
    """Targets as they may be given, one by one: a number, a name, an object, a function, or a sequence of these.

    Raises:
        TargetError: a tensor or array of floats or of true and false, or nothing that could be a target.
    """
    if target is None:
        return []
    target = plain(target)  # of arrays too
    if isinstance(target, Tensor):
        as_target(target)
        found = target.flatten().tolist() if target.dim() != 1 else target.tolist()
    elif isinstance(target, (str, int, Target)) or callable(target):
        return [target]
    else:
        try:
            if isinstance(target, (bytes, Mapping)):
                raise TypeError("no several")
            found = list(target)
        except TypeError as error:
            raise TargetError(f"a target is a class by number or name, or several, got {brief(target)}") from error
    dense = isinstance(target, list)  # where scores have more dimensions, a list of tuples
    parts = [[Classes(item)] if dense and isinstance(item, tuple) and len(item) > 1 else listed(item) for item in found]
    every = [each for part in parts for each in part]
    wrong = [each for each in every if isinstance(each, (bool, float))]
    if wrong:
        raise TargetError(f"a target is a class by number or name, or several, got {brief(wrong[0])}")
    return every


def check_no_class(targets: Sequence[Any], model: str, gives: str, *, texts: bool = False) -> None:
    """Raise TargetError where a class is asked of a model that gives something else, as "features".

    texts: whether it compares images with texts, so that one has to be given.
    """
    named = [each for each in targets if isinstance(each, (int, str)) and not is_path(str(each))]
    if texts and (named or not targets):
        wanted = named[0] if named and isinstance(named[0], str) else "a cat on a sofa"
        asked = f"and no classes: the target {brief(named[0])} may be meant as" if named else "so a text is needed, as"
        raise TargetError(
            f"{model!r} compares images with texts, {asked} target=captum_vit.targets.Text({brief(wanted)}), "
            f"--text on the command line"
        )
    if named:
        raise TargetError(f"a target needs a classifier, and {model!r} gives {gives}, not classes")


def chosen_methods(method: Any, unfit: Callable[[type[ViTAttribution]], str | None]) -> dict[str, type[ViTAttribution]]:
    """The methods that are meant, each once: by name, `module:Class`, or as classes; "all" are all that apply, but for
    the costly ones, which are asked for by name.

    Raises:
        OptionError: an unknown name, a method that does not apply, or none at all.
    """
    asked = list(method) if isinstance(method, (list, tuple)) else [method]
    found: dict[str, type[ViTAttribution]] = {}
    for each in asked:
        if isinstance(each, str) and each == "all":
            found.update({name: kind for name, kind in in_all().items() if unfit(kind) is None})
        else:
            name, kind = find_method(each)
            found[name] = kind
    if not found:
        raise OptionError(f"at least one method is needed, got none of {', '.join(METHODS)}")
    for name, kind in found.items():
        reason = unfit(kind)
        if reason is not None:
            others = [name for name, kind in METHODS.items() if unfit(kind) is None]
            raise OptionError(f"{name} cannot be drawn: {reason}; choose among {', '.join(others)}")
    return found


def shared_options(
    methods: Mapping[str, type[ViTAttribution]], options: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """The options that each method accepts.

    Raises:
        OptionError: one that none of them accepts.
    """
    known = {name: method.options() for name, method in methods.items()}
    for option in options:
        if not any(option in accepted for accepted in known.values()):
            there = [f"{one} ({name})" for name, accepted in known.items() for one in accepted]
            close = nearest(option, [one for accepted in known.values() for one in accepted])
            meant = get_close_matches(str(option), KEYWORDS, n=1, cutoff=0.75)
            close = f"; explain takes {meant[0]}=..." if meant else close
            close = f"; {ELSEWHERE[option]}" if option in ELSEWHERE else close
            raise OptionError(
                f"{' and '.join(methods)} {'has' if len(methods) == 1 else 'have'} no option {option!r}; there is: "
                f"{', '.join(there) or 'none'}{close}"
            )
    return {
        name: {option: value for option, value in options.items() if option in accepted}
        for name, accepted in known.items()
    }
