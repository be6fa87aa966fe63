"""Adapters of a notebook or a script, which no entry point names."""

import pytest
import torch
from torch import nn

import captum_vit
from captum_vit import AGCAM
from captum_vit.access import CLASS, registry
from captum_vit.adapters.timm_vit import TimmViT
from captum_vit.errors import OptionError, UnsupportedModelError
from tests.helpers import images, timm_vit


class Shell(nn.Module):
    """A ViT out of reach of those who look for modules inside it, and of those who look for gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.__dict__["vit"] = timm_vit()

    def forward(self, x):
        return self.vit(x.detach())


def adapter(kind: type[nn.Module]) -> type[captum_vit.Adapter]:
    class Own(TimmViT):
        readout = CLASS

        def __init__(self, model):
            super().__init__(model.vit)

        @classmethod
        def matches(cls, model):
            return isinstance(model, kind)

    return Own


@pytest.fixture(autouse=True)
def _none_registered(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})


def test_a_registered_adapter_is_found():
    model = Shell()
    with pytest.raises(UnsupportedModelError, match=r"Shell.*by captum_vit.register"):
        AGCAM(model)
    own = adapter(Shell)
    assert captum_vit.register(own) is own  # so that it may decorate
    assert type(captum_vit.adapt(model)) is own
    expected = AGCAM(model.vit).attribute(images(), target=1)
    torch.testing.assert_close(AGCAM(captum_vit.adapt(model).model).attribute(images(), target=1), expected)


def test_it_goes_before_those_that_are_installed():
    own = captum_vit.register(type("Own", (TimmViT,), {}))
    assert type(captum_vit.adapt(timm_vit())) is own


def test_a_cell_that_runs_again_replaces_its_adapter():
    first, second = adapter(Shell), adapter(Shell)
    captum_vit.register(first)
    captum_vit.register(second)
    assert type(captum_vit.adapt(Shell())) is second
    assert first not in registry.adapter_classes()


@pytest.mark.parametrize("wrong", [Shell, TimmViT.matches, "timm"])
def test_nothing_else_is_registered(wrong):
    with pytest.raises(OptionError, match=r"expected a subclass of captum_vit\.Adapter"):
        captum_vit.register(wrong)
