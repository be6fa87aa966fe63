"""Targets by `module:object`, as the command line takes them."""

import pytest
import torch
from transformers import ViTModel

from captum_vit import Explainer
from captum_vit.errors import OptionError, TargetError
from captum_vit.explanation.asking import Vocabulary
from captum_vit.targets import Classes, Contrast, Function, Target
from tests.helpers import SIZE, hf_vit, images, timm_vit
from tests.walks import named
from tests.walks.target import Entropy

NAMES = {0: "disc", 1: "ring", 2: "torch:nn"}


def parse(text: str) -> Target:
    return Vocabulary(NAMES, {}, "model").parse(text, 3)


def test_a_target_a_class_of_them_and_a_function():
    assert parse("tests.walks.named:undecided") is named.undecided
    assert parse(" tests.walks.target:Entropy ") == Entropy()
    function = parse("tests.walks.named:doubled")
    assert isinstance(function, Function)
    assert function.function is named.doubled
    assert function.text(NAMES) == "doubled"


def test_names_of_classes_in_it_are_found():
    found = parse("tests.walks.named:by_name")
    assert isinstance(found, Contrast)
    assert (found.a.index, found.b.index) == (1, 0)


def test_a_class_of_that_name_goes_first():
    assert parse("torch:nn").index == 2


def test_it_may_stand_in_a_contrast():
    found = parse("tests.walks.target:Entropy/ring")
    assert isinstance(found.a, Entropy)
    assert isinstance(found.b, Classes)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("tests.walks.named:text", TargetError, r"is no target: expected a Target, a class of them, .* got str 'disc'"),
        ("torch.nn:Linear", TargetError, "is no target: .* got the class Linear"),
        ("tests.walks.named:Vector", TargetError, r"cannot be made without arguments .* as mine = Embedding\(\.\.\.\)"),
        ("tests.walks.named:Unfinished", TargetError, "cannot be made without arguments .*abstract"),
        ("tests.walks.named:undecide", OptionError, "no 'undecide'; nearest: undecided"),
        ("tests.walks.nowhere:any", OptionError, "cannot import 'tests.walks.nowhere:any'"),
        ("a cat: black", TargetError, "no class 'a cat: black'"),
        ("disk", TargetError, "no class 'disk'"),
    ],
)
def test_what_is_no_target(text: str, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        parse(text)


def test_of_a_model_without_classes_too():
    model = hf_vit(ViTModel)
    found = Explainer(model)(images(1)[0], method="daam", target="tests.walks.target:Entropy")
    assert [a.target.name for a in found] == ["entropy"]
    with pytest.raises(TargetError, match="a target needs a classifier"):
        Explainer(model)(images(1)[0], target="tabby")


def test_it_is_the_map_of_the_object():
    model, x = timm_vit(img_size=SIZE), images(1)[0]
    by_name = Explainer(model)(x, target="tests.walks.named:undecided")
    torch.testing.assert_close(by_name.maps, Explainer(model)(x, target=named.undecided).maps)
