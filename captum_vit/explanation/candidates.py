"""Texts that an image may show, as zero-shot image classification has them."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..access import Adapter
from ..access.two_towers import TwoTowers
from ..errors import InputError, TargetError, brief
from ..targets import Target, Text
from .answering import likely


def texts_of(labels: Any, template: str, target: Any, adapter: Adapter) -> list[Target]:
    """A text for each label, with the words of the template around it.

    Raises:
        InputError: no list of labels, one beside another target, or a model without texts.
    """
    if isinstance(labels, str) or not (isinstance(labels, Sequence) and labels):
        raise InputError(f"candidate_labels is a list of texts, got {brief(labels)}")
    if target is not None:
        raise InputError("candidate_labels are the targets: leave target=... out")
    if not isinstance(adapter, TwoTowers):
        raise InputError(
            f"candidate_labels are for models of images and texts, and {type(adapter.model).__name__} takes no texts: "
            f"pass captum_vit.explainer a pipeline of the task 'zero-shot-image-classification', or the model itself"
        )
    return [Text(template.format(label)) for label in labels]


def check_candidates(asked: Sequence[Any], adapter: Adapter) -> None:
    """Raise TargetError where a model of images and texts is asked without any text."""
    if not asked and isinstance(adapter, TwoTowers):
        raise TargetError(
            f"{type(adapter.model).__name__} compares images with texts: say what they may show, by candidate_labels=["
            f"'a cat', 'a dog'], or target=captum_vit.targets.Text('a cat')"
        )


def shown_as(
    labels: Sequence[str] | None, adapter: Adapter, values: Tensor, titles: list[tuple[str, str]]
) -> tuple[Tensor, list[tuple[str, str]]]:
    """Of candidate labels their probabilities, (N, labels) of their cosines, and names; of all else what is given."""
    if labels is None or not isinstance(adapter, TwoTowers):
        return values, titles
    return likely(adapter, values.T).T, [(label, "probability") for label in labels]
