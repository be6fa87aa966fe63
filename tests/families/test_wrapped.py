"""Linear layers that others have wrapped or replaced: LoRA, and weights in eight bits."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from captum_vit import AGCAM, AttentionRollout, TransformerAttribution
from tests.helpers import METHODS, assert_close, explain, general_path, hf_vit, images, relative_error, timm_vit


class EightBits(nn.Module):
    """A linear layer with its weights in eight bits, a scale for each row."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        self.register_buffer("scale", scale)
        self.register_buffer("weight", (linear.weight.detach() / scale).round().to(torch.int8))
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight * self.scale, self.bias)


def quantized(model: nn.Module) -> nn.Module:
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, EightBits(child))
    return model


def with_lora(model: nn.Module, targets: list[str], size: float) -> nn.Module:
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=targets)).eval()
    draw = torch.Generator().manual_seed(3)
    for name, weight in wrapped.named_parameters():
        if "lora_" in name:
            weight.data.copy_(torch.randn(weight.shape, generator=draw) * size)
    return wrapped


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft asks for it
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("build", "targets"), [(hf_vit, ["q_proj", "v_proj", "fc1"]), (timm_vit, ["qkv", "fc1"])], ids=["hf", "timm"]
)
def test_lora_counts_and_does_not_disturb(build, targets, method):
    x, plain = images(), explain(method(build()), images())
    assert_close(explain(method(with_lora(build(), targets, 0.0)), x), plain)
    adapted = with_lora(build(), targets, 0.5)
    maps = explain(method(adapted), x)
    assert relative_error(maps, plain) > 1e-2
    if method is not TransformerAttribution:  # which shares out a sum otherwise than what is one matrix
        assert_close(maps, explain(method(adapted.merge_and_unload()), x), 1e-4)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("build", [hf_vit, timm_vit])
def test_linear_layers_in_eight_bits(build, method):
    x, model = images(), quantized(build())
    maps, plain = explain(method(model), x), explain(method(build()), x)
    assert torch.isfinite(maps).all()
    assert 1e-4 < relative_error(maps, plain) < 0.5


def test_replay_of_replaced_linear_layers():
    model, x = quantized(timm_vit()), images()
    assert_close(AGCAM(model).attribute(x, 1), general_path(AGCAM(model), x, 1))
    assert AttentionRollout(model).attribute(x).abs().max() > 0
