"""Videos and volumes: where their tokens lie, what of their sizes is refused, and heads that read them densely."""

import copy
from typing import Any

import pytest
import torch
from monai.networks.blocks.selfattention import SABlock
from monai.networks.nets import UNETR, ViT, ViTAutoEnc
from torch import Tensor, nn

from captum_vit import AGCAM, DAAM, AttentionRollout, adapt
from captum_vit.errors import TokenLayoutError, UnsupportedModelError
from captum_vit.targets import Classes
from tests.families.hf import HF, JEPA, small
from tests.helpers import assert_close, randomise, relative_error

VIDEO = {family.name: family for family in HF if len(family.size) == 3}


def tokens_of(model: nn.Module, video: Tensor) -> Tensor:
    """What the model makes of the patches before any attention, (tokens, D)."""
    found = []
    hook = adapt(model).embedding.register_forward_hook(lambda *call: found.append(call[-1]))
    with hook, torch.no_grad():
        model(video)
    return found[0][0]


@pytest.mark.parametrize("name", VIDEO)
def test_a_block_of_pixels_changes_its_own_token(name):
    family = VIDEO[name]
    size = family.other_size or family.size
    model, adapter = family.build(), adapt(family.build())
    layout = adapter.token_layout(size, {})
    video = adapter.example(size, torch.Generator().manual_seed(0))
    plain = tokens_of(model, video)
    assert len(plain) == layout.tokens
    twins = 0
    for place in torch.cartesian_prod(*(torch.tensor([0, cells - 1]) for cells in layout.grid)).tolist():
        changed = video.clone()
        t, y, x = (slice(round(i * side), round((i + 1) * side)) for i, side in zip(place, layout.patch, strict=True))
        changed[:, t, :, y, x] += 1
        moved = (tokens_of(model, changed) - plain).abs().sum(1)[layout.prefix :] > 1e-6
        expected = torch.zeros(layout.grid, dtype=torch.bool)
        expected[tuple(place)] = True
        assert torch.equal(layout.to_grid(moved), expected)
        twins += not torch.equal(moved.view(layout.grid[1:] + layout.grid[:1]).permute(2, 0, 1), expected)
    assert twins, "a layout with the frames last would have passed"


@pytest.mark.parametrize(
    ("name", "size", "told"),
    [
        (
            "VideoMAE",
            (6, 16, 24),
            r"videos of 4x16x24 \(frames, height, width\), got 6x16x24: take 4 frames",
        ),
        ("ViViT", (4, 24, 24), r"videos of 4x16x24 \(frames, height, width\), got 4x24x24: .* resize these to"),
        ("V-JEPA 2", (4, 4, 16), r"videos of 4x4x16 .* are smaller than a tubelet of 2x8x8"),
    ],
)
def test_another_size_is_refused(name, size, told):
    model = VIDEO[name].build()
    with pytest.raises(TokenLayoutError, match=told):
        AGCAM(model).attribute(torch.randn(1, size[0], 3, *size[1:]), 1)


def test_another_size_is_refused_before_a_readout_is_measured():
    model = small("VideoMAEForVideoClassification", "VideoMAEConfig", num_frames=4, use_mean_pooling=False)()
    for size in ((6, 32, 32), (4, 32, 48)):
        with pytest.raises(TokenLayoutError, match=r"videos of 4x32x32 .*, got {}x{}x{}: take 4".format(*size)):
            AGCAM(model).attribute(torch.randn(1, size[0], 3, *size[1:]), 1)


def test_one_frame_of_vjepa_stands_for_a_tubelet():
    model = VIDEO["V-JEPA 2"].build()
    frame = torch.randn(1, 1, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    one, two = (AGCAM(model).attribute(video, 1) for video in (frame, frame.repeat(1, 2, 1, 1, 1)))
    assert one.shape == (1, 1, 1, 2, 3)
    assert_close(one, two)
    assert AGCAM(model).attribute(frame, 1, output_shape="spatial").shape == (1, 1, 1, 16, 24)


def test_pretraining_and_masked_patches_are_refused():
    model = small("VideoMAEForPreTraining", "VideoMAEConfig", num_frames=4)()
    with pytest.raises(UnsupportedModelError, match=r"most patches of its videos are masked .* pass its encoder"):
        adapt(model)
    masked = {"bool_masked_pos": torch.zeros(1, 12, dtype=torch.bool)}
    with pytest.raises(TokenLayoutError, match="leaves patches out"):
        AGCAM(VIDEO["VideoMAE, backbone"].build()).attribute(torch.randn(1, 4, 3, 16, 24), 1, forward_kwargs=masked)


def test_the_predictor_of_vjepa_has_no_part():
    """Its attention is computed, and what the encoder gives does not depend on it."""
    model = small("VJEPA2Model", "VJEPA2Config", **JEPA)()
    video = torch.randn(1, 4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    before = AGCAM(model).attribute(video, 1)
    randomise(model.predictor, 5)
    assert torch.equal(AGCAM(model).attribute(video, 1), before)


SIDES = {"in_channels": 1, "hidden_size": 24, "mlp_dim": 48, "num_heads": 3}


def monai(kind: str) -> tuple[nn.Module, tuple[int, ...], tuple[int, ...]]:
    """A model, the size of its volumes and its grid."""
    if kind == "UNETR":
        model = UNETR(1, 2, (32, 32, 48), feature_size=2, hidden_size=24, mlp_dim=48, num_heads=3)
        return randomise(model).double(), (32, 32, 48), (2, 2, 3)
    if kind == "ViTAutoEnc":
        model = ViTAutoEnc(img_size=(32, 32, 48), patch_size=(16, 16, 16), out_channels=2, num_layers=2, **SIDES)
        return randomise(model).double(), (32, 32, 48), (2, 2, 3)
    return randomise(Relative()).double(), (16, 16, 16), (2, 2, 2)


class Relative(nn.Module):
    """MONAI's blocks with relative positions, which it adds to the scores."""

    def __init__(self) -> None:
        super().__init__()
        self.vit = ViT(img_size=(16, 16, 16), patch_size=(8, 8, 8), num_layers=2, **SIDES)
        for block in self.vit.blocks:
            block.attn = SABlock(24, 3, rel_pos_embedding="decomposed", input_size=(2, 2, 2))
        self.head = nn.Linear(24, 5)

    def forward(self, volume: Tensor) -> Tensor:
        return self.head(self.vit(volume)[0].mean(1))


def explicit(model: nn.Module, volume: Tensor, target: tuple[int, ...]) -> list[dict[str, Tensor]]:
    """Weights, values, output and the target's gradient by it of each SABlock, step by step."""
    plain, steps = copy.deepcopy(model), []

    def forward(block: Any, x: Tensor, attn_mask: None = None) -> Tensor:
        q, k, v = block.input_rearrange(block.qkv(x))
        s = q @ k.mT * block.scale
        if block.rel_positional_embedding is not None:
            s = block.rel_positional_embedding(x, s, q)
        a = s.softmax(-1)
        steps.append({"a": a, "v": v, "o": a @ v})
        return block.out_proj(block.out_rearrange(steps[-1]["o"]))

    for block in plain.modules():
        if isinstance(block, SABlock):
            block.forward = forward.__get__(block)
    output = plain(volume.clone().requires_grad_())
    scores = output[0] if isinstance(output, tuple) else output
    found = torch.autograd.grad(scores[(slice(None), *target)].sum(), [step["o"] for step in steps], allow_unused=True)
    for step, gradient in zip(steps, found, strict=True):
        step["do"] = torch.zeros_like(step["o"]) if gradient is None else gradient
    return steps


@pytest.mark.parametrize("kind", ["UNETR", "ViTAutoEnc", "relative positions"])
def test_volumes_are_explained_as_autograd_says(kind):
    model, size, grid = monai(kind)
    volume = torch.randn(1, 1, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    target = (1,) if kind == "relative positions" else (1, 20, 3, 30)
    ours = DAAM(model).attribute(volume, Classes(target) if len(target) > 1 else 1)
    steps = explicit(model, volume, target)
    maps = 0
    for step in steps:
        weighted = step["a"][..., None] * step["v"][:, :, None] * step["do"][:, :, :, None].clamp(min=0)
        maps = maps + weighted.sum((1, 2, 4)).clamp(min=0)
    expected = maps.detach().view(1, 1, *grid)
    assert_close(ours, expected, 1e-6)
    assert relative_error(ours, expected.flip(2)) > 1e-2, "slices in the other order would have passed"


def test_a_dense_head_of_volumes_has_no_rollout():
    model, size, _ = monai("ViTAutoEnc")
    with pytest.raises(UnsupportedModelError, match="what each token contributes to the score is not known"):
        AttentionRollout(model).attribute(torch.randn(1, 1, *size, dtype=torch.float64))
