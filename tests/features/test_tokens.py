"""What patch tokens say: as scikit-learn, a plain loop, planted artifacts and the head have it, on every family."""

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.decomposition import PCA as Theirs
from torch import Tensor, nn

from captum_vit import Explainer, Preprocessing, Tokens, adapt, sample, tokens
from captum_vit.errors import InputError, OptionError, UnsupportedModelError
from captum_vit.features import PatchTokens, principal_components
from captum_vit.geometry import View
from tests.families.table import FAMILIES
from tests.helpers import CLASSES, SIZE, WIDTH, assert_close, hf_vit, images, randomise, timm_vit
from tests.properties.broken import caught

NAMED = {f"{family.library}: {family.name}": family for family in FAMILIES if len(family.size) == 2}
# patches meet before the first block
MIXED = {"timm: hybrid with ResNet stem", "timm: XCiT", "timm: VOLO", "timm: PiT", "timm: TNT", "own code: T2T-ViT"}
FEATURES = "gives features, and has no classes"
POOL = "compares tokens with each other (attention pool"
TWO = "reads tokens that are not alike (class token and"
ALONE = "the class token alone attends"
REFUSED = {
    "timm: distilled DeiT": TWO,
    "timm: SigLIP": POOL,
    "timm: NaFlex, attention pooling": POOL,
    "timm: registers and attention pooling": POOL,
    "timm: Perception Encoder": POOL,
    "timm: CaiT": ALONE,
    "timm: XCiT": ALONE,
    "timm: VOLO": ALONE,
    "timm: PiT": "its tokens have 64 channels, and those that the head",
    "transformers: distilled DeiT": TWO,
    "transformers: DINOv2": TWO,
    "transformers: DINOv2 with registers": TWO,
}


@pytest.mark.parametrize("name", NAMED)
def test_a_token_is_that_of_its_patch_and_the_head_takes_it_or_says_why_not(name: str):
    """The token that changes with the pixels of a patch stands at its place: no class token, no register before it."""
    family = NAMED[name]
    model, size = family.build(), family.other_size or family.size
    given = family.kwargs if family.other_size else {}
    rows, columns = adapt(model).token_layout(tuple(size), given).grid
    patch, place = (size[0] // rows, size[1] // columns), (rows - 1, columns // 2)
    x = images(1, size)[0]
    changed = x.clone()
    changed[:, place[0] * patch[0] :, place[1] * patch[1] : (place[1] + 1) * patch[1]] += 3
    reason = REFUSED.get(name, FEATURES if adapt(model).headless else "")
    if reason:
        with pytest.raises(UnsupportedModelError, match=re.escape(reason)):
            tokens([x], model, lens=True, forward_kwargs=given)
    found = tokens([x, changed], model, lens=not reason, forward_kwargs=given)
    one, other = found.features("embedding")
    moved = (one - other).norm(dim=-1)
    assert moved.shape == (rows, columns)
    highest = divmod(int(moved.argmax()), columns)
    if name in MIXED:
        assert max(abs(a - b) for a, b in zip(highest, place, strict=True)) <= 1
    else:
        assert highest == place
        assert int((moved > 1e-4 * moved.max()).sum()) == 1
    if not reason:
        (shares, _) = found.lens(-1).probabilities[found.block(-1)]
        assert shares.shape == (*found.features(-1)[0].shape[:-1], CLASSES)


# PCA


def photos(*features: Tensor) -> Tokens:
    """Tokens of no model."""
    drawn = Image.new("RGB", (64, 48))
    kept = tuple(PatchTokens(drawn, View.of(drawn.size), "", {"blocks.0.attn": each}) for each in features)
    return Tokens(kept, ("blocks.0.attn",))


def drawn_tokens(*grids: tuple[int, int], channels: int = 20, seed: int = 0) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    scale = torch.linspace(3, 0.2, channels)
    return [torch.randn(*grid, channels, generator=draw) * scale + 5 for grid in grids]


@pytest.mark.parametrize("flaw", [None, *(pytest.param(f, marks=caught) for f in ("not centred", "a basis each"))])
def test_pca_is_scikit_learns(flaw: str | None):
    """Over images of different grids together, signs included, whatever the order of the images."""
    features = drawn_tokens((4, 6), (5, 3))
    found = photos(*features).pca()
    every = np.concatenate([each.flatten(0, 1).double().numpy() for each in features])
    if flaw == "not centred":
        every = np.concatenate([every, -every])
    theirs = Theirs(3, svd_solver="full").fit(every[:24] if flaw == "a basis each" else every)
    for each, ours in zip(features, found.projections, strict=True):
        expected = torch.from_numpy(theirs.transform(each.flatten(0, 1).double().numpy()))
        assert_close(ours.flatten(0, 1), expected, 1e-5)
    assert_close(found.basis.explained, torch.from_numpy(theirs.explained_variance_ratio_), 1e-5)
    again = photos(*features[::-1]).pca().projections[::-1]
    for one, other in zip(found.projections, again, strict=True):
        assert_close(one, other, 1e-9)
    colours = torch.cat([each.flatten(0, 1) for each in found.colours])
    assert_close(torch.stack([colours.amin(0), colours.amax(0)]), torch.tensor([[0.0] * 3, [1.0] * 3]).double(), 1e-12)


def test_pca_of_a_model_is_of_the_block_that_is_asked_for():
    found = tokens([*images(2)], timm_vit(reg_tokens=4))
    for block in (0, "embedding", "blocks.1"):
        features = found.features(block)
        every = torch.cat([each.flatten(0, 1) for each in features]).double().numpy()
        theirs = torch.from_numpy(Theirs(3, svd_solver="full").fit_transform(every))
        assert_close(torch.cat([each.flatten(0, 1) for each in found.pca(block).projections]), theirs, 1e-5)


def test_the_foreground_is_what_lies_inside():
    """Whatever the sign; the PCA is of what is left, and the background has no colour."""
    inside = torch.zeros(6, 7, dtype=torch.bool)
    inside[1:4, 2:6] = True
    (noise,) = drawn_tokens((6, 7), channels=8)
    towards = torch.zeros(8).index_fill(0, torch.tensor(5), 40.0)
    for sign in (1, -1):
        features = noise + sign * inside[..., None] * towards
        found = photos(features).pca(foreground=True)
        assert torch.equal(found.foreground[0], inside)
        assert torch.equal(~found.colours[0].isnan().any(-1), inside)
        own = principal_components(features[inside])
        assert_close(found.projections[0][inside], own.project(features[inside]), 1e-9)
        (picture,) = found.pictures()
        pixels = np.asarray(picture).astype(int)
        assert (pixels[:4].max(-1) == pixels[:4].min(-1)).all()  # grey
        assert pixels[20, 32].max() > pixels[20, 32].min()


# similarity


@pytest.mark.parametrize("flaw", [None, *(pytest.param(f, marks=caught) for f in ("a dot product", "columns first"))])
def test_similarity_is_a_plain_cosine(flaw: str | None):
    found = tokens([*images(2, (24, 48))], timm_vit(img_size=(24, 48)))
    block, chosen = found.blocks[2], (1, 4)
    ours = found.similarity(chosen, image=1, block=block)
    features = [photo.features[block].double().numpy() for photo in found.photos]
    token = features[1][1, 4] if flaw != "columns first" else features[1][4 % 3, 1]
    for each, cosines in zip(features, ours.maps, strict=True):
        for row in range(3):
            for column in range(6):
                dot = sum(a * b for a, b in zip(token, each[row, column], strict=True))
                lengths = math.sqrt(sum(a * a for a in token)) * math.sqrt(sum(b * b for b in each[row, column]))
                expected = dot if flaw == "a dot product" else dot / lengths
                assert float(cosines[row, column]) == pytest.approx(expected, abs=1e-9)
    assert float(ours.maps[1][chosen]) == pytest.approx(1, abs=1e-12)


def test_a_pixel_of_the_photograph_names_its_patch():
    """Through the crop: the model sees the middle of a wide photograph."""
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 120, 3), np.uint8))

    def cropped(image: Image.Image) -> Tensor:
        left = (image.width - image.height) // 2
        square = image.crop((left, 0, left + image.height, image.height)).resize((SIZE, SIZE))
        return torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 255

    view = Preprocessing(cropped, lambda size: View.of(size).cropped(30, 0, 60, 60).resized(SIZE, SIZE))
    found = tokens(photo, timm_vit(), preprocess=view)
    assert len(found) == 1
    chosen = found.similarity(pixel=(30 + 2 * 15 + 3, 15 + 3))
    assert chosen.patch == (1, 2)
    (picture,) = chosen.pictures()
    assert picture.size == photo.size
    drawn = np.asarray(picture)
    assert (drawn[15:30, 60] == 255).all()  # the outline, white
    assert (drawn[15:30, 59] == 0).all()  # and black
    with pytest.raises(InputError, match=r"sees nothing at pixel \(10, 10\).*x from 30 to 89 and y from 0 to 59"):
        found.similarity(pixel=(10, 10))


# norms and artifacts


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("flaw", [None, pytest.param("registers counted", marks=caught)])
def test_planted_artifacts_are_found(registers: int, flaw: str | None):
    """From their block on, at their places; a class token or register as long is no patch."""
    model = timm_vit(reg_tokens=registers)
    prefix = 1 + registers
    places = [prefix + 6, prefix + 9]
    scale = torch.ones(prefix + 16, 1).index_fill(0, torch.tensor([0, prefix - 1, *places]), 30.0)
    model.blocks[1].register_forward_hook(lambda module, args, output: output * scale)
    found = tokens([*images(2)], model).norms()
    expected = torch.zeros(16, dtype=torch.bool)
    expected[[6, 9] if flaw is None else [6 + prefix, 9 + prefix]] = True
    assert not found.artifacts["embedding"][0].any()
    assert not found.artifacts["blocks.0.attn"][1].any()
    for masks in found.artifacts["blocks.1.attn"], found.artifacts["blocks.2.attn"]:
        assert [mask.flatten().tolist() for mask in masks] == [expected.tolist()] * 2
    assert_close(found.scores[-2:], torch.full((2, 2), 2 / 16).double(), 1e-12)
    assert found.scores[:2].sum() == 0
    assert found.peaks[2].min() > 10
    assert re.match(
        r"2 of 16 patches are artifacts after block 1, by norms up to .*in 2 of 4 blocks", found.warnings[0]
    )
    assert tokens(images(1)[0], timm_vit()).norms().warnings == ("",)


def test_a_long_token_before_the_first_block_is_no_artifact():
    """There it holds its own patch alone, which may be a bright one."""
    ((features,), drawn) = drawn_tokens((4, 6)), Image.new("RGB", (64, 48))
    features[2, 3] *= 30
    kept = {"embedding": features, "blocks.0.attn": features}
    found = Tokens((PatchTokens(drawn, View.of(drawn.size), "", kept),), tuple(kept)).norms()
    assert found.artifacts["blocks.0.attn"][0].nonzero().tolist() == [[2, 3]]
    assert not found.artifacts["embedding"][0].any()
    assert "in this block alone" in found.warnings[0]


# the lens


def timm_head(model: Any, token: Tensor) -> Tensor:
    return model.head(model.fc_norm(model.norm(token)))


def without_norm(model: Any, token: Tensor) -> Tensor:
    return model.head(token)


def hf_head(model: Any, token: Tensor) -> Tensor:
    return model.classifier(model.vit.layernorm(token))


class Owner(nn.Module):
    """A head of somebody's own, of which nothing is declared; it may ask for as many features as images."""

    def __init__(self, strict: bool = False) -> None:
        super().__init__()
        self.vit, self.head = timm_vit(num_classes=0), randomise(nn.Linear(WIDTH, CLASSES))
        self.strict = strict

    def forward(self, x: Tensor) -> Tensor:
        features = self.vit(x)
        return self.head(features.reshape(len(x), WIDTH) if self.strict else features)


def owners_head(model: Any, token: Tensor) -> Tensor:
    return model.head(model.vit.norm(token))


@pytest.mark.parametrize(
    ("build", "head"),
    [
        (timm_vit, timm_head),
        pytest.param(timm_vit, without_norm, marks=caught),
        (lambda: timm_vit(global_pool="avg", fc_norm=True, reg_tokens=4, class_token=False), timm_head),
        (lambda: timm_vit(global_pool="avg", fc_norm=False), timm_head),
        (hf_vit, hf_head),
        (Owner, owners_head),
        (lambda: Owner(strict=True), owners_head),
    ],
)
def test_the_lens_is_the_head_on_each_patch(build: Callable[[], nn.Module], head: Callable[[Any, Tensor], Tensor]):
    model = build().eval()
    found = tokens([*images(2)], model, lens=True)
    assert list(found.lens().probabilities) == list(found.blocks)
    for block in found.blocks:
        for features, shares in zip(found.features(block), found.lens(block).probabilities[block], strict=True):
            for row in range(4):
                for column in range(4):
                    with torch.no_grad():
                        expected = head(model, features[row, column]).softmax(-1)
                    assert_close(shares[row, column], expected, 1e-5)


def test_the_sample_calls_patches_by_what_is_there():
    """Late: what a patch of an object would be called is that object, in most of them."""
    hits, count = 0, 0
    for seed in range(30, 36):
        scene = sample.draw_scene(seed, objects=2)
        found = tokens(Image.fromarray(scene.image), lens=True).lens(-1)
        ((numbers, _),) = found.best("blocks.5.attn")
        for label, mask in zip(scene.labels, scene.masks, strict=True):
            inside = torch.from_numpy(mask).float().unfold(0, 8, 8).unfold(1, 8, 8).mean((-1, -2)) > 0.7
            hits, count = hits + int((numbers[..., 0][inside] == label).sum()), count + int(inside.sum())
    assert count > 30
    assert hits / count > 0.8


def test_the_lens_is_refused_with_the_reason():
    with pytest.raises(UnsupportedModelError, match=r"is in train mode.*call eval\(\)"):
        tokens(images(1)[0], timm_vit().train(), lens=True)
    with pytest.raises(UnsupportedModelError, match=FEATURES):
        tokens(images(1)[0], timm_vit(num_classes=0), lens=True)
    with pytest.raises(OptionError, match="pass lens=True"):
        tokens(images(1)[0], timm_vit()).lens()


# all together


def test_blocks_that_are_chosen_and_a_module():
    model = timm_vit()
    explainer = Explainer(model)
    everything = tokens([*images(3)], explainer, batch_size=2)
    few = tokens([*images(3)], explainer, blocks=["norm", -1, "embedding"])
    assert few.blocks == ("embedding", "blocks.2.attn", "norm")
    for ours, theirs in zip(few.features("blocks.2"), everything.features(-1), strict=True):
        assert_close(ours, theirs)
    with torch.no_grad():
        assert_close(few.features("norm")[2], model.norm(everything.features(-1)[2]))
    assert repr(few) == (
        "Tokens(3 images, VisionTransformer: 3 places, after the last of them 4x4 patches of 24 channels)"
    )
    with pytest.raises(
        OptionError, match=r"no block 3: expected a number from 0 to 2, one of embedding, blocks\.0\.attn"
    ):
        tokens(images(1)[0], model, blocks=3)
    with pytest.raises(OptionError, match=r"no tokens were kept after 'blocks\.0\.attn'; there are embedding"):
        few.features("blocks.0.attn")
    with pytest.raises(OptionError, match=r"knows its device already"):
        tokens(images(1)[0], explainer, device="cpu")
    with pytest.raises(InputError, match="no images"):
        tokens([], model)
    with pytest.raises(OptionError, match=r"patch must lie on the grid of 4x4 patches, got \(4, 0\)"):
        few.similarity((4, 0))
    with pytest.raises(OptionError, match="name one patch: by patch="):
        few.similarity()


def test_figures_of_photographs_of_several_shapes():
    """Each lies on its photograph, in its size; drawn side by side they fit, and an axis of somebody's takes them."""
    shots = [Image.fromarray(sample.draw_scene(seed, size=side).image) for seed, side in ((1, 64), (2, 96))]
    found = tokens([shots[0].resize((90, 60)), shots[1]], lens=True)
    every = found.pca(), found.similarity((3, 3)), found.norms(), found.lens()
    for each in every:
        given = [] if hasattr(each, "block") else [found.block(-1)]
        assert [picture.size for picture in each.pictures(*given)] == [(90, 60), (96, 96)]
        figure = each.plot()
        assert len(figure.axes) >= 2
        host = type(figure)(figsize=(4, 3)).add_subplot()
        assert each.plot(host) is host.figure
