"""Published protocols of perturbation: how the score falls as the pixels that a map calls important are taken away, or
rises as they are put in.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from torch import Tensor

from ..errors import InputError, OptionError, brief
from .base import Case, Metric, blank, graded, means
from .course import TENTHS, Course, CourseOptions, Order, Unit
from .curves import perturbation_curve
from .exchanging import Asked
from .occluders import Occluder, black


@dataclass(frozen=True)
class Protocol:
    """A published protocol: its curves, its figures, and what it asks of a run.

    curves: figure -> how the curve is drawn whose area it is.
    between: figure -> two of these figures; it is the first less the second.
    higher_is_better: of each figure, whether it is.
    published: which class is explained, and whether the model sees the whole image, as `Metric.published`.
    black: whether exchanged pixels become 0 before the normalisation, which takes its mean and std; of several
        occluders in curves whose name ends so.
    of_labels: whether the score is of the image's own class, whatever class the map explains.
    unit: what is exchanged: pixels, or whole patches.
    words: of figures, what they ask, in a line.
    """

    curves: Mapping[str, Course]
    higher_is_better: Mapping[str, bool]
    published: Mapping[str, str]
    between: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    black: bool = False
    of_labels: bool = False
    unit: Unit = "pixel"
    words: Mapping[str, str] = field(default_factory=dict)


OCCLUDERS: Mapping[str, Occluder] = {"grey": 0.0, "black": 0.0, "mean": "mean", "blur": "blur", "tokens": "tokens"}
"""By which patches are taken away for SRG; black is known once mean and std are."""


_HOW = {
    "grey": "taken away by grey",
    "black": "taken away by black",
    "mean": "taken away by the image's mean",
    "blur": "blurred",
    "tokens": "left out of the model's tokens",
}


def _gains(*occluders: str) -> Protocol:
    """SRG with each of some occluders: the area under LeRF less that under MoRF, patch by patch.

    The last level, where nothing is left and both orders are equal, is left out: not all models have a score of it.
    """
    courses = {
        f"{order.lower()}_{name}": Course(order, levels=TENTHS[:10], occluder=OCCLUDERS[name], unit="patch")
        for name in occluders
        for order in get_args(Order)
    }
    return Protocol(
        curves=courses,
        between={f"srg_{name}": (f"lerf_{name}", f"morf_{name}") for name in occluders},
        higher_is_better={f"srg_{name}": True for name in occluders},
        published={},
        unit="patch",
        words={
            f"srg_{name}": f"Do the map's highest patches matter more than its lowest ({_HOW[name]})?"
            for name in occluders
        },
    )


PRESETS = {
    "agcam": Protocol(
        curves={"morf": Course("MoRF", levels=TENTHS), "lerf": Course("LeRF", levels=TENTHS)},
        between={"abpc": ("lerf", "morf")},
        higher_is_better={"morf": False, "lerf": True, "abpc": True},
        published={"target": "label", "preprocess": "squash"},
        words={
            "morf": "How much of the score is left as the map's highest pixels turn grey?",
            "lerf": "How much of the score is left as the map's lowest pixels turn grey?",
            "abpc": "Do the map's highest pixels matter more than its lowest?",
        },
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
        words={
            "positive": "How often is the image still recognised as the map's highest pixels turn black?",
            "negative": "How often is the image still recognised as the map's lowest pixels turn black?",
        },
    ),
    "rise": Protocol(
        curves={
            "deletion": Course(step=224, area="trapezoid"),
            "insertion": Course(step=224, area="trapezoid", start="occluder", occluder="blur"),
        },
        higher_is_better={"deletion": False, "insertion": True},
        published={"target": "predicted"},
        words={
            "deletion": "How much of the score is left as the map's highest pixels turn grey?",
            "insertion": "How fast does the score come back as the map's highest pixels are put into a blurred image?",
        },
    ),
    "srg": _gains(*OCCLUDERS),
    "tokens": _gains("tokens"),
}
"""The published protocols by name; `perturbation` says what each of them is."""


def perturbation(
    model: Asked,
    images: Tensor,
    maps: Tensor,
    targets: Any,
    preset: str = "agcam",
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    unit: Unit | None = None,
    batch_size: int = 64,
) -> dict[str, Tensor]:
    """The figures of a published protocol, and the curves that they come from.

    Args:
        model, images, maps, targets, batch_size: as in `perturbation_curve`.
        preset: "agcam" (Leem & Seo 2024): the map explains the label, as `targets`; mean softmax over 11 levels
            towards mid-grey, "morf", "lerf", and "abpc", lerf less morf.
            "chefer" (Chefer et al. 2021): `targets` are the labels, whatever the map explains; mean top-1 accuracy over
            the levels 0.1 to 0.9 towards black, "positive" (MoRF) and "negative" (LeRF). Needs mean and std.
            "rise" (Petsiuk et al. 2018): the map explains the predicted class, as `targets`; area under the softmax in
            steps of 224 pixels, "deletion" towards mid-grey and "insertion" into the blurred image.
            "srg" (symmetric relevance gain, Blücher et al. 2024, arXiv:2401.06654): what abpc is too, over ten levels
            of whole patches, from none to nine tenths, with several occluders: "srg_grey", "srg_black" (needs mean and
            std), "srg_mean", "srg_blur", and "srg_tokens", where the tokens of the patches are left out. Maps lie on
            the model's grid.
            "tokens": the last of these alone.
        unit: by default the protocol's.
        mean, std: of each channel, with which the images were normalised.
    Returns:
        Each figure, (N,), and under `<figure>_curve` the scores at each level, (N, S); all float64.
    Raises:
        OptionError: there is no such preset.
        InputError: the preset needs mean and std.
    """
    protocol = _protocol(preset)
    out = {}
    for name, course in protocol.curves.items():
        changes: CourseOptions = {"unit": unit or protocol.unit}
        if protocol.black or name.endswith("_black"):
            if mean is None or std is None:
                raise InputError(
                    f"the protocol {brief(preset)} sets pixels to 0 before normalisation: pass mean and std"
                )
            changes["occluder"] = black(mean, std).to(images)
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

    def __init__(self, preset: str = "agcam", *, unit: Unit | None = None, batch_size: int = 64) -> None:
        protocol = _protocol(preset)
        self.preset, self.batch_size = preset, batch_size
        self.unit: Unit = unit or protocol.unit
        figures = means(protocol.words, **protocol.higher_is_better)
        self.figures = graded(figures, *protocol.between, *protocol.curves)
        self.needs = frozenset({"model"} | ({"run"} if protocol.unit == "patch" else set()))
        self.published = protocol.published
        self.curves = {f"{name}_curve": course.span for name, course in protocol.curves.items()}

    def __call__(self, case: Case) -> dict[str, Tensor]:
        if self.unit == "patch" and case.cover not in (None, case.size):
            raise InputError(f"unit='patch' needs inputs of whole patches; of {case.size} they cover {case.cover}")
        on_grid = "run" in self.needs  # and not of whatever cells the map has
        maps = case.on_patches() if on_grid else case.maps if self.unit == "patch" else case.enlarged()
        of_labels = PRESETS[self.preset].of_labels
        targets = case.labels if of_labels and case.labels is not None else case.targets
        found = perturbation(
            case.of_run() if on_grid else case.required("model"),
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
