"""What holds for the smallest model of every family."""

import copy
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from captum_vit import AGCAM, DAAM, RISE, AttentionRollout, GradientRollout, TokenOcclusion, ViTCX, adapt
from captum_vit.access import Adapter, AttentionCall
from captum_vit.attr import in_all
from captum_vit.attr.token_cam import TokenCAM
from captum_vit.capture import ATTENTION, GRADIENTS, VALUES, Inputs, Run, measure_readout, untouched
from captum_vit.errors import UnsupportedModelError
from tests import helpers
from tests.families import stepwise
from tests.families.family import Family
from tests.families.table import FAMILIES
from tests.fingerprint import changes, fingerprint
from tests.helpers import assert_close, explain, relative_error

NAMED = {f"{family.library}: {family.name}": family for family in FAMILIES}
# sums near 0 in their denominators; directions about as long, and classes that lie about as near
UNSTABLE = ("gradcam_plus_plus", "xgradcam", "eigengradcam", "finercam")
STEPWISE = [name for name, family in NAMED.items() if family.unfuse is not None or family.explicit]


@pytest.fixture(params=NAMED)
def family(request) -> Family:
    return NAMED[request.param]


@pytest.fixture
def model(family) -> nn.Module:
    return family.build()


def recorded(model: nn.Module, x: Tensor) -> tuple[Adapter, dict[str, AttentionCall]]:
    run = helpers.recorded(model, x)
    return run.adapter, run.reduced(helpers.whole)


def test_every_layer_is_recorded(family, model):
    adapter, kept = recorded(model, family.batch())
    assert len(kept) == family.layers
    assert list(kept) == list(adapter.attention_layers())
    modules = dict(model.named_modules())
    assert all(modules[name] is layer for name, layer in adapter.attention_layers().items())


def test_recomputed_attention_is_the_output(family, model):
    for call in recorded(model, family.batch())[1].values():
        again = call.weights(slice(None)) @ call.v
        assert_close(again, call.out)
        wrong = call.weights(slice(None)).roll(1, -1) @ call.v
        assert relative_error(wrong, call.out) > 1e-3


def test_which_methods_apply(family, model):
    x = family.batch()
    for name, method in in_all().items():
        if name in family.refused(model):
            with pytest.raises(
                UnsupportedModelError, match=f"{method.__name__} does not apply to {type(model).__name__}"
            ):
                method(model)
            continue
        ours = method(model)
        maps = explain(ours, x)
        assert maps.shape[:2] == (2, 1)
        assert torch.isfinite(maps).all()
        empty = issubclass(method, TokenCAM) and not method.signed  # where all patches speak against the target
        assert empty or maps.abs().max() > 0
        flow = ours.attribute_flow(x, 1 if method.class_specific else None)
        torch.testing.assert_close(flow[:, -1:], maps, rtol=0, atol=1e-5 * float(maps.abs().max()))
        assert flow.shape[1] == len(ours.flow_layers(helpers.recorded(model, x).readout))
        shares = (flow.abs().transpose(0, 1).flatten(1).amax(1) > 0).tolist()
        whole = all(shares) if "start_layer" not in method.options() else shares == sorted(shares)
        assert empty or whole, "a layer without a share in the map"
        singles = torch.cat([explain(ours, x[i : i + 1]) for i in range(2)])
        tolerance = 1e-2 if name in UNSTABLE else 1e-4
        torch.testing.assert_close(singles, maps, rtol=0, atol=tolerance * float(maps.abs().max()))


def test_methods_that_change_the_image(family, model):
    """Patches are left out, or the reason why not is said and they are made grey."""
    x, asked = family.batch(), {"score": "logit", "batch": 5}
    window = max(1, min(adapt(model).token_layout(family.size, {}).grid) - 1)
    occlusion = TokenOcclusion(model)
    try:
        found = occlusion.attribute(x, 1, window=window, **asked)
    except UnsupportedModelError as refusal:
        if "cannot be left out" not in str(refusal):
            raise
        asked["occluder"] = "grey"
        found = occlusion.attribute(x, 1, window=window, **asked)
    singles = torch.cat([occlusion.attribute(x[i : i + 1], 1, window=window, **asked) for i in range(2)])
    assert_close(singles, found, 1e-3)
    asked.pop("occluder", None)
    for method, options in ((RISE, {"masks": 2}), (ViTCX, {"distance": 2.0})):
        if x.dim() == 5:
            with pytest.raises(UnsupportedModelError, match="covers pixels of images, and the model takes videos"):
                method(model)
            continue
        maps = method(model).attribute(x, 1, **asked, **options)
        assert maps.shape == found.shape
        assert torch.isfinite(maps).all()
        assert maps.abs().max() > 0


def test_the_readout_is_the_measured_one(family, model):
    adapter = adapt(model)
    with untouched(adapter):
        measured = measure_readout(adapter, Inputs(family.batch()))
    unknown = family.library == "own code" or family.some_patches  # whose head, or whose patches cannot be told
    assert adapter.readout == (None if unknown else measured)


def test_replay_is_the_general_path(family, model):
    x = family.batch()
    assert_close(AGCAM(model).attribute(x, [1, 4]), helpers.general_path(AGCAM(model), x, [1, 4]))


def test_other_sizes(family, model):
    size = family.other_size or family.size
    if size[-2] == size[-1]:
        pytest.skip("takes images of one square size")
    maps = AGCAM(model).attribute(family.batch(size=size), 1, forward_kwargs=family.kwargs)
    assert maps.shape[-2] < maps.shape[-1]
    assert maps.abs().max() > 0
    layout = adapt(model).token_layout(size, family.kwargs)
    assert layout.grid == maps.shape[2:]
    for cells, patch, side in zip(layout.grid, layout.patch, size, strict=True):
        assert abs(cells * patch - side) < patch


def correlation(ours: Tensor, theirs: Tensor) -> float:
    """That of two maps, 1 if they are equal up to scale and shift."""
    return torch.corrcoef(torch.stack([ours.flatten(), theirs.flatten()]))[0, 1].item()


@pytest.mark.filterwarnings("ignore::captum_vit.unusual.ModelNote")
def test_autocast_is_near(family, model):
    x = family.batch(1)
    for name, method in in_all().items():
        if name not in family.refused(model):
            expected = explain(method(model), x)
            with torch.autocast("cpu", torch.bfloat16):
                maps = explain(method(model), x)
            assert maps.dtype == torch.float32
            if issubclass(method, TokenCAM) and not method.signed:
                assert torch.isfinite(maps).all()  # rectified, few patches are left, or none
                continue
            # the soft splits before T2T-ViT's blocks have attention of their own in half precision
            assert correlation(maps, expected) > (0.7 if family.name == "T2T-ViT" else 0.95)


def test_the_model_is_left_as_it_was(family, model):
    x = family.batch()
    helpers.called(model, x)  # some keep what they computed for a size
    before = fingerprint(model, x)
    for name, method in in_all().items():
        if name not in family.refused(model):
            explain(method(model), x)
            assert changes(before, fingerprint(model, x)) == []


class Stepwise:
    """A family's model in float64, and its attention by explicit softmax."""

    def __init__(self, family: Family) -> None:
        self.model = family.build().double()
        self.x = family.batch().double()
        self.adapter = adapt(self.model)
        self.by_patches = family.some_patches
        self.plain = copy.deepcopy(self.model)
        if family.unfuse is not None:
            family.unfuse(self.plain)

    def steps(self, *, constant: bool, target: int = 1) -> tuple[dict[str, stepwise.Step], dict]:
        modules = dict(self.plain.named_modules())
        layers = {name: modules[name] for name in self.adapter.attention_layers()}
        notebook = stepwise.Notebook(layers, self.adapter.cross_attention, constant)
        score, steps = notebook.run(partial(helpers.called, self.plain), self.x, self.adapter.scores, target)
        assert list(steps) == list(layers)
        return steps, dict(zip(steps, stepwise.gradients(score, list(steps.values())), strict=True))

    def tokens(self) -> list[int]:
        """The tokens read, from the end: the queries of any layer that have a gradient past all attention."""
        steps, grads = self.steps(constant=True)
        found = set()
        for name, step in steps.items():
            if not step.pool:
                rows = grads[name][1].abs().sum((0, 1, 3)).nonzero().flatten()
                found |= set((rows - step.a.shape[3]).tolist())
        return sorted(found)

    def chosen(self, steps: dict, grads: dict) -> tuple[list, list]:
        names = [name for name, step in steps.items() if stepwise.reads(step, self.tokens())]
        return [steps[name] for name in names], [grads[name] for name in names]


@pytest.fixture(params=STEPWISE)
def explicit(request) -> Stepwise:
    return Stepwise(NAMED[request.param])


def flat(maps: Tensor) -> Tensor:
    return maps.flatten(1)


def test_gradient_of_the_weights_is_the_explicit_one(explicit):
    steps, grads = explicit.steps(constant=False)
    run = Run(explicit.adapter, Inputs(explicit.x), {GRADIENTS}, layers=lambda readout: list(steps))
    ours = run.gradients(lambda output: explicit.adapter.scores(output)[:, 1])
    assert any(grad.abs().max() > 0 for _, grad in grads.values())
    for name, call in run.calls(list(steps), {ATTENTION, VALUES}).items():
        assert_close(call.weights(slice(None)), steps[name].a.detach(), 1e-6)
        if grads[name][1].abs().max() > 0:
            assert_close(call.weight_grad(slice(None), ours[name]), grads[name][0], 1e-5)


def test_agcam_is_the_explicit_one(explicit):
    steps, grads = explicit.steps(constant=True)
    ours = AGCAM(explicit.model).attribute(explicit.x, 1)
    same_grid(explicit)
    theirs = stepwise.agcam(*explicit.chosen(steps, grads), explicit.tokens(), ours[0].numel()).detach()
    assert_close(flat(ours), theirs, 1e-6)


def test_daam_is_the_explicit_one(explicit):
    steps, grads = explicit.steps(constant=False)
    ours = DAAM(explicit.model).attribute(explicit.x, 1)
    same_grid(explicit)
    theirs = stepwise.daam(*explicit.chosen(steps, grads), explicit.tokens(), ours[0].numel()).detach()
    assert_close(flat(ours), theirs, 1e-6)


def same_grid(explicit: Stepwise) -> None:
    if explicit.adapter.token_layout(explicit.adapter.size_of(explicit.x), {}).grids:
        pytest.skip("layers of several grids are compared layer by layer")


@pytest.mark.parametrize("method", [AttentionRollout, GradientRollout])
def test_rollouts_are_the_explicit_ones(explicit, method):
    if method.unsuited(explicit.adapter):
        pytest.skip("does not apply")
    steps, grads = explicit.steps(constant=False)
    *_, end = (i for i, step in enumerate(steps.values()) if stepwise.reads(step, explicit.tokens()))
    steps = dict(list(steps.items())[: end + 1])
    ours = explain(method(explicit.model), explicit.x)
    fused = [step.a.mean(1) for step in steps.values()]
    if method is GradientRollout:
        products = [(step.a * grads[name][0]).mean(1).clamp(min=0) for name, step in steps.items()]
        fused = [stepwise.discard(matrix, 0.9) for matrix in products]
    with untouched(explicit.adapter):
        readout = explicit.adapter.readout or measure_readout(explicit.adapter, Inputs(explicit.x))
    last = list(steps.values())[-1]
    queries, keys = last.a.shape[2:]
    if last.pool:
        start = torch.full((queries,), 1 / queries, dtype=torch.float64)
    elif explicit.by_patches:
        start = torch.zeros(keys, dtype=torch.float64)
        start[explicit.tokens()] = 1 / len(explicit.tokens())
    else:
        start = readout.weights(keys - ours[0].numel(), keys)
    theirs = stepwise.rollout([m.detach() for m in fused], list(steps.values()), start, ours[0].numel())
    assert_close(flat(ours), theirs, 1e-6)
