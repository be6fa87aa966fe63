"""Beyond Intuition, transition attention and AttCAT: the authors' programs, and what these methods ask a run for."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from captum_vit import AttCAT, BeyondIntuition, TransitionAttention, adapt
from captum_vit.capture import ATTENTION, OUTPUT_WEIGHTS, Inputs, Run
from captum_vit.errors import OptionError, UnsupportedModelError
from captum_vit.targets import Contrast, as_target
from tests.helpers import CLASSES, assert_close, hf_vit, images, randomise, relative_error, timm_vit
from tests.reference import explicit
from tests.reference.published import arrays, vit
from tests.reference.test_formulas import DIFFERENT, TARGET, World, plain, world  # noqa: F401

VARIANTS = {"bth": "head", "btt": "token"}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_the_published_programs(dtype, tolerance):
    found, model = arrays("expected"), vit(dtype)
    x, targets = found["images"].to(dtype), found["targets"]
    for name, expected in arrays("paths").items():
        method, _, start = name.partition("_start")
        if method in VARIANTS:  # the authors count from 1
            ours = BeyondIntuition(model).attribute(x, targets, variant=VARIANTS[method], start_layer=int(start) - 1)
        elif method == "tam":
            ours = TransitionAttention(model).attribute(x, targets, start_layer=int(start))
        elif method == "attcat_explicit":
            ours = AttCAT(model).attribute(x, targets)
        else:
            assert method == "attcat_layers_explicit"
            expected = expected[..., 1:].unflatten(2, (8, 8)).cumsum(1)
            assert_close(AttCAT(model).attribute_flow(x, targets).double(), expected, tolerance)
            continue
        assert_close(ours[:, 0].double(), expected, tolerance)


@pytest.mark.parametrize(("method", "options"), [(TransitionAttention, {}), (BeyondIntuition, {"variant": "token"})])
def test_another_start_is_another_map(method, options):
    found, model = arrays("expected"), vit()
    maps = [method(model).attribute(found["images"], 1, start_layer=start, **options) for start in (0, 1, -1)]
    assert relative_error(maps[0], maps[1]) > DIFFERENT
    assert relative_error(maps[1], maps[2]) > DIFFERENT
    with pytest.raises(OptionError, match="start_layer is the index of one of the 4 attention layers"):
        method(model).attribute(found["images"], 1, start_layer=4, **options)
    with pytest.raises(OptionError, match="steps must be at least 2"):
        method(model).attribute(found["images"], 1, steps=1, **options)


def test_authors_defaults_at_twelve_layers():
    assert TransitionAttention.first_layer(12) == 4
    assert BeyondIntuition.first_layer(12) == 4 - 1
    assert BeyondIntuition.first_layer(12, variant="token") == 6 - 1
    with pytest.raises(OptionError, match="variant must be one of head, token, got 'heads'"):
        BeyondIntuition(timm_vit()).attribute(images(), 1, variant="heads")


def test_methods_share_what_is_asked_along_the_path():
    model = timm_vit()
    calls = []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    with Run(adapt(model), Inputs(images()), {ATTENTION}) as run:
        targets = [as_target(1), as_target(2)]
        first = run.path_gradients(targets, "blocks.2.attn", 4)
        heard = len(calls)
        assert run.path_gradients(list(targets), "blocks.2.attn", 4) is first
        assert run.path_gradients(targets[:1], "blocks.2.attn", 4) is not first
        assert torch.equal(run.path_gradients(targets[:1], "blocks.2.attn", 4), first[:1])
        assert len(calls) == heard, "somebody's hook hears of darkened images"


# the projection of the attention's output


def torchvision_vit() -> nn.Module:
    model = VisionTransformer(32, 8, 3, 3, 24, 48, num_classes=CLASSES)
    return randomise(model)


PROJECTED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "timm": (timm_vit, "blocks.{}.attn.proj.weight"),
    "Hugging Face": (hf_vit, "vit.layers.{}.attention.o_proj.weight"),
    "torchvision": (torchvision_vit, "encoder.layers.encoder_layer_{}.self_attention.out_proj.weight"),
}


def output_weights(model: nn.Module, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    with Run(adapt(model), Inputs(images().to(dtype)), {OUTPUT_WEIGHTS}) as run:
        return list(run.output_weights(run.layers).values())


@pytest.mark.parametrize("library", PROJECTED)
def test_the_projection_is_found(library):
    build, name = PROJECTED[library]
    model = build()
    weights = dict(model.named_parameters())
    found = output_weights(model)
    assert len(found) == 3
    for i, weight in enumerate(found):
        assert torch.equal(weight, weights[name.format(i)]), list(weights)


class Beside(nn.Module):
    """A second way beside a linear layer, as LoRA has it."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer, self.down = layer, nn.Linear(24, 2, bias=False)
        self.up = nn.Linear(2, 24, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.up(self.down(x))


def test_several_projections_are_refused():
    model = timm_vit()
    model.blocks[1].attn.proj = Beside(model.blocks[1].attn.proj)
    with pytest.raises(UnsupportedModelError, match=r"2 linear layers take the output .* 'blocks.1.attn', as where an"):
        output_weights(model)
    with pytest.raises(UnsupportedModelError, match="merge it into the model"):
        BeyondIntuition(model).attribute(images(), 1, variant="token", start_layer=0)


@pytest.mark.parametrize("change", [{"scale_attn_norm": True}, None])
def test_no_projection_is_refused(change):
    model = timm_vit(**(change or {}))
    if change is None:
        model.blocks[2].attn.proj = nn.Identity()
    with pytest.raises(UnsupportedModelError, match=r"no linear layer takes the output of the attention in"):
        output_weights(model)


# formulas


def token_rows(w: World, *, of_input: bool = True) -> list[Tensor]:
    """mean_h(A_h) diag(m), m_j = |v_j W_o^T| / |h_j|."""
    given = inputs_of(w)
    found = []
    for block, attention, h in zip(w.model.blocks, w.blocks, given, strict=True):
        v = attention.v.detach().transpose(1, 2).flatten(2) @ block.attn.proj.weight.detach().T
        ratio = v.norm(dim=2) / (h.norm(dim=2) if of_input else 1)
        found.append(attention.a.detach().mean(1) * ratio[:, None])
    return found


def inputs_of(w: World) -> list[Tensor]:
    given: list[Tensor] = []
    hooks = [block.register_forward_pre_hook(lambda _, args: given.append(args[0])) for block in w.model.blocks]
    with torch.no_grad():
        w.model(w.images)
    for hook in hooks:
        hook.remove()
    return given


def path_weights(w: World, steps: int) -> Tensor:
    total = 0
    for alpha in torch.linspace(0, 1, steps, dtype=torch.float64):
        scores, blocks = explicit.explicit_vit(w.model, w.images * alpha, read=w.read)
        (grad,) = explicit.gradients(scores.gather(1, TARGET[:, None]), [blocks[-1].a])
        total = total + grad / steps
    return total.relu().mean(1)


@pytest.mark.parametrize("start_layer", [0, 1])
def test_beyond_intuition_by_tokens(world, start_layer):  # noqa: F811
    found = BeyondIntuition(world.model).attribute(
        world.images, TARGET, variant="token", start_layer=start_layer, steps=3
    )
    whole = path_weights(world, 3)
    joint = torch.eye(whole.shape[-1], dtype=torch.float64)
    for matrix in token_rows(world)[start_layer:]:
        joint = joint + matrix @ joint
    assert_close(found, world.grid((joint * whole)[:, world.rows].sum(1)), 1e-10)
    joint = torch.eye(whole.shape[-1], dtype=torch.float64)
    for matrix in token_rows(world, of_input=False)[start_layer:]:
        joint = joint + matrix @ joint
    assert relative_error(found, world.grid((joint * whole)[:, world.rows].sum(1))) > DIFFERENT


def attcat(w: World, *, turned: bool = False) -> Tensor:
    """sum_l (sum_D h_l * dy/dh_l) * (mean over heads and queries of A_l)[key]."""
    given: list[Tensor] = []

    def keep(_: nn.Module, args: tuple) -> tuple:
        given.append(args[0] if args[0].requires_grad else args[0].requires_grad_())
        return (given[-1],)

    hooks = [block.register_forward_pre_hook(keep) for block in w.model.blocks]
    scores = w.model(w.images)
    for hook in hooks:
        hook.remove()
    grads = torch.autograd.grad(scores.gather(1, TARGET[:, None]).sum(), given)
    parts = zip(given, grads, w.blocks, strict=True)
    return sum((h * g).sum(2) * b.a.mean(1).mean(2 if turned else 1) for h, g, b in parts).detach()


def test_attcat(world):  # noqa: F811
    ours = AttCAT(world.model)
    found = ours.attribute(world.images, TARGET)
    assert_close(found, world.grid(attcat(world)), 1e-10)
    assert relative_error(found, world.grid(attcat(world, turned=True))) > DIFFERENT
    forth, back = (ours.attribute(world.images, Contrast(a, b)) for a, b in ((2, 5), (5, 2)))
    assert_close(forth, -back, 1e-12)
    assert found.min() < 0 < found.max()
