"""From what a model computed to what is said of each image: scores, targets, labels, and what is odd about them."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..access import Adapter
from ..access.any_model import AnyModel
from ..access.two_towers import TwoTowers
from ..errors import OptionError
from ..explained import RANDOM, Attribution
from ..models import LoadedModel
from ..targets import TextEmbedding
from ..unusual import adds_up, unusual_scores
from ..wording import number, percent
from .asking import Asked, Vocabulary, Wanted
from .reading import Reading


def probabilities(loaded: LoadedModel, logits: Tensor) -> Tensor:
    """Scores of the classes in 0..1, (N, classes); outputs that are probabilities already as they are."""
    if logits.dim() != 2:
        return logits.float().cpu()  # a dense head: its scores are not of an image
    if max(loaded.class_names, default=-1) >= logits.shape[1]:
        raise OptionError(f"{len(loaded.class_names)} class names, and the model has {logits.shape[1]} scores")
    return (logits if adds_up(logits) else loaded.probabilities(logits.float())).float().cpu()


def wanted(reading: Reading, vocabulary: Vocabulary, asked: Asked, shares: Tensor | None, multi: bool) -> list[Wanted]:
    """The targets with their labels; also checked where no method uses them.

    Args:
        shares: scores of the classes, None of a model without.
        multi: whether each class is scored by itself.
    """
    if shares is None and not asked.targets:
        return [reading.whatever()]
    if not asked.targets:
        assert shares is not None
        return vocabulary.predicted(shares, asked.top_k, multi)
    known = shares if shares is not None else reading.scores.float().cpu()
    targets = vocabulary.parsed(asked.targets, reading.scores.shape[1])
    return among_texts(vocabulary.several(targets, reading.output, known), reading.adapter)


def among_texts(wanted: list[Wanted], adapter: Adapter) -> list[Wanted]:
    """The same with the probabilities of texts: what the model's own scale makes of their cosines.

    A model that was trained with a sigmoid says it of each text by itself; of another, a softmax over all texts that
    are asked together says which is the likeliest of these, and nothing of a single one.
    """
    texts = [i for i, each in enumerate(wanted) if isinstance(each.target, TextEmbedding)]
    if not isinstance(adapter, TwoTowers) or not texts or (len(texts) == 1 and not adapter.each_by_itself):
        return wanted
    cosines = torch.tensor([[label.score if label else 0.0 for label in wanted[i].labels] for i in texts])
    known = likely(adapter, cosines)
    found, among = list(wanted), 0 if adapter.each_by_itself else len(texts)
    for i, row in zip(texts, known.tolist(), strict=True):
        labels = [
            label and replace(label, probability=share, among=among)
            for label, share in zip(wanted[i].labels, row, strict=True)
        ]
        found[i] = replace(wanted[i], labels=labels)
    return found


def likely(adapter: TwoTowers, cosines: Tensor) -> Tensor:
    """The probabilities of texts, (texts, N) of their cosines: by themselves, or among all of them."""
    scale, bias = adapter.scale
    logits = scale * cosines + bias
    return logits.sigmoid() if adapter.each_by_itself else logits.softmax(0)


def notes_of(loaded: LoadedModel, scores: Tensor | None, output: str = "") -> tuple[str, ...]:
    """What a user should know of the model and of its scores; None of a model of features.

    output: which of several outputs they are, in words.
    """
    told = [*loaded.notes]
    if loaded.random:
        told.append(f"{RANDOM}: nothing was learnt, the maps show the architecture alone")
    told += [f"scores: {output}"] if output else []
    if scores is None:
        return tuple(told)
    if scores.dim() != 2:
        return tuple(told)
    names, classes = len(loaded.class_names), scores.shape[1]
    if 0 < names < classes and max(loaded.class_names) == names - 1:  # single ones are named on purpose
        told.append(f"{names} class names, and the model has {classes} scores: the others have none")
    odd = unusual_scores(scores)
    return (*told, odd) if odd else tuple(told)


def titled(attributions: Sequence[Attribution], loaded: LoadedModel) -> tuple[Attribution, ...]:
    """The attributions; of a model that has learnt nothing with that in the title, so that every picture says it."""
    if not loaded.random:
        return tuple(attributions)
    return tuple(replace(a, facts=replace(a.facts, title=f"{a.method_title}, {RANDOM}")) for a in attributions)


def accounted(
    reading: Reading, wanted: Sequence[Wanted], found: Sequence[Sequence[Attribution]]
) -> list[tuple[str, ...]]:
    """Of each image, how much of a target's score each map sums to that shares it out; to be asked inside the run.

    Of models that no adapter knows alone: there the map lies at the cells of a stem, and the rest is held by biases,
    and by what a softmax keeps.
    """
    told: list[list[str]] = [[] for _ in found]
    sharing = [
        name
        for name, method in reading.asked.methods.items()
        if isinstance(method.adapter, AnyModel) and method.sums_to_score(**reading.asked.options[name])
    ]
    for each in wanted if sharing else ():
        scores = each.target.score(reading.output(each.target)).detach().double().tolist()
        for i, (score, label) in enumerate(zip(scores, each.labels, strict=True)):
            for a in found[i]:
                if a.method in sharing and a.target == label and score:
                    share = percent(float(a.map.double().sum()) / score)
                    rest = "biases, and what a softmax keeps, hold the rest"
                    told[i].append(f"{a.title}: the map sums to {share} of its score of {number(score)}; {rest}")
    return [tuple(each) for each in told]
