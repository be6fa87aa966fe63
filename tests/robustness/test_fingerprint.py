"""The fingerprint sees each kind of damage that a method could do."""

import pytest
import torch
from torch import nn

from captum_vit import AGCAM
from tests.fingerprint import changes, fingerprint
from tests.helpers import explain, hf_vit, images, timm_vit


class Vandal(AGCAM):
    """A method that leaves a trace in the model, the input or torch."""

    def __init__(self, model, harm) -> None:
        super().__init__(model)
        self.harm = harm

    def attribute(self, x, *args, **kwargs):
        maps = super().attribute(x, *args, **kwargs)
        self.harm(self.forward_func, x)
        return maps


def nothing(*_):
    return None


def accumulate(model, x):
    model(x).sum().backward()


def zero_grad_in_place(model, x):
    model.blocks[0].norm1.weight.grad.zero_()


def nudge(model, x):
    with torch.no_grad():
        model.blocks[0].norm1.weight[0] += 1e-7


def patch_forward(model, x):
    model.blocks[1].attn.forward = model.blocks[1].attn.forward


def rebuild(model, x):
    model.blocks[1].norm1 = type(model.blocks[1].norm1)(24)


def replace_parameter(model, x):
    model.norm.weight = nn.Parameter(model.norm.weight.detach().clone())


def mark_input(model, x):
    x.requires_grad_()


HARM = {
    "forward hook": lambda m, x: m.blocks[0].register_forward_hook(nothing),
    "forward pre-hook": lambda m, x: m.blocks[0].attn.register_forward_pre_hook(nothing),
    "always-called hook": lambda m, x: m.blocks[0].attn.register_forward_hook(nothing, always_call=True),
    "hook with kwargs": lambda m, x: m.register_forward_pre_hook(nothing, with_kwargs=True),
    "backward hook": lambda m, x: m.blocks[0].register_full_backward_hook(nothing),
    "backward pre-hook": lambda m, x: m.blocks[0].register_full_backward_pre_hook(nothing),
    "state dict hook": lambda m, x: m.register_state_dict_post_hook(nothing),
    "tensor hook": lambda m, x: m.blocks[0].norm1.weight.register_hook(nothing),
    "gradient": accumulate,
    "gradient zeroed": zero_grad_in_place,
    "gradient dropped": lambda m, x: m.zero_grad(set_to_none=True),
    "weight": nudge,
    "requires_grad": lambda m, x: m.blocks[2].requires_grad_(False),
    "eval": lambda m, x: m.eval(),
    "train of one module": lambda m, x: m.blocks[2].mlp.train(),
    "random state": lambda m, x: torch.rand(1),
    "fused_attn": lambda m, x: setattr(m.blocks[1].attn, "fused_attn", False),
    "checkpointing": lambda m, x: m.set_grad_checkpointing(True),
    "forward patched": patch_forward,
    "module rebuilt": rebuild,
    "parameter replaced": replace_parameter,
    "attribute": lambda m, x: setattr(m, "saliency", 1),
    "class": lambda m, x: setattr(m.blocks[0], "__class__", type("Block", (type(m.blocks[0]),), {})),
    "input marked": mark_input,
    "input changed": lambda m, x: x.mul_(1.0001),
    "buffer": lambda m, x: m.register_buffer("seen", torch.zeros(1)),
}


@pytest.mark.parametrize("name", HARM)
def test_harm_is_seen(name):
    model, x = timm_vit(), images()
    model.blocks[0].train()
    model(x).square().sum().backward()
    before = fingerprint(model, x)
    explain(Vandal(model, nothing), x)
    assert not changes(before, fingerprint(model, x))
    explain(Vandal(model, HARM[name]), x)
    assert changes(before, fingerprint(model, x))


GLOBAL_HARM = {
    "grad mode": lambda: torch.set_grad_enabled(False),
    "global hook": lambda: nn.modules.module.register_module_forward_hook(nothing),
    "default type": lambda: torch.set_default_dtype(torch.float64),
}


@pytest.mark.parametrize("name", GLOBAL_HARM)
def test_harm_to_the_surroundings_is_seen(name):
    model = timm_vit()
    before = fingerprint(model)
    try:
        handle = GLOBAL_HARM[name]()
        assert changes(before, fingerprint(model))
    finally:
        torch.set_grad_enabled(True)
        torch.set_default_dtype(torch.float32)
        if hasattr(handle, "remove"):
            handle.remove()
    assert not changes(before, fingerprint(model))


@pytest.mark.parametrize("implementation", ["eager", "flex_attention"])
def test_a_changed_attention_implementation_is_seen(implementation):
    model = hf_vit()
    before = fingerprint(model)
    model.config._attn_implementation_internal = implementation
    assert changes(before, fingerprint(model))
