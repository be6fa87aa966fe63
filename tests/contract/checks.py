"""What every method promises, ours or anybody's: functions that take its class, all of them in `CHECKS`."""

import doctest
import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, get_args, get_origin, get_type_hints
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from captum_vit.attr import ScoreCAM, ViTAttribution, start
from captum_vit.attr.base import ENTRIES
from captum_vit.attr.options import parameters_of
from captum_vit.capture import (
    GIVEN,
    GIVEN_GRADIENTS,
    GRADIENTS,
    HELD_GRADIENTS,
    LAYER_GRADIENTS,
    MEAN_LAYER_GRADIENTS,
    OUTPUT_WEIGHTS,
    PATH_GRADIENTS,
    PIXEL_GRADIENTS,
    TOKEN_GRADIENTS,
    TOKENS,
    Inputs,
    Run,
    UnderRules,
)
from captum_vit.targets import Contrast, as_target
from tests.helpers import images, timm_vit

Method = type[ViTAttribution]
FACTS = {"name": str, "title": str, "unit": str, "class_specific": bool, "signed": bool}
REPLAYED = {HELD_GRADIENTS, LAYER_GRADIENTS}  # where the score is read from prefix tokens
FORWARDS = ("score", "on_images", "on_tokens", "head_scores")  # questions of a run that are forwards of something else
UNITS = ("evidence", "attention")
A, B = 1, 4  # two classes
MODELS: dict[str, dict[str, Any]] = {"class token": {}, "mean of patches": {"global_pool": "avg", "fc_norm": True}}


def model(kind: str = "class token", seed: int = 0) -> nn.Module:
    """A small random ViT, in float64 so that equal means equal."""
    return timm_vit(seed, **MODELS[kind]).double()


def pictures(count: int = 2, seed: int = 1) -> Tensor:
    return images(count, seed=seed).double()


def few(method: Method) -> dict[str, Any]:
    """Of a method that draws masks, few of them."""
    return {"masks": 6} if method.costly and "masks" in method.options() else {}


def variants(method: Method) -> list[dict[str, Any]]:
    """Options to try: the defaults, each word of an option that is one of several words, and what may be switched."""
    hints = {name: hint for name, hint in get_type_hints(method._maps).items() if name in method.options()}
    words = [{name: word} for name, hint in hints.items() if get_origin(hint) is Literal for word in get_args(hint)]
    flags = (name for name, hint in hints.items() if hint is bool and name != "progress")  # which changes no map
    switched = [{name: not method.options()[name]} for name in flags]
    return [few(method) | options for options in ({}, *words, *switched)]


def maps(method: Method, net: nn.Module, x: Tensor, target: Any = A, **options: Any) -> Tensor:
    return method(net).attribute(x, target=target, **few(method) | options)


def assert_same(ours: Tensor, theirs: Tensor, what: str) -> None:
    assert ours.shape == theirs.shape, f"{what}: {tuple(ours.shape)}, not {tuple(theirs.shape)}"
    assert (ours - theirs).abs().max() <= 1e-9 * theirs.abs().max().clamp(min=1e-12), what


def differ(ours: Tensor, theirs: Tensor) -> bool:
    return bool((ours - theirs).abs().max() > 1e-4 * theirs.abs().max())


# what a method says of itself


def check_facts(method: Method) -> None:
    own = method.__mro__[: method.__mro__.index(ViTAttribution)]
    for fact, kind in FACTS.items():
        assert any(fact in vars(each) for each in own), f"{fact} is not stated"
        assert isinstance(getattr(method, fact), kind), f"{fact} is no {kind.__name__}"
        assert getattr(method, fact) != "", f"{fact} is empty"
    assert method.name.isidentifier(), "name has to do as a word on the command line"
    assert method.unit in UNITS, f"unit is {method.unit!r}"
    assert method.paper or "Source:" in inspect.getdoc(method), "neither paper nor Source:"


def check_docstring(method: Method) -> None:
    text = inspect.cleandoc(vars(method).get("__doc__") or "")
    assert text.partition("\n")[0].endswith("."), "no docstring that begins with a sentence"
    examples = doctest.DocTestParser().get_examples(text)
    assert any(method.__name__ in example.source for example in examples), "no example"
    for option in method.options():
        assert f"{option}:" in text, f"{option} is not explained"


def check_options(method: Method) -> None:
    parameters = inspect.signature(method._maps).parameters.values()
    assert all(p.kind is not p.VAR_KEYWORD for p in parameters), "options are hidden behind **"
    options = parameters_of(method._maps)
    for option in options:
        assert option.annotation is not option.empty, f"{option.name} has no type"
        assert option.default is not option.empty, f"{option.name} has no default"
    assert method.options() == {option.name: option.default for option in options}, "options() says something else"
    for entry in ENTRIES:
        shown = inspect.signature(getattr(method, entry)).parameters
        for option in options:
            assert option.name in shown, f"{entry} does not show {option.name}"
            same = (shown[option.name].default, shown[option.name].annotation) == (option.default, option.annotation)
            assert same, f"{entry} shows {option.name} otherwise"


# what its maps are


def check_sign(method: Method) -> None:
    for options in variants(method):
        found = [maps(method, model(k, s), pictures(4, s), **options) for k in MODELS for s in range(3)]
        least, signed = min(each.min() for each in found), method.facts(**options).signed
        assert signed or least >= 0, "says that it is unsigned, and gives negative values"
        assert not signed or least < 0, "says that it is signed, and gives no negative value"


def check_targets(method: Method) -> None:
    for kind in MODELS:
        one, other = (maps(method, model(kind), pictures(), target) for target in (A, B))
        if method.class_specific:
            assert differ(one, other), "says that it depends on the target, and does not"
        else:
            assert torch.equal(one, other), "says that it does not depend on the target, and does"


def check_classes(method: Method) -> None:
    if not method.class_specific:
        return
    for kind in MODELS:
        ours, x = method(model(kind)), pictures(1)
        for options in variants(method):
            each = torch.cat([ours.attribute(x, target=target, **options) for target in (A, B)])
            assert_same(ours.attribute_classes(x, [A, B], **options), each, "attribute_classes is not attribute")


def check_flow(method: Method) -> None:
    for kind in MODELS:
        ours, x = method(model(kind)), pictures()
        for options in variants(method):
            flow = ours.attribute_flow(x, target=A, **options)
            last = ours.attribute(x, target=A, **options)
            assert_same(flow[:, -1:], last, "the last slice of the flow is not the map")
            layers = ours.layer_names if not method.costly else ours.layer_names[:1]  # which have the map alone
            assert flow.shape[1] == len(layers), "a flow has a slice for each layer"


def check_batch(method: Method) -> None:
    for kind in MODELS:
        ours, x = method(model(kind)), pictures(3)
        for options in variants(method):
            each = [ours.attribute(one, target=t, **options) for one, t in zip(x.split(1), (A, B, A), strict=True)]
            together = ours.attribute(x, target=[A, B, A], **options)
            assert_same(together, torch.cat(each), "a batch is not its singles")


def check_nothing(method: Method) -> None:
    if not method.class_specific or method is ScoreCAM:  # which weighs channels by a softmax: of nothing, all alike
        return
    net, x = model(), pictures()
    scale = maps(method, net, x, Contrast(A, B)).abs().max()
    nothing = maps(method, net, x, Contrast(A, A))
    assert nothing.abs().max() <= 1e-12 * scale, "why a class rather than itself has a map"


# what it asks of a run


class Ruled:
    """What is asked under rules, noted where all that is asked is."""

    def __init__(self, rules: Any, asked: set) -> None:
        self.rules, self.asked = rules, asked

    def add(self, need: Any) -> None:
        self.asked.add(UnderRules(self.rules, need))


class Asking:
    """A run that notes what it is asked for, of all that `Run` can be asked."""

    def __init__(self, run: Run, asked: Any = None) -> None:
        self.run, self.asked = run, set() if asked is None else asked

    def under(self, rules: Any) -> "Asking":
        return self if rules is None else Asking(self.run.under(rules), Ruled(rules, self.asked))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.run, name)

    def _ask(self, need: Any, name: str, *args: Any, **kwargs: Any) -> Any:
        self.asked.add(need)
        return getattr(self.run, name)(*args, **kwargs)

    def calls(self, names: Any, needs: Any) -> Any:
        for need in needs:
            self.asked.add(need)
        return self.run.calls(names, needs)

    def reduced(self, reduction: Any) -> Any:
        return self._ask(reduction, "reduced", reduction)

    def tokens(self) -> Any:
        return self._ask(TOKENS, "tokens")

    def pixel_gradients(self, *args: Any, **kwargs: Any) -> Any:
        return self._ask(PIXEL_GRADIENTS, "pixel_gradients", *args, **kwargs)

    def gradients(self, *args: Any, **kwargs: Any) -> Any:
        return self._ask(GRADIENTS, "gradients", *args, **kwargs)

    def given(self) -> Any:
        return self._ask(GIVEN, "given")

    def given_gradients(self, *args: Any, **kwargs: Any) -> Any:
        return self._ask(GIVEN_GRADIENTS, "given_gradients", *args, **kwargs)

    def token_gradients(self, *args: Any, **kwargs: Any) -> Any:
        return self._ask(TOKEN_GRADIENTS, "token_gradients", *args, **kwargs)

    def path_gradients(self, *args: Any, **kwargs: Any) -> Any:
        return self._ask(PATH_GRADIENTS, "path_gradients", *args, **kwargs)

    def output_weights(self, *args: Any, **kwargs: Any) -> Any:
        return self._ask(OUTPUT_WEIGHTS, "output_weights", *args, **kwargs)

    def held_gradients(self, *args: Any, **kwargs: Any) -> Any:
        return self._ask(HELD_GRADIENTS, "held_gradients", *args, **kwargs)

    def held_gradients_of(self, *args: Any, **kwargs: Any) -> Any:
        return self._ask(HELD_GRADIENTS, "held_gradients_of", *args, **kwargs)

    def layer_gradients(self, *args: Any, mean: bool = False) -> Any:
        need = MEAN_LAYER_GRADIENTS if mean else LAYER_GRADIENTS
        return self._ask(need, "layer_gradients", *args, mean=mean)


def readings(method: Method) -> Iterator[tuple[Asking, ViTAttribution, dict[str, Any]]]:
    """Runs of the method alone, after it has read them."""
    for kind in MODELS:
        ours, target = method(model(kind)), as_target(A)
        for options in variants(method):
            for flow in (False, True):
                run = Asking(start([(ours, options)], Inputs(pictures()), target, flow=flow, once=True))
                with torch.no_grad():
                    ours._maps(run, target, flow=flow, **options)  # type: ignore[arg-type]
                yield run, ours, options
            if method.class_specific:
                run = Asking(start([(ours, options)], Inputs(pictures())))
                with torch.no_grad():
                    list(ours._class_maps(run, [as_target(A), as_target(B)], flow=False, **options))  # type: ignore[arg-type]
                yield run, ours, options


def check_needs(method: Method) -> None:
    for run, ours, options in readings(method):
        needed = ours.needed(**options)
        assert run.asked <= needed, f"asks for {set(run.asked - needed)}, which its needs do not name: another forward"
        assert needed <= run.asked, f"needs {set(needed - run.asked)}, which it does not read"


def check_graph(method: Method) -> None:
    for run, _, _ in readings(method):
        asked = {need.need if isinstance(need, UnderRules) else need for need in run.asked}
        gradients = asked & {GRADIENTS, TOKEN_GRADIENTS, GIVEN_GRADIENTS, MEAN_LAYER_GRADIENTS}
        gradients |= set() if run.replays else asked & REPLAYED
        assert gradients or run.outputs.grad_fn is None, "has a graph built, and reads no gradient"


class Convolutions(TorchFunctionMode):
    """Counts them: the models have one, their patch embedding. A patched class would be taken for another model."""

    def __init__(self) -> None:
        super().__init__()
        self.forwards: list[int] = []
        self.on = True

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is F.conv2d and self.on:
            self.forwards.append(len(args[0]))
        return func(*args, **kwargs or {})


@contextmanager
def counted() -> Iterator[list[int]]:
    """Forwards of the model, one entry each; those that a method asks the run for are not counted."""
    seen = Convolutions()

    def not_counting(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def asked(self: Run, *args: Any, **kwargs: Any) -> Tensor:
            _ = self.scores  # the forward that the run itself answers from
            seen.on = False
            try:
                return forward(self, *args, **kwargs)
            finally:
                seen.on = True

        return asked

    with ExitStack() as stack:
        for name in FORWARDS:
            stack.enter_context(mock.patch.object(Run, name, not_counting(getattr(Run, name))))
        stack.enter_context(seen)
        yield seen.forwards


def check_forwards(method: Method) -> None:
    for kind in MODELS:
        ours, x = method(model(kind)), pictures()
        ours.attribute(x, target=A, **few(method))  # the first time a model is looked at from all sides
        for options in variants(method):
            needed = ours.needed(**options)
            ways = {need.rules if isinstance(need, UnderRules) else None for need in needed} or {None}
            replays = bool(needed & {LAYER_GRADIENTS, MEAN_LAYER_GRADIENTS})  # of the head
            replays |= HELD_GRADIENTS in needed and kind == "class token"
            path = method.options()["steps"] if PATH_GRADIENTS in needed else 0
            expected = len(ways) + replays + path
            for entry in (ours.attribute, ours.attribute_flow):
                with counted() as forwards:
                    entry(x, target=A, **options)
                assert len(forwards) == expected, f"{len(forwards)} forwards, expected {expected}"


CHECKS: tuple[Callable[[Method], None], ...] = (
    check_facts,
    check_docstring,
    check_options,
    check_sign,
    check_targets,
    check_classes,
    check_flow,
    check_batch,
    check_nothing,
    check_needs,
    check_graph,
    check_forwards,
)
