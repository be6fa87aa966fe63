"""Maps at the pixels themselves, and the probability of a target: what conserving gradients may be asked besides."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from torch import Tensor

from .. import ops
from ..access import Adapter, Readout
from ..capture import PIXEL_GRADIENTS, CellRun, Need, Rules, Run, UnderRules
from ..errors import OptionError, brief
from ..targets import Output, Target


class UnderRulesMethod(Protocol):
    """A method, as far as its maps at the pixels need it."""

    adapter: Adapter

    def ruled(self, gamma: tuple[float, float] | None) -> Rules:
        """The rules that it goes back by."""

    def explained(self, target: Target, options: Mapping[str, Any]) -> Target:
        """The target whose gradient it takes."""


class AtPixels:
    """A method's maps at the pixels themselves: image times gradient, (N, C, H, W)."""

    class_specific, weighs = True, False

    def __init__(self, method: UnderRulesMethod) -> None:
        self.method, self.adapter = method, method.adapter

    def needed(self, **options: Any) -> frozenset[Need]:
        """What of a run is read."""
        return frozenset({UnderRules(self.method.ruled(options.get("gamma")), PIXEL_GRADIENTS)})

    def layers_kept(self, readout: Readout, flow: bool, **options: Any) -> list[str]:
        """None."""
        return []

    def layers_given(self, readout: Readout, flow: bool) -> list[str]:
        """None."""
        return []

    def _maps(self, run: Run, target: Target, *, flow: bool, **options: Any) -> Tensor:
        """Image times gradient, (N, 1, C*H*W)."""
        rules = self.method.ruled(options.get("gamma"))
        gradient = run.under(rules).pixel_gradients(self.method.explained(target, options))
        return (ops.widen(run.inputs.images) * ops.widen(gradient)).flatten(1).unsqueeze(1)

    def _class_maps(self, run: Run, targets: Sequence[Target], *, flow: bool, **options: Any) -> Iterator[Tensor]:
        for target in targets:
            yield self._maps(run, target, flow=flow, **options).unsqueeze(0)

    def ahead(self, run: CellRun, **options: Any) -> None:
        """Ask a run of a model that no adapter knows for what the maps are made of."""
        run.under(self.method.ruled(options.get("gamma"))).at({})

    def shaped(self, maps: Tensor, run: Run, output_shape: str) -> Tensor:
        """(N, C, H, W)."""
        return maps[:, 0].unflatten(-1, run.inputs.images.shape[1:])


class Probability(Target):
    """A target of the softmax over classes in place of the scores, or of a sigmoid of each, as of a single one."""

    unit = "probability"

    def __init__(self, of: Target, *, sigmoid: bool = False) -> None:
        self.of, self.sigmoid = of, sigmoid
        if of.class_axis is None:
            raise self._no_classes(f"{brief(of)} is made of more than their scores")

    def score(self, output: Output) -> Tensor:
        """The target's number, (N,)."""
        if output.headless:
            raise self._no_classes("the model gives features")
        axis = self.of.class_axis
        assert axis is not None
        scores = self.of.among(output)
        alone = self.sigmoid or scores.shape[axis] == 1  # a softmax over one score is 1, whatever it is
        shares = scores.sigmoid() if alone else scores.softmax(axis)
        return self.of.score(replace(output, scores=shares))

    def of_image(self, number: int) -> Target:
        """The probability of the target of one image."""
        own = self.of.of_image(number)
        return self if own is self.of else Probability(own, sigmoid=self.sigmoid)

    def _no_classes(self, reason: str) -> OptionError:
        word = "sigmoid" if self.sigmoid else "probability"
        return OptionError(f"score='{word}' is for classes, and {reason}: pass score='logit', the target's own number")
