"""Models that take patches of any shape: cut as their image processor does, on grids that are not square."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from captum.attr import InputXGradient
from PIL import Image
from torch import Tensor, nn

from captum_vit import AGCAM, DAAM, adapt, explain
from captum_vit.access.two_towers import TwoTowers
from captum_vit.adapters.hf_patches import joined
from captum_vit.attr import METHODS
from captum_vit.attr.captum_methods import method_of_captum
from captum_vit.errors import InputError, TokenLayoutError
from captum_vit.pipelines import TASK
from captum_vit.preprocessing import read_preprocessing
from tests.families import stepwise
from tests.families.hf import ANY_SHAPE, SMALL, TEXT, small, unfuse
from tests.families.two_towers import siglip2
from tests.helpers import CLASSES, PATCH, assert_close, called, images, randomise, relative_error

ROWS, COLS = 3, 5
SIZE = (ROWS * PATCH, COLS * PATCH)
CLASSIFIER, TOWER = "Siglip2ForImageClassification", "Siglip2VisionModel"
classifier = small(CLASSIFIER, "Siglip2Config", vision_config=SMALL | ANY_SHAPE, text_config=TEXT)
tower = small(TOWER, "Siglip2VisionConfig", **ANY_SHAPE)


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def processor(count: int = 64) -> transformers.BaseImageProcessor:
    return transformers.Siglip2ImageProcessor(patch_size=PATCH, max_num_patches=count)


def given(x: Tensor, *, by_columns: bool = False, turned: bool = False) -> dict[str, Tensor]:
    """What the model is given of images, by another way than the library's, and two wrong ones."""
    rows, cols = (side // PATCH for side in x.shape[2:])
    pieces = [
        x[:, :, i * PATCH : (i + 1) * PATCH, j * PATCH : (j + 1) * PATCH] for i in range(rows) for j in range(cols)
    ]
    pieces = [piece.permute(0, 2, 3, 1).flatten(1) for piece in pieces]
    order = [i * cols + j for j in range(cols) for i in range(rows)] if by_columns else range(rows * cols)
    shapes = torch.tensor([(cols, rows) if turned else (rows, cols)] * len(x))
    return {
        "pixel_values": torch.stack([pieces[k] for k in order], 1),
        "pixel_attention_mask": torch.ones(len(x), rows * cols, dtype=torch.int32),
        "spatial_shapes": shapes,
    }


BROKEN = pytest.mark.xfail(strict=True, raises=AssertionError, reason="broken on purpose")
WAYS = [{}, pytest.param({"by_columns": True}, marks=BROKEN), pytest.param({"turned": True}, marks=BROKEN)]


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("method", [AGCAM, DAAM])
def test_maps_are_those_of_explicit_attention(method, way):
    model, plain, x = classifier().double(), classifier().double(), images(2, SIZE).double()
    unfuse(plain)
    layers = {name: plain.get_submodule(name) for name in adapt(model).attention_layers()}
    notebook = stepwise.Notebook(layers, {}, method is AGCAM)
    score, steps = notebook.run(lambda pixels: plain(**given(pixels, **way)), x, lambda out: out.logits, 1)
    found, count = list(steps.values()), ROWS * COLS
    formula = stepwise.agcam if method is AGCAM else stepwise.daam
    theirs = formula(found, stepwise.gradients(score, found), list(range(-count, 0)), count).detach()
    ours = method(model).attribute(x, 1)
    assert ours.shape == (2, 1, ROWS, COLS)
    assert_close(ours.flatten(1), theirs, 1e-6)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_gradients_reach_the_pixels(way):
    model, x = classifier().double(), images(2, SIZE).double()
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(**given(leaf, **way)).logits[:, 1].sum(), leaf)
    theirs = F.avg_pool2d((leaf * gradient).detach().sum(1, keepdim=True), PATCH) * PATCH**2
    assert_close(method_of_captum(InputXGradient)(model).attribute(x, 1), theirs, 1e-6)


@pytest.mark.parametrize("cells", [1 * COLS + 3, pytest.param(3 * ROWS + 1, marks=BROKEN)])
def test_a_token_is_of_the_pixels_where_it_lies(cells):
    """The pixels of the patch in row 1 and column 3 are moved, and one token changes."""
    model, x = classifier(), images(1, SIZE)
    moved = x.clone()
    moved[:, :, PATCH : 2 * PATCH, 3 * PATCH : 4 * PATCH] = x[:, :, PATCH : 2 * PATCH, 3 * PATCH : 4 * PATCH].roll(1, 3)
    tokens = []
    hook = model.vision_model.embeddings.register_forward_hook(lambda *args: tokens.append(args[2].detach()))
    called(model, x), called(model, moved)
    hook.remove()
    assert (tokens[1] - tokens[0]).abs().amax((0, 2)).nonzero().flatten().tolist() == [cells]


@pytest.mark.parametrize("size", [(300, 120), (120, 300)], ids=str)
@pytest.mark.parametrize("build", [classifier, tower, siglip2], ids=["classifier", "tower", "whole"])
def test_scores_are_those_of_the_processors_own_call(build, size):
    """Which fills up with patches that count for nothing; and its patches make the image again."""
    model, picture = build().double(), photo(*size)
    own, adapter = processor()(picture, return_tensors="pt"), adapt(model)
    text = adapter.without_text() if isinstance(adapter, TwoTowers) else {}
    assert own["pixel_attention_mask"].sum() < 64
    x = read_preprocessing(processor())(picture)[None].double()
    assert torch.equal(joined(own["pixel_values"], own["spatial_shapes"]), x.float())
    theirs = adapter.scores(model(**{**own, "pixel_values": own["pixel_values"].double()}, **text)).detach()
    ours = adapter.scores(model(**adapter.call_with(x), **text)).detach()
    assert_close(ours, theirs, 1e-6)
    squared = F.interpolate(x, SIZE)
    assert relative_error(adapter.scores(model(**adapter.call_with(squared), **text)).detach(), theirs) > 1e-3


def test_photographs_of_several_shapes_have_their_own_grids():
    model, shapes = classifier(), {(300, 120): (5, 12), (120, 300): (12, 5), (200, 200): (8, 8)}
    photos = [photo(*size) for size in shapes]
    found = explain([*photos, photos[0]], model, preprocess=processor(), top_k=1)
    assert [tuple(one.attributions[0].map.shape) for one in found] == [*shapes.values(), (5, 12)]
    for one, picture in zip(found, photos, strict=False):
        assert one.view.size == tuple(8 * side for side in one.attributions[0].map.shape[::-1])
        assert_close(
            one.attributions[0].map, explain(picture, model, preprocess=processor(), top_k=1).attributions[0].map
        )
    pipe = transformers.pipeline(TASK, model=model, image_processor=processor())
    piped = [labels[0]["grid"] for labels in pipe(photos, top_k=1)]
    for grid, one in zip(piped, found, strict=False):
        assert_close(torch.from_numpy(grid), one.attributions[0].map, 1e-5)
    with pytest.raises(InputError, match="and the processor makes 40x96 and 96x40: pass batch_size=1"):
        pipe(photos[:2], batch_size=2)
    (alike, _), one = pipe([photos[0]] * 2, top_k=1, batch_size=2), torch.from_numpy(piped[0])
    assert_close(torch.from_numpy(alike[0]["grid"]), one, 1e-5)


class Named(nn.Module):
    """An owner that takes what the tower takes, with a mean of its own."""

    def __init__(self, padding: int = 0) -> None:
        super().__init__()
        self.tower, self.head, self.padding = tower(), randomise(nn.Linear(24, CLASSES)), padding

    def forward(self, pixel_values, pixel_attention_mask, spatial_shapes):
        pixel_values = F.pad(pixel_values, (0, 0, 0, self.padding))
        mask = F.pad(pixel_attention_mask, (0, self.padding))
        tokens = self.tower(pixel_values, mask, spatial_shapes).last_hidden_state
        return self.head((tokens * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))


class Cutting(Named):
    """An owner that takes images, halves them and cuts them itself."""

    def forward(self, x):
        return super().forward(**given(F.avg_pool2d(x, 2)))


def test_owners_are_given_what_they_name():
    x, method = images(2, SIZE), METHODS["attn_lrp"]
    maps = method(Named()).attribute(x, 1)
    twice = F.interpolate(x, scale_factor=2.0)
    assert_close(method(Cutting()).attribute(twice, 1), maps, 1e-4)
    assert maps.shape == (2, 1, ROWS, COLS)
    with pytest.raises(TokenLayoutError, match="several shapes, or padded"):
        method(Named(padding=2)).attribute(x, 1)


def test_what_cannot_be_cut_is_refused():
    model, own = classifier(), processor()(photo(300, 120), return_tensors="pt")
    for patches in (own["pixel_values"], own["pixel_values"][None]):
        with pytest.raises(InputError, match=r"\(N, 3, H, W\) with sides that its patches of 8 divide.*joined\("):
            AGCAM(model).attribute(patches, 1)
    kwargs = {name: own[name] for name in ("pixel_attention_mask", "spatial_shapes")}
    with pytest.raises(InputError, match="is given pixel_attention_mask, spatial_shapes with its images"):
        AGCAM(model).attribute(images(1, SIZE), 1, forward_kwargs=kwargs)
    with pytest.raises(TokenLayoutError, match="24x41 do not divide into patches of 8x8"):
        AGCAM(model).attribute(images(1, (24, 41)), 1)
    with pytest.raises(InputError, match="several shapes"):
        joined(torch.zeros(2, 15, 192), torch.tensor([[3, 5], [5, 3]]))
