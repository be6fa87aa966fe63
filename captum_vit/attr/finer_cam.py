"""Why a class rather than those that are like it."""

from dataclasses import dataclass
from numbers import Integral, Real

from torch import Tensor

from ..access import Adapter
from ..capture import Run
from ..errors import OptionError, TargetError, brief
from ..targets import Classes, Contrast, Output, Target, as_target, class_places
from .cams import weighted
from .token_cam import TokenCAM


class FinerCAM(TokenCAM):
    """Finer-CAM on tokens: Grad-CAM of why a class rather than those that are like it.

    >>> FinerCAM(model).attribute(images, target=281).shape
    torch.Size([2, 1, 14, 14])

    Grad-CAM of y_c - gamma * mean_d y_d, for the score y_c of the target and those of similar classes d. Similar are
    the classes whose scores of this image lie nearest to y_c, above or below. The target is a class; of a `Contrast` of
    two classes, the difference between what stands for each is explained.

    Options of `attribute`:
        gamma: how strongly what the similar classes share is taken away, by default 0.6; 0 is Grad-CAM.
        similar: how many similar classes, by default 3; all others, where there are fewer.

    Source: Zhang et al. 2025, "Finer-CAM: Spotting the Difference Reveals Finer Details for Visual Explanation"
        (arXiv:2501.11309); similar classes as its program chooses them.
    """

    name, title = "finercam", "Finer-CAM"
    class_specific, signed, unit = True, False, "evidence"
    paper = "arXiv:2501.11309"

    @classmethod
    def unsuited(cls, adapter: Adapter) -> str | None:
        """Where the scores are no classes."""
        return "its scores are features, and no classes that may be similar" if adapter.headless else None

    def _maps(self, run: Run, target: Target, *, flow: bool, gamma: float = 0.6, similar: int = 3) -> Tensor:
        return self._by_layer(run, Finer(target, gamma, similar), flow)

    def _cam(self, a: Tensor, g: Tensor) -> Tensor:
        return weighted(a, g.mean(1, keepdim=True)).relu()


@dataclass(frozen=True, eq=False)
class Finer(Target):
    """The score of a class, less `gamma` times the mean of those of the `similar` classes whose scores lie nearest."""

    target: Target
    gamma: float
    similar: int

    def __post_init__(self) -> None:
        if isinstance(self.gamma, bool) or not isinstance(self.gamma, Real) or not 0 <= self.gamma < float("inf"):
            raise OptionError(f"gamma must be a number of at least 0, got {brief(self.gamma)}")
        if isinstance(self.similar, bool) or not isinstance(self.similar, Integral) or self.similar < 1:
            raise OptionError(f"similar must be a number of classes, at least 1, got {brief(self.similar)}")

    def score(self, output: Output) -> Tensor:
        """y_c - gamma * mean_d y_d, (N,)."""
        return self._of(self.target, output)

    def _of(self, target: Target, output: Output) -> Tensor:
        if isinstance(target, Contrast):
            a, b = (self._of(as_target(part), output) for part in (target.a, target.b))
            return a - b
        scores = output.scores
        if not isinstance(target, Classes) or target.index is None or scores.dim() != 2 or scores.shape[1] < 2:
            raise TargetError(
                f"Finer-CAM compares a class with those that are like it: the target is a class of a model that gives "
                f"scores (N, classes) of several, got {type(target).__name__} and scores {tuple(scores.shape)}; "
                f"Grad-CAM takes any other"
            )
        own = class_places(target.index, len(scores), tuple(scores.shape[1:])).to(scores.device)  # (N, 1)
        score = scores.gather(1, own)
        away = (scores - score).detach().abs().scatter(1, own, float("inf"))
        nearest = away.topk(min(self.similar, scores.shape[1] - 1), largest=False).indices
        return score[:, 0] - self.gamma * scores.gather(1, nearest).mean(1)
