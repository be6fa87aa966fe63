"""Each rule against its formula, written out and fused, and what has no rule."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from captum_vit import CPLRP, AttnLRP, LibraGrad
from captum_vit.capture import Rules, attn_rules, cp_rules, libra_rules
from captum_vit.capture.rules import Ruling
from captum_vit.errors import UnsupportedModelError
from tests.helpers import assert_close, relative_error
from tests.reference.explicit import norm
from tests.reference.published import arrays, vit

CP, ATTN, LIBRA = cp_rules(), attn_rules(), libra_rules()
Function = Callable[..., Tensor]


class Under(TorchFunctionMode):
    """Functions computed by rules, as a run has them."""

    def __init__(self, rules: Rules) -> None:
        super().__init__()
        self.ruling = Ruling(rules)

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        try:
            args, kwargs = self.ruling.checked(args, kwargs or {})
            return self.ruling.seen(self.ruling(func, *args, **kwargs), args)
        except UnsupportedModelError as error:  # a TypeError, which Python's operators do not pass on
            raise RuntimeError(*error.args) from error


def gradients(rules: Rules | None, f: Function, *inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
    """What a function gives, and the gradient of its sum, weighed at random, at each input."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    if rules is None:
        out = f(*leaves)
    else:
        mode = Under(rules)
        mode.ruling.see(leaves)
        with mode:
            out = f(*leaves)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(5), dtype=out.dtype)
    return out, list(torch.autograd.grad((out * weights).sum(), leaves, allow_unused=True, materialize_grads=True))


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


W, B = draw(6, 6, seed=1), draw(6, seed=2)


def norm_written_out(x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-5) * B + W[0]


def norm_by_var(x: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) * torch.rsqrt(x.var(-1, unbiased=False, keepdim=True) + 1e-5) * B + W[0]


def by_steps(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1) @ v


def by_einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = F.softmax(torch.einsum("bhid,bhjd->bhij", q, k) / q.shape[-1] ** 0.5, dim=-1)
    return torch.einsum("bhij,bhjd->bhid", weights, v)


def in_place(x: Tensor) -> Tensor:
    x = x * 1.0
    F.silu(x, inplace=True)
    return x


SAME: dict[str, tuple[Function, Function, tuple[int, ...], int]] = {  # written out, fused, shape, how many inputs
    "gelu by erf": (lambda x: x * 0.5 * (1.0 + torch.erf(x / 2**0.5)), F.gelu, (3, 6), 1),
    "gelu by tanh": (
        lambda x: 0.5 * x * (1.0 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * torch.pow(x, 3.0)))),
        lambda x: F.gelu(x, approximate="tanh"),
        (3, 6),
        1,
    ),
    "silu": (lambda x: x * torch.sigmoid(x), F.silu, (3, 6), 1),
    "silu by exp": (lambda x: x / (1 + torch.exp(-x)), F.silu, (3, 6), 1),
    "silu in place": (in_place, F.silu, (3, 6), 1),
    "hardswish": (lambda x: x * F.relu6(x + 3) / 6, F.hardswish, (3, 6), 1),
    "glu": (lambda x: x[:, :3] * x[:, 3:].sigmoid(), F.glu, (3, 6), 1),
    "layer norm": (norm_written_out, lambda x: F.layer_norm(x, (6,), B, W[0]), (3, 6), 1),
    "layer norm by var": (norm_by_var, lambda x: F.layer_norm(x, (6,), B, W[0]), (3, 6), 1),
    "rms norm": (
        lambda x: B * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)),
        lambda x: F.rms_norm(x, (6,), B, 1e-5),
        (3, 6),
        1,
    ),
    "group norm": (
        lambda x: F.group_norm(x, 1, B, W[0]),
        lambda x: F.layer_norm(x, (6, 4), None, None) * B[:, None] + W[0][:, None],
        (3, 6, 4),
        1,
    ),
    "normalize": (lambda x: x / x.norm(dim=-1, keepdim=True), lambda x: F.normalize(x, dim=-1), (3, 6), 1),
    "batch norm": (
        lambda x: (x - B) / (W[0].exp() + 1e-5).sqrt(),
        lambda x: F.batch_norm(x, B, W[0].exp()),
        (3, 6),
        1,
    ),
    "attention": (by_steps, F.scaled_dot_product_attention, (2, 2, 4, 6), 3),
    "attention by einsum": (by_einsum, F.scaled_dot_product_attention, (2, 2, 4, 6), 3),
    "linear": (lambda x: torch.addmm(B, x, W.T), lambda x: F.linear(x, W, B), (3, 6), 1),
}


@pytest.mark.parametrize("rules", [CP, ATTN, LIBRA], ids=lambda rules: rules.title)
@pytest.mark.parametrize("name", SAME)
def test_written_out_is_the_fused_function(name, rules):
    if rules is ATTN and name == "silu by exp":
        pytest.skip("refused there: a softmax may be written so")
    written, fused, shape, count = SAME[name]
    inputs = [draw(*shape, seed=seed) for seed in range(3, 3 + count)]
    if count == 1:
        inputs[0].view(-1)[0] = 0.0
    out, found = gradients(rules, written, *inputs)
    expected, theirs = gradients(rules, fused, *inputs)
    assert_close(out, expected, 1e-9)
    assert_close(torch.cat([g.flatten() for g in found]), torch.cat([g.flatten() for g in theirs]), 1e-9)
    plain = torch.cat([g.flatten() for g in gradients(None, fused, *inputs)[1]])
    linear = name in ("linear", "batch norm")
    assert (relative_error(plain, torch.cat([g.flatten() for g in theirs])) > 1e-2) != linear, (
        "derivatives all the same"
    )


def test_activations_are_multiples_of_their_input():
    z = torch.tensor([-2.0, 0.0, 1e-3, 3.0], dtype=torch.float64)
    functions = (F.gelu, F.silu, F.mish, torch.tanh, F.elu, F.hardswish, F.leaky_relu, F.relu, F.softsign)
    for f in functions:
        _, (found,) = gradients(CP, f, z)
        at_zero = torch.autograd.functional.jvp(f, torch.zeros(1).double(), torch.ones(1).double())[1]
        weights = torch.randn(4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        expected = weights * torch.where(z == 0, at_zero, f(z) / z.where(z != 0, 1))
        assert_close(found, expected, 1e-12)


def swiglu(x: Tensor) -> Tensor:
    return F.silu(x @ W) * (x @ W.T)


GATES = {  # the gradient at the signal and at what goes into the gate, as parts of those of a plain product
    "CP-LRP": (1.0, 0.0),
    "AttnLRP": (0.5, 0.5),
    "LibraGrad": (0.5, 0.5),
}


@pytest.mark.parametrize("rules", [CP, ATTN, LIBRA], ids=lambda rules: rules.title)
def test_gates(rules):
    signal, gate = draw(3, 6, seed=1), draw(3, 6, seed=2)
    _, (at_signal, at_gate) = gradients(rules, lambda a, b: a * F.silu(b), signal, gate)
    weights = torch.randn(3, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    parts = GATES[rules.title]
    assert torch.allclose(at_signal, parts[0] * weights * F.silu(gate))
    assert torch.allclose(at_gate, parts[1] * weights * signal * gate.sigmoid())
    _, (at_signal, at_gate) = gradients(rules, lambda a, b: a * b.sigmoid(), signal, gate)
    assert torch.allclose(at_signal, weights * gate.sigmoid())
    assert not at_gate.any(), "a sigmoid is a constant"


CONSERVING: dict[str, Function] = {
    "pools": lambda x: F.max_pool1d(F.avg_pool1d(x, 2), 2),
    "moved": lambda x: torch.cat([x.flip(-1).roll(1, 0), x[:, :2]], 1).transpose(0, 1),
    "rotary": lambda x: x * W[0, :1].cos() + torch.cat([-x[:, 3:], x[:, :3]], 1) * W[0, :1].sin(),
    "mlp": lambda x: F.gelu(x @ W) @ W.T,
    "swiglu": swiglu,
    "norm": lambda x: F.layer_norm(x, (6,), B),
    "attended": lambda x: x + by_steps(x[None, None], x[None, None], x[None, None])[0, 0],
    "scaled in place": lambda x: (x * 1.0).mul_(B).add_(x),
    "gated by pool": lambda x: x * torch.sigmoid(x.mean(0) @ W),
}


@given(seed=st.integers(0, 10**6), name=st.sampled_from(sorted(CONSERVING)), rules=st.sampled_from([CP, LIBRA]))
def test_input_times_gradient_is_what_comes_out(seed, name, rules):
    x = draw(4, 6, seed=seed)
    out, (found,) = gradients(rules, CONSERVING[name], x)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(5), dtype=out.dtype)
    assert (x * found).sum().item() == pytest.approx((out * weights).sum().item(), rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("name", ["mlp", "swiglu", "norm", "attended", "gated by pool"])
def test_derivatives_do_not_conserve(name):
    x = draw(4, 6)
    out, (found,) = gradients(None, CONSERVING[name], x)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(5), dtype=out.dtype)
    assert abs(float((x * found).sum() - (out * weights).sum().detach())) > 1e-2


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 2 * g


REFUSED: dict[str, tuple[Rules, Function, str]] = {
    "cosine": (CP, torch.cos, "CP-LRP have none for the function cos"),
    "logarithm": (LIBRA, lambda x: x.log(), "LibraGrad have none for the function log"),
    "log softmax": (CP, lambda x: F.log_softmax(x, -1), "function log_softmax"),
    "softmax written out": (ATTN, lambda x: x.exp() / x.exp().sum(), "AttnLRP have none for the function exp"),
    "unseen": (CP, lambda x: F.relu(Doubled.apply(x)), "cannot be seen .DoubledBackward."),
    "softplus as activation": (CP, lambda x: x + F.softplus(x) @ W, "what softplus gives is a constant"),
    "standard deviation": (CP, lambda x: torch.cat([x.mean(0), x.std(0)]), "what std gives is a constant"),
    "power of two": (CP, lambda x: x.pow(x.abs()), "pow is a function of one activation"),
}


@pytest.mark.parametrize(("rules", "f", "message"), REFUSED.values(), ids=REFUSED)
def test_what_has_no_rule_is_refused_by_name(rules, f, message):
    with pytest.raises(RuntimeError, match=message):
        gradients(rules, f, draw(4, 6))


class Constant(torch.autograd.Function):
    """z times a constant."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, factor: Tensor) -> Tensor:
        ctx.factor = factor
        return z * factor

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return g * ctx.factor, None


def explicit(model: nn.Module, images: Tensor, targets: Tensor, attend: Function, wrong: str = "") -> Tensor:
    """sum_D x * g over the patches, (B, patches), of a plain ViT from its weights, with constants spelt out."""
    w = {name: weight.detach() for name, weight in model.state_dict().items()}

    def constant(x: Tensor, what: str) -> Tensor:
        return x if wrong == what else x.detach()

    def normed(x: Tensor, name: str) -> Tensor:
        if wrong == "std":
            return norm(x, w[f"{name}.weight"], w[f"{name}.bias"])
        centred = x - x.mean(-1, keepdim=True)
        std = (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt().detach()
        return centred / std * w[f"{name}.weight"] + w[f"{name}.bias"]

    with torch.no_grad():
        x = model.patch_embed(images)
        x = torch.cat([w["cls_token"].expand(len(x), -1, -1), x], 1) + w["pos_embed"]
    start = x = x.detach().requires_grad_()
    for i in range(len(model.blocks)):
        b = f"blocks.{i}."
        qkv = normed(x, b + "norm1") @ w[b + "attn.qkv.weight"].T + w[b + "attn.qkv.bias"]
        heads = qkv.unflatten(-1, (3, model.blocks[i].attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + attend(*heads).transpose(1, 2).flatten(2) @ w[b + "attn.proj.weight"].T + w[b + "attn.proj.bias"]
        z = normed(x, b + "norm2") @ w[b + "mlp.fc1.weight"].T + w[b + "mlp.fc1.bias"]
        z = z * constant(0.5 * (1 + torch.erf(z / 2**0.5)), "gelu")
        x = x + z @ w[b + "mlp.fc2.weight"].T + w[b + "mlp.fc2.bias"]
    scores = normed(x, "norm")[:, 0] @ w["head.weight"].T + w["head.bias"]
    (g,) = torch.autograd.grad(scores.gather(1, targets[:, None]).sum(), start)
    return (start * g).sum(-1)[:, 1:].detach()


def part(x: Tensor, share: float) -> Tensor:
    """x, whose gradient is one part."""
    return x.detach() * (1 - share) + x * share


def constant_weights(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return by_steps(q.detach(), k.detach(), v)


def parts(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return by_steps(part(q, 0.25), part(k, 0.25), part(v, 0.5))


def halves(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return by_steps(part(q, 0.5), part(k, 0.5), part(v, 0.5))


def test_methods_against_the_formula():
    model, given_ = vit(torch.float64), arrays("expected")
    images, targets = given_["images"][:2].double(), given_["targets"][:2]
    maps = {method: method(model).attribute(images, targets).flatten(1) for method in (CPLRP, AttnLRP, LibraGrad)}
    cp = explicit(model, images, targets, constant_weights)
    assert_close(maps[CPLRP], cp, 1e-9)
    assert_close(maps[LibraGrad], cp, 1e-9)
    assert_close(maps[AttnLRP], explicit(model, images, targets, parts), 1e-9)
    for wrong in ("std", "gelu"):
        assert relative_error(maps[CPLRP], explicit(model, images, targets, constant_weights, wrong)) > 1e-2
    for attend in (by_steps, halves, constant_weights):
        assert relative_error(maps[AttnLRP], explicit(model, images, targets, attend)) > 1e-2
