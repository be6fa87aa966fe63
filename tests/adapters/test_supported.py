"""What holds for every supported model, and therefore what a new adapter has to keep."""

import pytest
import torch
from torch import nn

from captum_vit import AGCAM, DAAM, AttentionRollout, FeatureImportance, RawAttention, adapt
from captum_vit.access import AttentionCall, TokenLayout
from captum_vit.attr.conserving import ConservingGradients
from captum_vit.capture import Inputs, Run, measure_readout, untouched
from captum_vit.errors import LayerNotFoundError, TokenLayoutError
from tests.helpers import (
    CASES,
    DEPTH,
    METHODS,
    WIDE,
    Case,
    assert_close,
    explain,
    general_path,
    image_size,
    images,
    recorded,
    relative_error,
    scores_of,
    whole,
)

RESIZED = [name for name, case in CASES.items() if case.other_size]


@pytest.fixture(params=CASES)
def case(request) -> Case:
    return CASES[request.param]


@pytest.fixture
def model(case) -> nn.Module:
    return case.build()


def batch(model: nn.Module, count: int = 2) -> torch.Tensor:
    return images(count, image_size(model))


def calls_of(model: nn.Module, x: torch.Tensor, **kwargs) -> tuple[dict[str, AttentionCall], TokenLayout]:
    run = recorded(model, x, **kwargs)
    return run.reduced(whole), run.layout


def recomputed(call: AttentionCall) -> torch.Tensor:
    return call.weights(slice(None)) @ call.v


def test_every_layer_is_recorded_once_and_in_order(case, model):
    kept, layout = calls_of(model, batch(model))
    modules = dict(model.named_modules())
    assert len(kept) == DEPTH
    assert list(kept) == list(adapt(model).attention_layers())
    assert all(adapt(model).attention_layers()[name] is modules[name] for name in kept)
    assert layout.prefix == case.prefix
    assert all(call.q.shape[2] == call.k.shape[2] == layout.tokens for call in kept.values())


def test_recomputed_attention_is_the_output(model):
    kept, _ = calls_of(model, batch(model))
    for call in kept.values():
        assert_close(recomputed(call), call.out)


def test_a_wrong_scale_would_be_seen(model):
    kept, _ = calls_of(model, batch(model))
    for call in kept.values():
        wrong = AttentionCall(call.name, call.q, call.k, call.v, 1.1 * call.scale, call.bias, call.out, call.layout)
        assert relative_error(recomputed(wrong), call.out) > 1e-4


def test_declared_readout_is_the_measured_one(case, model):
    adapter = adapt(model)
    with untouched(adapter):
        measured = measure_readout(adapter, Inputs(batch(model)))
    assert adapter.readout == (None if case is CASES["timm-unpooled"] else measured)  # what becomes of it is unknown
    assert recorded(model, batch(model)).layout.readout == measured


@pytest.mark.parametrize("method", METHODS)
def test_shapes(case, model, method):
    x = batch(model, 3)
    (height, width), (rows, cols) = x.shape[2:], (x.shape[2] // 8, x.shape[3] // 8)
    ours = method(model)
    targets = [1, 2, 3]  # what speaks for one class alone may be nothing
    grid = explain(ours, x, targets)
    assert grid.shape == (3, 1, rows, cols)
    assert grid.abs().max() > 0
    assert torch.isfinite(grid).all()
    assert not grid.requires_grad
    assert grid.is_contiguous()
    assert explain(ours, x, targets, output_shape="spatial").shape == (3, 1, height, width)
    by_channel = explain(ours, x, targets, output_shape="input")
    assert by_channel.shape == x.shape
    assert by_channel.is_contiguous()
    if not issubclass(method, ConservingGradients):  # which have maps of their own at the pixels
        assert_close(by_channel.sum(1, keepdim=True), explain(ours, x, targets, output_shape="spatial"))
    flow = ours.attribute_flow(x, targets if method.class_specific else None)
    assert flow.shape == (3, len(ours.flow_layers(recorded(model, x).readout)), rows, cols)
    assert_close(flow[:, -1:], grid)
    in_tuple = explain(ours, (x,), targets)
    assert isinstance(in_tuple, tuple)
    assert torch.equal(in_tuple[0], grid)


def test_replay_is_the_general_path(model):
    x = batch(model)
    replayed = AGCAM(model).attribute(x, [1, 4])
    assert_close(replayed, general_path(AGCAM(model), x, [1, 4]))
    assert relative_error(replayed, general_path(AGCAM(model), x, [4, 1])) > 1e-3


@pytest.mark.parametrize("targets", ["all", [5, 0, 5], torch.tensor([2])])
def test_many_classes_are_each_class(model, targets):
    x = batch(model, 1)
    maps = AGCAM(model).attribute_classes(x, targets)
    count = scores_of(adapt(model), x).shape[1]
    wanted = range(count) if isinstance(targets, str) else [int(t) for t in targets]
    assert len(maps) == len(wanted)
    for c, found in zip(wanted, maps, strict=True):
        assert_close(found[None], AGCAM(model).attribute(x, c))


def test_target_is_needed_unless_features_are_explained(case, model):
    x = batch(model)
    if case.headless:
        assert DAAM(model).attribute(x, FeatureImportance()).abs().max() > 0
    else:
        assert relative_error(DAAM(model).attribute(x, 1), DAAM(model).attribute(x, 2)) > 1e-3


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", RESIZED)
def test_other_sizes(name, method):
    case = CASES[name]
    model, x = case.build(), images(2, case.other_size)
    by_name = explain(method(model), x, forward_kwargs=case.kwargs)
    rows, cols = (-(-side // 8) for side in case.other_size)
    assert by_name.shape == (2, 1, rows, cols)
    if case.args is not None:
        assert torch.equal(explain(method(model), x, additional_forward_args=case.args), by_name)
    flipped = explain(method(model), x.mT, forward_kwargs=case.kwargs)
    assert flipped.shape == (2, 1, cols, rows)
    spatial = explain(method(model), x, forward_kwargs=case.kwargs, output_shape="spatial")
    assert spatial.shape[2:] == torch.Size(case.other_size)


@pytest.mark.parametrize("name", RESIZED)
def test_the_trained_size_still_works_after_another(name):
    case = CASES[name]
    model = case.build()
    ours, x = AttentionRollout(model), batch(model)
    before = ours.attribute(x)
    ours.attribute(images(1, case.other_size), forward_kwargs=case.kwargs)
    assert torch.equal(ours.attribute(x), before)


@pytest.mark.parametrize("name", ["hf-vit", "hf-deit", "hf-deit-teacher", "hf-vit-model", "timm-vit"])
def test_another_size_without_leave_is_refused(name):
    with pytest.raises(TokenLayoutError, match=r"takes images of 32x32, got 24x48: resize them, or"):
        RawAttention(CASES[name].build()).attribute(images(1, WIDE))


@pytest.mark.parametrize("method", METHODS)
def test_layers_by_name_index_and_module(model, method):
    layers = adapt(model).attention_layers()
    names, x = list(layers), batch(model)
    maps = [explain(method(model, layer), x) for layer in (names[-1], -1, DEPTH - 1, layers[names[-1]])]
    assert all(torch.equal(found, maps[0]) for found in maps)
    if method is not RawAttention:
        assert relative_error(explain(method(model, 0), x), maps[0]) > 1e-3
    both = method(model, [2, names[0]])
    assert both.layer_names == [names[0], names[2]]
    assert both.attribute_flow(x, 1 if method.class_specific else None).shape[1] == 2


def test_summed_layers_are_the_sum_of_each(model):
    x = batch(model)
    for method in (AGCAM, DAAM):
        each = sum(method(model, i).attribute(x, 1) for i in range(DEPTH))
        assert_close(method(model).attribute(x, 1), each)


def test_layers_that_do_not_exist(model):
    listed = ", ".join(adapt(model).attention_layers())
    for wrong in ("blocks.99.attn", DEPTH, -DEPTH - 1, nn.Linear(1, 1), True):
        with pytest.raises(LayerNotFoundError, match=f"this model has {DEPTH}, counted from 0 or named: {listed}"):
            AGCAM(model, wrong)
    with pytest.raises(LayerNotFoundError, match=f"at least one layer is needed; this model has {listed}"):
        AGCAM(model, [])


def test_gradients_come_from_the_model_itself(model):
    """The gradient at the last attention's output, against one by finite differences of the scores."""
    model = model.double()
    x, adapter = batch(model, 1).double(), adapt(model)
    run = Run(adapter, Inputs(x), layers=lambda readout: list(adapter.attention_layers())[-1:])
    ((name, gradient),) = run.gradients(1).items()
    direction = torch.randn_like(gradient)
    steps = [scores_with(adapter, x, name, 1e-6 * sign * direction) for sign in (1, -1)]
    slope = (steps[0] - steps[1]) / 2e-6
    assert abs(slope - (gradient * direction).sum()) < 1e-6 * gradient.norm() * direction.norm()


def scores_with(adapter, x, name, change):
    """The score of class 1 with a change added to one attention's output."""
    original = torch.nn.functional.scaled_dot_product_attention

    class Shift(torch.overrides.TorchFunctionMode):
        seen = 0

        def __torch_function__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if func is original:
                Shift.seen += 1
                if Shift.seen == list(adapter.attention_layers()).index(name) + 1:
                    out = out + change
            return out

    with torch.no_grad(), untouched(adapter), Shift():
        return adapter.scores(adapter.model(x))[0, 1]
