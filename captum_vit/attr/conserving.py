"""Conserving gradients: input times gradient, with rules in place of derivatives that keep what a score is made of."""

from collections.abc import Callable, Mapping
from functools import cache
from math import prod
from numbers import Real
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from .. import ops
from ..access import Adapter, Readout
from ..access.any_model import AnyModel, adapt_any
from ..capture import (
    TOKEN_GRADIENTS,
    TOKENS,
    CellRun,
    Need,
    Plain,
    Rules,
    Run,
    UnderRules,
    account,
    attn_rules,
    cp_rules,
    libra_rules,
)
from ..errors import OptionError, brief
from ..targets import Target
from .any_model import OnAnyModel
from .calls import Images, checked_inputs
from .completeness import Completeness
from .naming import named_target
from .options import check_options
from .patches import EMBEDDED, of_patches
from .pixels import AtPixels, Probability
from .settling import settled
from .starting import start

SCORE = ""  # where all evidence has been handed on
Gamma = tuple[float, float]  # of convolutions, and of linear layers


class ConservingGradients(OnAnyModel):
    """What the three have in common: they differ by the rules alone."""

    class_specific, signed, unit = True, True, "evidence"
    needs = frozenset({TOKENS, TOKEN_GRADIENTS})
    weighs = False
    no_graph = "rules stand in place of derivatives, and hold weights, and much of what is made of them, constant"
    of_words = True

    rules: ClassVar[Callable[[Gamma], Rules]]

    @classmethod
    def _adapted(cls, model: nn.Module) -> Adapter:
        adapter = adapt_any(model)
        if adapter.measured and not adapter.blocks():  # its attention was found, and no token stream between the layers
            return AnyModel(model, f"the token stream of {type(adapter.model).__name__} is not known")
        return adapter

    def ahead(self, run: CellRun, **options: Any) -> None:
        run.under(self.ruled(options.get("gamma"))).at(self.modules_of(run))

    def needed(self, **options: Any) -> frozenset[Need]:
        rules = self.ruled(options.get("gamma"))
        return frozenset({UnderRules(rules, TOKENS), UnderRules(rules, TOKEN_GRADIENTS)})

    def reader(self, output_shape: str) -> Any:
        return AtPixels(self) if output_shape == "input" else self

    @classmethod
    def ruled(cls, gamma: Gamma | None) -> Rules:
        """The rules, with gamma in linear layers if it is given.

        Raises:
            OptionError: gamma is not two numbers that are at least 0.
        """
        if gamma is None:
            return cls.rules((0.0, 0.0))
        if (
            not isinstance(gamma, (tuple, list))
            or len(gamma) != 2
            or not all(isinstance(g, Real) and not isinstance(g, bool) and 0 <= g < float("inf") for g in gamma)
        ):
            raise OptionError(
                f"gamma is two numbers, 0 or more, of convolutions and of linear layers, as (0.25, 0.05): got "
                f"{brief(gamma)}"
            )
        return cls.rules((float(gamma[0]), float(gamma[1])))

    def explained(self, target: Target, options: Mapping[str, Any]) -> Target:
        """The target whose gradient is taken."""
        return target

    def sums_to_score(self, **options: Any) -> bool:
        """Of the map of all layers; what it does not hold `completeness` tells."""
        return isinstance(self.adapter, AnyModel) or set(self.layer_names) == set(self.adapter.attention_layers())

    def completeness(
        self,
        inputs: Images,
        target: Any = None,
        additional_forward_args: Any = None,
        *,
        forward_kwargs: Mapping[str, Any] | None = None,
        output: Any = None,
        **options: Any,
    ) -> tuple[Completeness, ...]:
        """Of each image, how much of its score the map of all layers sums to, and where the rest is.

        >>> len(CPLRP(model).completeness(images, target=281))
        2

        Two forwards and a backward an image. The map's values are those of the tokens; how much of the score is at the
        pixels, `attribute(..., output_shape="input").sum()` tells.

        Args:
            inputs, target, additional_forward_args, forward_kwargs, output, options: as for `attribute`.
        Raises:
            InputError, TargetError, OptionError, UnsupportedModelError: as `attribute`.
        """
        check_options(self.get_name(), self.options(), options)
        call = checked_inputs(self.adapter, inputs, additional_forward_args, forward_kwargs, output)
        (wanted,) = settled([named_target(target, self.adapter)], Plain(self.adapter, call))
        rules = self.ruled(options.get("gamma"))
        found = []
        for number in range(len(call.images)):
            one = self.explained(wanted.of_image(number), options)
            with start([(self, options)], call.image(number), one) as run:
                if isinstance(run, CellRun):
                    held = run.under(rules).account(self.modules_of(run), one)
                    found.append(Completeness(held.score, float(held.tokens.sum()), 0.0, held.constants, held.absorbed))
                    continue
                held = account(run.under(rules).kept, one, rules)
                patches = float(of_patches(held.tokens[None], run.layout, EMBEDDED).sum())
                prefix = float(held.tokens.sum()) - patches
                found.append(Completeness(held.score, patches, prefix, held.constants, held.absorbed))
        return tuple(found)

    def _maps(self, run: Run, target: Target, *, flow: bool, gamma: tuple[float, float] | None = None) -> Tensor:
        return self._handed_on(run, target, self.ruled(gamma), flow=flow)

    def layers_kept(self, readout: Readout, flow: bool, **options: Any) -> list[str]:
        steps = self._steps(readout, flow)
        return [name for pair in steps for name in pair if name not in (EMBEDDED, SCORE)]

    def _steps(self, readout: Readout, flow: bool) -> list[tuple[str, str]]:
        """From which layer's tokens to which the evidence of each slice is handed on, the score being the last."""
        reading = [name for name in self.adapter.reading_layers(readout) if readout.reads(name)]
        bounds = [EMBEDDED, *reading[:-1], SCORE]
        chosen = self.layers_read(readout)
        steps = [(bounds[i], bounds[i + 1]) for i, name in enumerate(reading) if name in chosen]
        if flow:
            return steps
        ends = {before for before, _ in steps} ^ {after for _, after in steps}  # what lies between cancels out
        return list(zip(*[iter(bound for bound in bounds if bound in ends)] * 2, strict=True))

    def _handed_on(self, run: Run, target: Target, rules: Rules, *, flow: bool) -> Tensor:
        """What patches hand on to the score, in the chosen blocks alone: (N, layers or 1, patches).

        Of the layers among which the score is read, the first answers for those before it too, and the last for what
        the head reads off the patches.
        """
        if isinstance(run, CellRun):
            return run.under(rules).evidence(self.modules_of(run), target).unsqueeze(1)
        under, layout = run.under(rules), run.layout
        streams, gradients = under.tokens(), under.token_gradients(target)

        @cache
        def held(name: str) -> Tensor:
            """What of the score the patches hold after a layer, (N, patches)."""
            if name not in streams:  # the score, or an attention pool
                return ops.widen(run.inputs.images).new_zeros(len(run.inputs.images), prod(layout.grid))
            evidence = (ops.widen(streams[name]) * ops.widen(gradients[name])).sum(-1)
            return of_patches(evidence, layout, name)

        steps = self._steps(run.readout, flow)
        maps = torch.stack([held(before) - held(after) for before, after in steps], 1)
        return maps.cumsum(1) if flow else maps.sum(1, keepdim=True)


class CPLRP(ConservingGradients):
    """Conservative propagation: input times gradient, with attention and the scale of norms held constant.

    >>> CPLRP(model).attribute(images, target=281).shape
    torch.Size([2, 1, 14, 14])

    The map is sum_D x * g, x being the token stream before the first block, positions included, and g its gradient
    with these in place of derivatives: attention weights, gates and the standard deviation of a layer norm are
    constants, and an activation function f(z) is z times the constant f(z) / z. What is below 0 speaks against the
    target. With `output_shape="input"` it is image times gradient at each pixel and channel.

    The map sums to the score, but for what the class token and biases hold: `completeness` tells how much that is.

    A flow shows what the patches have handed on to the class token up to each block; in the last also what a head reads
    off them. With some layers chosen, the map is what they hand on in these.

    Options of `attribute`:
        gamma: of convolutions and of linear layers, as (0.25, 0.05): on the way back, what agrees with the sign of an
            output counts 1 + gamma times, which makes maps calmer; by default none.

    Source: Ali et al. 2022, "XAI for Transformers: Better Explanations through Conservative Propagation"
        (arXiv:2202.07304); gamma as in "AttnLRP", section 3.4, and zennit.
    """

    name, title = "cp_lrp", "CP-LRP"
    paper = "arXiv:2202.07304"
    rules = staticmethod(cp_rules)


class AttnLRP(ConservingGradients):
    """Attention-aware relevance propagation: as CP-LRP, with evidence that goes through queries and keys too.

    >>> AttnLRP(model).attribute(images, target=281).shape
    torch.Size([2, 1, 14, 14])

    Where activations meet as factors each has an equal part: the gradient of an attention's values is halved, and so is
    that of its weights; behind their softmax, which keeps its derivative, queries and keys have one quarter each. A
    softmax keeps some of the evidence for itself, so that maps sum to less of the score than those of CP-LRP:
    `completeness` tells how much. All else, the flow too, is as in `CPLRP`.

    Options of `attribute`:
        gamma: of convolutions and of linear layers, as (0.25, 0.05): on the way back, what agrees with the sign of an
            output counts 1 + gamma times, which makes maps calmer; by default none.

    Source: Achtibat et al. 2024, "AttnLRP: Attention-Aware Layer-Wise Relevance Propagation for Transformers"
        (arXiv:2402.05602), equations 9 to 15.
    """

    name, title = "attn_lrp", "AttnLRP"
    paper = "arXiv:2402.05602"
    rules = staticmethod(attn_rules)


class LibraGrad(ConservingGradients):
    """Balanced gradients: input times gradient, with attention constant and equal parts for the factors of a gate.

    >>> LibraGrad(model).attribute(images, target=281, score="probability").shape
    torch.Size([2, 1, 14, 14])

    The same as `CPLRP` where MLPs are not gated; in a gated one, as SwiGLU, the gradients of both factors are halved,
    where CP-LRP takes the gate for a constant. The flow, and the map at the pixels, are as there.

    Options of `attribute`:
        gamma: of convolutions and of linear layers, as (0.25, 0.05): on the way back, what agrees with the sign of an
            output counts 1 + gamma times, which makes maps calmer; by default none.
        score: "logit", or "probability", which explains the softmax over the classes as the paper's own preset does;
            such maps do not sum to the score.

    Source: Mehri et al. 2025, "LibraGrad: Balancing Gradient Flow for Universally Better Vision Transformer
        Attributions" (arXiv:2411.16760).
    """

    name, title = "libragrad", "LibraGrad"
    paper = "arXiv:2411.16760"
    rules = staticmethod(libra_rules)

    def _maps(
        self,
        run: Run,
        target: Target,
        *,
        flow: bool,
        gamma: tuple[float, float] | None = None,
        score: Literal["logit", "probability"] = "logit",
    ) -> Tensor:
        target = self.explained(target, {"score": score})
        return self._handed_on(run, target, self.ruled(gamma), flow=flow)

    def sums_to_score(self, **options: Any) -> bool:
        return super().sums_to_score(**options) and options.get("score", "logit") == "logit"

    def explained(self, target: Target, options: Mapping[str, Any]) -> Target:
        score = options.get("score", "logit")
        if score not in ("logit", "probability"):
            raise OptionError(f"score is 'logit' or 'probability', got {brief(score)}")
        return target if score == "logit" else Probability(target)
