"""Published protocols of perturbation: how the score falls as the pixels that a map calls important are taken away, or
rises as they are put in.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..errors import InputError, OptionError, brief
from .base import Case, Metric, blank, means
from .curves import TENTHS, Course, CourseOptions, Model, Unit, perturbation_curve
from .occluders import black


@dataclass(frozen=True)
class Protocol:
    """A published protocol: its curves, its figures, and what it asks of a run.

    curves: figure -> how the curve is drawn whose area it is.
    between: figure -> two of these figures; it is the first less the second.
    higher_is_better: of each figure, whether it is.
    published: which class is explained, and whether the model sees the whole image, as `Metric.published`.
    black: whether exchanged pixels become 0 before the normalisation, which takes its mean and std.
    of_labels: whether the score is of the image's own class, whatever class the map explains.
    """

    curves: Mapping[str, Course]
    higher_is_better: Mapping[str, bool]
    published: Mapping[str, str]
    between: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    black: bool = False
    of_labels: bool = False


PRESETS = {
    "agcam": Protocol(
        curves={"morf": Course("MoRF", levels=TENTHS), "lerf": Course("LeRF", levels=TENTHS)},
        between={"abpc": ("lerf", "morf")},
        higher_is_better={"morf": False, "lerf": True, "abpc": True},
        published={"target": "label", "preprocess": "squash"},
    ),
    "chefer": Protocol(
        curves={
            "positive": Course("MoRF", levels=TENTHS[1:10], score="top1"),
            "negative": Course("LeRF", levels=TENTHS[1:10], score="top1"),
        },
        higher_is_better={"positive": False, "negative": True},
        published={"preprocess": "squash"},
        black=True,
        of_labels=True,
    ),
    "rise": Protocol(
        curves={
            "deletion": Course(step=224, area="trapezoid"),
            "insertion": Course(step=224, area="trapezoid", start="occluder", occluder="blur"),
        },
        higher_is_better={"deletion": False, "insertion": True},
        published={"target": "predicted"},
    ),
}
"""The published protocols by name; `perturbation` says what each of them is."""


def perturbation(
    model: Model,
    images: Tensor,
    maps: Tensor,
    targets: Any,
    preset: str = "agcam",
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    unit: Unit = "pixel",
    batch_size: int = 64,
) -> dict[str, Tensor]:
    """The figures of a published protocol, and the curves that they come from.

    Args:
        model, images, maps, targets, unit, batch_size: as in `perturbation_curve`.
        preset: "agcam" (Leem & Seo 2024): the map explains the label, as `targets`; mean softmax over 11 levels
            towards mid-grey, "morf", "lerf", and "abpc", lerf less morf.
            "chefer" (Chefer et al. 2021): `targets` are the labels, whatever the map explains; mean top-1 accuracy over
            the levels 0.1 to 0.9 towards black, "positive" (MoRF) and "negative" (LeRF). Needs mean and std.
            "rise" (Petsiuk et al. 2018): the map explains the predicted class, as `targets`; area under the softmax in
            steps of 224 pixels, "deletion" towards mid-grey and "insertion" into the blurred image.
        mean, std: of each channel, with which the images were normalised.
    Returns:
        Each figure, (N,), and under `<figure>_curve` the scores at each level, (N, S); all float64.
    Raises:
        OptionError: there is no such preset.
        InputError: the preset needs mean and std.
    """
    protocol = _protocol(preset)
    changes: CourseOptions = {"unit": unit}
    if protocol.black:
        if mean is None or std is None:
            raise InputError(f"the protocol {brief(preset)} sets pixels to 0 before normalisation: pass mean and std")
        changes["occluder"] = black(mean, std).to(images)
    out = {}
    for name, course in protocol.curves.items():
        drawn = perturbation_curve(model, images, maps, targets, course, batch_size=batch_size, **changes)
        out[name], out[f"{name}_curve"] = drawn.area, drawn.scores
    for name, (more, less) in protocol.between.items():
        out[name] = out[more] - out[less]
    return out


class Perturbation(Metric):
    """The figures of `perturbation`.

    Args:
        preset, unit, batch_size: as in `perturbation`.
    """

    name = "perturbation"
    needs = frozenset({"model"})

    def __init__(self, preset: str = "agcam", *, unit: Unit = "pixel", batch_size: int = 64) -> None:
        protocol = _protocol(preset)
        self.preset, self.batch_size = preset, batch_size
        self.unit: Unit = unit
        self.figures = means(**protocol.higher_is_better)
        self.published = protocol.published
        self.curves = {f"{name}_curve": course.span for name, course in protocol.curves.items()}

    def __call__(self, case: Case) -> dict[str, Tensor]:
        if self.unit == "patch" and case.cover not in (None, case.size):
            raise InputError(f"unit='patch' needs inputs of whole patches; of {case.size} they cover {case.cover}")
        maps = case.maps if self.unit == "patch" else case.enlarged()
        of_labels = PRESETS[self.preset].of_labels
        targets = case.labels if of_labels and case.labels is not None else case.targets
        found = perturbation(
            case.required("model"),
            case.images,
            maps,
            targets.clamp(min=0),
            self.preset,
            mean=case.mean,
            std=case.std,
            unit=self.unit,
            batch_size=self.batch_size,
        )
        return {name: blank(values, targets < 0) for name, values in found.items()}


def _protocol(preset: str) -> Protocol:
    if preset not in PRESETS:
        raise OptionError(f"preset must be one of {', '.join(PRESETS)}, got {brief(preset)}")
    return PRESETS[preset]
