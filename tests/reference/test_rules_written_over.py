"""What rules know of an activation ends where a model writes over it, cuts it off, or hides how it is computed."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from captum_vit import CPLRP, AttnLRP, GradCAM
from captum_vit.capture.ruled import State
from captum_vit.errors import UnsupportedModelError
from tests.helpers import assert_close, relative_error
from tests.reference.test_any_model import RULED, photo

Function = Callable[[Tensor, Tensor], Tensor]


class Between(nn.Module):
    """A function of cells and of what the cells around them make, between a stem and a head without biases."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function, self.stem = function, nn.Conv2d(3, 6, 4, 4, bias=False)
        self.mix, self.head = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.Linear(6, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head((self.function(x, self.mix(x)) * 1.0).mean((2, 3)))


def maps(method: type, function: Function) -> Tensor:
    return method(Between(function).double().eval()).attribute(photo(), 1)


def added_to(x: Tensor, mixed: Tensor) -> Tensor:
    y = x * 1.0
    y += mixed
    return y * x


def added_to_a_part(x: Tensor, mixed: Tensor) -> Tensor:
    y = x * 1.0
    y[:, :2] += mixed[:, :2]
    return y * x


def multiplied_by(x: Tensor, mixed: Tensor) -> Tensor:
    y = x * 1.0
    y.mul_(mixed)
    return y * x


def gated(x: Tensor, mixed: Tensor) -> Tensor:
    y = x.clone()
    y.sigmoid_()
    return mixed * y


def set_in_part(x: Tensor, mixed: Tensor) -> Tensor:
    y = F.silu(x)
    y[:, :3] = mixed[:, :3]
    return y * x


WRITTEN: dict[str, tuple[Function, Function]] = {
    "added": (added_to, lambda x, mixed: (x * 1.0 + mixed) * x),
    "added to a part": (
        added_to_a_part,
        lambda x, mixed: torch.cat([x[:, :2] + mixed[:, :2], x[:, 2:] * 1.0], 1) * x,
    ),
    "multiplied": (multiplied_by, lambda x, mixed: x * 1.0 * mixed * x),
    "a gate": (gated, lambda x, mixed: mixed * x.sigmoid()),
    "a part set": (set_in_part, lambda x, mixed: torch.cat([mixed[:, :3], F.silu(x)[:, 3:]], 1) * x),
}


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("method", RULED)
def test_what_is_written_in_place_is_what_is_computed_anew(method, name):
    written, anew = WRITTEN[name]
    assert_close(maps(method, written), maps(method, anew), 1e-12)


def test_a_twin_that_forgets_who_wrote(monkeypatch):
    right = maps(AttnLRP, added_to)
    with monkeypatch.context() as patch:
        patch.setattr(State, "_noted", lambda self, x: self._rooted.get(x, (None, None))[1])
        assert relative_error(maps(AttnLRP, added_to), right) > 0.1


def gate_added_to(x: Tensor, mixed: Tensor) -> Tensor:
    gate = mixed.sigmoid()
    gate += x
    return gate


def gate_set_in_part(x: Tensor, mixed: Tensor) -> Tensor:
    gate = mixed.sigmoid()
    gate[:, 0] = x[:, 0]
    return gate


def part_that_becomes_a_gate(x: Tensor, mixed: Tensor) -> Tensor:
    x = x * 1.0
    x[:, :3].sigmoid_()
    return x * mixed


LOST: dict[str, tuple[Function, str]] = {
    "a gate added to": (gate_added_to, "sigmoid gives is a constant.* goes into add"),
    "a gate set in part": (gate_set_in_part, "sigmoid gives is a constant.* goes into setitem"),
    "a part that becomes a gate": (part_that_becomes_a_gate, "sigmoid gives is a constant.* over a part"),
    "the larger of a gate and a cell": (
        lambda x, mixed: torch.maximum(x, mixed.sigmoid()),
        "sigmoid gives is a constant.* goes into maximum",
    ),
    "a part that is cut off": (lambda x, mixed: x + mixed.detach(), "detach gives is a constant.* goes into add"),
}


@pytest.mark.parametrize("name", LOST)
@pytest.mark.parametrize("method", RULED)
def test_what_would_be_lost_is_refused(method, name):
    function, reason = LOST[name]
    with pytest.raises(UnsupportedModelError, match=reason):
        maps(method, function)


def test_what_is_cut_off_may_be_a_factor_and_a_shape():
    scale = Between(lambda x, mixed: x / mixed.detach().abs().mean(1, keepdim=True))
    scale = scale.double().eval()
    (told,) = AttnLRP(scale).completeness(photo(), 1)
    assert abs(told.error) < 1e-9 * abs(told.score)

    def in_a_shape_of(x: Tensor, mixed: Tensor) -> Tensor:
        out = torch.zeros_like(mixed.softmax(1))
        out[:, ::2] = x[:, ::2]
        return out

    assert maps(CPLRP, in_a_shape_of).any()


def test_constants_that_are_chosen_are_told():
    for function in (
        lambda x, mixed: torch.maximum(mixed, torch.full_like(x, 0.3)),
        lambda x, mixed: torch.where(x > 0, mixed, 0.3),
        lambda x, mixed: mixed.masked_fill(x > 0, 0.3),
    ):
        (told,) = CPLRP(Between(function).double().eval()).completeness(photo(), 1)
        assert abs(told.error) < 1e-9 * abs(told.score)
        assert abs(told.biases) > 0.1 * abs(told.score)


class Swish(torch.autograd.Function):
    """As models write it to save memory."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        gate = x.sigmoid()
        return gradient * gate * (1 + x * (1 - gate))


class Head(nn.Module):
    """The scores themselves come out of an autograd function."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Between(lambda x, mixed: mixed)

    def forward(self, x: Tensor) -> Tensor:
        return Swish.apply(self.net(x))


@pytest.mark.parametrize("method", RULED)
def test_autograd_functions_of_others_are_refused(method):
    for model in (Between(lambda x, mixed: Swish.apply(mixed)), Head()):
        with pytest.raises(UnsupportedModelError, match=r"cannot be seen \(SwishBackward\)"):
            method(model.double().eval()).attribute(photo(), 1)
    assert GradCAM(Head().double().eval()).attribute(photo(), 1).any()


def test_reentrant_checkpoints_are_refused():
    model = Between(lambda x, mixed: checkpoint(F.relu, mixed, use_reentrant=True)).double().eval()
    for method, reason in ((GradCAM, "runs under torch.utils.checkpoint"), (CPLRP, "cannot be seen")):
        with pytest.raises(UnsupportedModelError, match=reason):
            method(model).attribute(photo(), 1)
