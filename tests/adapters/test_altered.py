"""Models that somebody changed after they were made: what they read is measured, not taken from the class."""

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from captum_vit import AGCAM, DAAM, AttentionRollout, RawAttention, Readout, adapt
from captum_vit.access import NestedAdapter
from captum_vit.capture import Inputs, Run, UnderRules, measure_readout, readout_of, untouched
from captum_vit.errors import InputError, OptionError
from tests.helpers import METHODS, assert_close, explain, general_path, hf_vit, images, timm_vit


def mixing_hook(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
    return output + output.mean(1, keepdim=True)


class Mixer(nn.Module):
    """An MLP in which tokens meet."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1, keepdim=True).expand_as(x).tanh()


def hooked(model: nn.Module, *path: str | int) -> nn.Module:
    model.get_submodule(".".join(map(str, path))).register_forward_hook(mixing_hook)
    return model


def mixed() -> nn.Module:
    model = timm_vit()
    model.blocks[1].mlp = Mixer()
    return model


def patched() -> nn.Module:
    model = timm_vit()
    model.pool = lambda x, pool_type=None: x[:, 1:].mean(1)
    return model


ALTERED = {
    "hook on a block": lambda: hooked(timm_vit(), "blocks", 0),
    "hook on the last block": lambda: hooked(timm_vit(), "blocks", 2),
    "hook in an MLP": lambda: hooked(timm_vit(), "blocks", 0, "mlp", "fc1"),
    "hook, Hugging Face": lambda: hooked(hf_vit(), "vit", "layers", 0),
    "another MLP": mixed,
    "another pooling": patched,
}


class Owner(nn.Module):
    """Somebody's own module, whose ViT is measured in any case."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        output = self.model(x)
        return getattr(output, "logits", output)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ALTERED)
def test_an_altered_model_is_measured(name, method):
    model = ALTERED[name]()
    assert adapt(model).readout is None or "hook" in name  # whether a hook only listens is seen in the run
    run = Run(adapt(model), Inputs(images()))
    assert not run.readout.declared
    assert run.readout == readout_of(adapt(Owner(model)), Inputs(images()))
    assert_close(explain(method(model), images()), explain(method(Owner(model)), images()))


@pytest.mark.parametrize("name", ALTERED)
def test_an_altered_model_takes_the_general_path(name):
    ours = AGCAM(ALTERED[name]())
    assert_close(ours.attribute(images(), 1), general_path(ours, images(), 1))


class Listener:
    """A feature extractor, as of a logger."""

    def __init__(self, model: nn.Module, edit: bool = False) -> None:
        self.heard: dict[str, Tensor] = {}
        self.calls = 0
        for name, module in model.named_modules():
            module.register_forward_hook(self.hook(name))
            module.register_forward_pre_hook(lambda module, args: None)

    def hook(self, name: str):
        def listen(module: nn.Module, args: tuple, output: Tensor) -> None:
            self.calls += 1
            self.heard[name] = output if isinstance(output, Tensor) else output[0]

        return listen


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("make", [timm_vit, hf_vit])
def test_a_hook_that_listens_changes_nothing_and_hears_a_whole_forward(make, method):
    model, x = make(), images()
    expected = explain(method(model), x)
    listener = Listener(model)
    model(x)
    plain, calls = {name: heard.detach() for name, heard in listener.heard.items()}, listener.calls
    listener.calls = 0
    assert_close(explain(method(model), x), expected)
    ways = {need.rules if isinstance(need, UnderRules) else None for need in method(model).needed()}
    # once for each way back, and no more by a replay; a fused kernel leaves a dropout out
    assert listener.calls <= calls * len(ways)
    for name, heard in listener.heard.items():
        assert_close(heard.detach(), plain[name])
    assert Run(adapt(model), Inputs(x)).readout.declared


def test_a_hook_that_writes_in_place_is_no_listener():
    def write(module: nn.Module, args: tuple, output: Tensor) -> None:
        output.add_(output.mean(1, keepdim=True))

    model = timm_vit()
    model.blocks[0].register_forward_hook(write)
    assert not Run(adapt(model), Inputs(images())).readout.declared


def test_an_unaltered_model_is_not_measured():
    for model in (timm_vit(), hf_vit()):
        assert adapt(model).readout == Readout((0,))
    replaced = timm_vit()
    replaced.head = nn.Sequential(
        nn.Linear(24, 9), Owner(nn.Identity()), nn.Linear(9, 7)
    )  # a head of one's own is fine
    assert adapt(replaced).readout == Readout((0,))


def test_a_mean_over_all_tokens_weighs_them_evenly():
    declared = timm_vit(global_pool="avg", pool_include_prefix=True)
    assert adapt(declared).readout == Readout((0,), patches=True, even=True)
    with untouched(adapt(declared)):
        assert measure_readout(adapt(declared), Inputs(images())) == adapt(declared).readout
    weights = adapt(declared).readout.weights(1, 17)
    assert torch.allclose(weights, torch.full((17,), 1 / 17, dtype=torch.float64))
    for method in (AttentionRollout, RawAttention):
        assert_close(explain(method(declared), images()), explain(method(Owner(declared)), images()))


class Resizes(nn.Module):
    """Brings images to the size of its ViT."""

    def __init__(self) -> None:
        super().__init__()
        self.model = timm_vit()

    def forward(self, x: Tensor) -> Tensor:
        return self.model(nn.functional.interpolate(x, (32, 32), mode="bilinear"))


def test_maps_of_an_owner_who_resizes_cover_the_whole_image():
    large = nn.functional.interpolate(images(), (64, 96), mode="bilinear")
    maps = AGCAM(Resizes()).attribute(large, 1, output_shape="spatial")
    grid = AGCAM(Resizes()).attribute(large, 1)
    assert_close(maps, nn.functional.interpolate(grid, (64, 96), mode="bilinear"), 1e-6)


def test_a_hybrid_covers_the_whole_image():
    model = timm.create_model("vit_tiny_r_s16_p8_224", img_size=64, num_classes=3).eval()
    maps = AGCAM(model).attribute(torch.randn(1, 3, 64, 64), 1, output_shape="spatial")
    assert maps.shape == (1, 1, 64, 64)
    assert adapt(model).token_layout((64, 64), {}).patch == (32, 32)


def test_one_flat_image_does_not_hide_the_readout():
    head = nn.Sequential(nn.Linear(24, 1), nn.ReLU())
    model = nn.Sequential(timm_vit(num_classes=0), head)
    with torch.no_grad():
        scores = model[1][0](model[0](images()))
        head[0].bias -= scores.mean()  # one image below zero, the other above
    dead = images()[model(images())[:, 0].argsort()]
    assert AttentionRollout(model).attribute(dead).shape == (2, 1, 4, 4)


def test_options_in_the_wrong_place_and_of_the_wrong_kind():
    with pytest.raises(OptionError, match=r"options go into its call: .attribute\(images, discard_ratio=0.5\)"):
        AttentionRollout(timm_vit(), discard_ratio=0.5)
    with pytest.raises(OptionError, match=r"discard_ratio must lie in \[0, 1\), got 'x'"):
        AttentionRollout(timm_vit()).attribute(images(), discard_ratio="x")
    with pytest.raises(OptionError, match="output_shape must be one of grid, spatial, input, got 'spatail'"):
        AGCAM(timm_vit()).attribute_classes(images(1), [0, 1], output_shape="spatail")
    with pytest.raises(InputError, match=r"VisionTransformer.forward: got an unexpected keyword argument 'nope'"):
        AGCAM(timm_vit()).attribute(images(), 1, forward_kwargs={"nope": 1})
    with pytest.raises(InputError, match=r"computes in torch.float32 and fails on torch.float64: convert the images"):
        AGCAM(timm_vit()).attribute(images().double(), 1)


def test_headless_distilled_models_are_headless():
    from timm.models.deit import VisionTransformerDistilled

    small = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 0}
    assert adapt(VisionTransformerDistilled(**small)).headless
    assert adapt(VisionTransformer(**small)).headless


@pytest.mark.parametrize("method", [AGCAM, DAAM])
@pytest.mark.parametrize("name", ["pit_ti_distilled_224", "deit_tiny_distilled_patch16_224"])
def test_in_distilled_training_both_heads_are_the_score(name, method):
    model = timm.create_model(name, img_size=64, num_classes=5).eval()
    x = images(1, (64, 64))
    maps = method(model).attribute(x, 1)
    model.set_distilled_training(True)
    model.train()  # without dropout, so that only the form of the output changes
    assert isinstance(model(x), tuple)
    assert_close(method(model).attribute(x, 1), maps)


def test_a_nested_model_takes_the_channels_that_its_adapter_says():
    inner = adapt(timm_vit(in_chans=5))
    type_of = type("Nine", (type(inner),), {"in_channels": 9})
    model = nn.Sequential(inner.model)
    assert adapt(model).in_channels == 5
    assert NestedAdapter(model, "0", type_of(inner.model)).in_channels == 9


def test_a_readout_without_tokens_is_refused():
    with pytest.raises(OptionError, match=r"prefix tokens, patches or both; .* got none"):
        Readout((), latents=(0,))
