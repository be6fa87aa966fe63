"""What a hook, an attention function of one's own or a patched class does is part of what is explained, or refused."""

import pytest
import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from transformers import AttentionInterface

from captum_vit import AGCAM, DAAM, AttentionRollout, GradientRollout, RawAttention, adapt
from captum_vit.capture import Inputs, Run, examine, scopes, trunk
from captum_vit.errors import LayerNotRecordedError, TokenLayoutError, UnsupportedModelError
from tests.adapters.test_altered import Owner
from tests.helpers import METHODS, assert_close, explain, general_path, hf_vit, images, relative_error, timm_vit

HEADS = torch.tensor([0.0, 1.0, 1.0])[:, None, None]  # the first is switched off


def unfused(**changes) -> nn.Module:
    model = timm_vit(**changes)
    for block in model.blocks:
        block.attn.fused_attn = False
    return model


def knocked_out() -> nn.Module:
    model = unfused()
    for block in model.blocks:
        block.attn.attn_drop.register_forward_hook(lambda module, args, out: out * HEADS)
    return model


class Explicit:
    """Attention after the dropout, and its gradient, of every block of an unfused model."""

    def __init__(self, model: nn.Module, x: Tensor, target: int) -> None:
        self.weights: list[Tensor] = []
        hooks = [block.attn.proj_drop.register_forward_hook(lambda *_: None) for block in model.blocks]
        hooks += [block.attn.attn_drop.register_forward_hook(self._keep) for block in model.blocks]
        model(x)[:, target].sum().backward()
        for hook in hooks:
            hook.remove()

    def _keep(self, module: nn.Module, args: tuple, out: Tensor) -> None:
        out.retain_grad()
        self.weights.append(out)


def test_a_head_that_is_switched_off_is_shown_so():
    model, x = knocked_out(), images()
    explicit = Explicit(model, x, 1)
    heads = RawAttention(model).attribute_heads(x)
    assert (heads[:, :, 0] == 0).all()
    assert_close(heads.flatten(3), torch.stack([a[:, :, 0, 1:] for a in explicit.weights], 1).detach(), 1e-6)
    daam = torch.stack([(a.grad * a)[:, :, 0, 1:].sum(1).relu() for a in explicit.weights]).sum(0)
    ours = DAAM(model).attribute(x, 1).flatten(1)
    assert relative_error(ours, daam.detach()) > 0.01  # which sums over rectified channels, and not over dy/dA
    state = torch.eye(17)[:1].expand(2, 1, -1)
    for a in reversed(explicit.weights):
        state = state @ torch.nn.functional.normalize(a.detach().mean(1) + torch.eye(17), p=1, dim=-1)
    assert_close(AttentionRollout(model).attribute(x).flatten(1), state[:, 0, 1:], 1e-6)


def test_scores_are_not_read_behind_such_a_hook():
    with pytest.raises(LayerNotRecordedError, match=r"'blocks.0.attn' is changed between its softmax and its values"):
        AGCAM(knocked_out()).attribute(images(), 1)


@pytest.mark.parametrize("method", METHODS)
def test_a_hook_that_only_listens_there_changes_nothing(method):
    model, heard = unfused(), []
    model.blocks[1].attn.attn_drop.register_forward_hook(lambda module, args, out: heard.append(out.shape))
    assert_close(explain(method(model), images()), explain(method(timm_vit()), images()))
    assert heard


def sharp(module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, **options):
    """Four times sharper than a softmax."""
    weights = (q @ k.mT * q.shape[-1] ** -0.5 * 4).softmax(-1)
    module.seen = weights.detach()
    return (weights @ v).transpose(1, 2).contiguous(), weights


def test_an_attention_function_of_ones_own():
    AttentionInterface.register("sharp", sharp)
    model, x = hf_vit(), images()
    plain = RawAttention(model).attribute(x)
    model.set_attn_implementation("sharp")
    found = RawAttention(model).attribute(x)
    model(x)
    assert_close(found[:1].flatten(1), model.vit.layers[-1].attention.seen.mean(1)[:1, 0, 1:], 1e-6)
    assert relative_error(found, plain) > 0.1
    assert model.config._attn_implementation == "sharp"


def mean_added(stream: Tensor) -> Tensor:
    return stream + stream.mean(1, keepdim=True)


@pytest.mark.parametrize("method", [AGCAM, DAAM, GradientRollout])
def test_a_global_hook_in_which_tokens_meet(method):
    model, x = timm_vit(), images()

    def hook(module: nn.Module, args: tuple, out: Tensor) -> Tensor | None:
        return mean_added(out) if module is model.blocks[0] else None

    handle = nn.modules.module.register_module_forward_hook(hook)
    try:
        ours = method(model)
        assert_close(explain(ours, x), general_path(ours, x, 1))
        assert relative_error(explain(ours, x), explain(method(timm_vit()), x)) > 0.01
    finally:
        handle.remove()


@pytest.mark.parametrize("method", METHODS)
def test_a_patched_class_is_as_in_an_owner(monkeypatch, method):
    before, last = Block.forward, False

    def forward(self: nn.Module, x: Tensor, *args, **kwargs) -> Tensor:
        out = before(self, x, *args, **kwargs)
        return mean_added(out) if last or self is not model.blocks[-1] else out

    monkeypatch.setattr(Block, "forward", forward)
    model, x = timm_vit(), images()
    assert_close(explain(method(model), x), explain(method(Owner(model)), x))
    last = True
    named = "meet once more after its last attention, .* forward of the class Block was replaced"
    with pytest.raises(UnsupportedModelError, match=named):
        explain(method(timm_vit()), x)
    monkeypatch.undo()
    assert_close(explain(method(model), x), explain(method(timm_vit()), x))  # and is looked at anew


def test_tokens_that_are_dropped_so_that_the_count_fits():
    model = timm_vit(reg_tokens=4)
    model.blocks[0].register_forward_hook(lambda module, args, out: out[:, :-5])
    with pytest.raises(TokenLayoutError, match=r"no longer where they were when they reach layer 'blocks.1.attn'"):
        explain(RawAttention(model), images())


def test_without_a_look_along_the_blocks_they_pass(monkeypatch):
    monkeypatch.setattr(examine, "tokens_stay", lambda *_: True)
    test = test_tokens_that_are_dropped_so_that_the_count_fits
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        test()


def test_a_model_that_computes_otherwise_while_it_is_listened_to():
    class Peeking(nn.Module):
        """Computes otherwise while somebody listens, as where a hook of theirs gets in the way."""

        def __init__(self) -> None:
            super().__init__()
            self.vit = timm_vit()

        def forward(self, x: Tensor) -> Tensor:
            return self.vit(x) * (2 if scopes._active.get() is not None else 1)

    with pytest.raises(UnsupportedModelError, match=r"other scores while its attention is listened to .*Peeking owns"):
        AGCAM(Peeking().eval()).attribute(images(), 1)


def test_it_is_looked_at_once():
    model, x, calls = timm_vit(), images(), []
    before = type(model).forward

    class Counting(type(model)):
        def forward(self, *args, **kwargs):
            calls.append(1)
            return before(self, *args, **kwargs)

    model.__class__ = Counting
    run = Run(adapt(model), Inputs(x))
    assert run.scores.shape == (2, 7)
    first = len(calls)
    again = Run(adapt(model), Inputs(x))
    assert again.scores.shape == (2, 7)
    assert len(calls) - first == 1 < first


def test_where_tokens_meet_is_found_from_there_on():
    model = timm_vit()
    for block in model.blocks:
        block.register_forward_hook(lambda module, args, out: mean_added(out))
    assert not trunk.tokens_stay(adapt(model), Inputs(images()), examine.WHOLE)
    assert trunk.tokens_stay(adapt(timm_vit()), Inputs(images()), examine.WHOLE)
