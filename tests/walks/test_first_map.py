"""What the first map of a model costs beside later ones, counted in multiplications, and not by a clock."""

from types import SimpleNamespace

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from captum_vit import AGCAM, DAAM, AttentionRollout, GradientRollout, RawAttention
from captum_vit.capture.others import model_state
from captum_vit.capture.remembered import fingerprint
from captum_vit.capture.repeated import each_computed
from captum_vit.capture.unknown import Found
from tests.benchmarks.first_call import Owner, OwnViT

METHODS = (AGCAM, DAAM, AttentionRollout, GradientRollout, RawAttention)


class Counted(TorchDispatchMode):
    """Multiplications of matrix products and convolutions."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        packet = getattr(func, "overloadpacket", None)
        if packet in flop_registry:
            self.total += flop_registry[packet](*args, **(kwargs or {}), out_val=out)
        return out


def forwards(run, model: nn.Module, x: Tensor) -> float:
    """What a call costs, in plain forwards."""
    with torch.no_grad(), Counted() as plain:
        model(x)
    with Counted() as seen:
        run()
    return seen.total / plain.total


def nested() -> nn.Module:
    return Owner(timm.create_model("vit_tiny_patch16_224", depth=4)).eval()


def own() -> nn.Module:
    return OwnViT(width=192, heads=3, depth=4).eval()


def first_and_later(build) -> tuple[float, float]:
    model, x = build(), torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    return tuple(forwards(lambda: AGCAM(model).attribute(x, 1), model, x) for _ in range(2))


def test_a_vit_inside_an_owner():
    first, later = first_and_later(nested)
    assert later < 1.5
    assert first < later + 8  # three of them are of images like it, whose readout must be the same


def test_code_of_nobody_s_library():
    first, later = first_and_later(own)
    assert later < 1.5
    assert first < later + 11


def test_without_saving_the_bound_does_not_hold():
    with each_computed():
        first, later = first_and_later(nested)
    assert first > later + 8


def test_five_methods_look_once(monkeypatch):
    looked = []
    find = Found._find
    monkeypatch.setattr(Found, "_find", lambda self: looked.append(1) or find(self))
    model, x = own(), torch.randn(1, 3, 224, 224)
    for method in METHODS:
        method(model).attribute(x, 1 if method.class_specific else None)
    assert len(looked) == 1


def scale(x: Tensor) -> Tensor:
    return x


class Configured(nn.Module):
    """With a configuration, and a function of its file."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.config, self.steps = nn.Linear(2, 2), SimpleNamespace(scale=1.0), [1, 2]

    def forward(self, x: Tensor) -> Tensor:
        return scale(self.linear(x)) * self.config.scale


CHANGES = {
    "a hook": lambda model, patch: model.linear.register_forward_hook(lambda *args: None),
    "a method": lambda model, patch: patch.setattr(Configured, "forward", lambda self, x: x),
    "a configuration": lambda model, patch: setattr(model.config, "scale", 2.0),
    "a list": lambda model, patch: model.steps.append(3),
    "a function": lambda model, patch: patch.setitem(globals(), "scale", lambda x: 2 * x),
    "weights": lambda model, patch: nn.init.zeros_(model.linear.weight),
    "torch's attention": lambda model, patch: patch.setattr(F, "scaled_dot_product_attention", lambda *args: None),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_changed_is_looked_at_anew(change, monkeypatch):
    model = Configured()
    before = fingerprint(model)
    assert fingerprint(model) == before
    CHANGES[change](model, monkeypatch)
    assert fingerprint(model) != before


@pytest.mark.xfail(strict=True, reason="without what it looks at besides modules and hooks")
@pytest.mark.parametrize("change", ["a function", "weights"])
def test_the_state_of_modules_alone_would_not_tell(change, monkeypatch):
    monkeypatch.setattr("tests.walks.test_first_map.fingerprint", model_state)
    test_what_was_changed_is_looked_at_anew(change, monkeypatch)
