"""What every method promises, held for each of `METHODS` and one from outside; each check with what it catches."""

import inspect
import re
from typing import Any

import pytest
import torch

from captum_vit import AGCAM, DAAM, AttentionRollout, RawAttention
from captum_vit.attr import METHODS, ViTAttribution
from captum_vit.attr.captum_methods import CaptumMethod
from captum_vit.capture import ATTENTION, GRADIENTS, VALUES, Run
from captum_vit.facts import Facts
from tests.contract import checks
from tests.contract.checks import CHECKS, Method
from tests.walks.method import ValueGradient

# Captum's own, where another package brings one, run the model by themselves and have docstrings of their own
OURS = {name: method for name, method in METHODS.items() if not issubclass(method, CaptumMethod)}
ASKED = {**OURS, "from outside": ValueGradient}


def test_all_methods_are_asked():
    assert set(OURS) >= {"agcam", "daam", "rollout", "gradient_rollout", "raw_attention"}
    assert set(CHECKS) == {check for name, check in vars(checks).items() if name.startswith("check_")}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("method", ASKED.values(), ids=ASKED)
def test_the_contract(method: Method, check: Any):
    check(method)


def broken(message: str, *bases: type, **facts: Any) -> Any:
    """A method that breaks its promises by what is stated of it alone."""
    return pytest.param(type("Broken", bases or (DAAM,), facts), message, id=message)


class Bare(ViTAttribution):
    """States nothing.

    >>> Bare(model).attribute(images)
    """

    def _maps(self, run, target, *, flow: bool) -> torch.Tensor:
        raise NotImplementedError


class Told(ViTAttribution):
    """States all, but where it comes from."""

    name, title, unit, class_specific, signed = "told", "told", "evidence", True, False

    def _maps(self, run, target, *, flow: bool) -> torch.Tensor:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("method", "message"),
    [
        broken("name is not stated", Bare),
        broken("name has to do as a word", name="my method"),
        broken("title is empty", title=""),
        broken("unit is 'relevance'", unit="relevance"),
        broken("signed is no bool", signed=0),
        broken("class_specific is no bool", class_specific=None),
        broken("neither paper nor Source", Told, __doc__="From nowhere."),
        pytest.param(Told, "neither paper nor Source", id="from nowhere"),
    ],
)
def test_facts_that_are_not_there(method: Method, message: str):
    with pytest.raises(AssertionError, match=message):
        checks.check_facts(method)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        broken("no docstring", __doc__=None),
        broken("no example", __doc__="A method without one."),
        broken("no example", __doc__="A method.\n\n    >>> 1 + 1\n    2\n"),
        broken("kind is not explained", RawAttention, __doc__="A method.\n\n    >>> Broken(model).attribute(x)\n"),
    ],
)
def test_docstrings_that_leave_out(method: Method, message: str):
    with pytest.raises(AssertionError, match=message):
        checks.check_docstring(method)


class Hides(DAAM):
    """Takes whatever it is given."""

    def _maps(self, run, target, *, flow: bool, **options: Any) -> torch.Tensor:
        return super()._maps(run, target, flow=flow) * options.get("factor", 1)


class WithoutType(DAAM):
    def _maps(self, run, target, *, flow: bool, factor=1.0) -> torch.Tensor:
        return super()._maps(run, target, flow=flow) * factor


class WithoutDefault(DAAM):
    def _maps(self, run, target, *, flow: bool, factor: float) -> torch.Tensor:
        return super()._maps(run, target, flow=flow) * factor


class Covers(RawAttention):
    """Has an `attribute` of its own, which says nothing of the option."""

    def attribute(self, inputs, target=None, **options: Any) -> torch.Tensor:
        return super().attribute(inputs, target, **options)


class SaysOtherwise(RawAttention):
    """Shows another default than it has."""

    def attribute_flow(self, inputs, target=None, *, kind: str = "peak") -> torch.Tensor:
        return super().attribute_flow(inputs, target, kind=kind)


class Forgets(RawAttention):
    @classmethod
    def options(cls) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (Hides, "hidden behind **"),
        (WithoutType, "factor has no type"),
        (WithoutDefault, "factor has no default"),
        (Covers, "attribute does not show kind"),
        (SaysOtherwise, "attribute_flow shows kind otherwise"),
        (Forgets, "options() says something else"),
    ],
)
def test_options_that_are_not_seen(method: Method, message: str):
    with pytest.raises(AssertionError, match=re.escape(message)):
        checks.check_options(method)


class Centred(DAAM):
    """Takes the mean away."""

    def _maps(self, run, target, *, flow: bool) -> torch.Tensor:
        found = super()._maps(run, target, flow=flow)
        return found - found.mean(-1, keepdim=True)


class OneClass(DAAM):
    """Explains the first class, whatever it is asked."""

    def _maps(self, run, target, *, flow: bool) -> torch.Tensor:
        return super()._maps(run, checks.as_target(0), flow=flow)


class Hidden(DAAM):
    """Has values below 0 with an option, and says nothing of it."""

    @classmethod
    def facts(cls, **options: Any) -> Facts:
        return super().facts()


class Sly(RawAttention):
    """Looks at the target before anybody can keep it from that."""

    def attribute(self, inputs, target=None, **options: Any) -> torch.Tensor:
        return super().attribute(inputs, **options) * (1 + target)


class OneOfSeveral(AGCAM):
    """Gives the first class's map for all that are asked together."""

    def _class_maps(self, run, targets, *, flow: bool, **options: Any):
        found = torch.cat(list(super()._class_maps(run, targets, flow=flow, **options)))
        yield found[:1].expand_as(found)


class Backwards(DAAM):
    """Gives the blocks in the wrong order."""

    def _maps(self, run, target, *, flow: bool) -> torch.Tensor:
        return super()._maps(run, target, flow=flow).flip(1)


class NoFlow(RawAttention):
    """Gives the map where the flow was asked for."""

    def _maps(self, run, target, *, flow: bool, kind: str = "class") -> torch.Tensor:
        return super()._maps(run, target, flow=flow, kind=kind)[:, -1:]


class OverTheBatch(DAAM):
    """Divides by the largest value of the batch."""

    def _maps(self, run, target, *, flow: bool) -> torch.Tensor:
        found = super()._maps(run, target, flow=flow)
        return found / found.amax()


class Uneasy(DAAM):
    """Has something to say about nothing."""

    def _maps(self, run, target, *, flow: bool) -> torch.Tensor:
        return super()._maps(run, target, flow=flow) + 1


class Greedy(AttentionRollout):
    needs = frozenset({ATTENTION, VALUES})


class Surprised(RawAttention):
    """Reads what it did not name."""

    def _maps(self, run, target, *, flow: bool, kind: str = "class") -> torch.Tensor:
        found = super()._maps(run, target, flow=flow, kind=kind)
        run.calls(run.layers, {ATTENTION})
        return found


class Wasteful(AttentionRollout):
    """Has gradients made ready, and rolls without."""

    needs = frozenset({ATTENTION, GRADIENTS})


class Twice(DAAM):
    """Runs the model itself."""

    def _maps(self, run, target, *, flow: bool) -> torch.Tensor:
        run.inputs.run(run.adapter)
        return super()._maps(run, target, flow=flow)


class Perturbs(DAAM):
    """Asks the run for the scores of other images, as it may."""

    def _maps(self, run, target, *, flow: bool) -> torch.Tensor:
        run.score(run.inputs.images.flip(-1))
        return super()._maps(run, target, flow=flow)


TWINS = [
    (checks.check_sign, Centred, "unsigned, and gives negative"),
    (checks.check_sign, type("Signed", (DAAM,), {"signed": True}), "signed, and gives no negative"),
    (checks.check_sign, Hidden, "unsigned, and gives negative"),
    (checks.check_targets, OneClass, "depends on the target, and does not"),
    (checks.check_targets, Sly, "does not depend on the target, and does"),
    (checks.check_classes, OneOfSeveral, "attribute_classes is not attribute"),
    (checks.check_flow, Backwards, "last slice"),
    (checks.check_flow, NoFlow, "a slice for each layer"),
    (checks.check_batch, OverTheBatch, "not its singles"),
    (checks.check_nothing, Uneasy, "rather than itself"),
    (checks.check_needs, Greedy, "needs {'values'}, which it does not read"),
    (checks.check_needs, Surprised, "asks for {'attention'}"),
    (checks.check_graph, Wasteful, "reads no gradient"),
    (checks.check_forwards, Twice, "2 forwards, expected 1"),
    (checks.check_forwards, Surprised, "2 forwards, expected 1"),
]


@pytest.mark.parametrize(("check", "method", "message"), TWINS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_promise_that_is_broken(check: Any, method: Method, message: str):
    with pytest.raises(AssertionError, match=re.escape(message)):
        check(method)


def test_every_check_has_a_twin():
    apart = {checks.check_facts, checks.check_docstring, checks.check_options}
    assert {check for check, _, _ in TWINS} | apart == set(CHECKS)


def test_all_that_a_run_can_be_asked_is_noted():
    """Whoever adds a question to `Run` adds it to `Asking`; forwards of changed images need no need."""
    questions = {name for name, _ in inspect.getmembers(Run, inspect.isfunction) if not name.startswith("_")}
    assert questions - set(checks.FORWARDS) <= vars(checks.Asking).keys()
    assert "gradients" in questions


def test_what_a_run_is_asked_for_is_not_counted():
    checks.check_forwards(Perturbs)
