"""Scores that are read in other ways than from a class token: embeddings, attention pools, an owner's own head."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captum_vit import AGCAM, DAAM, AttentionRollout, GradientRollout, RawAttention, adapt
from captum_vit.access import CLASS, CLASS_AND_PATCHES, PATCHES
from captum_vit.capture import Inputs, measure_readout, untouched
from captum_vit.targets import Embedding
from tests.families.timm_models import small
from tests.helpers import CLASSES, METHODS, assert_close, explain, images, randomise, recorded, relative_error, timm_vit

siglip = small("vit_base_patch16_siglip_224", patch_size=8)


class Similarity(nn.Module):
    """An image's similarity to one text, with the text encoded before."""

    def __init__(self, vision: nn.Module, text: Tensor) -> None:
        super().__init__()
        self.vision, self.text = vision, text

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.vision(x), dim=1) @ F.normalize(self.text, dim=0)


def open_clip_whole() -> nn.Module:
    model = pytest.importorskip("open_clip").model
    tower = model.CLIPVisionCfg(layers=2, width=24, head_width=8, patch_size=8, image_size=32)
    text = model.CLIPTextCfg(context_length=8, vocab_size=16, width=16, heads=2, layers=1)
    return randomise(model.CLIP(24, tower, text))


class ImageSide(nn.Module):
    """The features out of what a whole CLIP returns."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        out = self.model(x)
        return out[0] if isinstance(out, tuple) else out


EMBEDDING = {
    "headless": lambda: timm_vit(num_classes=0),
    "siglip": small("vit_base_patch16_siglip_224", num_classes=0, patch_size=8),
    "projection": small("vit_base_patch16_clip_224", num_classes=24, patch_size=8),  # counts as classes in timm
    "nested": lambda: nn.Sequential(timm_vit(num_classes=0), randomise(nn.Linear(24, 24), 4)).eval(),
    "open_clip": open_clip_whole,
}


@pytest.mark.parametrize("vision", EMBEDDING.values(), ids=EMBEDDING)
@pytest.mark.parametrize("method", [AGCAM, DAAM, GradientRollout])
def test_an_embedding_is_a_target(vision, method):
    model, x, text = vision(), images(), torch.randn(24)
    whole = Similarity(ImageSide(model), text).eval()
    maps = method(model).attribute(x, Embedding(text))
    assert_close(maps, method(whole).attribute(x))
    assert_close(maps, method(model).attribute(x, Embedding(3 * torch.stack([text, text]))))
    assert relative_error(maps, method(model).attribute(x, Embedding(-text))) > 1e-2


def test_each_image_with_an_embedding_of_its_own():
    model, x, texts = timm_vit(num_classes=0), images(), torch.randn(2, 24)
    both = DAAM(model).attribute(x, Embedding(texts))
    assert_close(both, torch.cat([DAAM(model).attribute(x[i : i + 1], Embedding(texts[i])) for i in range(2)]))


@pytest.mark.parametrize("method", METHODS)
def test_an_attention_pool_inside_another_module_is_found(method):
    model, x = siglip(), images()
    owner = nn.Sequential(model, nn.Identity()).eval()
    with untouched(adapt(owner)):
        assert measure_readout(adapt(owner), Inputs(x)) == adapt(model).readout
    assert_close(explain(method(owner), x), explain(method(model), x))


class WithoutPool(nn.Module):
    """Reads the mean of the patches, past the pool."""

    def __init__(self, *, runs_pool: bool) -> None:
        super().__init__()
        self.vision, self.head = siglip(), randomise(nn.Linear(24, CLASSES), 5)
        self.runs_pool = runs_pool
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.vision.forward_features(x)
        if self.runs_pool:
            self.vision.forward_head(tokens)
        return self.head(tokens.mean(1))


@pytest.mark.parametrize("method", METHODS)
def test_an_attention_pool_that_is_not_read_has_no_part(method):
    x = images()
    maps = [explain(method(WithoutPool(runs_pool=runs)), x) for runs in (True, False)]
    assert torch.equal(*maps)
    model = WithoutPool(runs_pool=True)
    read = method(model).layers_read(recorded(model, x).readout)
    assert set(read) <= {"vision.blocks.0.attn", "vision.blocks.1.attn"}
    assert torch.equal(maps[0], explain(method(model, read), x))


def test_the_pool_is_a_layer_of_its_own():
    model, x = siglip(), images()
    flow = AGCAM(model).attribute_flow(x, 1)
    assert flow.shape[1] == 3
    assert_close(flow[:, 2:] - flow[:, 1:2], AGCAM(model, "attn_pool").attribute(x, 1))
    last = RawAttention(model).attribute(x)
    assert_close(last.sum((2, 3)), torch.ones(2, 1))
    rolled = AttentionRollout(model, "attn_pool").attribute(x)
    assert_close(rolled, last)


class Probe(nn.Module):
    """Reads the class token beside the mean of the patches, or either."""

    def __init__(self, backbone: nn.Module, *, token: bool = True, patches: bool = True) -> None:
        super().__init__()
        self.backbone, self.token, self.patches = backbone, token, patches
        self.head = randomise(nn.Linear(backbone.num_features * (token + patches), CLASSES), 5)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.backbone.forward_features(x)
        parts = [tokens[:, :1]] * self.token + [tokens[:, 1:].mean(1, keepdim=True)] * self.patches
        return self.head(torch.cat(parts, 2)[:, 0])


SHOWING_ALL = (AGCAM, DAAM, AttentionRollout, GradientRollout, RawAttention)
LATE = {
    "cait": small("cait_xxs24_224", patch_size=8),
    "convit": lambda: randomise(
        timm.create_model("convit_tiny", depth=3, local_up_to_layer=2, img_size=32, patch_size=8, embed_dim=6)
    ),
}


@pytest.mark.parametrize("kind", LATE)
@pytest.mark.parametrize(
    ("token", "patches", "readout"), [(True, True, CLASS_AND_PATCHES), (False, True, PATCHES), (True, False, CLASS)]
)
def test_patches_are_seen_beside_a_class_token_that_joins_late(kind, token, patches, readout):
    model, x = Probe(LATE[kind](), token=token, patches=patches), images()
    adapter = adapt(model)
    with untouched(adapter):
        assert measure_readout(adapter, Inputs(x)) == readout
    layers = list(adapter.attention_layers())
    expected = {CLASS: layers[2:], PATCHES: layers[:2] if kind == "cait" else layers, CLASS_AND_PATCHES: layers}
    for method in SHOWING_ALL:
        ours = method(model)
        assert explain(ours, x).abs().max() > 0
        assert ours.flow_layers(readout) == expected[readout]
        flow = ours.attribute_flow(x, 1 if method.class_specific else None)
        assert flow.shape[1] == len(expected[readout])
        assert_close(flow[:, -1:], explain(ours, x))


def test_a_rollout_begins_at_the_patches_too():
    """Where the class token has a layer of its own, the patches that are read pass it by."""
    model, x = LATE["cait"](), images()
    start = [AttentionRollout(Probe(model, token=t, patches=p)).attribute(x) for t, p in ((1, 1), (1, 0), (0, 1))]
    both, by_class, by_patches = start
    assert_close(both, (by_class + by_patches) / 2)
